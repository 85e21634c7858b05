"""Coding agents: puts the gateway into a client's configuration, takes the client's own tools out, and undoes both.

| file | what it does |
|---|---|
| `entries.py` | entries in a JSON file that belongs to the client: adds them, and takes out exactly what was added |
| `claude_code.py` | which entries Claude Code needs |
| `installation.py` | writes the files, with a record of how they were |
| `command.py` | `interlock install` |
"""
