"""Proposals with many actions: shown the same however many actions are in memory at a time, in bounded memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from cli_driving import call

from interlock.disk import Disk
from interlock.engine.inspect import long_proposals
from interlock.journal.private import delete_private
from interlock.model.errors import IntegrityError

ACTIONS = 5_000


def write(key, value, name, **fields):
    return {"id": name, "type": "state_write", "parameters": {"key": key, "value": value}, **fields}


def named(name, action, **fields):
    return {"id": name, **action, **fields}


SOME = [
    write("k", 1, "a"),
    named("b", call("fs.write", path="b.txt", content="one\ntwo\n")),
    named("c", call("shell", command="exit 3"), failure_behavior="skip"),
    named("d", call("fs.read", path="b.txt"), dependencies=["c"]),
    named("e", call("fs.list")),
    named("f", call("shell", command="false"), failure_behavior="skip", max_retries=1),
    named("g", call("proc.kill", pid=1), failure_behavior="skip"),
    write("k", 2, "h"),
    named("i", call("fs.read", path="absent"), failure_behavior="retry", max_retries=1),
    write("l", 3, "j"),
]
LARGE = [named("big", call("fs.write", path="big.txt", content="x" * 70_000)), *SOME[:8]]


def journal(cli, run_id):
    (path,) = (cli.root.parent / "state").glob(f"*/runs/{run_id}/journal.ndjson")
    return path


def rolled_back(cli):
    return cli.run(*SOME)["run_id"]


def succeeded_and_undone(cli):
    run_id = cli.run(*SOME[:2], *SOME[4:5], *SOME[7:8])["run_id"]
    assert cli("undo", run_id).code == 0
    return run_id


def unordered(cli):
    return cli.run(*SOME[:8], order="free")["run_id"]


def too_large_for_the_journal(cli):
    return cli.run(*LARGE)["run_id"]


def deleted_originals(cli):
    run_id = cli.run(*LARGE)["run_id"]
    delete_private(journal(cli, run_id).parent, Disk())
    return run_id


def held(cli):
    return cli.run(*SOME[:3], named("m", call("fs.move", source="b.txt", destination="c.txt")), flags=("--no-wait",))[
        "run_id"
    ]


def killed(cli):
    """A run whose journal ends within its proposal."""
    run_id = cli.run(*SOME[:8])["run_id"]
    path = journal(cli, run_id)
    lines = path.read_bytes().splitlines(keepends=True)
    middle = next(at for at, line in enumerate(lines) if b'"action":"f"' in line)
    path.write_bytes(b"".join(lines[: next(at for at in range(middle, 0, -1) if b'"kind":"seal"' in lines[at]) + 1]))
    return run_id


def damaged(cli):
    run_id = cli.run(*SOME[:8])["run_id"]
    path = journal(cli, run_id)
    data = bytearray(path.read_bytes())
    data[data.index(b'"action":"f"') + 10] ^= 1
    path.write_bytes(data)
    return run_id


RUNS = (
    rolled_back, succeeded_and_undone, unordered, too_large_for_the_journal, deleted_originals, held, killed, damaged,
)  # fmt: skip


@pytest.mark.parametrize("make", RUNS)
def test_the_output_does_not_depend_on_how_much_is_read_at_a_time(cli, monkeypatch, make):
    run_id = make(cli)
    commands = [
        ("runs", "show", run_id, "--json"),
        ("runs", "show", run_id),
        ("runs", "show", run_id, "--limit", "3"),
        ("runs", "show", run_id, "--grep", "txt|k", "--limit", "2", "--json"),
        ("runs", "show", run_id, "--tool", "fs.*"),
        ("runs", "show", run_id, "--action", "b"),
        ("runs", "show", run_id, "--action", "h", "--json"),
        ("runs", "list", "--grep", "txt", "--json"),
        ("log", "--json"),
        ("log", "--tool", "fs.*"),
    ]

    def answers():
        found = [cli(*command) for command in commands]
        found.append(cli("runs", "report", run_id, "-o", "page.html"))
        page = cli.root / "page.html"
        found.append(page.read_text())
        page.unlink()
        return found

    whole = answers()
    for window in (1, 2, 3, 7):
        monkeypatch.setattr(long_proposals, "WINDOW", window)
        assert answers() == whole


def test_a_journal_that_is_shortened_between_the_two_readings_is_an_error(cli, monkeypatch):
    monkeypatch.setattr(long_proposals, "WINDOW", 2)
    path = journal(cli, cli.run(*SOME[:8])["run_id"])
    found = [*long_proposals.read_run(path.parent)]
    (proposal,) = [one for one in found if isinstance(one, long_proposals.LongProposal)]
    os.truncate(path, 0)
    with pytest.raises(IntegrityError, match="shortened"):
        [*next(proposal.windows(["a", "b"])).events]


PEAK = """
import sys
from interlock.surfaces.cli.app import run
assert run(sys.argv[1:]) == 0
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024, file=sys.stderr)
"""


def test_memory_does_not_grow_with_the_rows_of_a_proposal(cli):
    (cli.root / "text.txt").write_text("x" * 12_000)

    def peak(*argv):
        done = subprocess.run(
            [sys.executable, "-c", PEAK, *argv], capture_output=True, cwd=cli.root, env=cli.env, timeout=28, check=True
        )
        return int(done.stderr.splitlines()[-1])

    few, many = (
        cli.run(*(named(f"r{n}", call("fs.read", path="text.txt")) for n in range(count)))["run_id"]
        for count in (10, ACTIONS)
    )
    for options in (("--json",), ("--limit", str(ACTIONS)), ("--grep", "r5")):
        grown = peak("runs", "show", many, *options) - peak("runs", "show", few, *options)
        assert grown < 50  # MB; the outputs alone have 60
