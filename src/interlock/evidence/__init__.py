"""Evidence of a run: reads its journal and layers, and writes them to an archive that anyone can verify.

`format` defines the types of everything in an archive. docs/reference/evidence-format.md specifies the complete format
for other implementations.
"""
