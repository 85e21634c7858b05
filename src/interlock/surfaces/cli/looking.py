"""Shared by the commands that show past runs: options that select actions, and an action as one line."""

from __future__ import annotations

import datetime as dt
import re
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from interlock.lazy import lazy
from interlock.model.errors import UsageError
from interlock.surfaces.cli.ids import TOOL
from interlock.surfaces.cli.output import Output, clean
from interlock.surfaces.cli.results import MARKS

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

if TYPE_CHECKING:
    from interlock.engine.inspect.actions import ActionLine

LINE_WIDTH: Final = 100
"""Columns of a line if the output is not a terminal."""
_F = TypeVar("_F", bound=Callable[..., Any])
_AGENT_WIDTH: Final = 8
_SUBJECT_MIN: Final = 10
"""Least columns for the tool and its subject on a narrow terminal."""
SHORT_ID: Final = 12
"""Characters of a run's id that suffice to identify it."""


class Choice(msgspec.Struct, frozen=True):
    """Which actions to show; None selects all."""

    since_us: int | None = None
    agent: str | None = None
    tool: str | None = None
    pattern: re.Pattern[str] | None = None

    @property
    def needs_actions(self) -> bool:
        """True if runs must be read to decide whether they are selected."""
        return self.tool is not None or self.pattern is not None

    def wants(self, line: ActionLine) -> bool:
        """True if an action is selected."""
        if self.since_us is not None and line.at_us < self.since_us:
            return False
        if self.agent is not None and line.agent != self.agent:
            return False
        if self.tool is not None and not fnmatchcase(line.tool, self.tool):
            return False
        return self.pattern is None or self.pattern.search(_searched(line)) is not None

    def title(self, session: str | None) -> str:
        """The selection as the title of a page."""
        since = (
            None if self.since_us is None else dt.datetime.fromtimestamp(self.since_us / 1e6, tz=dt.UTC).astimezone()
        )
        parts = (
            since and f"since {since:%Y-%m-%d %H:%M:%S}",
            session and f"session {session}",
            self.agent and f"agent {self.agent}",
            self.tool and f"tool {self.tool}",
            self.pattern and f"with {self.pattern.pattern}",
        )
        return "Runs " + ", ".join(part for part in parts if part)


def choosing(command: _F) -> _F:
    """The options `--since`, `--agent`, `--tool` and `--grep`, which `choice` takes."""
    for option in (
        click.option("--grep", metavar="PATTERN", help="Only actions whose tool, parameters or error match."),
        click.option("--tool", metavar="TOOL", type=TOOL, help="Only actions of this tool or pattern, such as `git.*`."),
        click.option("--agent", metavar="NAME", help="Only runs of this agent."),
        click.option("--since", metavar="WHEN", help="Only since then: 12h (ago), 2d, 2026-11-26, 2026-11-26T22:00."),
    ):  # fmt: skip
        command = option(command)
    return command


def choice(since: str | None, agent: str | None, tool: str | None, grep: str | None) -> Choice:
    """The selection by the options. Raises: UsageError."""
    try:
        pattern = None if grep is None else re.compile(grep, re.IGNORECASE)
    except (re.error, OverflowError, RecursionError) as error:
        hint = r"a backslash makes a special character ordinary: `\(`"
        raise UsageError(f"`--grep` is not a regular expression: {error}", hint=hint) from None
    return Choice(None if since is None else _moment(since), agent, tool, pattern)


def _moment(text: str) -> int:
    from interlock.engine.local.clock import SystemClock  # noqa: PLC0415 - start-up
    from interlock.model.units import duration_ms  # noqa: PLC0415 - start-up

    try:
        return SystemClock().now_us() - duration_ms(text) * 1000
    except ValueError:
        pass
    try:
        return int(dt.datetime.fromisoformat(text).astimezone().timestamp() * 1_000_000)
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            "`--since` is neither a duration nor a time", hint="such as `12h`, `2026-11-26` or `2026-11-26T22:00`"
        ) from None


def _searched(line: ActionLine) -> str:
    """The text that `--grep` searches; redacted, like everything that is shown."""
    parameters = "" if line.parameters is None else msgspec.json.encode(line.parameters).decode()
    parts = (line.tool, line.action_id, line.about, parameters, line.reason, line.error)
    return "\n".join(part for part in parts if part)


def line_width() -> int:
    """The maximum length of a line: the terminal's width, or 100 without one."""
    return shutil.get_terminal_size((LINE_WIDTH, 24)).columns if sys.stdout.isatty() else LINE_WIDTH


def action_line(out: Output, line: ActionLine, *, width: int, run: bool = True, date: bool = True) -> str:
    """An action on one line: time, run, agent, status, tool, subject, and why it did not succeed."""
    word, color = MARKS.get(line.shown_status, (line.shown_status, "dim"))
    moment = dt.datetime.fromtimestamp(line.at_us / 1e6, tz=dt.UTC).astimezone()
    head = f"{moment:%m-%d %H:%M:%S} " if date else f"{moment:%H:%M:%S} "
    head += f"{clean(line.run_id)[:SHORT_ID]} {clean(line.agent)[:_AGENT_WIDTH]:{_AGENT_WIDTH}} " if run else ""
    why = f"  ({line.reason})" if line.reason and line.shown_status not in ("succeeded", line.reason) else ""
    shown = clean(f"{line.tool} {line.about or line.action_id}".strip())
    room = max(_SUBJECT_MIN, width - len(head) - 12 - len(why))
    shown = shown if len(shown) <= room else shown[: room - 3] + "..."
    return f"{out.paint(head, 'dim')}{out.paint(f'{word:11}', color)} {shown}{clean(why)}"
