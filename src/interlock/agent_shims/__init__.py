"""Shims that report, from inside an agent's Python program, which tools its SDK called. They decide nothing.

This directory comes first on the `PYTHONPATH` of a measured run, so that Python imports its `sitecustomize.py` at
start. All files except this one run in the agent's interpreter, version 3.9 or later: they use only the standard
library, and nothing of Interlock.

| file | purpose |
|---|---|
| `sitecustomize.py` | installs the shim, then imports the `sitecustomize` that it hides |
| `interlock_agent_shim/importing.py` | calls a function once a module has been imported |
| `interlock_agent_shim/channel.py` | sends reports through the inherited socket |
| `interlock_agent_shim/openai_agents.py`, `google_genai.py`, `claude_agent.py` | hook into the tool calls of one SDK each |
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

DIRECTORY: Final = Path(__file__).parent
"""The first entry of the program's `PYTHONPATH`."""
MESSAGE_BYTES_MAX: Final = 60_000
"""The longest message that a shim sends. Equal to `MESSAGE_BYTES_MAX` in `channel.py`."""


def variables(shim: str, run_id: str, descriptor: int, inode: int, python_path: str | None) -> dict[str, str]:
    """Returns the environment of a program with a shim: its name, the run, and the inherited socket.

    `inode` is the socket's: a process that has another file under this number must not write to it. `python_path` is
    the program's own `PYTHONPATH`.
    """
    return {
        "PYTHONPATH": f"{DIRECTORY}:{python_path}" if python_path else str(DIRECTORY),
        "INTERLOCK_AGENT_SHIM": shim,
        "INTERLOCK_AGENT_SHIM_RUN": run_id,
        "INTERLOCK_AGENT_SHIM_SOCKET": f"{descriptor}:{inode}",
    }
