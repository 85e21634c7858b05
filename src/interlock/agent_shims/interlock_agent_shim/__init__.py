"""Reports the tool calls of an agent's SDK to Interlock. See the package `interlock.agent_shims`."""

from __future__ import annotations

import importlib
from typing import Any, Mapping

from . import claude_agent, google_genai, openai_agents
from .channel import Channel
from .importing import when_imported

SHIMS: dict[str, Any] = {
    "openai-agents": openai_agents,
    "gemini-google-genai": google_genai,
    "claude-agent-sdk": claude_agent,
}


def install(environ: Mapping[str, str]) -> None:
    """Hook into the SDK that the environment names, once the program imports it. Does nothing without a socket."""
    shim = SHIMS.get(environ.get("INTERLOCK_AGENT_SHIM", ""))
    channel = Channel.inherited(environ)
    if shim is None or channel is None:
        return

    def hook(module: Any) -> None:
        version = _version(shim.DISTRIBUTION)
        try:
            shim.hook(module, channel)
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
            channel.send("not_hooked", sdk=shim.DISTRIBUTION, version=version, why=why[:1000])
        else:
            channel.send("hooked", sdk=shim.DISTRIBUTION, version=version)

    when_imported(shim.MODULE, hook)


def _version(distribution: str) -> str:
    metadata = importlib.import_module("importlib.metadata")  # large, and needed only if the SDK is present
    try:
        return str(metadata.version(distribution))
    except ImportError:
        return "unknown"
