"""Tries whether Claude Code's own shell and editor are open. See `trial.py`."""

from __future__ import annotations

import json
from typing import Final

from interlock.surfaces.clients.scripted_model import ScriptedModel
from interlock.surfaces.clients.trial import Place, Tried, tried

FILES: Final = (".claude/settings.json", ".claude/settings.local.json", ".mcp.json")
HOME_FILES: Final = (".claude/settings.json", ".claude/settings.local.json")


def trial(place: Place) -> list[Tried]:
    """Let the model call both, with the client's own permission."""
    accepted = {"projects": {str(place.work): {"hasTrustDialogAccepted": True}}}
    (place.home / ".claude.json").write_text(json.dumps(accepted))
    marks = {"shell": place.work / "shell-ran", "editor": place.work / "editor-ran"}
    model = ScriptedModel(
        [
            ("Bash", {"command": f"touch {marks['shell']}", "description": "try the shell"}),
            ("Write", {"file_path": str(marks["editor"]), "content": ""}),
        ]
    )
    with model.serving():
        done = place.run(
            ["-p", "try", "--allowedTools", "Bash", "Write"],
            ANTHROPIC_BASE_URL=model.url,
            ANTHROPIC_API_KEY="sk-none",
            CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
            CLAUDE_CODE_MAX_RETRIES="0",
        )
    return tried(marks, len(model.results), done)
