"""Capsules in C, JavaScript and Python, built with what registries have: the examples, and the page about one of them."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import importlib.metadata
import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import capsule_compilers
import pytest
from capsules_world import events

from interlock import Runtime
from interlock.engine.inspect.capsule_files import add_capsule, lock_capsules
from interlock.engine.trust import review, trust
from interlock.surfaces.cli import capsule_build, capsule_templates
from interlock.surfaces.cli.app import run

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests/docs"))

import docs_pages  # noqa: E402 - beside the tests of the pages

PAGE = ROOT / "docs/guides/write-a-capsule.md"
EXAMPLES = ROOT / "examples/capsules"
RULES = """
[rules]
allow = ["*"]
[grants.agent]
tools = ["*"]
unscoped = ["*"]
hosts = ["127.0.0.1:{port}"]
paths.read = ["**"]
paths.write = ["**"]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Makes a trusted project with capsules; returns its runtime."""
    packages = capsule_compilers.python_packages()
    monkeypatch.syspath_prepend(str(packages))
    monkeypatch.setenv("PYTHONPATH", str(packages))
    monkeypatch.setenv("INTERLOCK_STATE_DIR", str(tmp_path / "state"))
    root = tmp_path / "project"
    root.mkdir()
    opened = []

    def make(*directories: Path, port: int = 1) -> Runtime:
        (root / "interlock.toml").write_text(RULES.format(port=port))
        for directory in directories:
            add_capsule(root, directory)
        lock_capsules(root, [])
        environment = {"INTERLOCK_STATE_DIR": str(tmp_path / "state"), "HOME": str(tmp_path)}
        trust(review(root, environment), environment)
        opened.append(Runtime.open(root / "interlock.toml"))
        return opened[-1]

    yield root, make
    for runtime in opened:
        runtime.close()


@pytest.mark.timeout(600)
def test_capsules_in_c_and_javascript_are_built_and_called(project, monkeypatch):
    root, make = project
    monkeypatch.setenv("PATH", f"{capsule_compilers.npm_packages()}/node_modules/.bin", prepend=":")
    names = ("hello-c", "hello-js")
    for name in names:
        shutil.copytree(EXAMPLES / name, root / name)
    source = root / "hello-js/capsule.js"
    text = source.read_text()
    for old, new in (
        (
            "return",
            "const bytes = new TextEncoder().encode(name);\n  console.log('bytes', bytes.length, [name]);\n  return",
        ),
        ("(args) }", "(args), bytes: [...bytes], name: new TextDecoder().decode(bytes) }"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    source.write_text(text)
    for name in names:
        capsule_build.build(root / name)
    assert {path.name for path in (root / "hello-js").iterdir()} == {"capsule.js", "capsule.toml", "hello-js.wasm"}
    runtime = make(*(root / name for name in names))
    for name in names:
        result = runtime.call_sync(f"{name}/greet", {"name": "x"})
        assert result.output["hello"] == {"name": "x"}, result
    assert (result.output["bytes"], result.output["name"]) == ([*b"greet"], "greet")
    lines = [event["message"] for event in events(runtime, result.run_id, "action_log")]
    assert lines == ["hello-js: somebody is greeted", 'hello-js: bytes 5 ["greet"]']


@pytest.mark.parametrize("language", ["wat", "c", "js"])
def test_the_examples_are_what_new_writes(language):
    for name, text in capsule_templates.files(f"hello-{language}", language).items():
        assert (EXAMPLES / f"hello-{language}" / name).read_text() == text


def test_the_template_in_python_is_a_module():
    source = capsule_templates.files("hello", "python")["capsule.py"]
    assert "call_tool" in ast.dump(ast.parse(source))


def test_the_page_shows_the_example():
    shown = {block.file: block.text for block in docs_pages.blocks(PAGE)}
    for name in ("capsule.py", "program.py", "capsule.toml"):
        assert shown[f"courier/{name}"] == (EXAMPLES / "courier" / name).read_text()


def test_text_is_encoded_and_decoded_as_by_node():
    shim = Path(capsule_build.__file__).with_name("text_encoding.js").read_text()
    check = Path(__file__).with_name("text_encoding_check.mjs")
    done = subprocess.run(["node", check, shim], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.returncode) == ("the same\n", 0), done.stderr


class Page(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"note")

    def log_message(self, *_):
        pass


@pytest.fixture
def port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def carry_out(page: Path, port: int) -> dict[str, dict]:
    """Do what a page says, but for what is installed; returns what each command printed, as JSON."""
    printed = {}
    for block in docs_pages.blocks(page):
        text = block.text.replace("https://example.org", f"http://127.0.0.1:{port}")
        text = text.replace("example.org:443", f"127.0.0.1:{port}")
        if block.file is not None:
            Path(block.file).write_text(text)
            continue
        for line in text.splitlines():
            argv = shlex.split(line, comments=True)
            if argv[0] != "interlock":
                assert argv[0] in ("pip", "mkdir"), line
                continue
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                code = run([*argv[1:], *(["--yes"] if argv[1:] == ["trust"] else []), "--json"])
            # An undo that leaves something says so by its exit code.
            assert code == int(argv[1] == "undo"), (line, output.getvalue())
            printed[" ".join(argv[1:5])] = json.loads(output.getvalue())
    return printed


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page_takes_a_reader_to_a_capsule_in_python_that_uses_everything_and_sees_nothing(
    project, port, capsys, monkeypatch
):
    root, _ = project
    state = Path(os.environ["INTERLOCK_STATE_DIR"])
    kept = capsule_compilers.cache() / f"capsule-code-wasmtime-{importlib.metadata.version('wasmtime')}"
    capsule_compilers.copy_code(kept, state)
    monkeypatch.setitem(capsule_build.COMPILERS, "python", capsule_compilers.python_component)
    monkeypatch.chdir(root)
    printed = carry_out(PAGE, port)
    capsule_compilers.copy_code(state, kept)
    # WASI is imported by every such component, and gives nothing
    inside = printed["capsule run courier inside"]["output"]
    assert inside.pop("environment") == {}
    assert set(inside) == {"files", "password", "write", "host", "name"}
    assert all(re.fullmatch(r"\w*(Error|Err|error)", said) for said in inside.values()), inside
    saved = printed["capsule run courier save"]
    assert saved["output"] == {"status": 200, "notes": ["a.html"], "saved": 1}
    left = {one["detail"] for one in printed["undo last"]["not_undone"]}
    assert {"a capsule changed its stored values", "a capsule published messages"} <= left
    assert not (root / "notes/a.html").exists()

    with Runtime.open(root / "interlock.toml") as runtime:
        assert runtime.call_sync("courier/hand-on", {"user": "ann", "content": "hi"}).ok
        program = runpy.run_path("courier/program.py")

        async def talk():
            answering = asyncio.ensure_future(program["answer"](runtime))
            said = ""
            while "ann: hi\n" not in said or "everyone: saved b.txt\n" not in said:
                url = f"http://127.0.0.1:{port}/"
                assert (await runtime.call("courier/save", {"url": url, "name": "b.txt"})).ok
                assert not answering.done(), answering.result()
                said += capsys.readouterr().out
            answering.cancel()
            await asyncio.wait([answering])

        asyncio.run(talk())
    assert (root / "notes/b.txt").read_text() == "note"
    journals = state.rglob("journal.ndjson")
    events = [json.loads(line) for path in journals for line in path.read_text().splitlines()]
    logged = {event["message"] for event in events if event["kind"] == "action_log"}
    assert {"courier: somebody wants a note: b.txt", "courier: looking around"} <= logged
    assert not [event for event in events if event["kind"] in ("action_failed", "capsule_denied")]
