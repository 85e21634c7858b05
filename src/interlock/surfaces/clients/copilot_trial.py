"""Tries whether Copilot CLI's own shell and editor are open. See `trial.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from interlock.surfaces.clients.scripted_model import ScriptedModel
from interlock.surfaces.clients.trial import Place, Tried, tried

FILES: Final = (
    ".github/hooks/interlock-copilot.json", ".github/mcp.json", ".github/copilot/settings.json",
    ".github/copilot/settings.local.json",
)  # fmt: skip
HOME_FILES: Final = (".copilot/hooks/interlock-copilot.json", ".copilot/settings.json")


def offline(url: str, own_home: Path) -> dict[str, str]:
    """Its environment for a scripted model, without a network. It unpacks itself once into its user's cache."""
    return {
        "COPILOT_OFFLINE": "true",
        "COPILOT_AUTO_UPDATE": "false",
        "COPILOT_PROVIDER_BASE_URL": f"{url}/v1",
        "COPILOT_PROVIDER_TYPE": "openai",
        "COPILOT_PROVIDER_API_KEY": "none",
        "COPILOT_MODEL": "scripted",
        "COPILOT_CACHE_HOME": str(own_home / ".cache" / "copilot"),
    }


def trial(place: Place) -> list[Tried]:
    """Let the model call both, with the client's own permission, as if the user trusted the project."""
    marks = {"shell": place.work / "shell-ran", "editor": place.work / "editor-ran"}
    model = ScriptedModel(
        [
            ("bash", {"command": f"touch {marks['shell']}", "description": "try the shell"}),
            ("create", {"path": str(marks["editor"]), "file_text": "x"}),
        ]
    )
    with model.serving():
        done = place.run(
            ["-p", "try", "--output-format", "json", "--allow-all-tools", "--trust-folder"],
            **offline(model.url, place.own_home),
        )
    return tried(marks, len(model.results), done)
