"""Capsules in C, JavaScript and Python, built with what registries have: the examples, and the page about one of them."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import runpy
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import capsule_compilers
import pytest

from interlock import Runtime
from interlock.engine.inspect.capsule_files import add_capsule, lock_capsules
from interlock.engine.trust import review, trust
from interlock.surfaces.cli import capsule_build, capsule_templates

ROOT = Path(__file__).parents[2]
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
        capsule_build.build(root / name)
    runtime = make(*(root / name for name in names))
    for name in names:
        result = runtime.call_sync(f"{name}/greet", {"name": "x"})
        assert result.output == {"hello": {"name": "x"}}, result


@pytest.mark.parametrize("language", ["wat", "c", "js"])
def test_the_examples_are_what_new_writes(language):
    for name, text in capsule_templates.files(f"hello-{language}", language).items():
        assert (EXAMPLES / f"hello-{language}" / name).read_text() == text


def test_the_template_in_python_is_a_module():
    source = capsule_templates.files("hello", "python")["capsule.py"]
    assert "call_tool" in ast.dump(ast.parse(source))


def test_the_page_shows_the_example():
    page = (ROOT / "docs/guides/write-a-capsule.md").read_text()
    for language, name in (("py", "capsule.py"), ("py", "program.py"), ("text", "capsule.toml")):
        blocks = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
        assert (EXAMPLES / "courier" / name).read_text() in blocks


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


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_component_in_python_uses_every_capability_and_finds_nothing_of_the_machine(project, port, capsys):
    root, make = project
    courier = root / "courier"
    shutil.copytree(EXAMPLES / "courier", courier)
    manifest = courier / "capsule.toml"
    manifest.write_text(manifest.read_text().replace("example.org:443", f"127.0.0.1:{port}"))
    capsule_compilers.build_once(courier)
    runtime = make(courier, port=port)
    saved = runtime.bus.subscribe("notes.saved")
    for count in (1, 2):
        result = runtime.call_sync("courier/save", {"url": f"http://127.0.0.1:{port}/", "name": "a.txt"})
        assert result.output == {"status": 200, "notes": ["a.txt"], "saved": count}, result
    assert (root / "notes/a.txt").read_text() == "note"
    assert [message["data"] for message in runtime.bus.poll(saved)] == ["a.txt", "a.txt"]
    # WASI is imported by every such component, and gives nothing
    inside = runtime.call_sync("courier/inside").output
    assert inside["environment"] == {}
    assert set(inside) == {"environment", "files", "password", "write", "host", "name"}
    assert all(re.fullmatch(r"\w*(Error|Err|error)", inside[name]) for name in set(inside) - {"environment"}), inside
    # messages in and out
    assert runtime.call_sync("courier/hand-on", {"user": "ann", "content": "hi"}).ok

    program = runpy.run_path(str(courier / "program.py"))

    async def messages():
        answering = asyncio.ensure_future(program["answer"](runtime))
        printed = ""
        while not printed:
            await asyncio.wait([answering], timeout=0.05)
            assert not answering.done(), answering.result()
            printed = capsys.readouterr().out
        answering.cancel()
        assert printed.startswith("hi ")

    asyncio.run(messages())
    journals = (runtime.services.state_dir / "runs").glob("*/journal.ndjson")
    lines = [line for path in journals for line in path.read_text().splitlines()]
    logged = [json.loads(line)["message"] for line in lines if "action_log" in line]
    assert "courier: somebody wants a note: b.txt" in logged
