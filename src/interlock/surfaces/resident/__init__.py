"""The resident gate: one process a user, which the hooks of coding agents ask, so that a project's rules are compiled once.

| file | what it does |
|---|---|
| `program.py` | the process: one at a time, its lock, its signals, its end when it is idle |
| `server.py` | connections on the socket: who asks, what is asked, the answer |
| `projects.py` | the projects that are open, a runtime each |
| `native_calls.py` | the calls that clients carry out with tools of their own: allowed, held, and how they ended |
| `performer.py` | stands for a client in the engine: waits for the client's report where another executor would work |
| `command.py` | `interlock gate` |

It is not a second way in: a hook's call is a proposal of one action, as from any other door. When it is not there, a hook starts
it; when that fails, nothing runs.
"""
