"""`run --recorder`, and what `runs show` and `runs log` say of the record."""

from __future__ import annotations

import pytest
from cli_driving import call

from interlock.journal.kernel_layer import layer_files

COMMAND = "mkdir d && echo x > d/new && cat < plan.json > /dev/null && rm d/new"


@pytest.fixture
def recorded(cli):
    """A run of two actions under the recorder."""
    cli.run({"id": "one", **call("shell", command=COMMAND)}, {"id": "two", **call("fs.read", path="plan.json")},
            flags=("--recorder", "notify"))  # fmt: skip
    return cli


def test_a_recorded_run_shows_programs_and_files_of_each_action(recorded):
    shown = recorded("runs", "show", "last")
    assert shown.code == 0
    (line,) = [line for line in shown.out.splitlines() if "recorded:" in line]
    assert "mkdir" in line
    assert "d/new" in line
    assert " 1 removed (d/new)" in line
    whole = recorded("runs", "show", "last", "--action", "one").out
    assert "attempts" in whole
    assert "    d/new\n" in whole
    assert "    plan.json\n" in whole


def test_json_has_the_lists_and_null_where_nothing_was_recorded(recorded):
    one, two = recorded("runs", "show", "last", "--json").json["proposals"][0]["results"]
    root = str(recorded.root)
    assert f"{root}/d/new" in one["touched"]["written"]
    assert one["touched"]["removed"] == [f"{root}/d/new"]
    assert f"{root}/plan.json" in one["touched"]["read"]
    assert one["touched"]["lost"] is False
    assert two["touched"] is None


def test_the_log_of_a_run_has_it_beside_the_event(recorded):
    lines = recorded("runs", "log", "last").out.splitlines()
    (at,) = [number for number, line in enumerate(lines) if "action_recorded" in line]
    assert "recorded:" in lines[at + 1]


def test_a_damaged_record_is_reported_and_the_run_is_shown_all_the_same(recorded):
    directory = next((recorded.root.parent / "state").glob("**/runs/run_*"))
    (file,) = layer_files(directory)
    file.write_bytes(b"garbage\n")
    shown = recorded("runs", "show", "last")
    assert shown.code == 4
    assert "one" in shown.out
    assert "kernel.ndjson" in shown.out
    assert recorded("runs", "log", "last").code == 4


def test_the_flag_does_not_switch_off_what_the_file_asks_for(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text() + '[isolation]\nrecorder = "notify"\n')
    assert cli("trust", "--yes").code == 0
    said = cli("run", cli.plan(call("shell", command="true")), "--json", "--recorder", "none")
    assert (said.code, said.error["code"]) == (2, "override_loosens")


def test_what_a_background_program_did_is_shown_with_the_action_that_started_it(cli):
    path = cli.root / "interlock.toml"
    path.write_text(path.read_text().replace('"shell"', '"shell", "proc.*"'))
    assert cli("trust", "--yes").code == 0
    start = {"id": "one", **call("proc.start", command="echo x > late; echo ready; sleep 600")}
    wait = {"id": "two", **call("proc.wait", handle="$one.output.handle", output="ready")}
    assert cli.run(start, wait, flags=("--recorder", "notify"))["status"] == "succeeded"
    one, two = cli("runs", "show", "last", "--json").json["proposals"][0]["results"]
    assert one["touched"]["written"] == [f"{cli.root}/late"]
    assert two["touched"] is None
    (line,) = [line for line in cli("runs", "log", "last").out.splitlines() if "action_recorded" in line]
    assert f"calls of {one['output']['handle']}" in line
