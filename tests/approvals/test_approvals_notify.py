"""Notifiers: they tell people, they fail without consequence, and they never hold a question up."""

import hashlib
import hmac
import http.server
import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from interlock.approvals import HoldRequest, Notifications, NotifyError
from interlock.approvals import notify as notify_module
from interlock.approvals.notifiers import Command, TerminalBell, Webhook, slack_message
from interlock.model.decision import Requirement
from interlock.model.errors import ConfigurationError
from interlock.testing.notifiers import check_notifier, example_hold

SECRET = b"shared secret"


class Receiver:
    """A web server on the loopback that keeps what it gets and answers as told."""

    def __init__(self):
        self.got = []
        self.answers = []
        self.released = threading.Event()
        self.hang = False
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.hang:
                    receiver.released.wait(20)
                receiver.got.append((self.path, dict(self.headers), body))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 200)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?x=1"

    def close(self):
        self.released.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def receiver():
    receiver = Receiver()
    yield receiver
    receiver.close()


class Recording:
    name = "recording"

    def __init__(self, behaviour=lambda hold: None):
        self.told = []
        self.behaviour = behaviour

    def notify(self, hold, timeout_s):
        self.told.append(hold.id)
        self.behaviour(hold)


def notifications(store, *notifiers, timeout_s=0.2):
    return Notifications(notifiers, store.audit, store.time, timeout_s=timeout_s, back_off_s=0.01)


def problems(store):
    return [(r.who, r.detail["problem"]) for r in store.audit.records() if r.event == "notify_failed"]


def ask(store, **fields):
    return store.ask(HoldRequest(**{"agent": "coder", "summary": "s", "digest": "d", **fields}))


def test_a_webhook_is_signed_and_in_slacks_shape(receiver, store):
    hold = ask(
        store,
        summary="<!channel> & <http://evil|ok>",
        requirements=(Requirement(policy="p", content="c", group="ops"),),
    )
    Webhook(receiver.url, None, store.time).notify(hold, 5)  # for a URL that is itself the secret
    assert "X-Interlock-Signature" not in receiver.got.pop()[1]
    Webhook(receiver.url, SECRET, store.time).notify(hold, 5)
    [(path, headers, body)] = receiver.got
    assert path == "/hook?x=1"
    timestamp = headers["X-Interlock-Timestamp"]
    assert int(timestamp) == store.time.now_us() // 1_000_000
    expected = hmac.new(SECRET, b"v1:" + timestamp.encode() + b":" + body, hashlib.sha256).hexdigest()
    assert headers["X-Interlock-Signature"] == "v1=" + expected
    message = json.loads(body)
    assert "<" not in message["text"]
    assert message["blocks"][0]["text"]["text"] == message["text"]
    assert hold.id in message["text"]
    assert message["metadata"]["event_payload"]["groups"] == ["ops"]


def test_a_message_stays_within_slacks_limits():
    assert len(slack_message(example_hold("<" * 5000))["text"]) < 3000


def test_a_webhook_passes_the_conformance_suite(receiver, store):
    refusing, hanging = Receiver(), Receiver()
    refusing.answers = [500] * 9
    hanging.hang = True
    try:
        check_notifier(
            Webhook(receiver.url, SECRET, store.time),
            lambda: len(receiver.got),
            failing=Webhook(refusing.url, SECRET, store.time),
            hanging=Webhook(hanging.url, SECRET, store.time),
        )
    finally:
        refusing.close()
        hanging.close()


def test_a_command_passes_the_conformance_suite(tmp_path):
    out = tmp_path / "out"
    script = "import sys; f = open(sys.argv[1], 'ab'); f.write(b'x'); f.close(); sys.stdin.read()"
    check_notifier(
        Command([sys.executable, "-c", script, str(out)], {}),
        lambda: out.stat().st_size if out.exists() else 0,
        failing=Command([sys.executable, "-c", "raise SystemExit(3)"], {}),
        hanging=Command([sys.executable, "-c", "import time; time.sleep(60)"], {}),
    )


def test_a_bell_passes_the_conformance_suite():
    controller, terminal = os.openpty()
    rung = bytearray()

    def delivered():
        del rung[-1:]
        os.write(terminal, b".")  # what was written before comes before it, though not at once
        while not rung.endswith(b"."):
            rung.extend(os.read(controller, 100))
        return rung.count(b"\a")

    check_notifier(TerminalBell(os.ttyname(terminal)), delivered)
    os.close(controller)
    os.close(terminal)
    TerminalBell("/nowhere/at/all").notify(example_hold(), 1)


def test_a_command_gets_the_question_on_its_standard_input_and_nothing_of_our_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    out = tmp_path / "out"
    script = f"import os, sys; open({str(out)!r}, 'w').write(sys.stdin.read() + repr('TOKEN' in os.environ))"
    Command([sys.executable, "-c", script], {}).notify(example_hold(), 5)
    text = out.read_text()
    assert text.endswith("False")
    assert json.loads(text.removesuffix("False"))["id"] == example_hold().id


def test_a_command_runs_where_no_agent_writes(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(1)")  # what an agent may leave in the workspace
    monkeypatch.chdir(tmp_path)
    code = "import json, os, pathlib; pathlib.Path(os.environ['OUT']).write_text(os.getcwd())"
    Command([sys.executable, "-c", code], {"OUT": str(tmp_path / "out")}).notify(example_hold(), 10)
    assert (tmp_path / "out").read_text() == "/"
    for argv in ([], ["./notify.sh"], ["bin/notify"]):
        with pytest.raises(ConfigurationError):
            Command(argv, {})


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path):
    pid = tmp_path / "pid"
    command = Command(["/bin/sh", "-c", f"sleep 60 & echo $! > {pid}; wait"], {"PATH": os.environ["PATH"]})
    with pytest.raises(NotifyError):
        command.notify(example_hold(), 0.5)
    child = int(pid.read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    pytest.fail("the child lives on")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://x/",
        "file:///etc/passwd",
        "https://",
        "http://x:99999/",
        "http://[::1/",
        "http://x/a b",
        "http://x/\u00fc",
    ],
)
def test_a_webhook_needs_a_web_address(store, url):
    with pytest.raises(ConfigurationError):
        Webhook(url, SECRET, store.time)


def test_a_webhook_needs_a_secret(store):
    with pytest.raises(ConfigurationError):
        Webhook("https://hooks.example.org/", b"", store.time)


@pytest.mark.parametrize(
    ("answers", "tries"), [([500, 503, 200], 3), ([500] * 9, 3), ([429, 200], 2), ([404], 1), ([302], 1)]
)
def test_it_is_tried_again_when_that_may_help(receiver, store, answers, tries):
    receiver.answers = list(answers)
    told = notifications(store, Webhook(receiver.url, SECRET, store.time), timeout_s=5)
    told.tell(ask(store))
    assert told.drain(10)
    assert len(receiver.got) == tries
    failed = [] if answers[tries - 1] == 200 else [("webhook", f"the webhook responded with {answers[tries - 1]}")]
    assert problems(store) == failed


def test_a_refused_connection_is_recorded_and_does_not_name_the_address(store):
    told = notifications(store, Webhook("http://127.0.0.1:1/T000/secret", SECRET, store.time))
    told.tell(ask(store))
    assert told.drain(10)
    assert problems(store) == [("webhook", "the webhook could not be reached: ConnectionRefusedError")]


def test_a_dead_notifier_delays_neither_the_question_nor_the_others(store):
    stop = threading.Event()
    dead, living = Recording(lambda hold: stop.wait(20)), Recording()
    dead.name = "dead"
    told = notifications(store, dead, living, timeout_s=0.05)
    started = time.monotonic()
    holds = [ask(store) for _ in range(5)]
    for hold in holds:
        told.tell(hold)
    assert time.monotonic() - started < 5
    assert told.drain(15)
    assert living.told == [h.id for h in holds]
    assert len(dead.told) == 3, "after that it is left alone"
    assert [p for who, p in problems(store) if who == "dead"] == ["did not return within its time limit"] * 3 + [
        "disabled after it hung"
    ] * 2
    stop.set()


def test_a_notifier_that_raises_anything_is_recorded_by_kind_only(store):
    def broken(hold):
        raise ValueError("holds a secret")

    notifier = Recording(broken)
    told = notifications(store, notifier)
    told.tell(ask(store))
    assert told.drain(10)
    assert len(notifier.told) == 3
    assert problems(store) == [("recording", "raised ValueError")]


def test_a_record_that_cannot_be_written_does_not_end_the_telling(world, store):
    failing = Recording(lambda hold: (_ for _ in ()).throw(NotifyError("no", permanent=True)))
    told = notifications(store, failing)
    first, second = ask(store), ask(store)
    world.database().execute(
        "create trigger full before insert on approvals_audit begin select raise(abort, 'no'); end"
    )
    told.tell(first)
    told.tell(second)
    assert told.drain(10)
    assert failing.told == [first.id, second.id]


def test_a_failure_is_over_when_the_next_one_works(store):
    answers = iter([NotifyError("no", permanent=True), None])

    def behaviour(hold):
        if (error := next(answers)) is not None:
            raise error

    told = notifications(store, Recording(behaviour))
    told.tell(ask(store))
    told.tell(ask(store))
    assert told.drain(10)
    assert problems(store) == [("recording", "no")]


def test_a_notifier_that_falls_behind_loses_some_and_that_is_recorded(store, monkeypatch):
    monkeypatch.setattr(notify_module, "QUEUE_MAX", 1)
    go, busy = threading.Event(), threading.Event()

    def slow(hold):
        busy.set()
        go.wait(20)

    notifier = Recording(slow)
    told = notifications(store, notifier, timeout_s=20)
    holds = [ask(store) for _ in range(3)]
    told.tell(holds[0])
    assert busy.wait(10)
    told.tell(holds[1])
    told.tell(holds[2])
    go.set()
    assert told.drain(10)
    assert notifier.told == [holds[0].id, holds[1].id]
    assert problems(store) == [("recording", "the queue was full; this notification and maybe others were dropped")]


def test_a_command_that_is_not_there_is_not_tried_again():
    with pytest.raises(NotifyError) as caught:
        Command(["/nowhere/at/all"], {}).notify(example_hold(), 1)
    assert caught.value.permanent
    with pytest.raises(ConfigurationError):
        Command([], {})
