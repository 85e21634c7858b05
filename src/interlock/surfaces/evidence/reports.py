"""The changes between two archives as SARIF 2.1.0 (for code scanning and editors) and as JUnit XML (for any CI)."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote
from xml.etree.ElementTree import Element, SubElement, tostring

from interlock._version import __version__
from interlock.verification.difference import KINDS, Change

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot contain, not even as references."""
_RESULTS_MAX: Final = 5000
"""GitHub shows at most this many results of a run."""


def sarif(changes: Sequence[Change], archive: str) -> bytes:
    """A SARIF log: a rule for each kind of change, a result for each change. `archive` is the name of the second archive."""
    kinds = list(KINDS)
    rules = [
        {"id": kind, "shortDescription": {"text": text}, "defaultConfiguration": {"level": "note"}}
        for kind, text in KINDS.items()
    ]
    # Failures come first, so that they are not cut off by the limit.
    ordered = sorted(changes, key=lambda change: not change.fails)
    run: dict[str, Any] = {
        "tool": {"driver": {"name": "interlock", "version": __version__, "rules": rules}},
        "columnKind": "unicodeCodePoints",
        "results": [_result(change, kinds.index(change.kind), archive) for change in ordered[:_RESULTS_MAX]],
    }
    if len(ordered) > _RESULTS_MAX:
        run["properties"] = {"leftOut": len(ordered) - _RESULTS_MAX}
    return json.dumps({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1).encode() + b"\n"


def _result(change: Change, rule: int, archive: str) -> dict[str, Any]:
    identity = hashlib.sha256(f"{change.kind}\n{change.value}".encode("utf-8", "surrogatepass")).hexdigest()
    return {
        "ruleId": change.kind,
        "ruleIndex": rule,
        "level": "error" if change.fails else "note",
        "message": {"text": f"{change.kind}: {change.value}"},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": quote(archive)}, "region": {"startLine": 1}},
                "logicalLocations": [{"name": change.value, "kind": "resource"}],
            }
        ],
        "partialFingerprints": {"interlockChange/v1": identity},
    }


def junit(changes: Sequence[Change], fail_on: Sequence[str], archive: str) -> bytes:
    """JUnit XML: a test case for each kind in `fail_on`, and for each that failed."""
    kinds = list(dict.fromkeys((*fail_on, *(change.kind for change in changes if change.fails))))
    failures = [kind for kind in kinds if any(change.kind == kind and change.fails for change in changes)]
    counts = {"tests": str(len(kinds)), "failures": str(len(failures)), "errors": "0", "skipped": "0"}
    suites = Element("testsuites", {"name": "interlock evidence diff", **counts})
    suite = SubElement(suites, "testsuite", {"name": _xml(archive), **counts})
    for kind in kinds:
        case = SubElement(suite, "testcase", {"name": kind, "classname": "interlock.evidence.diff", "time": "0"})
        values = [_xml(change.value) for change in changes if change.kind == kind and change.fails]
        if values:
            failure = SubElement(case, "failure", {"type": kind, "message": f"{len(values)} {kind}: {values[0][:200]}"})
            failure.text = "\n".join([KINDS[kind], *values])
    found: bytes = tostring(suites, encoding="utf-8", xml_declaration=True)
    return found + b"\n"


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
