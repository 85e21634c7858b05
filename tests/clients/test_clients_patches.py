"""Patches as calls of Interlock's tools: one file is one call, and what is not understood is refused."""

from __future__ import annotations

import pytest

from interlock.surfaces.clients.hooks import Verdict
from interlock.surfaces.clients.patches import patch_call


def patch(*lines: str) -> str:
    return "\n".join(["*** Begin Patch", *lines, "*** End Patch", ""])


@pytest.mark.parametrize(
    ("lines", "tool", "parameters"),
    [
        (["*** Add File: a/b", "+x", "+", "+y"], "fs.write", {"path": "a/b", "content": "x\n\ny\n"}),
        (["*** Add File: empty"], "fs.write", {"path": "empty", "content": ""}),
        (["*** Delete File: a"], "fs.delete", {"path": "a"}),
        (
            ["*** Update File: a", "@@ def f():", " x", "-y", "+z"],
            "fs.edit",
            {"path": "a", "old": "x\ny", "new": "x\nz"},
        ),
        (["*** Update File: a", "-y", "+z", "*** End of File"], "fs.edit", {"path": "a", "old": "y", "new": "z"}),
        (
            ["*** Update File: a", "@@", "-1", "+2", "@@", " 3", "", "-4"],
            "fs.edit",
            {"path": "a", "edits": [{"old": "1", "new": "2"}, {"old": "3\n\n4", "new": "3\n"}]},
        ),
    ],
)
def test_a_patch_of_one_file_is_one_call(lines, tool, parameters):
    call = patch_call(patch(*lines))
    assert (call.tool, call.parameters, call.writes) == (tool, parameters, "path")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["*** Add File: a", "+x", "*** Add File: b", "+x"], "several"),
        (["*** Add File: a", "+x", "  *** Delete File: b"], "several"),
        (["*** Update File: a", "-x", "+y", "*** Add File: b", "+x"], "several"),
        (["*** Delete File: a", "*** Delete File: b"], "several"),
        (["*** Update File: a", "*** Move to: b", "-x", "+y"], "moves"),
        (["*** Update File: a", "@@", "+only new"], "lines around"),
        (["*** Update File: a"], "lines around"),
    ],
)
def test_other_patches_are_refused_with_what_to_do(lines, reason):
    verdict = patch_call(patch(*lines))
    assert isinstance(verdict, Verdict)
    assert (verdict.decision, reason in verdict.reason) == ("deny", True)


@pytest.mark.parametrize(
    "text", ["", "touch x", "*** Begin Patch\n*** End Patch", patch("x"), patch("*** Update File: a", "x")]
)
def test_what_is_not_a_patch_is_an_error(text):
    with pytest.raises(ValueError, match="patch"):
        patch_call(text)
