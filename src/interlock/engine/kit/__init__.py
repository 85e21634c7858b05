"""The agent kit: what a home-made agent loop needs of the runtime, in the shapes that models and their vendors speak.

| file | what it does |
|---|---|
| `names.py` | names for tools that every vendor takes, and back |
| `tool_schemas.py` | a tool's parameters as a model should see them |
| `toolset.py` | which tools an agent may reach, as definitions for a model |
| `messages.py` | reads tool calls out of a vendor's message, and puts results into its shape |
| `calls.py` | carries out one call, once for each call id |

How questions are answered from Python is in `people/questions.py` and `people/approvals.py`.
Everything goes through the gate as any proposal does; nothing here decides.
"""
