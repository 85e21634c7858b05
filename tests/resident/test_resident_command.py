"""`interlock gate`."""

from __future__ import annotations

import json

from interlock.surfaces.cli.app import run


def test_started_looked_at_and_stopped(project, monkeypatch, capsys):
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(project.world.state))

    def gate(what: str):
        assert run(["gate", what, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert gate("status") == {"running": False}
    assert gate("stop") == {"stopped": False}
    started = gate("start")
    assert started["projects"] == []
    project.before("Read", {"file_path": "interlock.toml"})
    status = gate("status")
    assert status["pid"] == started["pid"]
    assert status["projects"] == [{"root": str(project.root), "open": 1, "waiting": 0}]
    assert run(["gate", "status"]) == 0
    assert "1 calls in progress" in capsys.readouterr().out
    assert gate("stop") == {"stopped": True}
    assert gate("status") == {"running": False}
    (project.world.state / "gate").chmod(0o755)
    assert run(["gate", "status", "--json"]) != 0
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "gate_failed"
