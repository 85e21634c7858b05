"""The agent kit: connects a custom agent loop to the runtime, in the formats of models and their vendors.

| file | purpose |
|---|---|
| `names.py` | converts names of tools to names that every vendor accepts, and back |
| `tool_schemas.py` | a tool's parameters as a model should see them |
| `toolset.py` | the definitions, for a model, of the tools that an agent may reach |
| `messages.py` | reads tool calls from a vendor's message, and converts results to its format |
| `calls.py` | carries out one call, once per call id |

`people/questions.py` and `people/approvals.py` answer questions from Python.
Every call goes through the gate like any proposal; nothing here decides.
"""
