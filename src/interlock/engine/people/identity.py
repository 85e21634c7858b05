"""Opens the workspace's desk for a command, and checks a person's proof of being an approver.

Running as the user's uid proves little, because an agent runs as that uid too. So once approvers are registered, an answer needs
a token, or a PIN typed at a terminal; only the prompt of the run that asks needs neither. Without approvers the local user may
answer from anywhere, and `doctor` says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from interlock.approvals import AccessError, Approver, Outcome
from interlock.approvals.hold import ANY_GROUP
from interlock.detect import Redactor
from interlock.disk import Disk
from interlock.engine.local.clock import SystemClock, SystemIds
from interlock.engine.local.location import Place, last_trusted_warning, locate, open_database
from interlock.engine.local.machine import boot_id, redaction_key, user_name
from interlock.engine.people.approval_desk import Desk
from interlock.lazy import lazy
from interlock.model.errors import ConfigurationError, ConflictError, UsageError
from interlock.settings.sections import DEFAULTS, Settings

if TYPE_CHECKING:
    from interlock.settings import last_trusted, trust
    from interlock.settings import load as loading
else:
    last_trusted = lazy("interlock.settings.last_trusted")
    loading = lazy("interlock.settings.load")
    trust = lazy("interlock.settings.trust")

_REFUSALS = {
    "agent_may_not_approve": "an agent never answers its own holds",
    "separation": "the user who started the run may not answer its holds",
    "not_in_group": "this hold is for other groups of approvers",
    "changed": "the hold is no longer the one that was shown",
}


class Proof(NamedTuple):
    """A person's proof of identity: a token, or a name and a PIN, or nothing."""

    token: str | None = None
    name: str | None = None
    pin: str | None = None


@contextmanager
def open_desk(
    start: Path, env: Mapping[str, str], *, trusted: bool = True, warn: Callable[[str], None] | None = None
) -> Iterator[Desk]:
    """The desk of the project that `start` belongs to.

    The groups of approvers are those of its configuration; with `trusted=False` it is not read, and only the database's groups
    count. With `warn`, if the configuration cannot be read or is not trusted, the groups are the last trusted ones, as in every
    running process, and `warn` is called with the reason. Without `warn` that is an error.

    Raises: ConfigurationError, StoreError, IntegrityError.
    """
    disk = Disk()
    place = locate(start, env, disk)
    settings = _settings(place, env, disk, warn) if trusted else DEFAULTS
    with desk_at(place, settings) as desk:
        if trusted:
            desk.issued.count(settings.all_grants())
        yield desk


@contextmanager
def desk_at(place: Place, settings: Settings = DEFAULTS) -> Iterator[Desk]:
    """The desk of a project whose place is known. Raises: StoreError, IntegrityError."""
    disk, asking = Disk(), settings.approvals
    db = open_database(place.home, disk)
    try:
        yield Desk(
            db, place.home, SystemClock(), SystemIds(), boot=boot_id(), user=user_name(),
            redactor=Redactor(redaction_key(place.state, disk)), groups=dict(asking.groups), ttl_ms=asking.ttl_ms,
            separation=asking.separation, agent_groups=settings.groups,
        )  # fmt: skip
    finally:
        db.close()


def _settings(place: Place, env: Mapping[str, str], disk: Disk, warn: Callable[[str], None] | None) -> Settings:
    store = trust.TrustStore(place.state, disk)
    try:
        return loading.load(place.root, env=env, flags={}, trust=store).settings
    except ConfigurationError as error:
        if warn is None:
            raise
        warn(last_trusted_warning(error))
        return last_trusted.load_last_trusted(place.root, env=env, trust=store).settings


def identify(desk: Desk, proof: Proof) -> Approver:
    """The approver with this proof. Raises: AccessError (`unauthenticated`, `too_many_failures`)."""
    if proof.token is not None:
        return desk.approvers.by_token(proof.token, "command line")
    if proof.pin is not None:
        return desk.approvers.by_pin(proof.name or desk.user, proof.pin)
    if desk.approvers.all():
        raise AccessError(
            "approvers are configured, and nothing here proves to be one of them",
            hint="type the PIN at a terminal, or bring a token: `--token-file`, INTERLOCK_APPROVER_TOKEN",
        )
    return Approver(id=desk.user, display=desk.user, groups=(ANY_GROUP,))


def at_own_terminal(desk: Desk) -> Approver:
    """The person at the terminal of the run that asks: without proof, with the groups of their name."""
    rows = desk.approvers.all()
    if not rows:
        return Approver(id=desk.user, display=desk.user, groups=(ANY_GROUP,))
    groups = next((row.groups for row in rows if row.name == desk.user), ())
    return Approver(id=desk.user, display=desk.user, groups=groups)


def require(outcome: Outcome, hold_id: str) -> Outcome:
    """The outcome of an answer if it was accepted. Raises: UsageError `not_found`; ConflictError for every other refusal."""
    if outcome.code in ("resolved", "recorded"):
        return outcome
    if outcome.code == "not_found":
        raise UsageError(
            f"there is no approval `{hold_id}`",
            code="not_found",
            hint="`interlock approvals list` shows those that wait",
        )
    if outcome.code == "already_resolved":
        status = outcome.hold.status if outcome.hold is not None else "resolved"
        raise ConflictError(
            f"`{hold_id}` expired: no one had answered in time"
            if status == "expired"
            else f"`{hold_id}` was {status} already",
            code="already_resolved",
            hint="the call was denied; when it is proposed again, it is asked about again"
            if status == "expired"
            else f"`interlock approvals show {hold_id}` shows who answered",
        )
    hint = f"`interlock approvals show {hold_id}`" + (
        ", then answer with the `--digest` that it has now" if outcome.code == "changed" else ""
    )
    raise ConflictError(_REFUSALS[outcome.code], code=outcome.code, hint=hint)


def watch_holds(desk: Desk) -> int | None:
    """A descriptor that becomes readable when a hold has changed (close it); None if the kernel does not support this."""
    return desk.wake.watch()
