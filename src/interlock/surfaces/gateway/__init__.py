"""The MCP gateway: a server that offers the tools of this project to a client (an agent), every call through the gate.

| file | what it does |
|---|---|
| `protocol.py` | the differences between revisions of MCP: negotiation, envelopes, results |
| `calls.py` | one tool call: through the gate, held for a while, and what the model is told |
| `tool_requests.py` | `tools/list` and `tools/call`, including calls with requests to their client |
| `data_requests.py` | resources and prompts of servers, each request through the gate |
| `session.py` | the messages of one client: requests in flight, cancellation |
| `callers.py` | the client behind one call: its capabilities, requests and notifications to it |
| `asking.py` | calls that wait for their client's answer, and the seal of their state |
| `http.py`, `http_app.py`, `streams.py` | streamable HTTP |
| `stdio.py` | standard input and output as a connection |
| `command.py` | `interlock gateway` |

It makes no decisions: a call is a proposal with one action, as from any other surface.
"""
