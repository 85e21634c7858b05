"""A story of a person and a run in one git repository, and what must hold at its end. For property tests of undo.

`Story(project)` plays steps. A step of the person is `("write", "a.txt")` and so on (`PERSON`); a step of the run is an action
(`RUN`); `("person", [steps])` among the run's steps is the person at work in the middle of the run. Every content is written
once only, so it can be followed: `visible()` says which of the person's contents are still in the working tree, the index, or
a commit that a branch or `HEAD` leads to.

To add a kind of action, add it to `RUN` and to `Story.action`.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess

from engine_world import binding, call

from interlock.model.errors import ToolError

PATHS = ("a.txt", "b.txt", "mine.txt", "d/x.txt", "ignored.log")
ON_PATHS = ("write", "write", "delete", "add", "add -N", "rm --cached", "half stage", "skip", "restore --staged", "mv")
ALONE = ("commit", "commit -a", "amend", "other branch", "back", "conflict", "reset", "worktree", "add .", "detach")
SHELL = {
    "shell format": "echo run-{n}- >> {path}",
    "shell delete": "rm -rf {path}",
    "shell make": "rm -f {path}; mkdir -p {path}; echo run-{n}- > {path}/made",
    "shell beside": "mkdir -p $(dirname {path}); echo run-{n}- > $(dirname {path})/cache-{n}",
}
"""Processes of the run: they say nothing about what they change."""
RUN = (
    *SHELL,
    "fs.write",
    "fs.write",
    "fs.delete",
    "fs.move",
    "git.add",
    "git.add",
    "git.add .",
    "git.commit",
    "git.revert",
)
_MARK = re.compile(rb"person-\d+-")


class Story:
    """One project with a repository, and everything that happens in it."""

    def __init__(self, project):
        self.project = project
        self.numbers = itertools.count()
        self.seen = set()
        """Contents of the person's that were there at some time, and that the person did not take away."""
        self.before_undo = set()
        self.alone = True
        """The person did nothing since the run began."""
        self.git("init", "-q", "-b", "main")
        (project.root / ".gitignore").write_text("ignored.log\n")
        for name in ("a.txt", "b.txt"):
            self.put(name)
        self.git("add", ".")
        self.git("commit", "-qm", "first")
        self.git("branch", "other")
        self.put("b.txt")
        self.git("commit", "-qam", "second")

    def git(self, *arguments, check=False):
        options = ("-c", "user.name=Human", "-c", "user.email=human@example.org", "-c", "core.hooksPath=/dev/null")
        done = subprocess.run(["git", *options, *arguments], cwd=self.project.root, capture_output=True, check=check)
        return done.stdout

    def put(self, path, who="person"):
        file = self.project.root / path
        if not file.is_dir() and not (file.parent.exists() and not file.parent.is_dir()):
            file.parent.mkdir(exist_ok=True)
            file.write_text(f"{who}-{next(self.numbers)}-\n")

    # -- the person

    def person(self, steps):
        """The person at work."""
        before = self.visible()
        for kind, path in steps:
            self.alone = False
            self._person(kind, path)
        after = self.visible()
        self.seen = (self.seen | before | after) - (before - after)

    def _person(self, kind, path):
        file = self.project.root / path
        match kind:
            case "write":
                self.put(path)
            case "delete":
                file.unlink(missing_ok=True)
            case "half stage":
                self.put(path)
                self.git("add", path)
                self.put(path)
            case "add" | "add -N" | "rm --cached" | "restore --staged":
                self.git(*kind.split(), "-q", path) if kind.startswith("r") else self.git(*kind.split(), path)
            case "skip":
                self.git("update-index", "--skip-worktree", path)
            case "mv":
                self.git("mv", path, f"moved-{next(self.numbers)}")
            case "add .":
                self.git("add", ".")
            case "commit" | "commit -a":
                self.git(*kind.split(), "-qm", "by a person")
            case "amend":
                self.git("commit", "-q", "--amend", "-m", "by a person")
            case "other branch":
                self.git("checkout", "-q", "other")
            case "back":
                self.git("checkout", "-q", "main")
            case "detach":
                self.git("checkout", "-q", "--detach")
            case "reset":
                self.git("reset", "-q")
            case "worktree":
                self.git("worktree", "add", "-q", str(self.project.root.parent / f"w{next(self.numbers)}"))
            case "conflict":
                self.git("stash", "-q")
                self.git("checkout", "-q", "other")
                self.put("b.txt")
                self.git("commit", "-qam", "on the other branch")
                self.git("checkout", "-q", "main")
                self.git("merge", "-q", "other")
                self.git("stash", "pop", "-q")

    # -- the run

    def action(self, number, step):
        """The action of a step of the run."""
        kind, path = step
        name = f"s{number}"
        match kind:
            case "person":
                return call("person", name, parameters={"steps": [list(one) for one in path]})
            case "fs.write":
                return call(kind, name, parameters={"path": path, "content": f"run-{next(self.numbers)}-\n"})
            case _ if kind in SHELL:
                command = SHELL[kind].format(n=next(self.numbers), path=path)
                return call("shell", name, parameters={"command": command, "check": False})
            case "fs.delete" | "git.add":
                return call(kind, name, parameters={"path": path} if kind == "fs.delete" else {"paths": [path]})
            case "fs.move":
                to = f"to-{next(self.numbers)}"
                return call(kind, name, parameters={"from": path, "to": to})
            case "git.add .":
                return call("git.add", name, parameters={"paths": ["."]})
            case "git.commit":
                return call(kind, name, parameters={"message": "by the run"})
            case "git.revert":
                return call(kind, name, parameters={"commit": "HEAD"})

    def play(self, before, steps, after, *, rollback):
        """All of it. Returns (picture before the run, result of the run or of its undo, picture afterwards)."""

        async def person(parameters, ctx):
            self.person(parameters["steps"])

        async def stop(parameters, ctx):
            self.person(after)
            self.before_undo = self.visible()
            raise ToolError("the proposal fails here", code="no", retryable=False)

        self.person(before)
        self.alone, first = True, self.picture()
        rt = self.project.open(binding("person", person, read_only=True), binding("stop", stop, read_only=True))
        actions = [self.action(number, step) for number, step in enumerate(steps)]
        done = asyncio.run(rt.execute({"actions": [*actions, *([call("stop", "stop")] if rollback else [])]}))
        if done.ok:
            self.person(after)
            self.before_undo = self.visible()
            done = asyncio.run(rt.runs.undo(done.run_id))
        self.project.close()
        return first, done, self.picture()

    # -- what there is

    def visible(self):
        """The person's contents that a person can still find without git's reflog."""
        found = set()
        for file in self.project.root.rglob("*"):
            if ".git" not in file.parts and file.is_file():
                found.update(_MARK.findall(file.read_bytes()))
        listed = self.git("rev-list", "--objects", "--all", "HEAD", "--").split(b"\n")
        blobs = {line.split(b" ")[0] for line in listed}
        blobs |= {line.split(b" ")[1] for line in self.git("ls-files", "-s").splitlines()}
        data = subprocess.run(
            ["git", "cat-file", "--batch"],
            cwd=self.project.root,
            input=b"\n".join(blobs - {b""}) + b"\n",
            capture_output=True,
            check=True,
        ).stdout
        return found | set(_MARK.findall(data))

    def picture(self):
        """Branches, index with its flags, working tree, and what is in progress."""
        files = {
            str(file.relative_to(self.project.root)): file.read_bytes()
            for file in self.project.root.rglob("*")
            if ".git" not in file.parts and file.is_file()
        }
        refs = self.git("for-each-ref", "refs/heads", "refs/remotes", "refs/tags")
        listed = self.git("ls-files", "-s", "-v"), self.git("status", "--porcelain=v2", "--ignored")
        return refs, (self.project.root / ".git" / "HEAD").read_text(), listed, files


def listed(result):
    """True if the result says that something could not be undone."""
    outputs = [row.output for row in result.results if isinstance(row.output, dict)]
    return bool(result.not_undone or any(output.get("not_undone") for output in outputs)) or (
        len(result.results) == 1 and not result.ok
    )
