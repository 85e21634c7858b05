"""Issued grants: revoked at once and with their children, used no more often than allowed, in however many processes."""

import subprocess
import sys

import pytest

from interlock.approvals import GrantStore
from interlock.model.errors import UsageError
from interlock.model.grant import Grant

SPEND = """
import sys
from pathlib import Path
from interlock.approvals import ApprovalStore, GrantStore
from interlock.disk import Database
from interlock.engine.local.clock import SystemClock, SystemIds
database = Database(Path(sys.argv[1]))
store = ApprovalStore(database, SystemClock(), SystemIds(), boot="b", redact=lambda v: v, changed=lambda: None)
grants = GrantStore(database, store.time, SystemIds(), store.audit)
print(sum(grants.use(sys.argv[2:]) for _ in range(100)))
"""


@pytest.fixture
def make(world):
    def make():
        store = world.store()
        return GrantStore(world.open[-1], store.time, world.ids, store.audit)

    return make


@pytest.fixture
def grants(make):
    return make()


def grant(**fields):
    return Grant(**{"id": "", "agent": "coder", "tools": ("fs.*",), "source": "command", **fields})


def in_force(store, session=None):
    return [g.id for g in store.load(session)[0]]


def test_an_issued_grant_is_there_for_everyone(make, grants):
    before = grants.revision()
    made = grants.issue(grant(hosts=("a.org:443",)), by="alice")
    other = make()
    assert other.load(None) == ([made], [])
    assert other.revision() != before
    shown = other.get(made.id)
    assert (shown.grant, shown.issued_by, shown.uses_left, shown.revoked_at_us) == (made, "alice", None, None)
    assert other.all() == [shown]
    assert other.get("grant_x") is None


def test_a_session_grant_is_for_that_session(grants):
    made = grants.issue(grant(), by="alice", session="nightly")
    assert in_force(grants) == in_force(grants, "other") == []
    assert in_force(grants, "nightly") == [made.id]


def test_revoking_is_effective_at_once_and_takes_the_children_along(make, grants):
    parent = grants.issue(grant(), by="alice")
    child = grants.issue(grant(parent=parent.id), by="coder")
    grandchild = grants.issue(grant(parent=child.id), by="coder")
    bystander = grants.issue(grant(), by="alice")
    other = make()
    before = other.revision()
    assert grants.revoke(parent.id, "alice") == (parent.id, child.id, grandchild.id)
    assert other.revision() != before
    assert in_force(other) == [bystander.id]
    assert {g.id for g in other.load(None)[1]} == {parent.id, child.id, grandchild.id}
    assert not other.use([grandchild.id])
    assert other.get(child.id).revoked_by == "alice"
    assert grants.revoke(parent.id, "alice") == ()
    assert grants.revoke("grant_x", "alice") == ()


def test_no_child_of_a_revoked_or_unknown_grant(grants):
    parent = grants.issue(grant(), by="alice")
    grants.revoke(parent.id, "alice")
    for missing in (parent.id, "grant_x"):
        with pytest.raises(UsageError) as caught:
            grants.issue(grant(parent=missing), by="coder")
        assert caught.value.code == "not_found"


def test_uses_run_out(make, grants):
    made = grants.issue(grant(uses_max=2), by="alice")
    other = make()
    assert [grants.use([made.id]), other.use([made.id]), grants.use([made.id]), other.use([made.id])] == [
        True,
        True,
        False,
        False,
    ]
    assert other.get(made.id).uses_left == 0


def test_a_use_is_taken_of_all_of_a_chain_or_of_none(grants):
    parent = grants.issue(grant(uses_max=1), by="alice")
    child = grants.issue(grant(uses_max=5, parent=parent.id), by="coder")
    assert grants.use([child.id, parent.id])
    assert not grants.use([child.id, parent.id])
    assert grants.get(child.id).uses_left == 4


def test_an_expired_grant_has_no_uses_whatever_the_clock_is_set_to(world, grants):
    made = grants.issue(grant(uses_max=5, expires_at_us=world.clock.now_us() + 10_000_000), by="alice")
    assert grants.use([made.id])
    world.clock.set_wall(0)
    world.clock.advance(10)
    assert not grants.use([made.id])


@pytest.mark.parametrize("fields", [{"uses_max": 0}, {"actions_max": 0}])
def test_senseless_limits_are_refused(grants, fields):
    with pytest.raises(UsageError):
        grants.issue(grant(**fields), by="alice")


def test_grants_of_the_configuration_are_counted_until_they_change(make, grants):
    file = [grant(id="coder", uses_max=2), grant(id="ops", agent="ops")]
    grants.count(file)
    assert grants.use(["coder"])
    other = make()
    before = other.revision()
    other.count(file)
    assert other.revision() == before, "the same configuration changes nothing"
    assert other.get("coder").uses_left == 1
    other.count([grant(id="coder", uses_max=2, hosts=("a.org:443",)), file[1]])
    assert grants.get("coder").uses_left == 1, "another change gives no uses back"
    other.count([grant(id="coder", uses_max=3), file[1]])
    assert grants.get("coder").uses_left == 3


def test_a_grant_that_left_the_configuration_takes_its_children_along(grants):
    grants.count([grant(id="coder")])
    child = grants.issue(grant(parent="coder"), by="coder")
    grants.count([])
    assert in_force(grants) == []
    assert grants.get(child.id).revoked_by == "configuration"
    grants.count([grant(id="coder")])
    assert in_force(grants) == ["coder"]


def test_everything_is_audited(grants):
    made = grants.issue(grant(), by="alice")
    grants.revoke(made.id, "bob")
    assert [(r.event, r.who) for r in grants._audit.records(made.id)] == [
        ("grant_issued", "alice"),
        ("grant_revoked", "bob"),
    ]


def test_several_processes_never_use_a_grant_too_often(world, grants):
    parent = grants.issue(grant(uses_max=170), by="alice")
    child = grants.issue(grant(uses_max=500, parent=parent.id), by="alice")
    command = [sys.executable, "-c", SPEND, str(world.path), child.id, parent.id]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    used = [int(p.communicate(timeout=25)[0]) for p in running]
    assert sum(used) == 170
    assert grants.get(parent.id).uses_left == 0
    assert grants.get(child.id).uses_left == 330
