"""Edits by clients' own tools: only what replaces exactly the text that is judged, because clients else replace a similar one."""

from __future__ import annotations

import json

import pytest
from client_events import event

TEXT = """class A:
    def f(self):
        return 1

class B:
    def f(self):
        return 2

say \u201chi\u201d
x\x20
y
x
z
"""


@pytest.fixture
def project(lasting_world):
    """A project in which an agent may edit, under one gate."""
    found = lasting_world.project(f"project-{len(list(lasting_world.base.iterdir()))}")
    found.configure('[rules]\nallow = ["fs.edit", "fs.write"]\n[grants.agent]\ntools = ["fs.*"]\n')
    (found.root / "a.py").write_text(TEXT)
    return found


def decide(project, client: str, tool: str, given) -> tuple[str, str]:
    process = project.begin(json.dumps(event(client, tool, given, project.root)).encode(), client=client)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    said = json.loads(out)
    said = said.get("hookSpecificOutput", said)
    decision = said.get("permissionDecision") or said.get("permission") or said["decision"]
    return decision, said.get("permissionDecisionReason") or said.get("reason") or said.get("agent_message", "")


def edits(root: str, old: str, new: str) -> dict[str, tuple[str, dict]]:
    """The edit by the editor of each client that replaces a text."""
    path = f"{root}/a.py"
    return {
        "claude-code": ("Edit", {"file_path": path, "old_string": old, "new_string": new}),
        "copilot": ("Edit", {"path": path, "old_str": old, "new_str": new}),
        "cursor": ("StrReplace", {"path": path, "old_string": old, "new_string": new}),
        "gemini": ("replace", {"file_path": path, "old_string": old, "new_string": new, "instruction": "x"}),
        "opencode": ("edit", {"filePath": path, "oldString": old, "newString": new}),
        "vscode": ("replace_string_in_file", {"filePath": path, "oldString": old, "newString": new}),
    }


CLIENTS = tuple(edits("", "", ""))


@pytest.mark.parametrize("client", CLIENTS)
def test_an_edit_is_allowed_where_its_text_is_in_the_file_exactly_once(project, client):
    for old in ('say "hi"', "class A:\n  def f", "return", "class C", "a" * 10):
        decision, reason = decide(project, client, *edits(str(project.root), old, "new")[client])
        assert (decision, "edit_mismatch" in reason) == ("deny", True), (old, reason)
    assert decide(project, client, *edits(str(project.root), "return 1", "return 3")[client])[0] == "allow"
    assert {line.status for line in project.lines()} == {"failed", "running"}


@pytest.mark.parametrize("client", CLIENTS)
def test_an_edit_of_a_file_that_is_not_utf8_is_refused(project, client):
    """Most clients would replace all that they cannot decode, wherever it is in the file."""
    (project.root / "a.py").write_bytes(b"# caf\xe9\nreturn 1\n")
    decision, reason = decide(project, client, *edits(str(project.root), "return 1", "return 3")[client])
    assert (decision, "not UTF-8" in reason) == ("deny", True)


@pytest.mark.parametrize("client", CLIENTS)
def test_an_edit_without_an_old_text_is_for_a_new_file(project, client):
    """Of a file that is there, a client could insert the text."""
    tool, given = edits(str(project.root), "", "new")[client]
    assert decide(project, client, tool, given)[0] == "deny"
    new = {name: value.replace("a.py", "b.py") for name, value in given.items()}
    assert decide(project, client, tool, new)[0] == "allow"


def test_replacing_everywhere_is_another_edit(project):
    given = {"file_path": "a.py", "old_string": "def f", "new_string": "def g"}
    assert "occurs 2 times" in decide(project, "claude-code", "Edit", given)[1]
    assert decide(project, "claude-code", "Edit", given | {"replace_all": True})[0] == "allow"


PATCHES = {
    "one place": (["-x", "+w"], "allow", "once although a line with a space at its end is similar"),
    "several lines": (["@@", " y", "-x", "+w", " z"], "allow", ""),
    "two parts": (["@@", "-        return 1", "+        return 3", "@@", " y", "-x", "+w"], "allow", ""),
    "after its header": (["@@ class B:", "-        return 2", "+        return 3"], "allow", ""),
    "other white space": (["@@", "-return 1", "+return 3"], "deny", "0 times"),
    "other quotation marks": (["@@", '-say "hi"', "+w"], "deny", "0 times"),
    "several places": (["@@", "-    def f(self):", "+    def g(self):"], "deny", "2 times"),
    "in the wrong order": (["@@", "-y", "+w", "@@", "-        return 1", "+        return 3"], "deny", "another place"),
    "before its header": (["@@ class B:", "-        return 1", "+        return 3"], "deny", "another place"),
    "no such header": (["@@ class C:", "-        return 1", "+        return 3"], "deny", "is not before it"),
    "not at the end": (["@@", "-x", "+w", "*** End of File"], "deny", "another place"),
    "at the end": (["@@", "-z", "+w", "*** End of File"], "allow", ""),
}


@pytest.mark.parametrize("client", ["codex", "copilot", "opencode", "vscode"])
@pytest.mark.parametrize("case", PATCHES)
def test_a_patch_is_allowed_where_its_lines_can_mean_one_place(project, client, case):
    lines, wanted, why = PATCHES[case]
    patch = "\n".join(["*** Begin Patch", "*** Update File: a.py", *lines, "*** End Patch", ""])
    tool, given = {
        "codex": ("apply_patch", {"command": patch}),
        "copilot": ("Edit", patch),
        "opencode": ("apply_patch", {"patchText": patch}),
        "vscode": ("apply_patch", {"input": patch}),
    }[client]
    decision, reason = decide(project, client, tool, given)
    assert decision == wanted, reason
    assert wanted == "allow" or why in reason


def test_lines_of_a_file_with_other_line_ends_are_found(project):
    (project.root / "a.py").write_bytes(b"one\r\ntwo  \r\nthree\r\ntwo\r\n")
    patches = {
        "allow": ["@@", "-three", "+w"],
        "deny": ["@@", "-two", "+w"],  # without the white space at their end, two lines are equal
    }
    for wanted, lines in patches.items():
        patch = "\n".join(["*** Begin Patch", "*** Update File: a.py", *lines, "*** End Patch", ""])
        assert decide(project, "codex", "apply_patch", {"command": patch})[0] == wanted
