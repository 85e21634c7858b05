"""Runs the escape suite on this machine and reports the result of each attack, for `interlock doctor --attack` and the tests."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal, NamedTuple

from interlock.isolation.attack_range import ESCAPED, HUNG, NOBODY, STOPPED, Order
from interlock.isolation.attacks import ATTACKS, Attack
from interlock.isolation.wire import Profile
from interlock.server_process import module_command

Leg = Literal["native", "ns", "nons", "container"]
LEGS: Final[tuple[Leg, ...]] = ("native", "ns", "nons", "container")
_SYSTEM_PYTHON: Final = "/usr/bin/python3"
"""For the throw-away user, which may not be able to run Interlock's own Python."""
_LEG_S: Final = 900


class Row(NamedTuple):
    """The result of one attack behind the walls of one profile."""

    attack: str
    layer: str
    leg: Leg
    native: bool | None
    """Whether the attack succeeds without walls; None if that could not be tried."""
    result: str
    """`stopped`, `escaped`, `hung` (counts as an escape), `void`, or `not stopped by ...`.

    `void` means that the attack does not succeed natively either; `not stopped by ...` names a loss that is documented.
    """

    @property
    def ok(self) -> bool:
        """False for a result that must not occur."""
        return self.result not in (ESCAPED, HUNG)


def try_attacks(leg: Leg, *, user: int | None = None, only: Sequence[str] = ()) -> dict[str, str]:
    """Run one leg. Returns a map from attack to `escaped`, `stopped` or `hung`. As root, `user` is the user to switch to.

    Raises: OSError with the range's output if it could not be set up.
    """
    with _directory(user) as directory:
        other = user is not None or (leg == "native" and os.getuid() == 0)
        python = _SYSTEM_PYTHON if other and os.access(_SYSTEM_PYTHON, os.X_OK) else os.path.realpath(sys.executable)
        order: Order = {"leg": leg, "user": user, "directory": directory, "only": list(only)}
        command = [*module_command("interlock.isolation.attack_range", python=python), json.dumps(order)]
        done = subprocess.run(command, capture_output=True, timeout=_LEG_S, check=False, env={"LC_ALL": "C.UTF-8"})
        try:
            found: dict[str, str] = json.loads(done.stdout)
        except ValueError as error:
            stderr = done.stderr.decode("utf-8", "replace").strip()[-2000:]
            raise OSError(f"the range could not be set up: {stderr or f'exit code {done.returncode}'}") from error
    return found


def table(legs: Sequence[Leg]) -> list[Row]:
    """Try every attack natively and behind each profile, all concurrently.

    If the native leg cannot be set up (it needs namespaces), its column is unknown. Raises: OSError.
    """
    with ThreadPoolExecutor(len(legs) + 1) as pool:
        shown = pool.submit(_try_natively)
        walled = [pool.submit(try_attacks, leg) for leg in legs]
        native, found = shown.result(), [one.result() for one in walled]
    return [
        _row(attack, leg, None if native is None else native[attack.name] == ESCAPED, results[attack.name])
        for leg, results in zip(legs, found, strict=True)
        for attack in ATTACKS
    ]


def _try_natively() -> dict[str, str] | None:
    try:
        return try_attacks("native")
    except OSError:
        return None


def _row(attack: Attack, leg: Leg, native: bool | None, result: str) -> Row:
    if result == ESCAPED and profile_of(leg) in attack.losses:
        result = f"not stopped by `{profile_of(leg)}`"
    elif result == STOPPED and native is False:
        result = "void"
    return Row(attack.name, attack.layer, leg, native, result)


def profile_of(leg: Leg) -> Profile:
    """Returns the profile of the walls in a leg."""
    return "ns" if leg == "ns" else "nons"


@contextlib.contextmanager
def _directory(user: int | None) -> Iterator[str]:
    """Yields a directory owned by the leg's user; removed afterwards."""
    made = tempfile.mkdtemp(prefix="interlock-attack-", dir="/var/tmp")
    owner = NOBODY if user is None and os.getuid() == 0 else user
    try:
        if os.getuid() == 0 and owner is not None:
            os.chmod(made, 0o755)  # noqa: S103
            inner = os.path.join(made, "range")
            os.mkdir(inner)
            os.chown(inner, owner, owner)
            yield inner
        else:
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
