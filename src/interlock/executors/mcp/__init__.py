"""MCP servers behind the runtime: their tools are ordinary tools, and nothing that a server says is trusted.

| file | what it does |
|---|---|
| `definitions.py` | a tool as its server defines it, checked: it is text from a stranger that a model will read |
| `lock.py` | `interlock.lock`: the definitions that a person has seen, which alone are shown to agents |
| `peer.py` | requests and answers with one server, over any connection |
| `session.py` | what the revisions of MCP differ in, for a client of a server |
| `launch.py` | starts a server behind the walls, and speaks with it over pipes |
| `http_link.py`, `http_wire.py` | a server that is reached over streamable HTTP |
| `headers.py` | what HTTP headers repeat of a request |
| `connection.py` | one server for one client: its starts, ends and questions |
| `offers.py` | what a server offers, against what is locked |
| `results.py` | what a call gave, within bounds |
| `servers.py` | all servers of a runtime: started when first called, one each client, started again when they end |
"""
