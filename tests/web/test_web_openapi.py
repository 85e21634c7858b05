"""The OpenAPI document says what the server does: compared with the routes, and fuzzed against the real application."""

import msgspec
import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection

from interlock.approvals import HoldRequest
from interlock.detect import Redactor
from interlock.disk import Database
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.engine.people.answers import Answering
from interlock.engine.people.approval_desk import Desk
from interlock.model.errors import ProposalError
from interlock.model.limits import DEFAULT_LIMITS
from interlock.model.values import check_value
from interlock.surfaces.web import openapi
from interlock.surfaces.web.app import build

QUESTION = HoldRequest(agent="coder", summary="s", digest="sha256:" + "a" * 64)
document = openapi.document()
APPROVAL = "/api/v1/approvals/{hold_id}"
operations = {(path, method): op for path, item in document["paths"].items() for method, op in item.items()}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An application, the desk behind it, and a token that may answer."""
    directory = tmp_path_factory.mktemp("fuzz")
    db = Database(directory / "interlock.db")
    desk = Desk(
        db, directory, SystemClock(), SystemIds(), boot="boot", user="starter", redactor=Redactor(b"k" * 32), groups={},
        ttl_ms=600_000, separation=False,
    )  # fmt: skip
    token = desk.approvers.add("ann")
    desk.forget_failures = lambda: db.execute("delete from approvers_attempts")
    app = build(Answering(desk, "rest"), SystemClock(), lambda name: name in ("localhost", "testserver"))
    yield app, desk, token
    db.close()


@pytest.fixture(scope="module")
def schema(world):
    """The document as the application serves it."""
    found = schemathesis.openapi.from_asgi("/api/v1/openapi.json", world[0])
    # 422 is what the schema cannot say: terms of a standing answer that make no sense for this question.
    accepted = found.config.checks.positive_data_acceptance
    accepted.expected_statuses = [*accepted.expected_statuses, "422"]
    return found


def sayable(body):
    """False for what JSON Schema lets through and we do not: 3.0 for an integer, and integers that readers disagree about."""
    if any(isinstance(body.get(name), float) for name in ("ttl_ms", "uses")):
        return False
    try:
        check_value(body, "$", DEFAULT_LIMITS)
    except ProposalError:
        return False
    return True


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        *((*key, GenerationMode.POSITIVE) for key in operations),
        *((*key, GenerationMode.NEGATIVE) for key, op in operations.items() if "parameters" in op),
    ],
)
def test_the_server_keeps_to_the_document_whatever_it_is_sent(world, schema, path, method, mode):
    _, desk, token = world
    operation = schema[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case):
        desk.forget_failures()  # it tries wrong tokens too, and would have to wait
        if method == "post" and mode is GenerationMode.POSITIVE:
            # Aim at a question that waits, in its present form, or every answer would be 404 or `changed`.
            (hold, *_) = desk.store.list_holds() or [desk.store.ask(QUESTION)]
            case.path_parameters["hold_id"] = hold.id
            assume(sayable(case.body))
            if case.body.get("digest") is not None:
                case.body["digest"] = hold.digest
        # A query is text: the list [1] and the number 1 look the same there, so what was meant as wrong may be right.
        unsure = [negative_data_rejection] if method == "get" else []
        case.call_and_validate(headers={"Authorization": f"Bearer {token}"}, excluded_checks=unsure)

    check()
    if (path, mode) == (f"{APPROVAL}/approve", GenerationMode.POSITIVE):
        assert desk.store.list_holds("approved"), "otherwise all that was sent was refused, and nothing is shown"


def test_every_route_is_in_the_document_and_says_who_may_ask(world):
    app = world[0]
    routes = {(route.path, method.lower()) for route in app._app.routes for method in route.methods if method != "HEAD"}
    assert routes == set(operations)
    for (path, _), operation in operations.items():
        public = path in ("/healthz", "/api/v1/openapi.json")
        assert operation["security"] == ([] if public else [{"token": []}])
        assert ("401" in operation["responses"]) != public


def test_every_reference_of_the_document_leads_somewhere():
    text = msgspec.json.encode(document).decode()
    references = {part.partition('"')[0] for part in text.split('"$ref":"')[1:]}
    assert references == {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
