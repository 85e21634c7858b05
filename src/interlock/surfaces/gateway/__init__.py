"""The MCP gateway: a server that offers the tools of this project to a client (an agent), every call through the gate.

| file | what it does |
|---|---|
| `protocol.py` | what the revisions of MCP differ in: negotiation, envelopes, results |
| `calls.py` | one tool call: through the gate, held for a while, and what the model is told |
| `tool_requests.py` | `tools/list` and `tools/call`: calls that ask their client something meanwhile |
| `session.py` | the messages of one client: requests in flight, cancellation |
| `callers.py` | the client behind one call: what it can be asked, and is told |
| `asking.py` | calls that wait for their client's answer, and the seal of their state |
| `http.py`, `http_app.py`, `streams.py` | streamable HTTP |
| `stdio.py` | standard input and output as a connection |
| `command.py` | `interlock gateway` |

Nothing here decides: a call is a proposal of one action, as from any other door.
"""
