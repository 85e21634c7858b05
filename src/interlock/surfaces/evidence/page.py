"""The report of an archive as one HTML page that loads nothing: no script, no network, everything escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from interlock.surfaces.evidence.graph import graph
from interlock.surfaces.evidence.story import ActionStory, Places, Story, children
from interlock.verification.findings import ArchiveVerdict, Documents

_CHARS_MAX: Final = 4000
"""Maximum characters of one value."""
_LINES_MAX: Final = 500
"""Maximum entries of one kind in the list of everything touched."""
_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--good:#187a3c;--bad:#b3261e;--warn:#946200;--node:#8882}
@media (prefers-color-scheme:dark){:root{--good:#5fd38d;--bad:#ff8a80;--warn:#f0c05a}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem;margin:0}
pre{font:13px/1.4 ui-monospace,monospace;white-space:pre-wrap;margin:.4rem 0;padding:.5rem;
border:1px solid var(--line);border-radius:4px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dt{opacity:.7}dd{margin:0}
article{border-top:1px solid var(--line);padding:.6rem 0}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.2rem .6rem .2rem 0;
border-top:1px solid var(--line)}td:not(:last-child){white-space:nowrap}
.bar{position:relative;height:.5rem;background:var(--line);border-radius:3px}
.bar i{position:absolute;top:0;bottom:0;min-width:3px;background:currentColor;border-radius:3px}
ol,ul.tree{list-style:none;padding:0}ol li{margin:.5rem 0}ul.tree li{border-left:2px solid var(--line);padding-left:.5rem}
small{opacity:.75}article>small{display:block}.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}
.unseen{border:2px solid var(--warn);border-radius:6px;padding:.2rem 1rem}
.wide{overflow-x:auto}svg{max-width:none}svg text{font:13px ui-monospace,monospace;fill:currentColor}
svg rect{fill:var(--node);stroke:currentColor;stroke-opacity:.4}svg path{stroke:currentColor;fill:none;opacity:.6}
@media (max-width:30rem){dl{grid-template-columns:1fr}dt{margin-top:.4rem}body{padding:.6rem}}
@media print{:root{color-scheme:light;--good:#187a3c;--bad:#b3261e;--warn:#946200}
body{max-width:none;padding:0;font-size:11pt}li,tr{break-inside:avoid}
pre{font-size:8.5pt}h2,h3,article>small,summary{break-after:avoid}
.bar,svg{print-color-adjust:exact}.wide{overflow:visible}svg{max-width:100%;height:auto}
details::details-content{content-visibility:visible;block-size:auto}}
"""
_COLORS: Final = {"succeeded": "good", "failed": "bad", "rejected": "bad", "held": "warn", "unknown outcome": "warn"}
_STATES: Final = {"complete": "good", "self_reported": "warn", "partial": "warn", "absent": "bad"}
NOTES: Final = {
    "actions_without_recorder": "Some actions had no recorder: their effects are known only from Interlock's own record.",
    "calls_refused": "Calls were refused because their arguments could not be read.",
    "command_lost": "It is unknown how the command ended.",
    "contract_only_mode": "Effects were not observed in the kernel: requests and decisions are known, but not what was touched.",
    "kernel_drops": "Some calls are missing in the kernel's record, because of its size limit.",
    "not_run": "Nothing was run.",
    "paths_rerooted": "A process may have changed what paths lead to (a mount, another root): a path may name another file.",
    "recorder_lost": "A recorder was killed, or its record has no end: what came after is unknown.",
    "recorder_unclosed": "The journal has no end of a recorder: its record cannot be checked against the journal.",
    "redacted_after_sealing": "Secrets were replaced when the archive was written.",
    "sdk_drops": "Some reports of the agent's SDK were left out.",
    "sdk_rejected": "Some reports of the agent's program had a wrong format, and were left out.",
    "sdk_unclosed": "The journal has no end of the reports of the agent's SDK: some may be missing.",
    "shim_not_hooked": "An agent shim was requested, but found no SDK to hook into.",
    "spawn_failed": "The command was not started.",
    "unfinished_run": "The run had not ended when the archive was written.",
    "unsupported_platform": "Effects are observed on Linux only.",
}
"""A sentence for each note of the health."""
_KINDS: Final = (
    ("hosts", "Hosts"), ("programs", "Programs"), ("files_written", "Files written"), ("files_read", "Files read"),
)  # fmt: skip


def page(story: Story, documents: Documents, verdict: ArchiveVerdict) -> Iterator[str]:
    """The page, piece by piece."""
    title = f"Evidence of run {_text(str(verdict.run_id))}"
    yield (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>\n"
    )
    yield from _summary(story, verdict)
    yield from _not_observed(documents.health)
    yield from _time_line(story)
    yield from _graphs(story)
    yield "<h2>Actions and their effects</h2>\n"
    yield from (_action(action) for action in story.actions.values())
    if story.more_actions:
        yield f'<p class="warn">{story.more_actions} more actions are in the archive than on this page.</p>\n'
    yield from _calls(story)
    yield from _surface(documents.surface)
    yield from _correlation(documents.correlation)
    yield from _postures(documents.health)
    yield "<p><small>Secrets are replaced. Written by Interlock from a verified archive.</small></p></body></html>\n"


def _summary(story: Story, verdict: ArchiveVerdict) -> Iterator[str]:
    command = story.command
    agents = {str(one.get("agent")) for one in story.proposals.values() if one.get("agent")}
    facts = {
        "Command": " ".join(command["command"]) if command else "",
        "Agent": ", ".join(sorted(agents)),
        "Status": str(story.finished.get("status", "not finished")),
        "Started": _when(story.started.get("ts")),
        "Ended": _when(story.finished.get("ts")),
        "Actions": "" if command else str(len(story.actions) + story.more_actions),
        "Archive": f"valid; manifest sha256 {verdict.manifest_sha256}",
    }
    yield "<dl>" + "".join(f"<dt>{key}</dt><dd>{_text(value)}</dd>" for key, value in facts.items() if value)
    for signed in verdict.signatures:
        vouched = "a key that the reader of this archive gave" if signed.vouched else "no one has vouched for this key"
        yield f"<dt>Signed by</dt><dd><code>{_text(signed.keyid)}</code> ({vouched})</dd>"
    if not verdict.signatures:
        yield '<dt>Signed by</dt><dd class="warn">no one</dd>'
    yield "</dl>\n"


def _not_observed(health: dict[str, Any]) -> Iterator[str]:
    """The first section, which shows how far the rest of the page can be trusted."""
    yield '<section class="unseen"><h2>What was observed, and what was not</h2>\n<table>'
    about = {
        "events": "proposals, decisions, outcomes and approvals",
        "kernel": "system calls: files, programs, hosts",
        "policy": "decisions of the rules",
        "sdk": "tool calls as the agent's own program reported them",
    }
    for name, layer in health["layers"].items():
        state = str(layer["state"])
        dropped = f", {layer['dropped']} left out" if layer.get("dropped") else ""
        yield (
            f'<tr><td>{_text(name)}</td><td class="{_STATES.get(state, "warn")}">{_text(state.replace("_", "-"))}</td>'
            f"<td>{_text(about.get(name, ''))} <small>({layer['records']} records{dropped})</small></td></tr>"
        )
    network = str(health["network_coverage"])
    yield (
        f'<tr><td>network</td><td class="{_STATES.get(network, "warn")}">{_text(network)}</td>'
        "<td>actions whose network was closed or watched</td></tr></table>\n<ul>"
    )
    for note in health["notes"]:
        yield f"<li>{_text(NOTES.get(note, note))} <small>({_text(note)})</small></li>"
    yield "</ul>\n" + ("" if health["notes"] else "<p>No known gaps.</p>\n") + "</section>\n"


def _time_line(story: Story) -> Iterator[str]:
    yield "<h2>Time line</h2>\n<ol>"
    first, whole = story.first or 0, max(story.last - (story.first or 0), 1)
    for action in story.actions.values():
        begun = action.begun if action.begun is not None else action.ended
        if begun is None:
            continue
        end = action.ended if action.ended is not None else story.last
        left, width = 100 * (begun - first) / whole, 100 * max(end - begun, 0) / whole
        yield (
            f'<li class="{_color(action)}"><small>+{(begun - first) / 1e9:.3f} s, {(end - begun) / 1e6:.1f} ms</small> '
            f'{_title(action)}<div class="bar"><i style="left:{min(left, 99):.2f}%;width:{width:.2f}%"></i></div></li>\n'
        )
    yield "</ol>\n"


def _graphs(story: Story) -> Iterator[str]:
    for proposal, about in story.proposals.items():
        nodes = {action.id: action.needs for action in story.actions.values() if action.proposal == proposal}
        labels = {action.id: action.tool for action in story.actions.values() if action.proposal == proposal}
        if nodes:
            status = _text(str(about.get("status") or "not finished"))
            yield f"<h2>Action graph <small>{_text(proposal)}: {status}</small></h2>\n"
            yield (
                '<div class="wide">'
                + graph(nodes, {key: _text(f"{key}: {label}") for key, label in labels.items()})
                + "</div>\n"
            )


def _action(action: ActionStory) -> str:
    status = action.status or "not begun"
    parts = [
        f'<article><h3>{_title(action)}</h3><p><b class="{_color(action)}">{_text(status)}</b> {_text(action.reason)}</p>'
    ]
    if action.decision:
        by = f" by {', '.join(action.policies)}" if action.policies else ""
        parts.append(f"<p>Decision: <b>{_text(action.decision)}</b>{_text(by)}</p>")
    for question in action.questions:
        answer = "not answered"
        if "decision" in question:
            who = f" by {question['approver']}" if question.get("approver") else ""
            answer = f"{question['decision']}{who}, {_when(question['answered'])}"
        parts.append(f"<p>Approval requested {_when(question['asked'])}: <b>{_text(answer)}</b></p>")
        if question.get("edited") is not None:
            parts.append(_block("Edited parameters", question["edited"]))
    parts.extend(_block(name, value) for name, value in (("Parameters", action.parameters), ("Output", action.output)))
    parts.append(_processes(action))
    parts += [_places(*one) for one in (("Hosts", action.hosts), ("Files written", action.files_written))]
    parts.append(_places("Files read", action.files_read, folded=True))
    if not action.recorded and action.begun is not None:
        why = action.posture.get("record", "")
        because = f": {_text(why)}" if why.startswith("absent(") else ""
        parts.append(f"<p><small>No recorder watched this action in the kernel{because}.</small></p>")
    return "".join(parts) + "</article>\n"


def _processes(action: ActionStory) -> str:
    if not action.processes:
        return ""
    rows = []
    for depth, programs in children(action.processes):
        shown = " &rarr; ".join(f"<code>{_text(' '.join(one.argv)[:300] or one.program)}</code>" for one in programs)
        rows.append(
            f'<li style="margin-left:{min(depth, 12) * 1.2:.1f}rem">{shown} <small>pid {programs[0].pid}</small></li>'
        )
    more = f'<p class="warn">{action.more_processes} more</p>' if action.more_processes else ""
    return f'<small>Processes</small><ul class="tree">{"".join(rows)}</ul>{more}'


def _places(name: str, places: Places, *, folded: bool = False) -> str:
    if not places.seen:
        return ""
    lines = "\n".join(map(_text, places.seen)) + (f"\n... {places.more} more" if places.more else "")
    block = f"<pre>{lines}</pre>"
    if folded:
        return f"<details><summary><small>{name} ({len(places.seen) + places.more})</small></summary>{block}</details>"
    return f"<small>{name}</small>{block}"


def _calls(story: Story) -> Iterator[str]:
    if not story.calls:
        return
    yield "<h2>What the agent's SDK reported</h2>\n<p><small>Self-reported by the agent.</small></p>\n<table>"
    for line in story.calls:
        what = line.get("tool") or ""
        end = " ".join(filter(None, (line.get("status"), line.get("error"))))
        yield (
            f"<tr><td>{_when(line['ts'])}</td><td>{_text(line['kind'].replace('_', ' '))}</td><td>{_text(what)}</td>"
            f"<td>{_text(end)}{_block('', line.get('arguments'))}</td></tr>"
        )
    yield "</table>\n"
    if story.more_calls:
        yield f'<p class="warn">{story.more_calls} more reports are in the archive.</p>\n'


def _surface(surface: dict[str, Any]) -> Iterator[str]:
    yield "<h2>Everything touched</h2>\n"
    for kind, name in _KINDS:
        found = surface.get(kind) or {}
        values = found.get("values") or []
        claim = "all of it" if found.get("complete") else "at least; there may be more"
        unfolded = " open" if kind in ("hosts", "programs") else ""
        yield f"<details{unfolded}><summary>{name}: {len(values)} <small>({claim})</small></summary>"
        yield f"<pre>{chr(10).join(map(_text, values[:_LINES_MAX])) or 'none seen'}</pre>"
        if len(values) > _LINES_MAX:
            yield f"<p>{len(values) - _LINES_MAX} more are in the archive.</p>"
        yield "</details>\n"


def _correlation(correlation: dict[str, Any]) -> Iterator[str]:
    found = correlation["ambiguities"]
    yield f"<h2>Correlation <small>{_text(correlation['state'])}</small></h2>\n"
    yield "<ul>" if found else "<p>Every decision, call and effect is matched.</p>\n"
    for one in found:
        subjects = ", ".join(one["subjects"][:20])
        yield f"<li><b>{_text(one['code'].replace('_', ' '))}</b>: {one['count']} <small>{_text(subjects)}</small></li>"
    yield "</ul>\n" if found else ""


def _postures(health: dict[str, Any]) -> Iterator[str]:
    yield "<h2>Posture</h2>\n<p><small>The walls around the processes, in each combination that occurred.</small></p>\n"
    for posture in health["postures"]:
        yield "<table>"
        for layer, state in posture.items():
            color = "good" if str(state).startswith("active") else "warn"
            yield f'<tr><td>{_text(layer)}</td><td class="{color}">{_text(str(state))}</td></tr>'
        yield "</table>\n"
    yield "" if health["postures"] else "<p>No process was started.</p>\n"


def _title(action: ActionStory) -> str:
    return f"<code>{_text(action.id)}</code> {_text(action.tool)}"


def _color(action: ActionStory) -> str:
    return _COLORS.get(action.status, "")


def _block(name: str, value: Any) -> str:
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) > _CHARS_MAX:
        text = f"{text[:_CHARS_MAX]}\n... ({len(text) - _CHARS_MAX} more characters)"
    return (f"<small>{name}</small>" if name else "") + f"<pre>{_text(text)}</pre>"


def _when(ts_us: Any) -> str:
    if not isinstance(ts_us, int):
        return ""
    return datetime.fromtimestamp(ts_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _text(value: str) -> str:
    """The text escaped, with invisible characters made visible."""
    return escape("".join(map(_visible, value)))


def _visible(character: str) -> str:
    plain = character.isprintable() or character in "\n\t"
    return character if plain and character not in _INVISIBLE else character.encode("unicode_escape").decode()


_INVISIBLE: Final = frozenset(
    "\u115f\u1160\u3164\uffa0\u17b4\u17b5\u034f\u2800\u00ad" + "".join(map(chr, range(0xFE00, 0xFE10)))
)
"""Characters that Python considers printable, but that are invisible."""


def pieces(story: Story, documents: Documents, verdict: ArchiveVerdict) -> Iterable[bytes]:
    """The page as UTF-8."""
    return (piece.encode("utf-8", "backslashreplace") for piece in page(story, documents, verdict))
