"""The tests that every notifier must pass. Call `check_notifier` from your own test."""

from __future__ import annotations

import threading
from collections.abc import Callable

from interlock.approvals.hold import Hold
from interlock.approvals.notify import Notifier, NotifyError

TIMEOUT_S = 0.5


def example_hold(summary: str = "delete `build/`") -> Hold:
    """An example hold for a notification."""
    return Hold(
        id="hold_" + "0" * 31 + "1",
        seq=1,
        run="run_" + "0" * 32,
        proposal="p",
        action="a1",
        agent="coder",
        session=None,
        kind="tool_call",
        tool="fs.delete",
        tool_version="sha256:" + "0" * 64,
        summary=summary,
        reason="deleting is irreversible",
        parameters={"path": "build"},
        context=None,
        asked_digest="sha256:" + "1" * 64,
        digest="sha256:" + "1" * 64,
        requirements=(),
        files=(),
        started_by=None,
        separation=False,
        created_at_us=1_700_000_000_000_000,
        expires_at_us=1_700_000_600_000_000,
        status="pending",
    )


def check_notifier(
    working: Notifier,
    delivered: Callable[[], int],
    *,
    failing: Notifier | None = None,
    hanging: Notifier | None = None,
) -> None:
    """Check a notifier that reaches its receiver, one whose receiver refuses, and one whose receiver never answers.

    `delivered` counts the deliveries. Omit `failing` or `hanging` only if the notifier cannot fail or wait. Raises:
    AssertionError with the problem.
    """
    assert working.name, "a notifier must have a name"
    assert working.name.isprintable(), "its name must be printable"
    before = delivered()
    working.notify(example_hold(), TIMEOUT_S)
    assert delivered() == before + 1, "one call delivers once"
    working.notify(example_hold("\x1b[2J\a\u202e " + "\U0001f4a3" * 5000), TIMEOUT_S)
    assert delivered() == before + 2, "an unusual or long summary is also delivered"
    threads = [threading.Thread(target=working.notify, args=(example_hold(), TIMEOUT_S)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20 * TIMEOUT_S)
        assert not thread.is_alive(), "concurrent calls must not block each other"
    assert delivered() == before + 6, "concurrent calls all deliver"
    for broken, what in ((failing, "a failure"), (hanging, "a receiver that does not answer")):
        if broken is not None:
            _check_raises(broken, what)


def _check_raises(notifier: Notifier, what: str) -> None:
    raised: list[BaseException | None] = []

    def run() -> None:
        try:
            notifier.notify(example_hold(), TIMEOUT_S)
            raised.append(None)
        except BaseException as error:  # noqa: BLE001 # whatever it is, it is judged below
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20 * TIMEOUT_S)
    assert not thread.is_alive(), f"{what} must end at the time limit"
    assert isinstance(raised[0], NotifyError), f"{what} must raise NotifyError, not {raised[0]!r}"
    assert "delete" not in raised[0].message, "the message must not repeat anything of the hold"
