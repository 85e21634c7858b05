"""Programs in real network namespaces, the real proxy process, servers on loopback under names that only tests know."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import http.server
import json
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from egress_servers import Echo, plain_environment

import interlock
from interlock.executors.network import ProcessNetwork
from interlock.isolation.egress.client import Egress, Policy, Traffic

HERE = Path(__file__).parent


class Boxes:
    """Runs programs behind the proxy."""

    def __init__(self, names):
        self.egress = Egress([sys.executable, str(HERE / "proxy_with_names.py"), json.dumps(names)])

    async def start(self, *argv, hosts=(), private=None, ask=None, env=None, timeout=25.0, during=None, stdin=None):
        """Run a program; returns what it came to and what it did on the network.

        `hosts` are the grant's (a list of lists: a chain of grants); all of them may be private unless told.
        """
        chain = [list(hosts)] if not hosts or isinstance(hosts[0], str) else [list(h) for h in hosts]
        allowed = [host for patterns in chain for host in patterns] if private is None else private
        watch = self.egress.watch(Policy((tuple(map(tuple, chain)),), tuple(allowed), ask))
        inside = watch.inside.fileno()
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(HERE / "enter_box.py"), str(inside), json.dumps(watch.ports), *argv,
            pass_fds=[inside], stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**plain_environment(), **(env or {})},
        )  # fmt: skip
        beside = asyncio.ensure_future(during()) if during else None
        try:
            async with asyncio.timeout(timeout):
                out, err = await process.communicate(stdin)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            if beside:
                beside.cancel()
            traffic = await watch.finish()
        return Ran(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"), traffic)

    def run(self, *argv, **options):
        return asyncio.run(self.start(*argv, **options))

    def python(self, code, **options):
        return self.run(sys.executable, "-I", "-c", code, **options)


class Ran:
    def __init__(self, code, out, err, traffic: Traffic):
        self.code, self.out, self.err, self.traffic = code, out, err, traffic

    def __repr__(self):
        return f"exit {self.code}\n{self.out}\n{self.err}\n{self.traffic}"

    def records(self, outcome):
        return [r for r in self.traffic.records if r["outcome"] == outcome]

    def refused(self):
        """host:port (or host) and the reason, of what was refused."""
        return {
            (r["host"] if r["port"] is None else f"{r['host']}:{r['port']}", r["reason"])
            for r in self.records("refused")
        }

    def connected(self):
        return [f"{r['host']}:{r['port']}" for r in self.records("connected") for _ in range(r["count"])]


PROXY = dict.fromkeys(
    ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:3128"
)


@pytest.fixture
def proxied():
    """The variables that tell programs of the proxy."""
    return {**PROXY, "NODE_USE_ENV_PROXY": "1"}


@pytest.fixture
def boxes(tmp_path):
    made = []

    def make(names=None):
        made.append(Boxes({"index.test": ["127.0.0.1"], "other.test": ["127.0.0.1"], **(names or {})}))
        return made[-1]

    yield make
    for one in made:
        one.egress.close()


@pytest.fixture
def serve():
    """Start a server on loopback; returns its port."""
    with contextlib.ExitStack() as stack:

        def start(handler=Echo, *, tls=None, host="127.0.0.1"):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            kind = type(
                "Server", (http.server.ThreadingHTTPServer,), {"address_family": family, "daemon_threads": True}
            )
            server = kind((host, 0), handler)
            server.handle_error = lambda *_: None
            if tls is not None:
                server.socket = tls.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            return server.server_address[1]

        yield start


@pytest.fixture
def listen():
    """A plain TCP server on loopback: `handle(socket)` on a thread for each connection. Returns its port."""
    with contextlib.ExitStack() as stack:

        def start(handle, host="127.0.0.1"):
            server = stack.enter_context(
                socket.create_server((host, 0), backlog=2048, family=socket.AF_INET6 if ":" in host else socket.AF_INET)
            )

            def accept():
                with contextlib.suppress(OSError):
                    while True:
                        sock, _ = server.accept()
                        threading.Thread(target=handle, args=(sock,), daemon=True).start()

            thread = threading.Thread(target=accept, daemon=True)
            thread.start()
            stack.callback(lambda: server.shutdown(socket.SHUT_RDWR))
            return server.getsockname()[1]

        yield start


@pytest.fixture
def certificate(tmp_path):
    """A certificate authority, and a server's context for a name."""

    def make(*names):
        now = dt.datetime.now(dt.UTC)
        root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
        root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test root")])

        def build(subject, issuer, public, *extensions):
            builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
            builder = builder.serial_number(x509.random_serial_number())
            builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
            for extension, critical in extensions:
                builder = builder.add_extension(extension, critical)
            return builder.sign(root_key, hashes.SHA256())

        authority = build(root, root, root_key.public_key(), (x509.BasicConstraints(ca=True, path_length=None), True))
        leaf = build(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]), root, key.public_key(),
            (x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False),
        )  # fmt: skip
        ca, pem = tmp_path / "ca.pem", tmp_path / f"{names[0]}.pem"
        ca.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem.write_bytes(private + leaf.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        return context, str(ca)

    return make


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Open a runtime over a project; names end in `.test` and lead to loopback."""
    command = [
        sys.executable,
        str(HERE / "proxy_with_names.py"),
        json.dumps({n: ["127.0.0.1"] for n in ("index.test", "other.test")}),
    ]
    made = ProcessNetwork.__init__
    monkeypatch.setattr(
        ProcessNetwork, "__init__", lambda self, *a, **k: made(self, *a, **{**k, "egress": Egress(command)})
    )
    opened = []

    def open_(hosts=(), **settings):
        (tmp_path / "work").mkdir(exist_ok=True)
        document = {
            "rules": {"allow": ["shell", "http.fetch", "proc.*", "git.*"]},
            "grants": {"agent": {"tools": ["*"], "hosts": list(hosts)}},
            "network": {"private": [h for h in hosts if ".test" in h]},
            "isolation": {"profile": "ns"},
            **settings,
        }
        rt = interlock.Runtime.open(settings=document, workspace=tmp_path / "work")
        opened.append(rt)
        return rt

    yield open_
    for one in opened:
        one.close()
