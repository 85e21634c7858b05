"""MCP servers as tool providers: their tools are ordinary tools, and nothing that a server sends is trusted.

| file | what it does |
|---|---|
| `definitions.py` | checks a tool's definition, which is untrusted text that a model will read |
| `lock.py` | `interlock.lock`: the definitions that a person has reviewed; agents are shown no others |
| `peer.py` | requests and responses with one server, over any connection |
| `session.py` | the client side of an MCP session, and the differences between revisions of MCP |
| `launch.py` | starts a server behind walls and communicates with it over pipes |
| `http_link.py`, `http_wire.py` | a server that is reached over streamable HTTP |
| `headers.py` | the HTTP headers that repeat parts of a request |
| `connection.py` | one server for one client: its starts, its end, and its requests to the client |
| `offers.py` | compares a server's tools with the lock |
| `results.py` | the bounded result of a call |
| `servers.py` | all servers of a runtime: one per client, started on the first call, restarted after they end |
"""
