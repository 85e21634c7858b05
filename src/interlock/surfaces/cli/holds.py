"""Renders a question for people."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from interlock.engine.people.answers import Hold
from interlock.surfaces.cli.output import Output, brief, clean
from interlock.surfaces.cli.results import when

_WIDTH = 2_000
"""A parameter longer than this is cut, unless the question is shown in full."""

_FILES = 16
"""More files than this are only counted, unless the question is shown in full. All of them are still checked for changes."""


_HIDDEN = re.compile(r"\[redacted:[a-z0-9-]+:[0-9a-f]{8}\]")


def is_cut(hold: Hold) -> bool:
    """True if `hold_lines` shortens the question unless asked for all of it."""
    return len(hold.files) > _FILES or any(len(text) > _WIDTH for _, text in _parameters(hold))


def hidden(hold: Hold) -> int:
    """A phrase that counts the redacted parameter values; empty if there are none."""
    return sum(len(_HIDDEN.findall(f"{name} {text}")) for name, text in _parameters(hold))


def _parameters(hold: Hold) -> Iterator[tuple[str, str]]:
    parameters = hold.parameters if isinstance(hold.parameters, dict) else {"parameters": hold.parameters}
    for name, value in parameters.items():
        yield name, value if isinstance(value, str) else msgspec.json.encode(value).decode()


def hold_lines(out: Output, hold: Hold, *, full: bool = False) -> Iterator[str]:
    """The question: who wants to do what, why approval is needed, until when, and every parameter."""
    title = f"{clean(hold.agent)} asks: {brief(hold.summary, 200)}"
    yield out.paint(title, "bold") + f"  ({clean(hold.id)}, {hold.status})"
    if hold.reason:
        yield f"  why:    {clean(hold.reason)}"
    for need in hold.requirements:
        group = f"{need.quorum} of group `{clean(need.group)}`" if need.group else f"{need.quorum} approver"
        yield f"  needs:  {group} (policy `{clean(need.policy)}`)"
    yield f"  until:  {when(hold.expires_at_us)}"
    yield f"  run:    {clean(hold.run)}  action {clean(hold.action)}"
    for name, text in _parameters(hold):
        shown = (
            text
            if full or len(text) <= _WIDTH
            else text[:_WIDTH] + f"... ({len(text)} characters; `show` shows it all)"
        )
        first, *rest = clean(shown, lines=True).split("\n")
        yield f"  {clean(name)} = {first}"
        yield from (f"      {line}" for line in rest)
    if undone_by := hold.context.get("compensation") if isinstance(hold.context, dict) else None:
        yield f"  undo:   by `{clean(str(undone_by))}`, which is approved with it"
    for file in hold.files if full else hold.files[:_FILES]:
        yield f"  file:   {clean(file.path)} ({'there already; asked again if it changes' if file.there else 'not there yet'})"
    if not full and len(hold.files) > _FILES:
        yield f"  file:   and {len(hold.files) - _FILES} more (`show` shows it all)"
    if full:
        yield f"  tool:   {clean(hold.tool)} {clean(hold.tool_version)}"
        yield f"  digest: {clean(hold.digest)}"
        yield f"  context: {clean(msgspec.json.encode(hold.context).decode())}"
    if count := hidden(hold):
        values = f"{count} value{'s are' if count > 1 else ' is'} hidden, each as `[redacted:...]`"
        yield f"  hidden: {values}; `interlock approvals show {clean(hold.id)} --original` shows them; this is recorded"
    if not full and is_cut(hold):
        yield out.paint("  NOT ALL of this question is shown", "yellow") + "; see all of it (`show`) before you approve"
    for vote in hold.votes:
        yield f"  {clean(vote.display)}: {vote.decision} by {vote.surface} at {when(vote.at_us)} {clean(vote.reason)}".rstrip()
