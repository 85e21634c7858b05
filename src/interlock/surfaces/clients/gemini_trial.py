"""Tries whether Gemini CLI's own shell and editor are open. See `trial.py`."""

from __future__ import annotations

import json
from typing import Final

from interlock.surfaces.clients.scripted_model import ScriptedModel
from interlock.surfaces.clients.trial import Place, Tried, tried

FILES: Final = (".gemini/settings.json",)
HOME_FILES: Final = FILES


def trial(place: Place) -> list[Tried]:
    """Let the model call both, with the client's own permission to do so, as if the user trusted the project."""
    marks = {"shell": place.work / "shell-ran", "editor": place.work / "editor-ran"}
    model = ScriptedModel(
        [
            ("run_shell_command", {"command": f"touch {marks['shell']}", "description": "try the shell"}),
            ("write_file", {"file_path": str(marks["editor"]), "content": "x"}),
        ]
    )
    with model.serving():
        machine = place.home / "probe.json"  # goes before all other settings, and says nothing of tools
        machine.write_text(json.dumps({"security": {"auth": {"selectedType": "gemini-api-key"}}}))
        done = place.run(
            ["-p", "try", "--output-format", "json", "--approval-mode", "yolo"],
            GEMINI_API_KEY="none",
            GOOGLE_GEMINI_BASE_URL=model.url,
            GEMINI_CLI_TRUST_WORKSPACE="true",
            GEMINI_CLI_SYSTEM_SETTINGS_PATH=str(machine),
        )
    return tried(marks, len(model.results), done)
