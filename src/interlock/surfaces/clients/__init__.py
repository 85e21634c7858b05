"""Coding agents: puts the gateway or hooks into a client's configuration, tries what is open, and undoes all of it.

| file | what it does |
|---|---|
| `client.py` | what is known about a client: `Client`; how a hook is started |
| `known.py` | the clients, by name; which of them an event comes from |
| `claude_code.py` | Claude Code: its files, modes, versions, and what stays open |
| `claude_hooks.py`, `claude_trial.py` | how its hooks speak; how it is tried |
| `codex.py`, `codex_hooks.py`, `codex_trial.py` | the same for Codex |
| `copilot.py`, `copilot_hooks.py`, `copilot_trial.py` | the same for Copilot CLI |
| `cursor.py`, `cursor_hooks.py`; `vscode.py`, `vscode_hooks.py` | the same for Cursor and VS Code, which were not tried |
| `gemini.py`, `gemini_hooks.py`, `gemini_trial.py` | the same for Gemini CLI |
| `opencode.py`, `opencode_hooks.py`, `opencode_trial.py` | the same for opencode, whose hooks are a plug-in |
| `codex_trust.py` | asks Codex for the hashes of hooks |
| `patches.py` | the patches of `apply_patch` |
| `hooks.py` | what the hooks of all clients have in common: event, call, verdict, reply |
| `hook_program.py` | the program that a client starts as a hook; see `surfaces/resident` for who answers |
| `entries.py` | entries in a file of someone else's: adds them, and takes out exactly what was added |
| `documents.py` | such files as text: JSON, JSON with comments, TOML |
| `installation.py` | writes the files, with a record of how they were |
| `trial.py`, `scripted_model.py`, `model_replies.py` | tries a real client, against a model that makes the calls of a script |
| `doors.py`, `versions.py` | what `interlock doctor` says of the clients |
| `command.py` | `interlock install` |

To add a client: a file that makes its `Client`, a `Dialect` if it has hooks, a line in `known.py`, a guide, and tests with the
real program.
"""
