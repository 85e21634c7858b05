"""What programs get through the proxy over HTTP and TLS: named hosts, and nothing else."""

from __future__ import annotations

import json
import socket
import sys
import threading

import pytest
from egress_servers import Quiet


def test_curl_reaches_a_host_of_the_grant_through_the_proxy(boxes, serve, proxied):
    port = serve()
    ran = boxes().run("curl", "-sS", f"http://index.test:{port}/a?b=c", hosts=[f"index.test:{port}"], env=proxied)
    assert ran.code == 0, ran
    got = json.loads(ran.out)
    assert (got["method"], got["path"], got["headers"]["host"]) == ("GET", "/a?b=c", f"index.test:{port}")
    (record,) = ran.records("connected")
    assert (record["host"], record["port"], record["via"], record["address"]) == (
        "index.test",
        port,
        "http",
        "127.0.0.1",
    )
    assert record["sent"] > 0
    assert record["received"] > len(ran.out)


def test_curl_reaches_it_without_proxy_variables_too(boxes, serve):
    port = serve()
    ran = boxes().run("curl", "-sS", f"http://index.test:{port}/", hosts=[f"index.test:{port}"])
    assert ran.code == 0, ran
    assert [(r["host"], r["via"]) for r in ran.records("connected")] == [("index.test", "transparent")]


@pytest.mark.parametrize("through_proxy", [True, False])
def test_a_host_that_is_not_granted_is_refused_by_name(boxes, serve, proxied, through_proxy):
    port = serve()
    env = proxied if through_proxy else {}
    ran = boxes().run(
        "curl", "-sS", "-i", f"http://other.test:{port}/", hosts=[f"index.test:{port}"], private=["*:*"], env=env
    )
    name = f"other.test:{port}" if through_proxy else "other.test"
    assert ran.refused() == {(name, "host_denied")}
    assert ran.connected() == []
    assert ("403 Forbidden" in ran.out) == through_proxy
    assert ("no grant of the agent allows other.test" in ran.out) == through_proxy


def test_programs_that_know_no_proxy_are_met_on_80_and_443_whatever_the_grant_names(boxes):
    """By the name that they give, or the address where they give none; refused in words where that is possible."""
    script = "curl -sS -m 8 http://9.9.9.9/; curl -sS -m 8 -H 'Host: evil.test' http://9.9.9.9/; curl -sS -m 8 -k https://9.9.9.9/"
    ran = boxes().run("sh", "-c", script, hosts=["index.test:8080"])
    assert ran.refused() == {
        ("9.9.9.9:80", "host_denied"),
        ("evil.test:80", "host_denied"),
        ("9.9.9.9:443", "host_denied"),
    }, ran
    assert ran.out.count("interlock: host_denied") == 2
    assert {record["via"] for record in ran.records("refused")} == {"transparent"}


def test_another_port_of_a_granted_host_is_refused(boxes, serve, proxied):
    port, other = serve(), serve()
    ran = boxes().run("curl", "-sS", f"http://index.test:{other}/", hosts=[f"index.test:{port}"], env=proxied)
    assert ran.refused() == {(f"index.test:{other}", "host_denied")}


def test_a_star_stands_for_names_below_and_not_for_the_name_itself(boxes, serve, proxied):
    port = serve()
    box = boxes({"a.b.wide.test": ["127.0.0.1"], "wide.test": ["127.0.0.1"]})
    allowed = {"hosts": [f"*.wide.test:{port}"], "env": proxied}
    assert box.run("curl", "-sS", f"http://a.b.wide.test:{port}/", **allowed).connected() == [f"a.b.wide.test:{port}"]
    assert box.run("curl", "-sS", f"http://wide.test:{port}/", **allowed).refused() == {
        (f"wide.test:{port}", "host_denied")
    }
    assert box.run("curl", "-sS", f"http://evilwide.test:{port}/", **allowed).connected() == []


def test_every_grant_of_a_chain_must_allow_the_host(boxes, serve, proxied):
    port = serve()
    chain = [[f"*:{port}"], [f"index.test:{port}"]]
    box = boxes()
    assert box.run("curl", "-sS", f"http://index.test:{port}/", hosts=chain, env=proxied).connected()
    assert box.run("curl", "-sS", f"http://other.test:{port}/", hosts=chain, env=proxied).refused() == {
        (f"other.test:{port}", "host_denied")
    }


def test_without_a_grant_nothing_is_reached(boxes, serve, proxied):
    port = serve()
    ran = boxes().run("curl", "-sS", f"http://index.test:{port}/", private=["*:*"], env=proxied)
    assert ran.refused() == {(f"index.test:{port}", "host_denied")}


def test_bodies_pass_with_a_length_and_in_chunks(boxes, serve, proxied):
    port = serve()
    for extra in ([], ["-H", "Transfer-Encoding: chunked"]):
        ran = boxes().run(
            "curl", "-sS", "-X", "POST", *extra, "-d", "x" * 100_000, f"http://index.test:{port}/",
            hosts=[f"index.test:{port}"], env=proxied,
        )  # fmt: skip
        assert ran.code == 0, ran
        assert json.loads(ran.out)["body"] == "x" * 100_000
        assert ran.records("connected")[0]["sent"] > 100_000


def test_two_requests_of_one_client_go_each_to_its_own_host(boxes, serve, proxied):
    first, second = serve(), serve()
    hosts = [f"index.test:{first}", f"other.test:{second}"]
    ran = boxes().run(
        "curl", "-sS", f"http://index.test:{first}/1", f"http://other.test:{second}/2", f"http://index.test:{first}/3",
        hosts=hosts, env=proxied,
    )  # fmt: skip
    assert ran.code == 0, ran
    assert sorted(ran.connected()) == sorted([hosts[0], hosts[1], hosts[0]])


def test_hop_by_hop_headers_and_credentials_of_the_proxy_stay_here(boxes, serve, proxied):
    port = serve()
    ran = boxes().run(
        "curl", "-sS", "-x", "http://user:secret@127.0.0.1:3128", "-H", "Connection: X-Private", "-H", "X-Private: 1",
        "-H", "Host: evil.test", f"http://index.test:{port}/", hosts=[f"index.test:{port}"], env=proxied,
    )  # fmt: skip
    headers = json.loads(ran.out)["headers"]
    assert headers["host"] == f"index.test:{port}"
    assert headers["connection"] == "close"
    assert not {"proxy-authorization", "proxy-connection", "x-private"} & headers.keys()


TALK = """
import socket, sys
s = socket.create_connection(("127.0.0.1", 3128)); s.settimeout(15)
s.sendall(sys.argv[1].encode().decode("unicode_escape").encode("latin-1")); s.shutdown(socket.SHUT_WR)
out = b""
while data := s.recv(65536): out += data
sys.stdout.write(out.decode("latin-1"))
"""


@pytest.mark.parametrize(
    "request_text",
    [
        "GET http://index.test:{port}/ HTTP/1.1\\r\\nContent-Length: 3\\r\\nContent-Length: 5\\r\\n\\r\\nabcde",
        "POST http://index.test:{port}/ HTTP/1.1\\r\\nContent-Length: 3\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n",
        "POST http://index.test:{port}/ HTTP/1.1\\r\\nTransfer-Encoding: chunked, identity\\r\\n\\r\\n",
        "GET http://index.test:{port}/ HTTP/1.1\\r\\nA: b\\r\\n Folded: c\\r\\n\\r\\n",
        "GET http://index.test:{port}/ HTTP/1.1\\r\\nContent-Length : 3\\r\\n\\r\\nabc",
        "GET http://index.test@other.test@x:{port}/ HTTP/1.1\\r\\n\\r\\n",
        "GET http://other.test\\\\@index.test:{port}/ HTTP/1.1\\r\\n\\r\\n",
        "GET / HTTP/1.1\\r\\nHost: index.test:{port}\\r\\n\\r\\n",
        "GET https://index.test:{port}/ HTTP/1.1\\r\\n\\r\\n",
        "GET ftp://index.test:{port}/ HTTP/1.1\\r\\n\\r\\n",
        "CONNECT index.test HTTP/1.1\\r\\n\\r\\n",
        "CONNECT index.test:{port}/ HTTP/1.1\\r\\n\\r\\n",
        "CONNECT  index.test:{port} HTTP/1.1\\r\\n\\r\\n",
        "nonsense\\r\\n\\r\\n",
        "POST http://index.test:{port}/ HTTP/1.1\\r\\nConnection: content-length\\r\\nContent-Length: 3\\r\\n\\r\\nabc",
        "POST http://index.test:{port}/ HTTP/1.1\\r\\nConnection: close, Transfer-Encoding\\r\\n\\r\\n",
    ],
)
def test_what_two_programs_could_read_differently_is_refused(boxes, serve, request_text):
    port = serve()
    ran = boxes().run(
        sys.executable,
        "-c",
        TALK,
        request_text.replace("{port}", str(port)),
        hosts=[f"index.test:{port}", f"other.test:{port}"],
    )
    assert ran.out.startswith("HTTP/1.1 400 Bad Request"), ran
    assert ran.connected() == []


CHUNKS = [
    "5\\r\\nabcdeXX0\\r\\n\\r\\n",
    "0\\r\\n\\nGET / HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n",
    "0\\r\\nA: b\\n\\nGET / HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n",
    "0;a\\nGET /evil HTTP/1.1\\r\\n\\r\\n",
    "-1\\r\\nevil\\r\\n0\\r\\n\\r\\n",
    "0x1\\r\\nevil\\r\\n0\\r\\n\\r\\n",
]


@pytest.mark.parametrize("body", CHUNKS)
def test_no_second_request_hides_behind_the_chunks_of_a_body(boxes, listen, body):
    got = []

    def take(sock):
        with sock:
            while data := sock.recv(65536):
                got.append(data)

    port = listen(take)
    head = f"POST http://index.test:{port}/ HTTP/1.1\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n"
    boxes().run(sys.executable, "-c", TALK, head + body, hosts=[f"index.test:{port}"])
    assert b"evil" not in b"".join(got), got
    assert b"XX" not in b"".join(got), got


def test_tls_goes_through_untouched_and_is_checked_by_the_client(boxes, serve, certificate, proxied):
    context, ca = certificate("index.test")
    port = serve(tls=context)
    ran = boxes().run(
        "curl", "-sS", "--cacert", ca, f"https://index.test:{port}/", hosts=[f"index.test:{port}"], env=proxied
    )
    assert ran.code == 0, ran
    (record,) = ran.records("connected")
    assert (record["via"], record["sni"]) == ("connect", None)


def test_tls_with_the_name_of_another_server_is_refused_and_named(boxes, serve, certificate, proxied):
    """Many names share an address (a CDN): the name in the hello decides whom a client speaks with."""
    context, ca = certificate("evil.test", "index.test")
    port = serve(tls=context)
    ran = boxes().run(
        "curl", "-sS", "--cacert", ca, "--connect-to", f"evil.test:{port}:index.test:{port}", f"https://evil.test:{port}/",
        hosts=[f"index.test:{port}"], env=proxied,
    )  # fmt: skip
    assert ran.code != 0
    assert ran.refused() == {(f"evil.test:{port}", "server_name_mismatch")}
    assert [r["sent"] for r in ran.records("connected")] == [0]


def test_the_name_in_a_hello_is_on_record_where_it_is_another_one_that_is_granted(boxes, serve, certificate):
    """An alias: the program connects to one granted name, and its hello names another that is granted too."""
    context, ca = certificate("index.test")
    port = serve(tls=context)
    code = f"""
import socket, ssl
s = socket.create_connection(("other.test", {port}))
print(ssl.create_default_context(cafile={ca!r}).wrap_socket(s, server_hostname="index.test").version())
"""
    ran = boxes().python(code, hosts=[f"*.test:{port}"])
    assert ran.out.startswith("TLS"), ran
    (record,) = ran.records("connected")
    assert (record["host"], record["sni"]) == ("other.test", "index.test")
    assert record["sent"] > 0
    assert record["received"] > 0


def test_a_redirect_to_another_host_is_followed_to_a_refusal(boxes, serve, proxied):
    other = serve()

    class Away(Quiet):
        def do_GET(self):  # noqa: N802
            self.send_response(302)
            self.send_header("Location", f"http://{self.path[1:]}:{other}/")
            self.send_header("Content-Length", "0")
            self.end_headers()

    port = serve(Away)
    for env in (proxied, {}):
        for to, reason in (("other.test", "host_denied"), ("127.0.0.1", "host_denied"), ("2130706433", "host_denied")):
            ran = boxes().run(
                "curl", "-sSL", "-m", "10", f"http://index.test:{port}/{to}", hosts=[f"index.test:{port}"], env=env
            )
            assert ran.connected() == [f"index.test:{port}"], ran
            assert {why for _, why in ran.refused()} <= {reason}, ran


SPELLINGS = {
    "index.test.": "index.test",
    "INDEX.test": "index.test",
    "evil.test.": None,
    "index.test.evil.test": None,
    "index.test..": None,
    "index.test%2eevil.test": None,
    "index.test\\0.evil.test": None,
    "xn--ndex-r9a.test": None,  # a letter that looks like another one is another name
    "\u0131ndex.test": None,
    "index.te\u017ft": None,  # a long s, which some programs take for an s
    "[::ffff:index.test]": None,
}


def test_a_name_is_allowed_in_each_spelling_of_it_and_in_no_other(boxes, listen):
    port = listen(lambda sock: sock.close())
    code = f"""
import socket
for name in {list(SPELLINGS)!r}:
    s = socket.create_connection(("127.0.0.1", 3128)); s.settimeout(8)
    s.sendall(b"CONNECT " + name.encode() + b":{port} HTTP/1.1\\r\\n\\r\\n")
    print(s.recv(12).decode() == "HTTP/1.1 200")
"""
    ran = boxes().python(code, hosts=[f"index.test:{port}"])
    assert ran.out.split() == [str(host is not None) for host in SPELLINGS.values()], ran
    assert set(ran.connected()) <= {f"index.test:{port}"}


def test_a_hello_in_many_pieces_is_read_as_one(boxes, serve, certificate, tmp_path):
    context, _ = certificate("evil.test")
    port = serve(tls=context)
    code = f"""
import socket, ssl, sys
out = ssl.MemoryBIO(); tls = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="evil.test")
try: tls.do_handshake()
except ssl.SSLWantReadError: pass
hello = out.read()[5:]
s = socket.create_connection(("127.0.0.1", 3128)); s.setsockopt(6, 1, 1)
s.sendall(b"CONNECT index.test:{port} HTTP/1.1\\r\\n\\r\\n"); assert b"200" in s.recv(1000)
for i in range(0, len(hello), 90):  # a record each
    part = hello[i:i + 90]; s.sendall(b"\\x16\\x03\\x01" + len(part).to_bytes(2, "big") + part[:40]); s.sendall(part[40:])
try: print("answer", s.recv(1000))
except OSError as error: print(error)
"""
    ran = boxes().python(code, hosts=[f"index.test:{port}"])
    assert ran.refused() == {(f"evil.test:{port}", "server_name_mismatch")}
    assert "answer" not in ran.out


def test_plain_http_with_the_name_of_another_server_is_refused_too(boxes, serve):
    port = serve()
    ran = boxes().run(
        "curl", "-sS", "-H", "Host: evil.test", f"http://index.test:{port}/", hosts=[f"index.test:{port}"]
    )
    assert ran.code != 0
    assert ran.refused() == {(f"evil.test:{port}", "server_name_mismatch")}


FIRST_MESSAGES = [
    [b"GET / HTTP/1.1\r\nHost: index.test\r\nHost: evil.test\r\n\r\n"],
    [b"GET http://evil.test/ HTTP/1.1\r\nHost: index.test\r\n\r\n"],
    [b"GET / HTTP/1.1\r\nHost : evil.test\r\n\r\n"],
    [b"GET / HTTP/1.1\nHost: evil.test\n\n"],
    [b"\r\nGET / HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
    [b"g", b"et / HTTP/1.1\r\nHost: evil.test\r\n\r\n"],
    [b"GET", b" / HTTP/1.1\r\nHo", b"st: evil.test\r\n\r\n"],
    [b"CONNECT evil.test:443 HTTP/1.1\r\n\r\n"],
    [b"\x16\x03\x01\0\x02\x02\0evil.test"],
    [b"\x16\x03\x01\0\x01\x01\x15\x03\x01\0\x02\x01\0evil.test"],
]
SPEAK = """
import select, socket
for parts in PIECES:
    for proxied in (False, True):
        s = socket.create_connection(("127.0.0.1", 3128) if proxied else ("index.test", PORT))
        s.settimeout(8); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if proxied:
            s.sendall(b"CONNECT index.test:%d HTTP/1.1\\r\\n\\r\\n" % PORT); assert b" 200 " in s.recv(1000)
        try:
            for part in parts: s.sendall(part); select.select([], [], [], 0.05)
            print("ended" if s.recv(10) == b"" else "answered")
        except ConnectionError as error: print("ended")
"""


def test_no_first_message_reaches_a_server_that_could_take_it_for_another(boxes, listen):
    got = []

    def take(sock):
        with sock:
            while data := sock.recv(65536):
                got.append(data)

    port = listen(take)
    code = SPEAK.replace("PORT", str(port)).replace("PIECES", repr(FIRST_MESSAGES))
    ran = boxes().python(code, hosts=[f"index.test:{port}"], timeout=60)
    assert ran.out.split() == ["ended"] * 20, ran
    assert b"evil" not in b"".join(got)
    assert {reason for _, reason in ran.refused()} == {"server_name_mismatch"}


def test_a_server_that_speaks_first_is_heard(boxes, listen):
    def greet(sock):
        sock.sendall(b"220 welcome\r\n")
        sock.sendall(b"you said " + sock.recv(100))
        sock.close()

    port = listen(greet)
    code = f"""
import socket
s = socket.create_connection(("index.test", {port})); print(s.recv(100)); s.sendall(b"EHLO x\\r\\n"); print(s.recv(100))
"""
    ran = boxes().python(code, hosts=[f"index.test:{port}"])
    assert "220 welcome" in ran.out, ran
    assert "you said EHLO x" in ran.out


def test_half_closed_connections_carry_the_answer_to_the_end(boxes, listen):
    def count(sock):
        total = 0
        while data := sock.recv(65536):
            total += len(data)
        sock.sendall(str(total).encode() + b"y" * 1_000_000)
        sock.close()

    port = listen(count)
    code = f"""
import socket
s = socket.create_connection(("index.test", {port})); s.sendall(b"x" * 3_000_000); s.shutdown(socket.SHUT_WR)
got = b""
while data := s.recv(65536): got += data
print(got[:7], len(got))
"""
    ran = boxes().python(code, hosts=[f"index.test:{port}"])
    assert ran.out.strip() == "b'3000000' 1000007", ran
    (record,) = ran.records("connected")
    assert (record["sent"], record["received"]) == (3_000_000, 1_000_007)


def test_what_a_program_sent_before_it_ended_is_passed_on(boxes, listen):
    got = []
    done = threading.Event()

    def take(sock):
        while data := sock.recv(65536):
            got.append(data)
        sock.close()
        done.set()

    port = listen(take)
    ran = boxes().run("bash", "-c", f"exec 3<>/dev/tcp/index.test/{port}; echo hello >&3", hosts=[f"index.test:{port}"])
    assert ran.code == 0, ran
    assert done.wait(10)
    assert b"".join(got) == b"hello\n"
    assert ran.connected() == [f"index.test:{port}"]


def test_ipv6_servers_are_reached(boxes, serve):
    if not socket.has_ipv6:
        raise AssertionError("the tests need IPv6 on loopback")
    port = serve(host="::1")
    box = boxes({"six.test": ["::1"]})
    ran = box.run("curl", "-sS", f"http://six.test:{port}/", hosts=[f"six.test:{port}"])
    assert ran.code == 0, ran
    assert [r["address"] for r in ran.records("connected")] == ["::1"]
    literal = box.run("curl", "-sS", f"http://[::1]:{port}/", hosts=[f"[::1]:{port}"], private=[])
    assert literal.connected() == [f"::1:{port}"], literal


def test_a_dead_address_does_not_keep_a_living_one_waiting(boxes, serve):
    port = serve()
    box = boxes({"mixed.test": ["127.77.77.77", "127.0.0.1"]})
    ran = box.run("curl", "-sS", f"http://mixed.test:{port}/", hosts=[f"mixed.test:{port}"])
    assert [r["address"] for r in ran.records("connected")] == ["127.0.0.1"], ran
