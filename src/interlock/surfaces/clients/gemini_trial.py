"""Tries whether Gemini CLI's own shell and editor are open. See `trial.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from interlock.surfaces.clients.documents import read_document
from interlock.surfaces.clients.scripted_model import ScriptedModel
from interlock.surfaces.clients.trial import Place, Tried, tried

FILES: Final = (".gemini/settings.json",)
HOME_FILES: Final = FILES


def trial(place: Place) -> list[Tried]:
    """Let the model call both, with the client's own permission, as if the user trusted the project."""
    for settings in (place.home / FILES[0], place.work / FILES[0]):
        _log_in(settings)
    marks = {"shell": place.work / "shell-ran", "editor": place.work / "editor-ran"}
    model = ScriptedModel(
        [
            ("run_shell_command", {"command": f"touch {marks['shell']}", "description": "try the shell"}),
            ("write_file", {"file_path": str(marks["editor"]), "content": "x"}),
        ]
    )
    with model.serving():
        done = place.run(
            ["-p", "try", "--output-format", "json", "--approval-mode", "yolo"],
            GEMINI_API_KEY="none",
            GOOGLE_GEMINI_BASE_URL=model.url,
            GEMINI_CLI_TRUST_WORKSPACE="true",
        )
    return tried(marks, len(model.results), done)


def _log_in(settings: Path) -> None:
    """Change the settings so that the scripted model's key, and not the user's account, is used to log in."""
    found = read_document(settings.read_bytes(), settings, comments=True) if settings.is_file() else {}
    found["security"] = {**(found.get("security") or {}), "auth": {"selectedType": "gemini-api-key"}}
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps(found))
