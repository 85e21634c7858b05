"""Evidence of a run: reads its journal and layers, and writes them as an archive that anyone can verify.

`format` defines the types of everything in an archive. docs/reference/evidence-format.md is the complete format for other
implementations.
"""
