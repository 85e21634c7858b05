"""Words for the tests beside this file: runtimes with models, and calls of them."""

import asyncio

import interlock

AGENT = "coder"
KEY = "k-4f9a2b7c1d-not-a-known-shape"
SECRET = "ghp_" + "kRw7Zc2QxN5vTb9YfJ3mHd8LsPq4Ga1Ue6Xo"
SETTINGS = {
    "agent": AGENT,
    "rules": {"allow": ["infer", "classify", "embed"]},
    "grants": {AGENT: {"tools": ["infer", "classify", "embed"], "unscoped": ["*"]}},
    "journal": {"durability": "memory"},
}
PRICES = {"input": 1000.0, "output": 2000.0}
"""A thousandth of a unit for each token that is read, two for each that is written."""


def models(server, provider="openai-compatible", **more):
    tools = ["infer", "classify"] if provider == "anthropic" else ["infer", "classify", "embed"]
    one = {"provider": provider, "endpoint": server.endpoint(provider), "key_env": "MODEL_KEY", "tools": tools}
    return {"models": {"fast": {**one, "output_tokens": 100, "prices": PRICES, **more}}}


def runtime(server, provider="openai-compatible", sections=None, **more):
    """A runtime in memory with one model, `fast`."""
    return interlock.Runtime.open(settings=SETTINGS | models(server, provider, **more) | (sections or {}))


def call(rt, tool, /, options=None, **parameters):
    return asyncio.run(rt.call(tool, parameters, **(options or {})))


def execute(rt, *actions, **fields):
    return asyncio.run(rt.execute({"actions": list(actions), **fields}))


def infer(name=None, /, **fields):
    return {"type": "tool_call", "tool": "infer", **({"id": name} if name else {}), **fields}
