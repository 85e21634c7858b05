"""Tries whether opencode's own shell and editor are open. See `trial.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from interlock.surfaces.clients.scripted_model import ScriptedModel
from interlock.surfaces.clients.trial import Place, Tried, tried

FILES: Final = ("opencode.json", "opencode.jsonc", ".opencode/plugin/interlock.js", ".opencode/opencode.json")
HOME_FILES: Final = (
    ".config/opencode/opencode.json", ".config/opencode/opencode.jsonc", ".config/opencode/plugin/interlock.js",
)  # fmt: skip

OFFLINE: Final = {
    "OPENCODE_DISABLE_MODELS_FETCH": "1",
    "OPENCODE_DISABLE_AUTOUPDATE": "1",
    "npm_config_offline": "true",
}
"""Its environment for work without a network."""


def skip_install(settings: Path) -> None:
    """Prevent it from installing the types of plug-ins from npm into its settings directory, which would delay the start."""
    (settings / "node_modules").mkdir(parents=True, exist_ok=True)
    lock = {"packages": {"": {"dependencies": {"@opencode-ai/plugin": "*"}}}}
    (settings / "package-lock.json").write_text(json.dumps(lock))


def provider(url: str) -> dict[str, object]:
    """Settings that make it use a scripted model."""
    model = {"name": "scripted", "tool_call": True}
    options = {"baseURL": f"{url}/v1", "apiKey": "none"}
    entry = {"npm": "@ai-sdk/openai-compatible", "name": "probe", "options": options, "models": {"probe": model}}
    names = {"model": "probe/probe", "small_model": "probe/probe"}
    return {"autoupdate": False, "share": "disabled", **names, "provider": {"probe": entry}}


def trial(place: Place) -> list[Tried]:
    """Let the model call both."""
    marks = {"shell": place.work / "shell-ran", "editor": place.work / "editor-ran"}
    model = ScriptedModel(
        [
            ("bash", {"command": f"touch {marks['shell']}", "description": "try the shell"}),
            ("write", {"filePath": str(marks["editor"]), "content": "x"}),
        ]
    )
    for settings in (place.home / ".config" / "opencode", place.work / ".opencode"):
        skip_install(settings)
    with model.serving():
        extra = place.home / "probe.json"
        extra.write_text(json.dumps(provider(model.url)))
        done = place.run(
            ["run", "--format", "json", "try"],
            OPENCODE_CONFIG=str(extra),
            **OFFLINE,
        )
    return tried(marks, len(model.results), done)
