"""Verifies evidence archives: a second implementation of docs/reference/evidence-format.md, made from that page alone.

It shares no code with the writer of archives, only the published JSON Schemas, so that each finds the other's errors. It
needs nothing but the file: no project, no state directory, no network. Start reading at `verify`.
"""
