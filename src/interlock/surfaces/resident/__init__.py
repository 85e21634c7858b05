"""The resident gate: one process per user, which coding agents' hooks ask. It compiles a project's rules only once.

| file | what it does |
|---|---|
| `program.py` | the process: only one at a time, its lock, its signals, its end when idle |
| `server.py` | connections on the socket: authentication, requests, answers |
| `projects.py` | the open projects, each with a runtime |
| `native_calls.py` | calls that clients execute with their own tools: allowed, held, and how they ended |
| `performer.py` | represents a client in the engine: waits for the client's report instead of executing |
| `command.py` | `interlock gate` |

It is not a second way in: a hook's call is a proposal with one action, as from any other surface. If no gate is
running, a hook starts one; if that fails, nothing runs.
"""
