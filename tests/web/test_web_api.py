"""The routes, asked in the process: real questions in a real database, a clock that is told what time it is."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pytest

from interlock.approvals import HoldRequest
from interlock.detect import Redactor
from interlock.disk import Database
from interlock.engine.local.clock import SystemIds
from interlock.engine.people.answers import Answering
from interlock.engine.people.approval_desk import Desk
from interlock.model.codes import ERROR_CODES, REASONS
from interlock.model.decision import Requirement
from interlock.surfaces.web import middleware
from interlock.surfaces.web.app import build
from interlock.testing import FakeClock

LIST = "/api/v1/approvals"
OPS = Requirement(policy="ops", content="sha256:1", group="ops")
TWO = Requirement(policy="two", content="sha256:2", group="ops", quorum=2)
OTHER_DIGEST = "sha256:" + "0" * 64


class World:
    def __init__(self, directory):
        self.clock = FakeClock()
        self.db = Database(directory / "interlock.db", busy_ms=50)
        self.path = directory / "interlock.db"
        self.desk = Desk(
            self.db, directory, self.clock, SystemIds(), boot="boot", user="starter", redactor=Redactor(b"k" * 32),
            groups={}, ttl_ms=600_000, separation=False,
        )  # fmt: skip
        self.tokens = {}
        self.app = build(Answering(self.desk, "rest"), self.clock, lambda name: name in ("testserver", "127.0.0.1"))

    def approver(self, name, *groups):
        self.tokens[name] = self.desk.approvers.add(name, groups=groups)
        return name

    def hold(self, *requirements, **more):
        values = {"agent": "coder", "summary": "write a file", "digest": "sha256:" + "a" * 64, "tool": "fs.write"}
        return self.desk.store.ask(HoldRequest(**(values | {"requirements": requirements, "ttl_ms": 600_000} | more)))

    def ask(self, method, path, *, by=None, client="127.0.0.1", headers=(), **more):
        """One request, on a loop of its own."""
        given = dict(headers)
        if by is not None:
            given["authorization"] = f"Bearer {self.tokens.get(by, by)}"

        async def go():
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False, client=(client, 4711))
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
                return await http.request(method, path, headers=given, **more)

        return asyncio.run(go())

    def answer(self, hold, choice, *, by, **body):
        if choice != "deny":
            body = {"digest": hold.digest} | body
        return self.ask("POST", f"{LIST}/{hold.id}/{choice}", by=by, json=body)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.approver("ann", "ops")
    yield made
    made.db.close()


def error(answer, status):
    """The error of an answer, which has the shape of all errors and a documented code."""
    assert answer.status_code == status, answer.text
    body = answer.json()["error"]
    assert body["code"] in ERROR_CODES | REASONS
    assert body.keys() <= {"code", "message", "path", "hint"}
    return body


# -- who may ask


def test_health_says_nothing_about_the_workspace(world):
    world.hold()
    answer = world.ask("GET", "/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    "header",
    [{}, {"authorization": ""}, {"authorization": "Bearer"}, {"authorization": "Basic YTpi"}, {"cookie": "token=x"}],
)
@pytest.mark.parametrize(("method", "path"), [("GET", LIST), ("GET", f"{LIST}/x"), ("POST", f"{LIST}/x/approve")])
def test_without_a_token_nobody_sees_or_does_anything(world, header, method, path):
    answer = world.ask(method, path, headers=header)
    assert error(answer, 401)["code"] == "unauthenticated"
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_token_counts_only_in_the_authorization_header(world):
    hold = world.hold()
    token = world.tokens["ann"]
    assert world.ask("GET", f"{LIST}?access_token={token}").status_code == 401
    assert world.ask("GET", LIST, headers={"cookie": f"authorization=Bearer {token}"}).status_code == 401
    assert world.ask("GET", f"{LIST}/{hold.id}", by="ann").status_code == 200


def test_two_authorization_headers_are_none(world):
    pair = [("authorization", f"Bearer {world.tokens['ann']}"), ("authorization", "Bearer x")]

    async def go():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(world.app), base_url="http://testserver") as http:
            return await http.get(LIST, headers=pair)

    assert error(asyncio.run(go()), 401)


def test_a_wrong_token_is_refused_and_after_some_failures_its_source_has_to_wait(world):
    for _ in range(5):
        assert error(world.ask("GET", LIST, by="wrong"), 401)["code"] == "unauthenticated"
    answer = world.ask("GET", LIST, by="wrong")
    assert error(answer, 429)["code"] == "too_many_failures"
    wait_s = int(answer.headers["retry-after"])
    assert world.ask("GET", LIST, by="ann").status_code == 200, "a right token is never turned away"
    assert world.ask("GET", LIST, by="wrong", client="192.0.2.7").status_code == 401, "another source"
    world.clock.advance(wait_s)
    assert world.ask("GET", LIST, by="wrong").status_code == 401


def test_requests_without_a_token_are_not_failures(world):
    for _ in range(10):
        world.ask("GET", LIST)
    assert world.ask("GET", LIST, by="wrong").status_code == 401


def test_the_addresses_of_one_ipv6_network_are_one_source(world):
    for number in range(5):
        world.ask("GET", LIST, by="wrong", client=f"2001:db8:1:2::{number}")
    assert world.ask("GET", LIST, by="wrong", client="2001:db8:1:2:ffff::1").status_code == 429
    assert world.ask("GET", LIST, by="wrong", client="2001:db8:1:3::1").status_code == 401


def test_what_a_proxy_says_about_the_source_is_not_believed(world):
    for number in range(5):
        world.ask("GET", LIST, by="wrong", headers={"x-forwarded-for": f"192.0.2.{number}"})
    assert world.ask("GET", LIST, by="wrong", headers={"x-forwarded-for": "192.0.2.99"}).status_code == 429


def test_a_removed_approver_has_no_token_any_more(world):
    world.desk.approvers.remove("ann")
    assert world.ask("GET", LIST, by="ann").status_code == 401


# -- looking


def test_the_list_has_what_waits_in_order_of_creation(world):
    ids = [world.hold(action=str(n)).id for n in range(5)]
    world.desk.store.cancel(ids[1], "not needed")
    page = world.ask("GET", LIST, by="ann").json()
    assert [row["id"] for row in page["approvals"]] == [ids[0], *ids[2:]]
    assert page["next_after"] is None
    row = page["approvals"][0]
    assert (row["agent"], row["summary"], row["status"]) == ("coder", "write a file", "pending")
    assert "parameters" not in row


def test_the_list_comes_in_parts(world):
    ids = [world.hold(action=str(n)).id for n in range(5)]
    seen, after, parts = [], 0, 0
    while after is not None:
        page = world.ask("GET", LIST, by="ann", params={"limit": 2, "after": after}).json()
        seen += [row["id"] for row in page["approvals"]]
        after, parts = page["next_after"], parts + 1
    assert (seen, parts) == (ids, 3)


def test_the_list_is_filtered_by_status(world):
    world.hold(ttl_ms=1_000)
    denied, pending = world.hold(), world.hold()
    world.answer(denied, "deny", by="ann")
    world.clock.advance(2)

    def listed(status):
        return [row["id"] for row in world.ask("GET", LIST, by="ann", params={"status": status}).json()["approvals"]]

    assert listed("pending") == [pending.id]
    assert listed("denied") == [denied.id]
    assert len(listed("expired")) == 1
    assert len(listed("all")) == 3


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("limit=0", "?limit"),
        ("limit=501", "?limit"),
        ("limit=ten", "?limit"),
        ("limit=1_0", "?limit"),
        ("limit=%D9%A1", "?limit"),
        ("limit=1&limit=2", "?limit"),
        ("after=-1", "?after"),
        ("after=99999999999999999999", "?after"),
        ("status=open", "?status"),
        ("status=", "?status"),
        ("statuz=pending", "?statuz"),
    ],
)
def test_a_query_that_cannot_be_understood_is_named(world, query, path):
    body = error(world.ask("GET", f"{LIST}?{query}", by="ann"), 400)
    assert (body["code"], body["path"]) == ("malformed_request", path)


def test_a_question_shows_everything_that_was_asked(world):
    hold = world.hold(OPS, parameters={"path": "a.txt"}, reason="because")
    shown = world.ask("GET", f"{LIST}/{hold.id}", by="ann")
    assert shown.content == msgspec.json.encode(hold)


@pytest.mark.parametrize("name", ["x", "hold_" + "0" * 32, "hold_" + "0" * 32 + "%0a", "HOLD_" + "0" * 32, "a%2fb"])
def test_an_unknown_question_is_not_found(world, name):
    assert error(world.ask("GET", f"{LIST}/{name}", by="ann"), 404)["code"] == "not_found"
    body = {"digest": OTHER_DIGEST}
    assert error(world.ask("POST", f"{LIST}/{name}/approve", by="ann", json=body), 404)["code"] == "not_found"


# -- answering


def test_an_approval_decides_and_names_its_author(world):
    hold = world.hold(OPS)
    answer = world.answer(hold, "approve", by="ann", reason="looks right")
    assert answer.status_code == 200
    assert answer.json()["outcome"] == "resolved"
    kept = world.desk.store.get(hold.id)
    assert kept.status == "approved"
    (vote,) = kept.votes
    assert (vote.approver, vote.surface, vote.reason) == ("ann", "rest", "looks right")


def test_one_denial_decides_and_needs_no_digest(world):
    hold = world.hold(TWO)
    answer = world.answer(hold, "deny", by="ann", reason="no")
    assert (answer.status_code, answer.json()["approval"]["status"]) == (200, "denied")


def test_an_answer_that_is_not_enough_is_recorded(world):
    world.approver("bob", "ops")
    hold = world.hold(TWO)
    assert world.answer(hold, "approve", by="ann").json()["outcome"] == "recorded"
    assert world.answer(hold, "approve", by="bob").json()["outcome"] == "resolved"


def test_the_original_needs_the_right_to_answer_and_is_on_record_even_if_it_is_gone(world):
    world.approver("eve", "other")
    hold = world.hold(OPS, parameters={"path": "a.txt"})
    path = f"{LIST}/{hold.id}/original"
    body = {"digest": hold.digest}
    assert error(world.ask("POST", path, json=body), 401)["code"] == "unauthenticated"
    assert error(world.ask("POST", path, by="eve", json=body), 403)["code"] == "not_in_group"
    assert error(world.ask("POST", path, by="ann", json={"digest": OTHER_DIGEST}), 409)["code"] == "changed"
    assert error(world.ask("POST", path, by="ann", json=body), 404)["code"] == "original_missing"
    shown = [(r.who, r.surface) for r in world.desk.store.audit.records(hold.id) if r.event == "original_shown"]
    assert shown == [("ann", "rest")]


def test_an_edit_changes_the_parameters_and_the_digest(world):
    hold = world.hold(parameters={"path": "a.txt", "content": "old"})
    approval = world.answer(hold, "edit", by="ann", patch={"content": "new"}).json()["approval"]
    assert (approval["status"], approval["parameters"]) == ("approved", {"path": "a.txt", "content": "new"})
    assert approval["digest"] != hold.digest


def test_an_edit_that_does_not_fit_the_tool_is_told_where_and_changes_nothing(world):
    hold = world.hold(parameters={"n": 1}, schema={"properties": {"n": {"type": "integer"}}})
    said = error(world.answer(hold, "edit", by="ann", patch={"n": "x"}), 422)
    assert (said["code"], said["path"]) == ("invalid_parameters", "$.n")
    assert world.desk.store.get(hold.id) == hold


def test_a_standing_answer_has_the_terms_that_were_stated(world):
    hold = world.hold()
    terms = {"scope": "always", "ttl_ms": 60_000, "uses": 3}
    approval = world.answer(hold, "approve", by="ann", **terms).json()["approval"]
    (standing,) = world.desk.store.standing.all()
    assert standing.id == approval["standing_id"]
    assert (standing.scope, standing.uses_left) == ("always", 3)
    assert standing.expires_at_us - standing.created_at_us == 60_000_000


@pytest.mark.parametrize(
    "terms",
    [
        {"scope": "always"},
        {"scope": "always", "ttl_ms": 1},
        {"scope": "session", "uses": 1},
        {"ttl_ms": 1, "uses": 1},
        {"scope": "session", "ttl_ms": 1, "uses": 1},  # the question belongs to no session
    ],
)
def test_terms_that_make_no_sense_change_nothing(world, terms):
    hold = world.hold()
    assert error(world.answer(hold, "approve", by="ann", **terms), 422)["code"] == "usage"
    assert world.desk.store.get(hold.id) == hold


def test_an_approver_of_another_group_may_look_and_not_answer(world):
    world.approver("eve", "design")
    hold = world.hold(OPS)
    assert world.ask("GET", f"{LIST}/{hold.id}", by="eve").status_code == 200
    for choice, more in (("approve", {}), ("deny", {}), ("edit", {"patch": {"a": 1}})):
        assert error(world.answer(hold, choice, by="eve", **more), 403)["code"] == "not_in_group"
    assert world.desk.store.get(hold.id).votes == ()


def test_an_agent_never_answers_its_own_question(world):
    world.approver("coder", "ops")
    assert error(world.answer(world.hold(OPS), "approve", by="coder"), 403)["code"] == "agent_may_not_approve"


def test_whoever_started_the_run_does_not_answer_where_duties_are_separated(world):
    world.approver("starter", "ops")
    hold = world.hold(OPS, separation=True, started_by="starter")
    assert error(world.answer(hold, "approve", by="starter"), 403)["code"] == "separation"


def test_a_second_answer_is_told_which_one_won(world):
    world.approver("bob", "ops")
    hold = world.hold()
    world.answer(hold, "deny", by="ann", reason="no")
    answer = world.answer(hold, "approve", by="bob")
    body = error(answer, 409)
    assert body["code"] == "already_resolved"
    assert "denied" in body["message"]
    assert "`ann`" in body["message"]
    assert (answer.json()["approval"]["status"], answer.json()["approval"]["decision_reason"]) == ("denied", "no")


def test_an_answer_after_the_time_is_over_is_told_so(world):
    hold = world.hold(ttl_ms=1_000)
    world.clock.advance(1)
    answer = world.answer(hold, "approve", by="ann")
    assert error(answer, 409)["code"] == "already_resolved"
    assert answer.json()["approval"]["status"] == "expired"


def test_an_answer_to_what_is_not_asked_any_more_is_refused_and_shown_what_is(world):
    world.approver("bob", "ops")
    hold = world.hold(TWO, parameters={"n": 1})
    world.answer(hold, "edit", by="ann", patch={"n": 2})
    answer = world.answer(hold, "approve", by="bob")
    assert error(answer, 409)["code"] == "changed"
    assert answer.json()["approval"]["parameters"] == {"n": 2}
    assert world.desk.store.get(hold.id).status == "pending"


def test_of_answers_at_the_same_time_one_wins(world):
    for name in ("bob", "cid", "dan"):
        world.approver(name, "ops")
    for _ in range(10):
        hold = world.hold(OPS)
        with ThreadPoolExecutor(4) as pool:
            codes = list(
                pool.map(
                    lambda one, hold=hold: world.answer(hold, one[1], by=one[0]).status_code,
                    [("ann", "approve"), ("bob", "deny"), ("cid", "approve"), ("dan", "deny")],
                )
            )
        assert sorted(codes) == [200, 409, 409, 409]


# -- what requests may be


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (b"", "line 1, column 0"),
        (b"{", "line 1, column 1"),
        (b"[]", "$"),
        (b"null", "$"),
        (b"{}", "$.digest"),
        (b'{"digest": 1}', "$.digest"),
        (b'{"digest": "sha256:0"}', "$.digest"),
        (b'{"digest": "%s", "digest": "%s"}' % ((OTHER_DIGEST.encode(),) * 2), "line 1, column 96"),
        (b'{"digest": "%s", "scoep": "once"}' % OTHER_DIGEST.encode(), "$.scoep"),
        (b'{"digest": "%s", "scope": "forever"}' % OTHER_DIGEST.encode(), "$.scope"),
        (b'{"digest": "%s", "uses": 1e400}' % OTHER_DIGEST.encode(), "$.uses"),
        (b'{"digest": "%s", "uses": 1.5}' % OTHER_DIGEST.encode(), "$.uses"),
        (b'{"digest": "%s", "uses": true}' % OTHER_DIGEST.encode(), "$.uses"),
        (b'{"digest": "%s", "ttl_ms": NaN}' % OTHER_DIGEST.encode(), None),
        (b'{"digest": "\xff"}', None),
        (b'{"digest": "\\ud800"}', None),
        (b"[" * 5000, None),
    ],
)
def test_a_body_that_is_not_what_it_must_be_is_named_and_never_repeated(world, body, path):
    hold = world.hold()
    answer = world.ask(
        "POST", f"{LIST}/{hold.id}/approve", by="ann", content=body, headers={"content-type": "application/json"}
    )
    found = error(answer, 400)
    assert found["code"] in ("malformed_request", "limit_exceeded")
    assert path is None or found["path"] == path
    assert "forever" not in answer.text
    assert world.desk.store.get(hold.id) == hold


@pytest.mark.parametrize("patch", [{}, [], None, "x"])
def test_an_edit_needs_a_patch_that_changes_something(world, patch):
    assert error(world.answer(world.hold(), "edit", by="ann", patch=patch), 400)["path"] == "$.patch"


def test_a_patch_as_large_as_no_parameters_can_be_is_refused(world):
    hold = world.hold()
    answer = world.answer(hold, "edit", by="ann", patch={"a": "x" * (1024 * 1024)})
    assert error(answer, 422)["code"] == "usage"
    assert world.desk.store.get(hold.id) == hold


@pytest.mark.parametrize("media", [None, "text/plain", "application/x-www-form-urlencoded", "application/json-seq"])
def test_a_body_must_be_json(world, media):
    headers = {} if media is None else {"content-type": media}
    answer = world.ask("POST", f"{LIST}/{world.hold().id}/deny", by="ann", content=b"{}", headers=headers)
    assert error(answer, 415)["code"] == "media_type"


def test_a_body_has_a_limit(world):
    async def endless():
        for _ in range(64):
            yield b" " * 65536

    hold = world.hold()
    headers = {"content-type": "application/json"}
    answer = world.ask("POST", f"{LIST}/{hold.id}/deny", by="ann", content=endless(), headers=headers)
    assert error(answer, 413)["code"] == "body_too_large"
    assert world.desk.store.get(hold.id) == hold


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip", "GZIP"])
def test_a_body_comes_as_it_is(world, coding):
    headers = {"content-type": "application/json", "content-encoding": coding}
    hold = world.hold()
    answer = world.ask("POST", f"{LIST}/{hold.id}/deny", by="ann", content=b"{}", headers=headers)
    assert error(answer, 415)["code"] == "media_type"
    assert world.desk.store.get(hold.id) == hold


@pytest.mark.parametrize("length", [str(middleware.BODY_BYTES_MAX + 1), "99999999999999", "9" * 40])
def test_a_body_that_is_announced_as_too_large_is_not_waited_for(world, length):
    async def never():
        raise AssertionError("the body was asked for")
        yield b""

    headers = {"content-type": "application/json", "content-length": length}
    answer = world.ask("POST", f"{LIST}/{world.hold().id}/deny", by="ann", content=never(), headers=headers)
    assert error(answer, 413)["code"] == "body_too_large"


def test_a_body_that_does_not_come_is_not_waited_for(world, monkeypatch):
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.05)

    async def slow():
        yield b"{"
        await asyncio.sleep(20)

    headers = {"content-type": "application/json"}
    answer = world.ask("POST", f"{LIST}/{world.hold().id}/deny", by="ann", content=slow(), headers=headers)
    assert error(answer, 408)["code"] == "body_late"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", LIST, "GET"),
        ("OPTIONS", LIST, "GET"),
        ("GET", f"{LIST}/x/approve", "POST"),
        ("PUT", f"{LIST}/x/deny", "POST"),
        ("POST", "/healthz", "GET"),
    ],
)
def test_a_method_that_is_not_for_a_path(world, method, path, allowed):
    answer = world.ask(method, path, by="ann")
    assert error(answer, 405)["code"] == "method_not_allowed"
    assert allowed in answer.headers["allow"]


@pytest.mark.parametrize("path", ["/", "/api", "/api/v2/approvals", f"{LIST}/", "/healthz/", "/%2e%2e/etc/passwd"])
def test_a_path_that_is_not_there(world, path):
    assert error(world.ask("GET", path, by="ann"), 404)["code"] == "not_found"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("testserver", 200),
        ("TESTSERVER", 200),
        ("127.0.0.1", 200),
        ("attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("testserver:1", 421),
        ("testserver@attacker.example", 421),
        ("", 421),
        ("[::1", 421),
    ],
)
def test_the_host_header_must_name_this_server(world, host, status):
    answer = world.ask("GET", "/healthz", headers={"host": host})
    assert answer.status_code == status
    if status == 421:
        assert error(answer, 421)["code"] == "host_refused"


# -- what answers are


@pytest.mark.parametrize(
    ("path", "by"), [("/healthz", None), ("/api/v1/openapi.json", None), (LIST, "ann"), (LIST, None), ("/no", None)]
)
def test_no_answer_is_cached_sniffed_framed_or_given_to_another_origin(world, path, by):
    headers = world.ask("GET", path, by=by, headers={"origin": "https://attacker.example"}).headers
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control-")]
    assert "set-cookie" not in headers


def test_a_locked_database_is_reported_and_nothing_has_happened(world, caplog):
    hold = world.hold()
    other = Database(world.path)
    with other.transaction():
        answer = world.answer(hold, "approve", by="ann")
    other.close()
    assert error(answer, 503)["code"] == "database_locked"
    assert "retry-after" in answer.headers
    assert world.desk.store.get(hold.id) == hold
    assert world.answer(hold, "approve", by="ann").status_code == 200


def test_a_defect_is_an_answer_too_and_says_nothing_but_where_to_look(world, monkeypatch, caplog):
    def broken(*_arguments, **_named):
        raise RuntimeError("secret-detail")

    monkeypatch.setattr(world.desk.store, "list_holds", broken)
    answer = world.ask("GET", LIST, by="ann")
    assert error(answer, 500)["code"] == "internal"
    assert "secret-detail" not in answer.text
    assert "secret-detail" in caplog.text


def test_the_log_has_who_and_what_and_no_secret(world, caplog):
    caplog.set_level(logging.INFO, logger="interlock.web")
    hold = world.hold()
    world.ask("POST", f"{LIST}/{hold.id}/approve?token=in-the-query", by="ann", json={"digest": hold.digest})
    world.ask("GET", LIST, by="not-a-token")
    world.ask("GET", "/a%0d%0aforged%1b[2J")
    assert f"127.0.0.1 ann POST {LIST}/{hold.id}/approve 200" in caplog.text
    assert "127.0.0.1 - GET /api/v1/approvals 401" in caplog.text
    for secret in (world.tokens["ann"], "not-a-token", "in-the-query", "\x1b", "\nforged"):
        assert secret not in caplog.text
