"""Coding agents: puts the gateway or hooks into a client's configuration, tries what is open, and undoes all of it.

| file | what it does |
|---|---|
| `client.py` | what is known about a client: `Client`; how a hook is started |
| `known.py` | the clients, by name |
| `claude_code.py` | Claude Code: its files, modes, versions, and what stays open |
| `claude_hooks.py`, `claude_trial.py` | how its hooks speak; how it is tried |
| `hooks.py` | what the hooks of all clients have in common: event, call, verdict, reply |
| `hook_program.py` | the program that a client starts as a hook; see `surfaces/resident` for who answers |
| `entries.py` | entries in a JSON file of somebody else's: adds them, and takes out exactly what was added |
| `installation.py` | writes the files, with a record of how they were |
| `trial.py`, `scripted_model.py` | tries a real client in a throw-away home, against a model that makes the calls of a script |
| `doors.py`, `versions.py` | what `interlock doctor` says of the clients |
| `command.py` | `interlock install` |

To add a client: a file that makes its `Client`, a `Dialect` if it has hooks, a line in `known.py`, a guide, and tests with the
real program.
"""
