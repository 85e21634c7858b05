"""Verifies evidence archives: a second implementation of docs/reference/evidence-format.md, made from that page alone.

It shares no code with what writes archives, only the published JSON Schemas, so that an error of one is found by the other. It
needs nothing but the file: no project, no state directory, no network. `verify` is where to start reading.
"""
