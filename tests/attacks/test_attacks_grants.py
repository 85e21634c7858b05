"""An agent that wants to reach what its grant leaves out: paths that it does not name, that links or directories lead to."""

import base64
import http.server
import subprocess
import threading

import pytest
from engine_world import call, execute, expect, reasons, statuses, write

from interlock.executors import http_fetch as fetching

DOCS_ONLY = """
agent = "coder"

[rules]
allow = ["fs.*", "git.*", "http.fetch", "state_write", "assert"]
%s
[grants.coder]
tools = ["fs.*", "git.*", "http.fetch"]
paths = { read = ["docs/**"], write = ["docs/**"] }
hosts = ["good.test:*"]
"""
FILES = {"src/secret.txt": "TOPSECRET", "src/deep/x.txt": "DEEP", "docs/a.md": "hello"}


@pytest.mark.parametrize(
    ("tool", "parameters"),
    [("fs.search", {"pattern": "SECRET"}), ("fs.list", {"recursive": True}), ("fs.list", {}), ("git.diff", {})],
)
def test_a_path_that_is_left_out_is_judged_as_the_one_that_the_tool_takes(victim, tool, parameters):
    rt = victim(DOCS_ONLY % "", FILES).open()
    result = execute(rt, call(tool, parameters=parameters))
    assert reasons(result) == ["path_denied"]


def test_a_rule_sees_the_path_that_is_left_out(victim):
    rule = '[[rules.deny_param]]\ntool = "fs.search"\nparam = "path"\nlike = "."\n'
    toml = (DOCS_ONLY % rule).replace('["docs/**"]', '["**"]')
    rt = victim(toml, FILES).open()
    assert reasons(execute(rt, call("fs.search", parameters={"pattern": "SECRET"}))) == ["policy_denied"]
    assert statuses(execute(rt, call("fs.search", parameters={"pattern": "x", "path": "docs"}))) == ["succeeded"]


def test_directories_lead_no_deeper_than_the_grant(victim):
    toml = (DOCS_ONLY % "").replace('["docs/**"]', '["src/*", "out/*"]')
    project = victim(toml, FILES)
    rt = project.open()
    assert reasons(execute(rt, call("fs.read", parameters={"path": "src/deep/x.txt"}))) == ["path_denied"]
    found = execute(rt, call("fs.search", parameters={"pattern": "DEEP", "path": "src/deep"})).results[0].output
    assert found["matches"] == []
    listed = execute(rt, call("fs.list", parameters={"path": "src/deep", "recursive": True})).results[0].output
    assert listed["entries"] == []
    gone = execute(rt, call("fs.delete", parameters={"path": "src/deep", "recursive": True}))
    assert reasons(gone) == ["path_denied"]
    moved = execute(rt, call("fs.move", parameters={"source": "src/deep", "destination": "out/deep"}))
    assert reasons(moved) == ["path_denied"]
    assert (project.root / "src/deep/x.txt").read_text() == "DEEP"


def test_a_tree_is_not_moved_to_where_the_grant_does_not_reach(victim):
    toml = (DOCS_ONLY % "").replace('["docs/**"]', '["src/**", "out/*"]')
    rt = victim(toml, FILES).open()
    moved = execute(rt, call("fs.move", parameters={"source": "src/deep", "destination": "out/deep"}))
    assert reasons(moved) == ["path_denied"]


def test_a_protected_file_is_known_by_its_other_name_whatever_the_grant(victim):
    toml = (DOCS_ONLY % "") + '\n[policy]\nfiles = ["policy/*.cedar"]\n'
    project = victim(
        toml, {**FILES, "policy/a.cedar": '@id("x") forbid(principal == Agent::"nobody", action, resource);'}
    )
    (project.root / "docs/alias").hardlink_to(project.root / "policy/a.cedar")
    rt = project.open()
    assert reasons(execute(rt, call("fs.write", parameters={"path": "docs/alias", "content": "", "append": True}))) == [
        "path_protected"
    ]


@pytest.mark.parametrize(
    "action", [write("k", 1, "a"), call("fs.write", "a", parameters={"path": "docs/a.md", "content": ""})]
)
def test_a_compensation_follows_links_no_further_than_its_own_tool_may(victim, action):
    project = victim(DOCS_ONLY % "", FILES)
    (project.root / "docs/out").symlink_to("../src")
    rt = project.open()
    compensation = {"type": "tool", "tool": "fs.write", "parameters": {"path": "docs/out/pwned", "content": "x"}}
    result = execute(rt, action | {"compensation": compensation}, expect("nothing", 1))
    assert [left.reason for left in result.not_undone] == ["compensation_failed"]
    assert "path" in result.not_undone[0].detail
    assert not (project.root / "src/pwned").exists()


@pytest.fixture
def redirecting():
    """A server that redirects everything to another host of the same machine."""

    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Host"])
            self.send_response(302)
            self.send_header("Location", f"http://evil.test:{self.server.server_port}/loot")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server, asked
    server.shutdown()
    server.server_close()


def test_a_compensation_is_redirected_only_to_hosts_of_the_grant(victim, redirecting, monkeypatch):
    server, asked = redirecting
    monkeypatch.setattr(fetching, "address_is_private", lambda _host: None)
    monkeypatch.setattr(fetching, "classify", lambda _address: None)
    resolve = fetching.Fetcher.__init__.__kwdefaults__
    monkeypatch.setitem(resolve, "resolver", lambda _host, _port: ["127.0.0.1"])
    project = victim(DOCS_ONLY % "", FILES)
    rt = project.open()
    url = f"http://good.test:{server.server_port}/"
    compensation = {"type": "tool", "tool": "http.fetch", "parameters": {"url": url}}
    first = call("fs.write", "a", parameters={"path": "docs/b", "content": "x"}, compensation=compensation)
    execute(rt, first, expect("nothing", 1))
    assert asked == [f"good.test:{server.server_port}"]


def test_git_writes_and_reads_no_more_than_the_grant(victim):
    project = victim((DOCS_ONLY % "").replace('read = ["docs/**"]', 'read = ["**"]'), FILES)

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=project.root, check=True, capture_output=True)

    git("init", "-q")
    git("add", "src")
    git("commit", "-qm", "one")
    (project.root / "src/secret.txt").write_text("changed")
    git("commit", "-qam", "two")
    rt = project.open()
    assert reasons(execute(rt, call("git.revert", parameters={"commit": "HEAD"}))) == ["path_denied"]
    assert (project.root / "src/secret.txt").read_text() == "changed"


def test_git_does_not_read_the_repository_around_a_readable_directory(victim):
    project = victim(DOCS_ONLY % "", FILES)
    subprocess.run(["git", "init", "-q"], cwd=project.root, check=True)
    rt = project.open()
    assert reasons(execute(rt, call("git.status", parameters={"path": "docs"}))) == ["path_denied"]


RULE = """
[[rules.deny_param]]
tool = "fs.read"
param = "path"
like = "docs/private/*"

[[rules.deny_param]]
tool = "http.fetch"
param = "url"
like = "http://good.test/private*"
"""


@pytest.mark.parametrize(
    "path",
    [
        "docs/private/x",
        "./docs/private/x",
        "docs//private/x",
        "docs/./private/x",
        "docs/y/../private/x",
        "docs/private/x/",
        "ROOT/docs/private/x",
        {"b64": base64.b64encode(b"docs/private/x").decode()},
        {"b64": base64.b64encode(b"./docs/private/x").decode()},
    ],
)
def test_no_spelling_of_a_path_slips_a_rule(victim, path):
    project = victim(DOCS_ONLY % RULE, {**FILES, "docs/private/x": "s", "docs/y/z": ""})
    if isinstance(path, str):
        path = path.replace("ROOT", str(project.root))
    assert reasons(execute(project.open(), call("fs.read", parameters={"path": path}))) == ["policy_denied"]


@pytest.mark.parametrize(
    "url",
    [
        "http://good.test/private",
        "HTTP://good.test/private",
        "http://GOOD.test/private",
        "http://good.test./private",
        "http://good.test:80/private",
        "http://good.test:080/private",
    ],
)
def test_no_spelling_of_a_host_slips_a_rule(victim, url):
    rt = victim(DOCS_ONLY % RULE, FILES).open()
    assert reasons(execute(rt, call("http.fetch", parameters={"url": url})))[0] in ("policy_denied", "host_denied")


@pytest.mark.parametrize(
    ("module", "written"),
    [
        ("tl/my.py", "tl/my/__init__.py"),
        ("tl/my.py", "tl/my.so"),
        ("tl/my.py", "tl/__init__.py"),
        ("tl/my.py", "tl.py"),
        ("tl/my/__init__.py", "tl/my.py"),
        ("src/tl/my.py", "tl/my.py"),
        ("src/tl/my.py", "tl/__init__.py"),
    ],
)
def test_no_file_beside_a_tool_module_can_stop_the_next_run(victim, module, written):
    toml = """
agent = "coder"
[rules]
allow = ["*"]
[grants.coder]
tools = ["*"]
unscoped = ["hello"]
paths = { write = ["**"] }
[tools]
modules = ["tl.my"]
"""
    project = victim(toml, {module: "import interlock\n\n@interlock.tool\ndef hello() -> str:\n    return 'hello'\n"})
    rt = project.open()
    assert reasons(execute(rt, call("fs.write", parameters={"path": written, "content": "x"}))) == ["path_denied"]
    assert reasons(execute(rt, call("fs.write", parameters={"path": "tl_other/my.py", "content": "x"}))) == [None]
    rt.close()
    assert statuses(execute(project.open(), call("hello"))) == ["succeeded"]
