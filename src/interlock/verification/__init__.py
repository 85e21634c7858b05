"""Verifies evidence archives: a second implementation of docs/reference/evidence-format.md, written from that page alone.

It shares no code with the writer of archives, only the published JSON Schemas, so that each implementation finds the
other's errors. It needs only the file: no project, no state directory, no network. Start reading at `verify`.
"""
