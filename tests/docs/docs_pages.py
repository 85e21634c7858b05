"""The pages of the documentation, taken apart: fenced blocks, links, headings; and a reader who types what they say.

A reader works through one page in a project of its own, from top to bottom:

- text after "Save this as `NAME`:" (the block that follows) is written to that file;
- each line of a `console` block that begins with `$` is typed into a shell; the lines under it are what must be printed;
- a `console background` block is left running, and must have ended when the page has;
- a `python` block that is not saved is run.

Output is compared loosely: white space counts as one blank, times, numbers and hashes may be others, `...` stands for anything
(on a line of its own for any lines). An id such as `run_...` stands for the one that was printed in its place, also in later
commands.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
GUARD = "\n[guard]\ncpu = 1.0\nmemory = 1.0\ndisk = 1.0\nzombies = 100000\n"
"""The machine that runs these tests may be busy; that of a reader need not be."""

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SAVE = re.compile(r"[Ss]ave this as\s+`([^`]+)`[^`\n]*:\s*\Z")
_ID = re.compile(r"\b(?:run|hold|prop|grant|standing|token)_[0-9a-f]{32}\b")
_LOOSE = re.compile(
    rf"(?P<id>{_ID.pattern})|(?P<hex>\b(?=[0-9a-f]*[0-9])[0-9a-f]{{7,64}}\b)|(?P<number>[0-9]+(?:\.[0-9]+)?)|(?P<any>\.\.\.)"
)
_SECONDS = 15


def _plain(line: str) -> str:
    """A line with single blanks, and without how long something took: nothing is said where it took no time."""
    return re.sub(r" [0-9]+(\.[0-9]+)? m?s(?= |$)", "", " ".join(line.split()))


class Block(NamedTuple):
    """A fenced block: what is behind the fence, its text, the file it is to be saved as, and its line."""

    info: str
    text: str
    file: str | None
    line: int


def name_of(page: Path) -> str:
    """A page as people name it."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    text = page.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        saved = _SAVE.search(text[: found.start()].rstrip() + "\n")
        line = text.count("\n", 0, found.start()) + 1
        yield Block(found[1].strip(), found[2], saved[1] if saved else None, line)


class Command(NamedTuple):
    """A line that is typed, and what must be printed."""

    typed: str
    printed: list[str]


def commands(block: Block) -> list[Command]:
    """The commands of a `console` block."""
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], []))
        elif line.startswith("> "):
            found[-1] = Command(found[-1].typed + "\n" + line[2:], [])
        else:
            found[-1].printed.append(line)
    return found


class Reader:
    """Somebody who works through a page in a directory."""

    def __init__(self, directory: Path, *, checkout: bool = False) -> None:
        """With `checkout` the reader begins where the examples are."""
        self.home = directory
        self.cwd = directory / "work"
        for part in ("work", "bin", "state", "home"):
            (directory / part).mkdir()
        if checkout:
            shutil.copytree(ROOT / "examples", self.cwd / "examples")
            with (self.cwd / "examples" / "ledger" / "interlock.toml").open("a") as file:
                file.write(GUARD)
        self._known: dict[str, str] = {}
        self._running: list[tuple[Block, subprocess.Popen[str], Path]] = []
        binaries = Path(sys.executable).parent
        real = binaries / "interlock"
        shim = directory / "bin" / "interlock"
        shim.write_text(
            f'#!/bin/sh\n"{real}" "$@"\ncode=$?\n[ "$1" = init ] && [ $code = 0 ] || exit $code\n'
            f"cat >>interlock.toml <<'END'\n{GUARD}END\n"
            f'"{real}" trust --yes >trusting 2>&1 || cat trusting\nrm trusting\n'
        )
        shim.chmod(0o755)
        self._environment = {
            "PATH": f"{directory / 'bin'}:{binaries}:{os.environ['PATH']}",
            "HOME": str(directory / "home"),
            "INTERLOCK_STATE_DIR": str(directory / "state"),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            "COLUMNS": "100",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_AUTHOR_NAME": "A Reader",
            "GIT_AUTHOR_EMAIL": "reader@example.org",
            "GIT_COMMITTER_NAME": "A Reader",
            "GIT_COMMITTER_EMAIL": "reader@example.org",
        }

    def read(self, page: Path) -> None:
        """Do what the page says. Raises: AssertionError naming the line."""
        try:
            for block in blocks(page):
                words = block.info.split()
                if block.file is not None:
                    self._save(block)
                elif words[:2] == ["console", "background"]:
                    self._start(block)
                elif words[:1] == ["console"]:
                    self._type(page, block)
                elif words[:1] == ["python"]:
                    self._python(page, block)
            self._end(page)
        finally:
            for _, process, _ in self._running:
                process.kill()
                process.wait()

    def _save(self, block: Block) -> None:
        assert block.file is not None
        path = self.cwd / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        extra = GUARD if path.name == "interlock.toml" and "[guard]" not in block.text else ""
        path.write_text(block.text + extra, encoding="utf-8")

    def _run(self, script: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", script],
            cwd=self.cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )

    def _type(self, page: Path, block: Block) -> None:
        code = 0
        for command in commands(block):
            what = f"{name_of(page)}:{block.line}: $ {command.typed}"
            end = time.monotonic() + _SECONDS
            while True:
                code, printed = self._shell(command.typed, code)
                try:
                    self._compare(what, command.printed, printed)
                    break
                except AssertionError:
                    # What runs in the background may need longer here than the page allows it: look again.
                    looks = command.typed.startswith(("interlock approvals list", "cat "))
                    if not (looks and self._running) or time.monotonic() > end:
                        raise
                    time.sleep(0.2)

    def _shell(self, typed: str, code: int) -> tuple[int, str]:
        where = self.home / "cwd"
        done = self._run(f"(exit {code})\n{self._with_ids(typed)}\ncode=$?\npwd >'{where}'\nexit $code\n")
        self.cwd = Path(where.read_text().strip())
        return done.returncode, done.stdout

    def _start(self, block: Block) -> None:
        (command,) = commands(block)
        output = self.home / f"background-{len(self._running)}"
        with output.open("w") as file:
            process = subprocess.Popen(
                ["bash", "-c", self._with_ids(command.typed)],
                cwd=self.cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._running.append((block, process, output))
        end = time.monotonic() + _SECONDS
        while not output.read_text().strip() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        self._learn(command.printed[0], output.read_text().splitlines())

    def _end(self, page: Path) -> None:
        for block, process, output in self._running:
            process.wait(timeout=_SECONDS)
            (command,) = commands(block)
            self._compare(f"{name_of(page)}:{block.line}: $ {command.typed}", command.printed, output.read_text())

    def _python(self, page: Path, block: Block) -> None:
        done = subprocess.run(
            [sys.executable, "-c", block.text],
            cwd=self.cwd,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{name_of(page)}:{block.line}: python\n{done.stdout}"

    def _with_ids(self, text: str) -> str:
        return _ID.sub(lambda found: self._known.get(found[0], found[0]), text)

    def _compare(self, what: str, wanted: list[str], said: str) -> None:
        lines = [line.rstrip() for line in said.splitlines() if line.strip()]
        wanted = [line for line in wanted if line.strip()]
        at = 0
        for number, line in enumerate(wanted):
            if line.strip() == "...":
                following = wanted[number + 1 : number + 2]
                while at < len(lines) and not (following and self._learn(following[0], lines[at : at + 1])):
                    at += 1
                continue
            found = self._learn(line, lines[at : at + 1])
            assert found, f"{what}\n--- expected\n{line}\n--- printed\n{said}"
            at += 1
        assert at == len(lines), f"{what}\n--- not expected\n{lines[at]}\n--- printed\n{said}"

    def _learn(self, wanted: str, lines: list[str]) -> bool:
        """True if a line is as wanted; then its ids stand for those of the page from now on."""
        ids: list[str] = []
        pattern = self._pattern(_plain(wanted), ids)
        found = re.fullmatch(pattern, _plain(lines[0])) if lines else None
        if found is None:
            return False
        self._known.update(zip(ids, found.groups(), strict=True))
        return True

    def _pattern(self, text: str, ids: list[str]) -> str:
        parts: list[str] = []
        at = 0
        for found in _LOOSE.finditer(text):
            parts.append(re.escape(text[at : found.start()]))
            at = found.end()
            if found["id"]:
                known = self._known.get(found["id"])
                kind = found["id"].partition("_")[0]
                ids.append(found["id"])
                parts.append(f"({re.escape(known) if known else kind + '_[0-9a-f]{32}'})")
            else:
                parts.append({"hex": "[0-9a-f]+", "number": r"[0-9]+(?:\.[0-9]+)?", "any": ".*"}[found.lastgroup or ""])
        return "".join([*parts, re.escape(text[at:])])
