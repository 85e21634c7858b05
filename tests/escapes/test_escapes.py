"""The escape suite: every attack succeeds natively, and behind the walls none does; as root and as an ordinary user."""

from __future__ import annotations

import os

import pytest

from interlock.isolation import attack_report
from interlock.isolation.attack_range import ESCAPED, NOBODY, STOPPED
from interlock.isolation.attacks import ATTACKS

USERS = [None, NOBODY] if os.getuid() == 0 else [None]
VOID_SOMEWHERE = {
    "load a program into the kernel",  # kernel.unprivileged_bpf_disabled
    "call the kernel by x32 numbers",  # CONFIG_X86_X32
    "call the kernel by int 0x80",  # CONFIG_IA32_EMULATION
    "make a socket of the kernel's ciphers",
    "make a socket to the hypervisor",
    "connect by MPTCP",
    "connect by TCP fast open",
    "connect by IPv6",
    "type into a terminal",  # dev.tty.legacy_tiocsti
    "trace another process",  # kernel.yama.ptrace_scope
    "read another process's memory",
    "take a descriptor of another process",
    "read the memory of the supervisor",
    "use io_uring",
    "use userfaultfd",
    "watch the machine's performance counters",
    "make a user namespace",
    "make a user namespace by clone",
    "make a user namespace by clone3",
    "mount in a namespace of its own",
    "use the new mount calls",
    "find a file's handle",
}
"""What a kernel may refuse by itself; the rest succeeds on every machine, or the test of it is broken."""

pytestmark = pytest.mark.timeout(600)


def test_there_are_enough_attacks_and_each_has_its_own_name():
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) >= 40
    assert {attack.layer for attack in ATTACKS} >= {"fs", "syscalls", "namespaces", "net", "signals", "tree", "limits"}


def test_natively_every_attack_succeeds():
    found = attack_report.try_attacks("native")
    assert {name for name, result in found.items() if result != ESCAPED} <= VOID_SOMEWHERE


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("leg", ["ns", "nons", "container"])
def test_behind_the_walls_none_does(leg, user):
    """But for those that a profile cannot stop, which are named in the data and in the guide."""
    found = attack_report.try_attacks(leg, user=user)
    losses = {attack.name for attack in ATTACKS if attack_report.profile_of(leg) in attack.losses}
    assert {name: result for name, result in found.items() if result != STOPPED and name not in losses} == {}
    assert leg != "ns" or not losses


def test_an_attack_that_succeeds_is_seen(monkeypatch):
    """The judge is not blind: without walls around it the same range reports an escape."""
    assert attack_report.try_attacks("native", only=["read another file"]) == {"read another file": ESCAPED}
