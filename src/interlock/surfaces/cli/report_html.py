"""A report as one HTML page that loads nothing: no script, no network, everything escaped; for screens, phones and paper."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any, Final

import msgspec

from interlock.engine.inspect.actions import ActionLine
from interlock.engine.inspect.differences import Difference
from interlock.engine.inspect.history import RunRow
from interlock.engine.inspect.report import Question, Report
from interlock.engine.local.clock import SystemClock
from interlock.surfaces.cli.outcome_words import described, outcome
from interlock.surfaces.cli.output import clean
from interlock.surfaces.cli.results import MARKS, host_words, when

_CHARS_MAX: Final = 20_000
"""Maximum characters of one output."""
_DATE: Final = len("2026-11-28")
_FOOT: Final = (
    "<p><small>Values are redacted as the journal has them. Written by Interlock.</small></p></body></html>\n"
)
_STYLE: Final = """
:root{color-scheme:light dark;--line:#8884;--good:#187a3c;--bad:#b3261e;--warn:#946200}
@media (prefers-color-scheme:dark){:root{--good:#5fd38d;--bad:#ff8a80;--warn:#f0c05a}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:0 auto;padding:1rem;overflow-wrap:anywhere}
h1{font-size:1.4rem}h2{font-size:1.15rem;margin-top:2rem}h3{font-size:1rem;margin:0}
pre{font:13px/1.4 ui-monospace,monospace;white-space:pre-wrap;margin:.4rem 0;padding:.5rem;
border:1px solid var(--line);border-radius:4px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem}dt{opacity:.7}dd{margin:0}
article{border-top:1px solid var(--line);padding:.6rem 0}
.bar{position:relative;height:.5rem;background:var(--line);border-radius:3px}
.bar i{position:absolute;top:0;bottom:0;min-width:3px;background:currentColor;border-radius:3px}
ol{list-style:none;padding:0}ol li{margin:.5rem 0}small{opacity:.75}article>small{display:block}
.line{display:-webkit-box;-webkit-box-orient:vertical;-webkit-line-clamp:2;overflow:hidden}
.green,ins{color:var(--good)}.red,del{color:var(--bad)}.yellow,.cyan{color:var(--warn)}ins,del{text-decoration:none}
section{border-top:3px solid var(--line);margin-top:2.5rem}
@media print{section{break-before:page;border:0}
:root{color-scheme:light}body{max-width:none;padding:0;font-size:11pt}li{break-inside:avoid}
pre{font-size:8.5pt;orphans:4;widows:4}h2,h3,h3+p,article>small{break-after:avoid}.bar,.bar i{print-color-adjust:exact}}
"""


def page(report: Report) -> Iterator[str]:
    """The page about one run, piece by piece."""
    yield _head(f"Run {_text(report.run.run_id)}")
    yield from _run(report)
    yield _FOOT


def page_of_runs(title: str, rows: list[RunRow], reports: Iterator[Report], left_out: int) -> Iterator[str]:
    """One page about several runs, piece by piece: a table of contents, and a section for each of `rows`, in order.

    `left_out` is the number of runs that did not fit on the page.
    """
    yield _head(_text(title))
    counted = "1 run" if len(rows) == 1 else f"{len(rows)} runs"
    yield f"<p>{counted}, oldest first. Written {when(SystemClock().now_us())}.</p>\n"
    if left_out:
        yield f'<p class="yellow">{left_out} older runs are not on this page; <code>interlock runs list</code> shows them.</p>\n'
    yield "<ol>"
    for row in rows:
        yield (
            f'<li><a href="#{_text(row.run_id)}">{_text(row.run_id)}</a> <small>{when(row.started_us)}</small> '
            f"{_text(row.agent)}: {_text(row.status)}, {_counted(row)}</li>\n"
        )
    yield "</ol>\n"
    for report in reports:
        run_id = _text(report.run.run_id)
        yield f'<section id="{run_id}"><h1>Run {run_id}</h1>\n'
        yield from _run(report)
        yield "</section>\n"
    yield _FOOT


def _head(title: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>\n"
    )


def _run(report: Report) -> Iterator[str]:
    """The section about one run."""
    row = report.run
    undone = f", undone by run {report.undone_by}" if report.undone_by else ""
    facts = {
        "Status": row.status + undone, "Agent": row.agent, "Session": row.session or "",
        "From": "" if row.source == "unknown" else row.source,
        "Started": when(row.started_us), "Ended": when(row.finished_us), "Actions": _counted(row),
    }  # fmt: skip
    yield (
        "<dl>" + "".join(f"<dt>{key}</dt><dd>{_text(value)}</dd>" for key, value in facts.items() if value) + "</dl>\n"
    )
    if report.problem is not None:
        yield f'<p class="red">The record could not be read to its end: {_text(report.problem)}</p>\n'
    if report.cut:
        yield '<p class="yellow">This run has more than this page shows; <code>interlock runs show</code> shows all of it.</p>\n'
    yield "<h2>Time line</h2>\n<ol>"
    yield from _time_line(report.actions)
    yield "</ol>\n<h2>Actions</h2>\n"
    for line in report.actions:
        yield _action(line, None if line.seq is None else report.outputs.get(line.seq))
    yield "<h2>Held calls and answers</h2>\n"
    lines = {(line.proposal_id, line.action_id): line for line in report.actions}
    yield from (_question(one, lines.get((one.proposal_id, one.action_id))) for one in report.questions)
    yield "" if report.questions else "<p>No call was held.</p>\n"
    yield "<h2>Files</h2>\n"
    yield from map(_difference, report.differences)
    yield "" if report.differences else "<p>No file changes were recorded.</p>\n"


def _counted(row: RunRow) -> str:
    return f"{row.succeeded} of {row.actions} actions succeeded"


def _time_line(lines: list[ActionLine]) -> Iterator[str]:
    spans = [(line.at_us - int(line.duration_ms * 1000), line.at_us) for line in lines]
    start = min((begin for begin, _ in spans), default=0)
    whole = max((end for _, end in spans), default=0) - start or 1
    days = {when(at)[:_DATE] for span in spans for at in span}
    shown = _DATE + 1 if len(days) == 1 else 0
    for line, (begin, end) in zip(lines, spans, strict=True):
        word = "" if line.shown_status == "succeeded" else f"<b>{_text(_word(line))}</b> "
        left, width = 100 * (begin - start) / whole, 100 * (end - begin) / whole
        yield (
            f'<li class="{_color(line)}"><div class="line"><small>{when(line.at_us)[shown:]}</small> {word}{_title(line)}</div>'
            f'<div class="bar"><i style="left:{min(left, 99):.2f}%;width:{width:.2f}%"></i></div></li>\n'
        )


def _action(line: ActionLine, output: Any) -> str:
    status = _word(line) + (f" ({line.reason})" if line.reason else "")
    parts = [f'<article><h3>{_title(line)}</h3><p><b class="{_color(line)}">{_text(status)}</b> ']
    parts.append(f"<small>{when(line.at_us)}, {line.duration_ms:.0f} ms</small></p>")
    if line.undone_by:
        what = "Could not be undone" if line.undone == "not_undone" else "Undone"
        parts.append(f"<p>{what} by run {_text(line.undone_by)}.</p>")
    if line.error:
        parts.append(_sentence(line.error))
    elif (summary := outcome(described(line.tool, line.parameters), output)) is not None:
        parts.append(_sentence(summary))
    for use in line.hosts:
        color = "" if use.outcome == "connected" else ' class="yellow"'
        parts.append(_sentence(host_words(use)).replace("<p>", f"<p{color}>", 1))
    parts.extend(_sentence(f"cannot be undone: {note}") for note in line.not_undoable)
    parts.extend(_value(name, value) for name, value in (("Parameters", line.parameters), ("Output", output)))
    return "".join(parts) + "</article>\n"


def _question(one: Question, line: ActionLine | None) -> str:
    title = _text(one.action_id) if line is None else _title(line)
    answer = "not answered yet"
    if one.decision is not None:
        answer = one.decision + (f" by {one.approver}" if one.approver else "")
        answer += f", {when(one.answered_us)}"
    edited = _value("Edited parameters", one.edited)
    return f"<article><h3>{title}</h3><p>Asked {when(one.asked_us)}: <b>{_text(answer)}</b></p>{edited}</article>\n"


def _difference(one: Difference) -> str:
    by = ", by a process" if one.by_process else ""
    lines = "\n".join(map(_difference_line, one.lines))
    text = f"<pre>{lines}</pre>" if one.lines else ""
    note = f"<p><small>{_text(one.note)}</small></p>" if one.note else ""
    return (
        f"<article><h3>{_text(one.path)}</h3><p>{_text(one.what)} by <code>{_text(one.action_id)}</code>{by}</p>"
        f"{text}{note}</article>\n"
    )


def _difference_line(line: str) -> str:
    tag = {"+": "ins", "-": "del"}.get(line[:1])
    return f"<{tag}>{_text(line)}</{tag}>" if tag else _text(line)


def _value(name: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):  # text stays as it is, line for line; the rest is JSON
        texts = {key: text for key, text in value.items() if isinstance(text, str) and "\n" in text}
        rest = {key: one for key, one in value.items() if key not in texts}
        blocks = [_block(f"{name}: {_text(str(key))}", text.removesuffix("\n")) for key, text in texts.items()]
        return (_block(name, rest) if rest else "") + "".join(blocks)
    return _block(name, value)


def _block(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    if len(text) > _CHARS_MAX:
        text = f"{text[:_CHARS_MAX]}\n... ({len(text) - _CHARS_MAX} more characters)"
    return f"<small>{name}</small><pre>{_text(text)}</pre>"


def _title(line: ActionLine) -> str:
    about = f" <code>{_text(line.about)}</code>" if line.about else ""
    return f"<code>{_text(line.action_id)}</code> {_text(line.tool)}{about}"


def _sentence(text: str) -> str:
    """A message as a paragraph, with a capital letter and a full stop."""
    end = "" if text.endswith((".", "!", "?")) else "."
    return f"<p>{_text(text[:1].upper() + text[1:])}{end}</p>"


def _word(line: ActionLine) -> str:
    return MARKS.get(line.shown_status, (line.shown_status, ""))[0]


def _color(line: ActionLine) -> str:
    return MARKS.get(line.shown_status, ("", "dim"))[1]


def _text(value: str) -> str:
    """The text escaped, with invisible characters made visible."""
    return escape(clean(value, lines=True))
