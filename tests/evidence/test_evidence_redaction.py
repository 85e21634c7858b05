"""No secret leaves with an archive: what was redacted at home is found wherever it comes up again, and the sweep fails closed."""

from __future__ import annotations

import io
import json

import msgspec
import pytest
from evidence_world import (
    FINISHED,
    KEY,
    RUN,
    Run,
    command,
    decided,
    digest_of,
    intent,
    kernel_lines,
    succeeded,
    tool_call,
)

from interlock.detect import Redactor
from interlock.evidence import export as exporting
from interlock.evidence.redaction import Redaction
from interlock.model import events as e
from interlock.model.canonical import canonical, keyed_digest
from interlock.model.errors import IntegrityError
from interlock.verification.verify import verify

TOKEN = "ghp_" + "q7Zk2Lw9Xv4Bn8Rt1Yp6Mc3Hd5Jf0GsAaEuQ"
PASSWORD = "blue horse battery 77"
"""No shape gives it away: only the tool's schema says that it is a secret."""
WHERE = {"proposal": "p", "action": "a", "attempt": 1}


def kept(view, original):
    return e.Kept(digest=keyed_digest(b"r" * 32, "value", canonical(original)), bytes=1, view=view, private=True)


@pytest.fixture
def marked(tmp_path):
    """A run in which a schema has marked a parameter as secret; its original is kept beside the journal."""
    original = {"user": "ann", "password": PASSWORD}
    view = {"user": "ann", "password": Redactor(KEY).fingerprint("marked", PASSWORD)}
    parameters = kept(view, original)

    def make(*events, kernel=()):
        run = Run(tmp_path, decided(), intent(parameters=parameters), *events, FINISHED)
        run.kernel = list(kernel)
        return run.export(tmp_path, original={parameters.digest: original}.get)

    return make


def log(text, action="a"):
    return e.ActionLog(proposal="p", action=action, step=9, message=text)


def absent(archive, *secrets):
    for secret in secrets:
        assert secret.encode() not in archive.tar, secret


def test_a_marked_secret_is_found_wherever_it_comes_up_again(marked):
    output = e.Kept(digest="sha256:" + "0" * 64, bytes=1, view={"stdout": f"welcome\nPASSWORD {PASSWORD}!\n"})
    done = e.ActionSucceeded(proposal="p", action="a", step=10, attempt=1, duration_ms=1, output=output)
    kernel = kernel_lines(
        {"call": "execve", "path": "/bin/login", "argv": ["login", f"--with={PASSWORD}"]},
        {"call": "openat", "path": f"/tmp/{PASSWORD}/file", "access": "read"},
        **WHERE,
    )
    archive = marked(log(f"it is {PASSWORD}"), done, kernel=kernel)
    absent(archive, PASSWORD)
    fingerprint = Redactor(KEY).fingerprint("known", PASSWORD)
    assert archive.claim("files_read") == [f"/tmp/{fingerprint}/file"]
    assert "redacted_after_sealing" in archive.health["notes"]


WORDS = [
    "action_intent",
    "action_log",
    "proposal",
    "attempt",
    "openat",
    "inet6",
    "read",
    "interlock.layer",
    RUN,
    RUN[:9],
    "action_intent and more",
    f"{RUN} and more",
    "more of an action_intent",
]


@pytest.mark.parametrize("word", WORDS)
def test_a_secret_that_is_a_word_of_the_format_hides_nothing_else(tmp_path, word):
    """An agent chooses the values of its parameters: none may take a line, a claim or the export away."""
    original = {"password": word}
    view = {"password": Redactor(KEY).fingerprint("marked", word)}
    parameters = kept(view, original)
    run = Run(tmp_path, decided(), intent(parameters=parameters), log("x"), succeeded(), FINISHED)
    run.kernel = kernel_lines(
        {"call": "openat", "path": "/w/in", "access": "read"},
        {"call": "connect", "family": "inet6", "host": "::1", "port": 5},
        **WHERE,
    )
    archive = run.export(tmp_path, original={parameters.digest: original}.get)
    assert verify(io.BytesIO(archive.data), ()).verdict.valid
    assert (archive.claim("files_read"), archive.claim("hosts")) == (["/w/in"], ["[::1]:5"])
    assert [line["kind"] for line in archive.events() if line["kind"] == "action_log"]
    assert archive.claim("tools")
    (shown,) = [line["parameters"]["view"] for line in archive.events() if line["kind"] == "action_intent"]
    assert shown == view


def test_a_redacted_event_names_the_sealed_one_by_a_keyed_digest(marked):
    archive = marked(log(f"it is {PASSWORD}"), log("nothing"))
    by_message = {line["message"]: line for line in archive.events() if line["kind"] == "action_log"}
    fingerprint = Redactor(KEY).fingerprint("known", PASSWORD)
    plain, redacted = by_message["nothing"], by_message[f"it is {fingerprint}"]
    assert "sealed" not in plain
    sealed = {k: v for k, v in redacted.items() if k not in ("schema", "run_id", "sealed")} | {
        "message": f"it is {PASSWORD}"
    }
    assert redacted["sealed"] == Redaction(KEY).sealed(json.dumps(sealed, separators=(",", ":")).encode())


@pytest.mark.parametrize("cut", [8, 10, 13])
def test_pieces_of_a_known_secret_in_two_events_are_found(marked, cut):
    archive = marked(log(f"first {PASSWORD[:cut]}"), log(f"{PASSWORD[cut:]} last"), log("between"))
    assert "[redacted:piece:" in archive.tar.decode()
    absent(archive, PASSWORD[: max(cut, 8)], PASSWORD[min(cut, len(PASSWORD) - 8) :])


@pytest.mark.parametrize("cut", [8, 10, 13])
def test_pieces_of_a_known_secret_in_one_text_are_found(marked, cut):
    archive = marked(log(f"printf '{PASSWORD[:cut]}'; printf '{PASSWORD[cut:]}'; echo"))
    assert "[redacted:piece:" in archive.tar.decode()
    absent(archive, PASSWORD[: max(cut, 8)], PASSWORD[min(cut, len(PASSWORD) - 8) :])


@pytest.mark.parametrize("cut", [6, 20, 34])
def test_a_token_in_two_messages_is_found_by_its_shape(tmp_path, cut):
    events = (log(f"begins {TOKEN[:cut]}"), log("of another", "b"), log(f"{TOKEN[cut:]} ends"))
    archive = Run(tmp_path, decided(), intent(), *events, succeeded(), FINISHED).export(tmp_path)
    absent(archive, TOKEN[:cut], TOKEN[cut:])
    assert any(line.get("message") == "of another" for line in archive.events())


def test_tokens_in_the_layers_are_replaced(tmp_path):
    lines = [tool_call(0, "c", arguments={"key": TOKEN})]
    encoded = [msgspec.json.encode(line, order="sorted") + b"\n" for line in lines]
    closing = e.SdkRecorded(
        shim="openai-agents", hooked=1, writers=1, records=1, dropped=0, rejected=0, digest=digest_of(encoded)
    )
    run = Run(tmp_path, command("openai-agents", recorder="notify"), closing, FINISHED)
    run.sdk = encoded
    run.kernel = kernel_lines({"call": "openat", "path": f"/tmp/{TOKEN}", "access": "write"})
    archive = run.export(tmp_path)
    absent(archive, TOKEN)
    (call,) = [line for line in archive.lines("layers/kernel.ndjson") if line["kind"] == "call"]
    assert call["redacted"] is True
    assert archive.claim("files_written") == [call["path"]]


def test_the_sweep_fails_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(Redaction, "clean", lambda self, line, searched=None: line)
    run = Run(tmp_path, decided(), intent(), log(f"it is {TOKEN}"), FINISHED)
    with pytest.raises(IntegrityError) as caught:
        run.export(tmp_path)
    assert caught.value.code == "secret_in_archive"
    assert caught.value.path == "events.ndjson:4"
    assert TOKEN not in str(caught.value)


def test_the_sweep_sees_known_secrets_too(marked, monkeypatch):
    monkeypatch.setattr(Redaction, "clean", lambda self, line, searched=None: line)
    with pytest.raises(IntegrityError) as caught:
        marked(log(f"it is {PASSWORD}"))
    assert caught.value.code == "secret_in_archive"


def test_the_sweep_reads_the_documents(tmp_path, monkeypatch):
    run = Run(tmp_path, decided(), intent(), FINISHED)
    real = exporting.documents_of

    def with_secret(observed):
        made = real(observed)
        health = msgspec.structs.replace(made.health, platform=TOKEN)
        return msgspec.structs.replace(made, health=health)

    monkeypatch.setattr(exporting, "documents_of", with_secret)
    with pytest.raises(IntegrityError) as caught:
        run.export(tmp_path)
    assert caught.value.path == "observation-health.json:1"


def test_the_shape_of_events_survives_redaction(tmp_path):
    """Names such as `tokens` and `grant_token` are of the format: only texts are looked at."""
    run = Run(tmp_path, decided(), intent(tokens=5), log(f"{TOKEN}"), succeeded(tokens=7), FINISHED)
    events = {line["kind"]: line for line in run.export(tmp_path).events()}
    assert (events["action_intent"]["tokens"], events["action_succeeded"]["tokens"]) == (5, 7)
    assert events["run_started"]["run"] == RUN
