"""`http.fetch` against real servers on loopback, honest and hostile ones."""

# Tables read better in one line a case.
# ruff: noqa: E501

import base64
import contextlib
import datetime as dt
import gzip
import http.server
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from interlock.engine.local.clock import SystemClock
from interlock.executors.http import bindings
from interlock.executors.http_fetch import Fetcher
from interlock.model.errors import ToolError
from interlock.model.schema import Schema

CLOCK = SystemClock()


class Ctx:
    """The part of a context that the tool uses."""

    def __init__(self, timeout_s: float = 10.0) -> None:
        self.deadline_ns = CLOCK.mono_ns() + round(timeout_s * 1e9)
        self.cancelled = False
        self.usage: dict[str, Any] = {}

    def resources(self, usage: dict[str, Any]) -> None:
        self.usage = usage


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append((self.command, self.path, dict(self.headers), body))
        path, _, query = self.path.partition("?")
        if path == "/to":
            status, _, location = query.partition(",")
            self.answer(int(status), b"moved", {"Location": location})
        elif path == "/hop" and query != "0":
            self.answer(302, b"", {"Location": f"/hop?{int(query) - 1}"})
        elif path == "/binary":
            self.answer(200, b"\x00\xff\xfe")
        elif path == "/large":
            self.answer(200, b"x" * 100_000)
        elif path == "/umlaut":
            self.answer(200, "ä".encode() * 1000)
        elif path == "/cookies":
            self.answer(200, b"", {"Set-Cookie": "a=1"}, {"Set-Cookie": "b=2"}, {"X-A": "1"}, {"X-A": "2"})
        elif path == "/error":
            self.answer(503, b"later")
        else:
            self.answer(200, b"hello " + body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_GET  # noqa: N815 - the names that http.server looks for

    def answer(self, status: int, body: bytes, *headers: dict[str, str]) -> None:
        self.send_response(status)
        for each in headers:
            for name, value in each.items():
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    def handle_error(self, *args: Any) -> None:
        pass  # clients that go away are what some tests are about


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as running:
        yield running


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def raw_server(answer: Any) -> Iterator[int]:
    """A server that calls `answer(connection)` for each connection; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=handle, args=(connection,), daemon=True)
            threads.append(thread)
            thread.start()

    def handle(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65536)
            answer(connection)

    accepting = threading.Thread(target=serve, daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for thread in (accepting, *threads):
            thread.join(timeout=10)


def local(**options: Any) -> Fetcher:
    """A fetcher that may reach this machine under two names."""
    options.setdefault("resolver", lambda host, port: ["127.0.0.1"])
    return Fetcher(CLOCK, allow_private=("first.example:*", "second.example:*", "127.0.0.1:*"), **options)


def fetch(fetcher: Fetcher, url: str, ctx: Ctx | None = None, **parameters: Any) -> dict[str, Any]:
    return fetcher.fetch({"url": url, **parameters}, ctx or Ctx())


def refused(fetcher: Fetcher, url: str, ctx: Ctx | None = None, **parameters: Any) -> ToolError:
    with pytest.raises(ToolError) as caught:
        fetch(fetcher, url, ctx, **parameters)
    return caught.value


def test_a_get_gives_status_headers_and_body(server: Server) -> None:
    ctx = Ctx()
    out = fetch(local(), f"http://first.example:{server.port}/a%20b?c=ü#fragment", ctx, headers={"X-Mine": "1"})
    assert (out["status"], out["body"], out["body_encoding"], out["truncated"]) == (200, "hello ", "utf-8", False)
    assert out["headers"]["content-length"] == "6"
    method, path, headers, _ = server.seen[0]
    assert (method, path) == ("GET", "/a%20b?c=%C3%BC")
    assert headers["Host"] == f"first.example:{server.port}"
    assert headers["X-Mine"] == "1"
    assert headers["User-Agent"].startswith("interlock/")
    assert ctx.usage["received_bytes"] > 6


def test_other_methods_send_text_and_bytes(server: Server) -> None:
    url = f"http://first.example:{server.port}/"
    assert fetch(local(), url, method="POST", body="grüß")["body"] == "hello grüß"
    assert fetch(local(), url, method="PUT", body={"b64": base64.b64encode(b"raw").decode()})["body"] == "hello raw"
    assert fetch(local(), url, method="POST")["status"] == 200
    assert fetch(local(), url, method="HEAD")["body"] == ""
    assert [(m, b) for m, _, _, b in server.seen] == [
        ("POST", "grüß".encode()),
        ("PUT", b"raw"),
        ("POST", b""),
        ("HEAD", b""),
    ]


def test_an_error_status_is_an_answer_not_a_failure(server: Server) -> None:
    assert fetch(local(), f"http://first.example:{server.port}/error")["status"] == 503


def test_bytes_that_are_not_text_come_as_base64(server: Server) -> None:
    out = fetch(local(), f"http://first.example:{server.port}/binary")
    assert (out["body_encoding"], base64.b64decode(out["body"])) == ("base64", b"\x00\xff\xfe")


def test_repeated_headers_are_joined(server: Server) -> None:
    headers = fetch(local(), f"http://first.example:{server.port}/cookies")["headers"]
    assert (headers["set-cookie"], headers["x-a"]) == ("a=1\nb=2", "1, 2")


def test_a_body_over_the_limit_is_cut_and_says_so(server: Server) -> None:
    fetcher = local(body_bytes_max=1001)
    out = fetch(fetcher, f"http://first.example:{server.port}/large")
    assert (len(out["body"]), out["truncated"]) == (1001, True)
    cut = fetch(fetcher, f"http://first.example:{server.port}/umlaut")
    assert (cut["body"], cut["body_encoding"], cut["truncated"]) == ("ä" * 500, "utf-8", True)
    exact = fetch(local(body_bytes_max=100_000), f"http://first.example:{server.port}/large")
    assert (len(exact["body"]), exact["truncated"]) == (100_000, False)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "localhost", "169.254.169.254",
     "metadata.google.internal", "10.0.0.1", "100.64.0.1", "[fd00:ec2::254]", "[64:ff9b::7f00:1]", "0.0.0.0", "127.0.0.1.nip.io"],
)  # fmt: skip
def test_private_addresses_are_refused_in_every_spelling(host: str, server: Server) -> None:
    asked = []
    fetcher = Fetcher(CLOCK, resolver=lambda host, port: asked.append(host) or ["127.0.0.1"])
    error = refused(fetcher, f"http://{host}:{server.port}/")
    assert (error.code, error.retryable) == ("private_address", False)
    assert server.seen == []


@pytest.mark.parametrize(
    "answer",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "127.0.0.1"],
        ["fe80::1%eth0"],
        ["::ffff:7f00:1"],
        ["169.254.169.254"],
        ["64:ff9b::a00:1"],
    ],
)
def test_a_name_that_resolves_to_a_private_address_is_refused(answer: list[str], server: Server) -> None:
    error = refused(Fetcher(CLOCK, resolver=lambda host, port: answer), f"http://public.example:{server.port}/")
    assert error.code == "private_address"
    assert server.seen == []


def test_a_name_is_resolved_once_and_the_checked_address_is_used(server: Server) -> None:
    answers = iter([["127.0.0.1"], ["192.0.2.1"]])
    asked = []

    def rebinding(host: str, port: int) -> list[str]:
        asked.append(host)
        return next(answers)

    assert fetch(local(resolver=rebinding), f"http://first.example:{server.port}/")["status"] == 200
    assert asked == ["first.example"]


def test_a_name_that_does_not_resolve_is_a_failed_connection() -> None:
    def nothing(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    error = refused(Fetcher(CLOCK, resolver=nothing), "http://public.example/")
    assert (error.code, error.retryable) == ("connection_failed", True)


def test_a_resolver_that_hangs_does_not_outlive_the_deadline() -> None:
    release = threading.Event()
    error = refused(
        Fetcher(CLOCK, resolver=lambda host, port: release.wait(20) and []), "http://public.example/", Ctx(0.4)
    )
    release.set()
    assert error.code == "timeout"


def test_the_next_address_is_tried_when_one_does_not_answer(server: Server) -> None:
    fetcher = local(resolver=lambda host, port: ["127.0.0.2", "127.0.0.1"])
    assert fetch(fetcher, f"http://first.example:{server.port}/")["status"] == 200


def test_a_refused_connection_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    error = refused(local(), f"http://first.example:{port}/", method="POST", body="x")
    assert (error.code, error.retryable) == ("connection_failed", True), "nothing was sent yet"
    assert "refused" in error.message


def test_redirects_on_the_same_host_are_followed(server: Server) -> None:
    out = fetch(local(), f"http://first.example:{server.port}/to?302,/there?x=1")
    assert (out["status"], out["url"]) == (200, f"http://first.example:{server.port}/there?x=1")
    assert out["redirects"] == [out["url"]]


@pytest.mark.parametrize(
    ("status", "method", "expected"),
    [
        (301, "POST", "GET"),
        (302, "POST", "GET"),
        (303, "PUT", "GET"),
        (307, "POST", "POST"),
        (308, "PUT", "PUT"),
        (302, "PUT", "PUT"),
    ],
)
def test_the_method_after_a_redirect(status: int, method: str, expected: str, server: Server) -> None:
    headers = {"Content-Type": "text/plain"}
    fetch(local(), f"http://first.example:{server.port}/to?{status},/x", method=method, body="data", headers=headers)
    second = server.seen[1]
    assert (second[0], second[3]) == (expected, b"data" if expected == method else b"")
    assert ("Content-Type" in second[2]) == (expected == method)


def test_five_redirects_are_followed_and_a_sixth_is_refused(server: Server) -> None:
    url = f"http://first.example:{server.port}/hop?"
    out = fetch(local(), f"{url}5")
    assert (out["status"], len(out["redirects"]), len(server.seen)) == (200, 5, 6)
    assert refused(local(), f"{url}6").code == "redirect_refused"
    assert len(server.seen) == 12, "the sixth redirect was read and not followed"


def test_a_redirect_to_another_host_is_handed_back_unless_it_may_be_followed(server: Server) -> None:
    there = f"http://second.example:{server.port}/x"
    url = f"http://first.example:{server.port}/to?302,{there}"
    out = fetch(local(), url)
    assert (out["status"], out["headers"]["location"], out["redirects"]) == (302, there, [])
    asked = []
    followed = fetch(local(may_redirect=lambda ctx, where: asked.append(str(where)) or True), url)
    assert (followed["status"], asked) == (200, [f"second.example:{server.port}"])
    assert fetch(local(may_redirect=lambda ctx, where: False), url)["status"] == 302


def test_credentials_do_not_go_to_another_origin(server: Server) -> None:
    headers = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Api-Key": "k", "X-Plain": "p"}
    fetcher = local(may_redirect=lambda ctx, where: True)
    fetch(fetcher, f"http://first.example:{server.port}/to?302,http://second.example:{server.port}/x", headers=headers)
    fetch(fetcher, f"http://first.example:{server.port}/to?302,/x", headers=headers)
    elsewhere, same = server.seen[1][2], server.seen[3][2]
    assert {"Authorization", "Cookie", "X-Api-Key"}.isdisjoint(elsewhere)
    assert elsewhere["X-Plain"] == "p"
    assert same["Authorization"] == "Bearer x"


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://2130706433/",
        "//[::1]/",
        "http://metadata.google.internal/",
        "http://localhost/",
    ],
)
def test_a_redirect_to_a_private_address_is_refused_even_if_all_hosts_may_be_followed(
    location: str, server: Server
) -> None:
    fetcher = Fetcher(
        CLOCK,
        allow_private=("first.example:*",),
        may_redirect=lambda ctx, where: True,
        resolver=lambda host, port: ["127.0.0.1"],
    )
    error = refused(fetcher, f"http://first.example:{server.port}/to?302,{location}")
    assert error.code == "private_address"
    assert len(server.seen) == 1


def test_a_redirect_to_a_name_that_resolves_to_loopback_is_refused(server: Server) -> None:
    fetcher = Fetcher(
        CLOCK,
        allow_private=("first.example:*",),
        may_redirect=lambda ctx, where: True,
        resolver=lambda host, port: ["127.0.0.1"],
    )
    error = refused(fetcher, f"http://first.example:{server.port}/to?302,http://innocent.example:{server.port}/")
    assert error.code == "private_address"
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://first.example/",
        "http://u:p@first.example/",
        "http://[zz]/",
        "http://[::1",
        "javascript:1",
    ],
)
def test_a_redirect_to_anything_but_a_plain_http_url_is_refused(location: str, server: Server) -> None:
    error = refused(local(), f"http://first.example:{server.port}/to?302,{location}")
    assert error.code == "redirect_refused"
    assert "Invalid" not in error.message  # that would be urllib's wording, and no sentence


def test_a_redirect_without_location_or_of_another_kind_is_the_answer(server: Server) -> None:
    with raw_server(lambda c: c.sendall(b"HTTP/1.1 302 F\r\nContent-Length: 2\r\n\r\nok")) as port:
        assert fetch(local(), f"http://first.example:{port}/")["body"] == "ok"
    assert fetch(local(), f"http://first.example:{server.port}/to?300,/x")["status"] == 300


@pytest.mark.parametrize(
    "url",
    ["", "first.example", "ftp://first.example/", "file:///etc/passwd", "http://", "http:///x", "http://a b/", "http://first.example/\r\nX: y",
     "http://user:pw@first.example/", "http://first.example:0/", "http://first.example:99999/", "http://first.example\\@second.example/",
     "http://[::1/", "HTTP//x", "http://first.example/\x00", "http://first.example/" + "a" * 20_000],
)  # fmt: skip
def test_what_is_not_an_http_url_is_refused_and_not_repeated(url: str) -> None:
    error = refused(local(), url)
    assert error.code == "invalid_parameters"
    assert "first.example" not in error.message


@pytest.mark.parametrize(
    "headers",
    [{"X": "a\r\nEvil: 1"}, {"X": "a\nb"}, {"X\r\nEvil": "1"}, {"X": "a\x00"}, {"": "x"}, {"X Y": "1"}, {"X:": "1"}, {"X": "snow ☃"}, {"Host": "x"},
     {"content-length": "5"}, {"Transfer-Encoding": "chunked"}, {"Connection": "close"}, {"Proxy-Authorization": "x"}, {"Expect": "100-continue"},
     {f"X-{i}": "1" for i in range(101)}, {"X": "a" * 9000}],
)  # fmt: skip
def test_headers_that_would_change_the_message_are_refused(headers: dict[str, str], server: Server) -> None:
    assert refused(local(), f"http://first.example:{server.port}/", headers=headers).code == "invalid_parameters"
    assert server.seen == []


def test_a_body_where_none_belongs_or_of_no_known_form_is_refused() -> None:
    assert refused(local(), "http://first.example/", body="x").code == "invalid_parameters"
    assert refused(local(), "http://first.example/", method="POST", body={"b64": "***"}).code == "invalid_parameters"


def drip(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    for _ in range(200):
        connection.sendall(b"x")
        time.sleep(0.05)


def drip_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    for _ in range(200):
        connection.sendall(b"x")
        time.sleep(0.05)


def endless_continue(connection: socket.socket) -> None:
    for _ in range(2000):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.005)


def silence(connection: socket.socket) -> None:
    connection.recv(1)


@pytest.mark.parametrize("hostile", [drip, drip_headers, endless_continue, silence])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_slow_server_is_given_up_at_the_deadline(hostile: Any, method: str) -> None:
    with raw_server(hostile) as port:
        ctx = Ctx(0.8)
        error = refused(local(), f"http://first.example:{port}/", ctx, method=method)
        assert CLOCK.mono_ns() < ctx.deadline_ns + 3_000_000_000
    assert error.code == "timeout"
    assert error.retryable == (method == "GET"), "a request that was sent may have been acted on"


def test_a_cancelled_call_ends() -> None:
    with raw_server(silence) as port:
        ctx = Ctx(20)
        threading.Timer(0.2, lambda: setattr(ctx, "cancelled", True)).start()
        assert refused(local(), f"http://first.example:{port}/", ctx).code == "cancelled"


def flood(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b"x" * 65536)


def flood_chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")


@pytest.mark.parametrize("hostile", [flood, flood_chunks])
def test_an_endless_body_is_cut_at_the_limit(hostile: Any) -> None:
    with raw_server(hostile) as port:
        out = fetch(local(body_bytes_max=100_000), f"http://first.example:{port}/")
    assert (len(out["body"]), out["truncated"]) == (100_000, True)


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-server\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"HTTP/1.1 999999 X\r\n\r\n",
     b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n"],
)  # fmt: skip
def test_an_answer_that_is_broken_is_a_failed_exchange(answer: bytes) -> None:
    with raw_server(lambda connection: connection.sendall(answer)) as port:
        error = refused(local(), f"http://first.example:{port}/")
        posted = refused(local(), f"http://first.example:{port}/", method="POST", body="x")
    assert (error.code, error.retryable) == ("connection_failed", True)
    assert (posted.code, posted.retryable) == ("connection_failed", False)
    assert "is unknown" in posted.message


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate and its key, for `first.example` and for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    names = [x509.DNSName("first.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    cert = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(cert.public_bytes(pem) + private)
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[Server]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = Server()
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with serving(server) as running:
        yield running


def test_tls_checks_the_certificate_by_name(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "not trusted" in refused(local(), f"https://first.example:{tls_server.port}/").message
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch(local(), f"https://first.example:{tls_server.port}/")["body"] == "hello "
    assert fetch(local(), f"https://127.0.0.1:{tls_server.port}/")["body"] == "hello "
    error = refused(local(), f"https://second.example:{tls_server.port}/")
    assert (error.code, error.retryable) == ("connection_failed", False)


def test_a_large_body_over_tls_is_sent_and_received(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    body = "x" * 600_000
    out = fetch(local(), f"https://first.example:{tls_server.port}/", method="POST", body=body)
    assert out["body"] == "hello " + body


def test_a_redirect_from_https_to_http_is_refused(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    fetcher = local(may_redirect=lambda ctx, where: True)
    error = refused(fetcher, f"https://first.example:{tls_server.port}/to?302,http://first.example:{tls_server.port}/x")
    assert error.code == "redirect_refused"


def test_a_server_that_does_not_speak_tls_is_a_failed_connection(server: Server) -> None:
    assert refused(local(), f"https://first.example:{server.port}/").code == "connection_failed"


def test_a_silent_tls_handshake_ends_at_the_deadline() -> None:
    with raw_server(silence) as port:
        assert refused(local(), f"https://first.example:{port}/", Ctx(0.5)).code == "timeout"


def test_proxies_from_the_environment_are_not_used(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(local(), f"http://first.example:{server.port}/")["status"] == 200


def test_the_tool_is_declared_by_its_most_cautious_use() -> None:
    (binding,) = bindings(local)
    tool = binding.tool
    assert (tool.name, binding.mode) == ("http.fetch", "thread")
    assert (tool.read_only, tool.destructive, tool.open_world, tool.idempotent) == (False, True, True, False)
    assert tool.reversibility == "irreversible"
    assert tool.parameters["properties"]["url"]["x-interlock"] == "host"
    Schema.compile(tool.parameters)


# --- what the answer is, and what its body says


def answering(head: str, body: bytes, before: str = "") -> Any:
    """A raw answer, with other lines before it."""

    def answer(connection: socket.socket) -> None:
        rest = f"{head}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        connection.sendall(before.encode() + rest.encode() + body)

    return answer


def answered(head: str, body: bytes, before: str = "", **options: Any) -> dict[str, Any]:
    with raw_server(answering(head, body, before)) as port:
        return fetch(local(**options), f"http://first.example:{port}/")


@pytest.mark.parametrize("status", [100, 102, 103, 199])
def test_a_provisional_answer_is_not_the_answer(status: int) -> None:
    before = f"HTTP/1.1 {status} Wait\r\nLink: </x>; rel=preload\r\n\r\n" * 2
    got = answered("HTTP/1.1 200 OK", b"real", before)
    assert (got["status"], got["body"], "link" in got["headers"]) == (200, "real", False)


def test_provisional_answers_come_to_an_end() -> None:
    before = "HTTP/1.1 103 Early\r\n\r\n" * 100
    with raw_server(answering("HTTP/1.1 200 OK", b"", before)) as port:
        assert refused(local(), f"http://first.example:{port}/").code == "connection_failed"


@pytest.mark.parametrize(
    ("media", "body", "charset"),
    [
        ("text/plain; charset=ISO-8859-1", "é".encode("latin-1"), "iso-8859-1"),
        ('text/plain; charset="windows-1251"', "ж".encode("cp1251"), "windows-1251"),
        ("text/html", '<html><meta charset="shift_jis">日本'.encode("shift_jis"), "shift_jis"),
        (
            "text/html",
            '<meta http-equiv="Content-Type" content="text/html; charset=euc-kr">한'.encode("euc-kr"),
            "euc-kr",
        ),
        ("text/plain", b"\xff\xfe" + "é".encode("utf-16-le"), "utf-16-le"),
        ("text/plain; charset=latin-1", b"\xef\xbb\xbf" + "é".encode(), "utf-8"),
        ("text/plain", "é".encode(), "utf-8"),
    ],
)
def test_text_in_any_charset_is_text(media: str, body: bytes, charset: str) -> None:
    got = answered(f"HTTP/1.1 200 OK\r\nContent-Type: {media}", body)
    assert (got["body_encoding"], got["charset"]) == ("utf-8", charset)
    assert got["body"][-1] in "éж本한"


@pytest.mark.parametrize("media", ["text/plain; charset=none-such", "text/plain; charset=hex", "image/png"])
def test_what_no_charset_reads_is_base64(media: str) -> None:
    got = answered(f"HTTP/1.1 200 OK\r\nContent-Type: {media}", b"\x89PNG\xff")
    assert (got["body_encoding"], got["charset"]) == ("base64", None)
    assert base64.b64decode(got["body"]) == b"\x89PNG\xff"


def bare_deflate(data: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


@pytest.mark.parametrize(
    ("coding", "pack"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare_deflate)],
)
def test_a_coding_that_nobody_asked_for_is_undone(coding: str, pack: Any) -> None:
    got = answered(f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}", pack("grün".encode()))
    assert (got["body"], got["truncated"]) == ("grün", False)


def test_a_bomb_expands_to_the_limit_only() -> None:
    got = answered("HTTP/1.1 200 OK\r\nContent-Encoding: gzip", gzip.compress(b"x" * 10_000_000), body_bytes_max=20_000)
    assert (len(got["body"]), got["truncated"]) == (20_000, True)


def test_what_is_not_the_coding_that_it_says_comes_as_it_is() -> None:
    got = answered("HTTP/1.1 200 OK\r\nContent-Encoding: gzip", b"plain")
    assert (got["body"], got["truncated"]) == ("plain", False)
