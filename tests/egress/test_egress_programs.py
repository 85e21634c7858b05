"""Programs as people use them, behind all walls, against servers on loopback under names that the grant allows or not."""

from __future__ import annotations

import getpass
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from egress_servers import Quiet, files_of
from egress_walled import Walled, program

from interlock.executors.network import ENVIRONMENT

pytestmark = pytest.mark.timeout(180)

BOTH = pytest.mark.parametrize("env", [ENVIRONMENT, {}], ids=["proxy", "transparent"])
"""With the variables that an action gets, and as a program that ignores them."""


@pytest.fixture
def walled(boxes, tmp_path):
    (tmp_path / "work").mkdir()
    # the certificates and servers of a test are beside the workspace
    made = Walled(boxes({"git.test": ["127.0.0.1"]}), tmp_path / "work")
    yield made
    made.server.close()


def reached(traffic):
    return {f"{r['host']}:{r['port']}" for r in traffic.records if r["outcome"] == "connected"}


def refused(traffic):
    return {r["host"] for r in traffic.records if r["outcome"] == "refused"}


# -- git


@pytest.fixture
def repository(tmp_path):
    """A repository with one commit; its bare copy can be served by a server that knows nothing of git."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}

    def git(*arguments, cwd):
        subprocess.run(["git", *arguments], cwd=cwd, env=environment, check=True, capture_output=True)

    source = tmp_path / "source"
    source.mkdir()
    git("init", "-q", "-b", "main", cwd=source)
    (source / "hello.txt").write_text("hello\n")
    git("add", ".", cwd=source)
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "first", cwd=source)
    git("clone", "-q", "--bare", os.fspath(source), os.fspath(tmp_path / "served" / "project.git"), cwd=tmp_path)
    git("update-server-info", cwd=tmp_path / "served" / "project.git")
    return tmp_path / "served"


@BOTH
def test_git_clones_over_http(walled, serve, repository, env):
    port = serve(files_of(repository))
    code, _, err, traffic = walled.sh(
        f"git clone -q http://index.test:{port}/project.git", hosts=[f"index.test:{port}"], env=env
    )
    assert code == 0, err
    assert (walled.root / "project" / "hello.txt").read_text() == "hello\n"
    assert reached(traffic) == {f"index.test:{port}"}


def test_git_clone_of_another_host_fails_by_name(walled, serve, repository):
    port = serve(files_of(repository))
    code, _, err, traffic = walled.sh(
        f"git clone -q http://other.test:{port}/project.git",
        hosts=[f"index.test:{port}"],
        private=["*:*"],
        env=ENVIRONMENT,
    )
    assert code != 0
    assert "403" in err
    assert refused(traffic) == {"other.test"}


@pytest.fixture
def ssh_server(tmp_path, repository):
    """An sshd of our own on loopback, which serves the repository to one key. Returns its port."""
    home = tmp_path / "sshd"
    home.mkdir(mode=0o700)
    for name in ("host", "client"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
    shutil.copy(home / "client.pub", home / "authorized")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (home / "config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {home}/host\nAuthorizedKeysFile {home}/authorized\nStrictModes no\n"
        f"PidFile {home}/pid\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
    )
    sshd = program("sshd") if shutil.which("sshd") else "/usr/sbin/sshd"
    script = f"exec {sshd} -D -e -f {home}/config"
    if os.geteuid() == 0:  # its directory for privilege separation, in a mount namespace of its own
        script = f"mount -t tmpfs none /run && mkdir -m 755 /run/sshd && {script}"
    unshare = ["unshare", "-m"] if os.geteuid() == 0 else []
    with open(home / "log", "wb") as log:
        process = subprocess.Popen([*unshare, "sh", "-c", script], stderr=log, stdout=log)
    while True:
        assert process.poll() is None, (home / "log").read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.05)
    yield port, home
    process.terminate()
    process.wait()


def test_git_clones_over_ssh_from_a_named_host_and_port(walled, ssh_server, repository):
    """ssh knows no proxy variables: it looks the name up, connects, and the proxy knows what was meant."""
    port, home = ssh_server
    for name in ("client", "host.pub"):
        shutil.copy(home / name, walled.root / name)
    os.chmod(walled.root / "client", 0o600)
    user = getpass.getuser()
    ssh = "ssh -i $PWD/client -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    code, _, err, traffic = walled.sh(
        f'GIT_SSH_COMMAND="{ssh}" git clone -q ssh://{user}@git.test:{port}{repository}/project.git',
        hosts=[f"git.test:{port}"], env=ENVIRONMENT,
    )  # fmt: skip
    assert code == 0, err + (home / "log").read_text()
    assert (walled.root / "project" / "hello.txt").exists()
    assert reached(traffic) == {f"git.test:{port}"}
    code, _, err, traffic = walled.sh(
        f'GIT_SSH_COMMAND="{ssh}" git clone -q ssh://{user}@git.test:{port}{repository}/project.git again',
        hosts=["index.test:80"], env=ENVIRONMENT,
    )  # fmt: skip
    assert code != 0
    assert refused(traffic) == {"git.test"}


# -- package managers


@pytest.fixture
def python_index(tmp_path):
    """A simple index (PEP 503) with one package."""
    top = tmp_path / "index" / "simple" / "greetings"
    top.mkdir(parents=True)
    wheel = top / "greetings-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("greetings.py", "def greet():\n    return 'hello'\n")
        archive.writestr("greetings-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: greetings\nVersion: 1.0\n")
        archive.writestr(
            "greetings-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("greetings-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (top / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}#sha256={digest}">{wheel.name}</a>')
    return tmp_path / "index"


@BOTH
def test_pip_installs_from_a_named_index(walled, serve, python_index, env):
    port = serve(files_of(python_index))
    code, out, err, traffic = walled.run(
        sys.executable, "-I", "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", "site",
        "--index-url", f"http://index.test:{port}/simple", "--trusted-host", "index.test", "greetings",
        hosts=[f"index.test:{port}"], env=env,
    )  # fmt: skip
    assert code == 0, err + out
    assert (walled.root / "site" / "greetings.py").exists()
    assert reached(traffic) == {f"index.test:{port}"}


@BOTH
def test_uv_installs_from_a_named_index(walled, serve, python_index, env):
    port = serve(files_of(python_index))
    uv = Path(sys.prefix) / "bin" / "uv"
    assert uv.exists(), "the tests need uv, which requirements/dev.txt names"
    code, out, err, traffic = walled.run(
        os.fspath(uv), "pip", "install", "-q", "--target", "site", "--python", sys.executable, "--default-index",
        f"http://index.test:{port}/simple", "--allow-insecure-host", "index.test", "greetings",
        hosts=[f"index.test:{port}"], env=env,
    )  # fmt: skip
    assert code == 0, err + out
    assert (walled.root / "site" / "greetings.py").exists()
    assert reached(traffic) == {f"index.test:{port}"}


@pytest.fixture
def node_registry():
    """A registry (npm) with one package."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in (
            ("package/package.json", '{"name": "greetings", "version": "1.0.0", "main": "index.js"}'),
            ("package/index.js", "module.exports = () => 'hello'"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    package = data.getvalue()

    class Registry(Quiet):
        def do_GET(self):  # noqa: N802
            if self.path == "/greetings":
                shasum = hashlib.sha1(package).hexdigest()
                tarball = f"http://{self.headers['Host']}/greetings/-/greetings-1.0.0.tgz"
                version = {"name": "greetings", "version": "1.0.0", "dist": {"tarball": tarball, "shasum": shasum}}
                body = json.dumps(
                    {"name": "greetings", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
                )
                return self.answer(body.encode(), "application/json")
            if self.path.endswith(".tgz"):
                return self.answer(package, "application/octet-stream")
            return self.send_error(404)

        def answer(self, body, kind):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Registry


@BOTH
def test_npm_installs_from_a_named_registry(walled, serve, node_registry, env):
    port = serve(node_registry)
    program("npm")
    code, out, err, traffic = walled.sh(
        f"npm install --no-audit --no-fund --loglevel=error --registry http://index.test:{port}/ greetings"
        " && node -e \"console.log(require('greetings')())\"",
        hosts=[f"index.test:{port}"], env=env, timeout=120,
    )  # fmt: skip
    assert code == 0, err + out
    assert out.splitlines()[-1] == "hello"
    assert reached(traffic) == {f"index.test:{port}"}


# -- programs that bring their own network code


@BOTH
def test_node_fetches(walled, serve, env):
    """Before version 24 Node's `fetch` knows no proxy variables at all."""
    port = serve()
    code = f"""
fetch("http://index.test:{port}/x").then(r => r.json()).then(j => console.log(j.path));
fetch("http://other.test:{port}/").then(() => console.log("GOT OUT"), e => console.log("refused"));
"""
    _, out, err, traffic = walled.run(program("node"), "-e", code, hosts=[f"index.test:{port}"], env=env)
    assert set(out.split()) == {"/x", "refused"}, err
    assert refused(traffic) == {"other.test"}


JVM = """
import java.net.*;
public class Fetch {
    public static void main(String[] urls) throws Exception {
        for (String url : urls) {
            try { System.out.println(((HttpURLConnection) new URL(url).openConnection()).getResponseCode()); }
            catch (java.io.IOException e) { System.out.println("refused"); }
        }
    }
}
"""


def test_a_jvm_fetches(walled, serve):
    """A JVM knows no proxy variables (Gradle, Maven): it looks the name up and connects."""
    port = serve()
    (walled.root / "Fetch.java").write_text(JVM)
    code, out, err, traffic = walled.sh(
        f"javac Fetch.java 2> /dev/null; java -Xmx256m Fetch http://index.test:{port}/x http://other.test:{port}/",
        hosts=[f"index.test:{port}"], env=ENVIRONMENT,
    )  # fmt: skip
    assert (code, out.split()) == (0, ["200", "refused"]), err
    assert reached(traffic) == {f"index.test:{port}"}
    assert refused(traffic) == {"other.test"}


GO = """
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
)

func main() {
	for _, url := range os.Args[1:] {
		answer, err := http.Get(url)
		if err != nil {
			fmt.Println("error", err)
			continue
		}
		body, _ := io.ReadAll(answer.Body)
		fmt.Println(answer.StatusCode, len(body) > 0, answer.TLS.ServerName)
	}
}
"""


@pytest.fixture(scope="session")
def go_client(tmp_path_factory):
    """A TLS client written in Go, which brings its own resolver and TLS."""
    top = tmp_path_factory.mktemp("go")
    (top / "main.go").write_text(GO)
    environment = {
        **os.environ,
        "GOCACHE": str(top / "cache"),
        "GOFLAGS": "-mod=mod",
        "CGO_ENABLED": "0",
        "GO111MODULE": "off",
    }
    subprocess.run([program("go"), "build", "-o", "client", "main.go"], cwd=top, env=environment, check=True)
    return top / "client"


@pytest.mark.timeout(600)
@BOTH
def test_a_go_program_speaks_tls_with_the_server_itself(walled, serve, certificate, go_client, env):
    """Through CONNECT and without it, and never with somebody in the middle: the certificate is the server's own."""
    context, ca = certificate("index.test")
    port, other = serve(tls=context), serve(tls=context)
    shutil.copy(go_client, walled.root / "client")
    shutil.copy(ca, walled.root / "ca.pem")
    code, out, err, traffic = walled.sh(
        f"SSL_CERT_FILE=$PWD/ca.pem ./client https://index.test:{port}/ https://other.test:{other}/",
        hosts=[f"index.test:{port}"], env=env,
    )  # fmt: skip
    assert code == 0, err
    first, second = out.splitlines()
    assert first == "200 true index.test"
    assert second.startswith("error")
    assert reached(traffic) == {f"index.test:{port}"}
    assert refused(traffic) == {"other.test"}
