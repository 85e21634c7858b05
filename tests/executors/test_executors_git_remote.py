"""Clone, pull and push over loopback, with a judge that lets it pass; and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import functools
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from git_world import Git, refused

from interlock.detect import address_is_private
from interlock.executors.enclosure import enclosure
from interlock.executors.git_remote import check_remote
from interlock.executors.network import ProcessNetwork
from interlock.executors.process import ProcessRunner
from interlock.isolation.egress.client import Egress, Policy
from interlock.model.errors import ToolError

HERE = {"address_judge": lambda _host: None, "resolver": lambda _host, _port: ["127.0.0.1"]}
"""For git that connects by itself."""
PROXY = Path(__file__).parents[1] / "egress" / "proxy_with_names.py"


@pytest.fixture
def network():
    """Makes networks for git behind namespaces: these hosts may be reached, wherever their names lead."""
    made = []

    def make(hosts, private=("*:*",)):
        names = json.dumps({"repo.example": ["127.0.0.1"], "other.example": ["127.0.0.1"]})
        egress = Egress([sys.executable, os.fspath(PROXY), names])
        made.append(ProcessNetwork(lambda _, lasting=False: Policy(((tuple(hosts),),), tuple(private)), egress=egress))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def runner(clock, walls, network):
    made = ProcessRunner(clock, enclose=walls, network=network(["repo.example:*"]))
    yield made
    made.close()


@pytest.fixture
def alone(clock, workspace, context, offered):
    """Git as in a container: without namespaces, held to an address and a port."""
    walls = enclosure("nons", offered, environment=os.environ)
    runner = ProcessRunner(clock, enclose=lambda: walls)
    yield Git(runner, workspace, context(), **HERE)
    runner.close()


@pytest.fixture
def git(runner, workspace, context):
    """Loopback is let pass, and the name `repo.example` means this machine."""
    return Git(runner, workspace, context(), **HERE)


@pytest.fixture
def origin(git, tmp_path):
    """A bare repository with one commit on `main`."""
    work, bare = tmp_path / "work", tmp_path / "served" / "origin.git"
    work.mkdir()
    bare.parent.mkdir()
    git.plain("init", "-q", "-b", "main", cwd=work)
    (work / "a.txt").write_text("one\n")
    git.plain("add", ".", cwd=work)
    git.plain("commit", "-qm", "first", cwd=work)
    git.plain("clone", "-q", "--bare", str(work), str(bare), cwd=tmp_path)
    git.plain("remote", "add", "origin", str(bare), cwd=work)
    return work, bare


@pytest.fixture
def daemon(origin):
    _, bare = origin
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            "git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--enable=receive-pack",
            f"--base-path={bare.parent}", "--reuseaddr",
        ],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.02)
    yield f"git://repo.example:{port}/origin.git"
    os.killpg(process.pid, 15)
    process.wait()


def advance(git, origin, name="a.txt", text="two\n"):
    work, _ = origin
    (work / name).write_text(text)
    git.plain("add", ".", cwd=work)
    git.plain("commit", "-qm", text, cwd=work)
    git.plain("push", "-q", "origin", "main", cwd=work)
    return git.plain("rev-parse", "HEAD", cwd=work)


def test_a_pre_push_hook_is_asked_about_what_is_pushed(git, origin, daemon, runner, workspace, context):
    git.clone(url=daemon, path="copy")
    hook = git.root / "copy/.git/hooks/pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\necho "$1" > said; cat >> said; test ! -e stop\n')
    hook.chmod(0o755)
    assert git.push(url=daemon, path="copy")["hooks_not_run"] == ["pre-push"]
    running = Git(runner, workspace, context(), hook_judge=lambda ctx, parameters: None, **HERE)
    before = git.plain("rev-parse", "HEAD", cwd=git.root / "copy")
    (git.root / "copy" / "b.txt").write_text("b")
    git.add(path="copy", paths=["copy/b.txt"])
    commit = git.commit(path="copy", message="second")["commit"]
    stop = git.root / "copy/stop"
    stop.touch()
    assert refused(running.push, url=daemon, path="copy").code == "hook_failed"
    assert git.plain("rev-parse", "main", cwd=origin[1]) == before
    stop.unlink()
    pushed = running.push(url=daemon, path="copy")
    assert (pushed["updated"], pushed["hooks_run"]) == (True, [{"hook": "pre-push", "exit_code": 0}])
    assert git.plain("rev-parse", "main", cwd=origin[1]) == commit
    ref = "refs/heads/main"
    assert (git.root / "copy/said").read_text() == f"{daemon}\n{ref} {commit} {ref} {before}\n"


def test_clone_pull_push(git, origin, daemon, tmp_path):
    cloned = git.clone(url=daemon, path="copy")
    assert cloned["path"] == "copy"
    assert cloned["branch"] == "main"
    assert (git.root / "copy" / "a.txt").read_text() == "one\n"
    assert refused(git.clone, url=daemon, path="copy").code == "already_exists"
    assert git.pull(url=daemon, path="copy")["updated"] is False
    head = advance(git, origin)
    pulled = git.pull(url=daemon, path="copy")
    assert (pulled["commit"], pulled["before"], pulled["updated"]) == (head, cloned["commit"], True)
    assert (git.root / "copy" / "a.txt").read_text() == "two\n"
    (git.root / "copy" / "b.txt").write_text("b")
    git.add(path="copy", paths=["copy/b.txt"])
    commit = git.commit(path="copy", message="third")["commit"]
    pushed = git.push(url=daemon, path="copy")
    assert (pushed["commit"], pushed["updated"], pushed["created"]) == (commit, True, False)
    assert git.plain("rev-parse", "main", cwd=origin[1]) == commit
    assert git.push(url=daemon, path="copy")["updated"] is False
    git.plain("branch", "topic", cwd=git.root / "copy")
    assert git.push(url=daemon, path="copy", branch="topic")["created"] is True


def test_a_commit_that_was_pushed_is_not_undone(git, origin, daemon):
    """A push to a URL leaves no remote-tracking branch by which anybody could tell."""
    git.clone(url=daemon, path="copy")
    (git.root / "copy" / "b.txt").write_text("b")
    git.add(path="copy", paths=["copy/b.txt"])
    done = git.commit(path="copy", message="second")
    git.push(url=daemon, path="copy")
    error = refused(git.commit, path="copy", undo=done["undo"])
    assert error.code == "undo_conflict"
    assert "published" in error.message
    assert git.plain("rev-parse", "HEAD", cwd=git.root / "copy") == done["commit"]


def test_a_pull_does_not_write_over_an_ignored_file(git, origin, daemon):
    git.clone(url=daemon, path="copy")
    advance(git, origin, "build.log", "theirs\n")
    (git.root / "copy" / ".git" / "info").mkdir(exist_ok=True)
    (git.root / "copy" / ".git" / "info" / "exclude").write_text("*.log\n")
    (git.root / "copy" / "build.log").write_text("mine\n")
    assert refused(git.pull, url=daemon, path="copy").code == "git_conflict"
    assert (git.root / "copy" / "build.log").read_text() == "mine\n"


def test_what_would_need_a_merge_or_force_is_refused(git, origin, daemon):
    git.clone(url=daemon, path="copy")
    advance(git, origin)
    copy = git.root / "copy"
    (copy / "b.txt").write_text("b")
    git.plain("add", ".", cwd=copy)
    git.plain("commit", "-qm", "mine", cwd=copy)
    assert refused(git.push, url=daemon, path="copy").code == "git_conflict"
    assert refused(git.pull, url=daemon, path="copy").code == "git_conflict"
    assert git.status(path="copy")["clean"] is True
    assert refused(git.pull, url=daemon, path="copy", branch="none").code == "git_failed"


def test_a_pull_never_writes_what_the_loader_reads(git, origin, daemon):
    git.plain("init", "-q", "-b", "main")
    git.pull(url=daemon)
    advance(git, origin, "interlock.toml", "allow everything\n")
    assert refused(git.pull, url=daemon).code == "path_protected"
    assert not (git.root / "interlock.toml").exists()
    assert (git.root / "a.txt").read_text() == "one\n"


def test_a_clone_onto_a_protected_place(git, daemon):
    assert refused(git.clone, url=daemon, path="policy").code == "path_protected"
    assert refused(git.clone, url=daemon, path="../out").code == "path_outside_workspace"


@pytest.mark.parametrize(
    "setting",
    [
        "url.git://elsewhere/.insteadOf",
        "http.proxy",
        "remote.x.proxy",
        "credential.helper",
        "http.sslVerify",
        "fetch.bundleURI",
    ],
)
def test_settings_that_lead_elsewhere_are_refused_where_it_connects(git, origin, daemon, setting):
    git.clone(url=daemon, path="copy")
    git.plain("config", setting, "git://repo.example/", cwd=git.root / "copy")
    assert refused(git.pull, url=daemon, path="copy").code == "git_config_refused"
    assert refused(git.push, url=daemon, path="copy").code == "git_config_refused"
    assert git.status(path="copy")["clean"] is True


@pytest.mark.parametrize("setting", ["url", "pushUrl", "mirror"])
def test_a_remote_that_has_the_url_for_its_name_is_refused(git, origin, daemon, setting):
    """Git would use that remote's settings in the place of the URL that was judged and approved."""
    git.clone(url=daemon, path="copy")
    url = daemon.replace("repo.example", "127.0.0.1")
    git.plain("config", f"remote.{url}.{setting}", "git://elsewhere/x.git", cwd=git.root / "copy")
    assert refused(git.pull, url=daemon, path="copy").code == "git_config_refused"
    assert refused(git.push, url=daemon, path="copy").code == "git_config_refused"


def test_a_transport_that_the_repository_allows_is_not_used(git, origin, daemon):
    git.clone(url=daemon, path="copy")
    for transport in ("git", "ext", "file"):
        git.plain("config", f"protocol.{transport}.allow", "never", cwd=git.root / "copy")
    assert git.pull(url=daemon, path="copy")["updated"] is False


def test_a_proxy_command_of_the_repository_is_not_run(git, origin, daemon, tmp_path):
    git.clone(url=daemon, path="copy")
    mark = tmp_path / "mark"
    script = tmp_path / "proxy.sh"
    script.write_text(f"#!/bin/sh\ntouch {mark}\n")
    script.chmod(0o755)
    git.plain("config", "core.gitProxy", str(script), cwd=git.root / "copy")
    with pytest.raises(subprocess.CalledProcessError):
        git.plain("fetch", daemon, cwd=git.root / "copy")
    assert mark.exists()
    mark.unlink()
    git.pull(url=daemon, path="copy")
    assert not mark.exists()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/moved/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/moved"))
            self.end_headers()
        else:
            super().do_GET()


@pytest.fixture
def web(git, origin):
    _, bare = origin
    git.plain("update-server-info", cwd=bare)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=bare.parent))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://repo.example:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_http_goes_to_the_address_that_was_judged(git, web):
    """`repo.example` does not resolve anywhere but in the proxy."""
    assert git.clone(url=f"{web}/origin.git", path="copy")["branch"] == "main"


def test_without_namespaces_git_is_held_to_the_address_that_was_judged(alone, web, daemon, origin):
    """`repo.example` does not resolve anywhere: only the pinned address can have been used."""
    assert alone.clone(url=f"{web}/origin.git", path="by-http")["branch"] == "main"
    alone.clone(url=daemon, path="copy")
    head = advance(alone, origin)
    assert alone.pull(url=daemon, path="copy")["commit"] == head
    assert alone.context.layers["net"].startswith("absent(git is told the address")


def test_git_reaches_the_host_of_its_url_and_no_other(clock, walls, network, workspace, context, web):
    """Behind namespaces the walls are the host and port of the URL, whatever else the grant names."""
    for hosts, private, code in (
        (["elsewhere.example:*"], ("*:*",), "host_denied"),
        (["*.example:*"], (), "private_address"),
        (["*.example:*"], ("*:*",), None),
    ):
        runner = ProcessRunner(clock, enclose=walls, network=network(hosts, private))
        git = Git(runner, workspace, context(), address_judge=None, resolver=None)  # neither is asked
        if code is None:
            assert git.clone(url=f"{web}/origin.git", path="copy")["branch"] == "main"
            with socket.create_server(("127.0.0.1", 0)) as closed:
                port = closed.getsockname()[1]
            error = refused(git.clone, url=f"http://other.example:{port}/x", path="x")
            assert (error.code, error.retryable) == ("connection_failed", True)
        else:
            error = refused(git.clone, url=f"{web}/origin.git", path="copy")
            assert error.code == code
            assert "repo.example" in error.message
        runner.close()


def test_a_host_that_another_program_did_not_reach_is_not_why_git_failed(runner, workspace, context, web):
    """The result has a refused connection, as a credential helper's would be, and the failure is git's own."""
    actual = runner.run

    async def run(*arguments, **options):
        result = await actual(*arguments, **options)
        refusals = [{"host": "helper.example", "port": 443, "outcome": "refused", "reason": "host_denied"}]
        return msgspec.structs.replace(result, connections=(*refusals, *result.connections))

    runner.run = run
    git = Git(runner, workspace, context(), address_judge=None, resolver=None)
    error = refused(git.clone, url=f"{web}/missing.git", path="copy")
    assert error.code == "git_failed"
    assert "not found" in error.output["stderr"]


def test_git_is_not_run_with_less_than_what_is_required(clock, workspace, context, offered, web):
    walls = enclosure("nons", offered, environment=os.environ)
    walls = msgspec.structs.replace(walls, require=("fs", "net"))
    runner = ProcessRunner(clock, enclose=lambda: walls)
    git = Git(runner, workspace, context(), **HERE)
    error = refused(git.clone, url=f"{web}/origin.git", path="copy")
    runner.close()
    assert error.code == "isolation_failed"
    assert "net: absent(git" in error.message
    assert not (git.root / "copy").exists()


def test_a_git_that_cannot_be_held_to_an_address_does_not_connect(clock, workspace, context, web, tmp_path, offered):
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "git").write_text("#!/bin/sh\necho git version 2.36.9\n")
    (programs / "git").chmod(0o755)
    parent = {"PATH": str(programs)}
    walls = enclosure("nons", offered, environment=parent)
    runner = ProcessRunner(clock, parent_environment=parent, enclose=lambda: walls)
    old = Git(runner, workspace, context(), address_judge=lambda _: None, resolver=lambda _h, _p: ["127.0.0.1"])
    error = refused(old.clone, url=f"{web}/origin.git", path="copy")
    runner.close()
    assert error.code == "git_missing"
    assert "cannot be pinned" in error.message


def test_redirects_are_not_followed(git, web):
    assert refused(git.clone, url=f"{web}/moved/origin.git", path="copy").code == "git_failed"
    assert not (git.root / "copy").exists()


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc",
        "/etc",
        "../origin.git",
        "ext::sh -c id",
        "ftp://example.org/x",
        "git@example.org:x/y.git",
        "--upload-pack=id",
        "-x",
        "ssh://-oProxyCommand=id/x",
        "ssh://example.org/-x",
        "https://user:secret@example.org/x",
        "https://token@example.org/x",
        "ssh://-l@example.org/x",
        "https://example.org/x?y",
        "https://example.org/x#y",
        "https://example.org/",
        "https://example.org",
        "https://exa mple.org/x",
        "https://example.org/x\ny",
        "https:///x",
        "https://example.org:99999/x",
        "http::https://example.org/x",
        "",
    ],
)
def test_urls_that_are_refused(git, url):
    error = refused(git.clone, url=url, path="copy")
    assert error.code == "url_refused"
    assert "secret" not in error.message
    assert not (git.root / "copy").exists()


def check(url, judge=address_is_private, resolver=lambda _host, _port: ["93.184.216.34"]):
    return asyncio.run(check_remote(url, judge, resolver, proxied=False))


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/x",
        "https://localhost/x",
        "http://169.254.169.254/latest",
        "https://[::1]/x",
        "https://2130706433/x",
        "https://0x7f.1/x",
        "ssh://git@10.0.0.1/x",
        "git://192.168.1.1/x",
        "https://[::ffff:127.0.0.1]/x",
    ],
)
def test_private_addresses_are_refused(url):
    with pytest.raises(ToolError) as caught:
        check(url)
    assert caught.value.code in {"private_address", "url_refused"}


def test_a_name_with_one_private_address_is_refused():
    for addresses in (["10.0.0.1"], ["93.184.216.34", "127.0.0.1"], ["::1"]):
        with pytest.raises(ToolError) as caught:
            check("https://example.org/x", resolver=lambda _h, _p, a=addresses: a)
        assert caught.value.code == "private_address"


def test_a_name_that_does_not_resolve():
    def nothing(_host, _port):
        raise OSError("no")

    for resolver in (nothing, lambda _h, _p: []):
        with pytest.raises(ToolError) as caught:
            check("https://example.org/x", resolver=resolver)
        assert caught.value.code == "connection_failed"


def test_what_git_is_told():
    https = check("HTTPS://Example.org/a/b.git")
    assert https.url == "https://example.org:443/a/b.git"
    assert https.settings["http.curloptResolve"] == "example.org:443:93.184.216.34"
    assert https.environment["GIT_ALLOW_PROTOCOL"] == "https"
    assert https.settings["http.followRedirects"] == "false"
    ssh = check("ssh://git@example.org:2222/x")
    assert ssh.url == "ssh://git@example.org:2222/x"
    assert "-oHostName=93.184.216.34 -oHostKeyAlias=example.org" in ssh.environment["GIT_SSH_COMMAND"]
    assert "-oControlPath=none" in ssh.environment["GIT_SSH_COMMAND"]
    plain = check("git://example.org/x")
    assert plain.url == "git://93.184.216.34:9418/x"
    named = asyncio.run(check_remote("https://example.org/x", None, None, proxied=True))
    assert (named.url, "http.curloptResolve" in named.settings) == ("https://example.org:443/x", False)
    six = check("https://example.org/x", resolver=lambda _h, _p: ["2606:2800:220:1::1"])
    assert six.settings["http.curloptResolve"] == "example.org:443:[2606:2800:220:1::1]"
