"""The address that is checked is the address that is connected to, and it is public unless somebody said otherwise."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from interlock.isolation.egress.dial import is_own
from interlock.isolation.egress.rules import Rules, transparent_ports
from interlock.model.hosts import Endpoint

PRIVATE = [
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "198.18.0.1", "::1", "fd00::1", "fe80::1", "::ffff:127.0.0.1", "::ffff:a00:1", "64:ff9b::7f00:1", "2002:7f00:1::",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_with_an_address_that_is_not_public_is_refused(boxes, proxied, address):
    box = boxes({"trap.test": [address]})
    ran = box.run("curl", "-sS", "-i", "http://trap.test:80/", hosts=["*.test:80"], private=[], env=proxied)
    assert ran.refused() == {("trap.test:80", "private_address")}
    assert address not in ran.out, "the program does not learn what the name resolves to"


@pytest.mark.parametrize("spelled", ["127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::ffff:7f00:1]", "127.0.0.1."])
def test_no_spelling_of_an_address_gets_past_the_check(boxes, serve, proxied, spelled):
    port = serve()
    ran = boxes().run("curl", "-sS", f"http://{spelled}:{port}/", hosts=[f"*:{port}"], private=[], env=proxied)
    assert ran.connected() == []
    assert ran.refused() == {(f"127.0.0.1:{port}", "private_address")}


def test_one_private_address_among_public_ones_is_enough(boxes, proxied):
    box = boxes({"mixed.test": ["192.0.66.2", "10.0.0.1"]})
    ran = box.run("curl", "-sS", "http://mixed.test/", hosts=["mixed.test:80"], private=[], env=proxied)
    assert ran.refused() == {("mixed.test:80", "private_address")}


def test_a_name_that_resolves_differently_a_moment_later_gains_nothing(boxes, listen, tmp_path):
    """Rebinding: each connection is one look-up, and the address that it gave is checked and used."""
    answers = tmp_path / "answers"
    answers.write_text("127.0.0.9\n127.0.0.1")
    hit = []

    def note(sock):
        hit.append(sock.getpeername())
        sock.close()

    port = listen(note)
    box = boxes({"turns.test": str(answers)})
    ran = box.run("curl", "-sS", f"http://turns.test:{port}/", hosts=[f"turns.test:{port}"])
    assert ran.code != 0
    assert hit == []
    assert [r["outcome"] for r in ran.traffic.records] == ["failed"], ran


def test_an_address_of_the_machine_itself_is_not_public(boxes):
    """Whatever range it is of: in a box every address is the machine's own."""
    code = """
from ipaddress import ip_address
from interlock.isolation.egress.dial import is_own
print(is_own(ip_address("9.9.9.9")))
"""
    assert boxes().python(code).out.split() == ["True"]
    assert not is_own(ip_address("9.9.9.9"))
    assert is_own(ip_address("::1"))


def test_metadata_services_are_refused_by_address_and_by_name(boxes, proxied):
    box = boxes()
    for url, name in (
        ("http://169.254.169.254/latest/", "169.254.169.254:80"),
        ("http://metadata.google.internal/", "metadata.google.internal:80"),
    ):
        ran = box.run("curl", "-sS", url, hosts=["*:80"], private=[], env=proxied)
        assert ran.refused() == {(name, "private_address")}
        ran = box.run("curl", "-sS", "-m", "10", "--noproxy", "*", url, hosts=["*:80"], private=[])
        assert ran.refused() == {(name, "private_address")}


def test_localhost_by_name_and_port_is_a_stated_exception(boxes, serve):
    port, other = serve(), serve()
    box = boxes()
    for url in (f"http://localhost:{port}/", f"http://127.0.0.1:{port}/"):
        ran = box.run("curl", "-sS", url, hosts=[f"localhost:{port}"], private=[])
        assert ran.connected() == [f"localhost:{port}"], ran
    ran = box.run("curl", "-sS", f"http://localhost:{other}/", hosts=[f"localhost:{port}"], private=[])
    assert ran.code != 0
    assert ran.connected() == []


def test_an_exception_must_be_stated_by_every_grant_of_a_chain():
    """The holder of a grant for everything must not make an exception by narrowing it."""
    here = Endpoint("localhost", 5432)
    assert Rules([[["localhost:5432"]]], []).may_be_private(here)
    assert not Rules([[["*:*"]]], []).may_be_private(here)
    assert not Rules([[["localhost:5432"], ["*:*"]]], []).may_be_private(here)
    assert not Rules([[["db.example.org:5432"]]], []).may_be_private(Endpoint("db.example.org", 5432))
    assert Rules([[["*:*"]]], ["db.example.org:5432"]).may_be_private(Endpoint("db.example.org", 5432))
    assert Rules([[["db.internal:*"]]], []).may_be_private(Endpoint("db.internal", 5432))


def test_without_hosts_nothing_is_allowed():
    assert not Rules([], []).allows(Endpoint("a", 80))
    assert not Rules([[]], []).allows(Endpoint("a", 80))
    assert not Rules([[["a:80"], []]], []).allows(Endpoint("a", 80))
    assert not Rules([], []).knows("a")
    assert not Rules([[["a:80"], ["b:80"]], [["b:81"]]], []).allows(Endpoint("a", 80))
    assert Rules([[["c:80"]], [["a:80"]]], []).allows(Endpoint("a", 80))
    assert Rules([[["a:80", "[::1]:80"], ["*:80"]]], []).knows("a")
    assert Rules([[["a:80", "[::1]:80"]]], []).knows("::1")


def test_transparent_listeners_are_for_the_ports_that_are_named():
    assert transparent_ports([[["a:22", "b:*", "*.c:22"]], [["d:5432"]]], 8) == [22, 5432]
    assert transparent_ports([[[f"a:{n}" for n in range(1, 99)]]], 8) == list(range(1, 9))
