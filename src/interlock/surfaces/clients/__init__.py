"""Coding agents: configures a client to use the gateway or hooks, tests for open doors, and can undo all of it.

| file | what it does |
|---|---|
| `client.py` | the description of a client: `Client`; how a hook is started |
| `known.py` | the clients by name; the client that an event comes from |
| `claude_code.py` | Claude Code: its files, modes, versions, and what stays open |
| `claude_hooks.py`, `claude_trial.py` | the protocol of its hooks; its trial |
| `codex.py`, `codex_hooks.py`, `codex_trial.py` | the same for Codex |
| `copilot.py`, `copilot_hooks.py`, `copilot_trial.py` | the same for Copilot CLI |
| `cursor.py`, `cursor_hooks.py`; `vscode.py`, `vscode_hooks.py` | the same for Cursor and VS Code, without a trial |
| `gemini.py`, `gemini_hooks.py`, `gemini_trial.py` | the same for Gemini CLI |
| `opencode.py`, `opencode_hooks.py`, `opencode_trial.py` | the same for opencode, whose hooks are a plug-in |
| `codex_trust.py` | gets the hashes of hooks from Codex |
| `gateway_name.py` | finds other programs under the gateway's name |
| `patches.py` | the patches of `apply_patch` |
| `hooks.py` | shared by the hooks of all clients: event, call, verdict, reply |
| `hook_program.py` | the program that a client starts as a hook; `surfaces/resident` answers it |
| `entries.py` | entries in a file that belongs to someone else: adds them, and removes exactly what was added |
| `documents.py` | such files as text: JSON, JSON with comments, TOML |
| `installation.py`, `setup_records.py` | writes the files, and undoes that; records their previous content |
| `trial.py`, `scripted_model.py`, `model_replies.py` | tries a real client with a model that makes scripted calls |
| `doors.py`, `versions.py` | what `interlock doctor` reports about clients |
| `command.py` | `interlock install` |

To add a client: a file that creates its `Client`, a `Dialect` if it has hooks, a line in `known.py`, a guide, and tests
with the real program.
"""
