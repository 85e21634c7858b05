"""Tries whether Codex's own shell and editor are open. See `trial.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from interlock.surfaces.clients.scripted_model import ScriptedModel
from interlock.surfaces.clients.trial import Place, Tried, tried

FILES: Final = (".codex/config.toml", ".codex/hooks.json")
HOME_FILES: Final = FILES


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def trial(place: Place) -> list[Tried]:
    """Let the model call both."""
    config = place.home / ".codex" / "config.toml"
    if config.is_file():  # its entries about the project and hook files refer to their paths
        text = config.read_text()
        for old, new in ((place.root, place.work), (place.own_home / ".codex", place.home / ".codex")):
            text = text.replace(f'"{old}"', f'"{new}"').replace(f'"{old}/', f'"{new}/')
        config.write_text(text)
    marks = {"shell": place.work / "shell-ran", "editor": place.work / "editor-ran"}
    patch = f"*** Begin Patch\n*** Add File: {marks['editor']}\n+x\n*** End Patch\n"
    model = ScriptedModel([("exec_command", {"cmd": f"touch {marks['shell']}"}), ("apply_patch", patch)])
    with model.serving():
        settings = {
            "model": '"gpt-5.5"',
            "model_provider": '"probe"',
            "model_providers.probe": f'{{name="probe", base_url="{model.url}/v1", wire_api="responses", env_key="PROBE_KEY",'
            " request_max_retries=0, stream_max_retries=0}",
            "analytics.enabled": "false",
            "check_for_update_on_startup": "false",
        }
        if "[mcp_servers.interlock]" in _text(place.work / FILES[0]):
            settings["mcp_servers.interlock.required"] = (
                "false"  # the gateway does not start here, because this is not a project
            )
        given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        done = place.run(["exec", "--json", "--skip-git-repo-check", *given, "try"], PROBE_KEY="none")
    return tried(marks, len(model.results), done)
