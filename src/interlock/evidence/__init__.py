"""Evidence: what a run can show. Looks back at a run's journal and layers, and writes them as an archive that anyone can verify.

`format` has the shapes of everything in an archive. docs/reference/evidence-format.md is the whole of the format for other
implementations.
"""
