"""Globs over names and over workspace paths, and the normal form in which paths are compared.

Two small languages, both case-sensitive, both matched in time proportional to pattern times subject:

- *names* (tools, state keys): `*` stands for any run of characters, other characters for themselves;
- *paths* (relative to the workspace): `*` and `?` stay within one segment, `**` is a whole segment and stands for zero
  or more of them (`src/**` is `src` and everything below it). Dot files are ordinary files. Brackets are ordinary
  characters.

Capability matches arguments; isolation and the workspace match the paths that a process touched. The results must
agree, so there is only one matcher.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import eq
from typing import Any, Final

from interlock.lazy import lazy_pattern
from interlock.model.errors import ConfigurationError

PATH_BYTES_MAX: Final = 4096
"""Linux's PATH_MAX: no system call accepts a longer path."""

ROOT: Final = "."
_PLAIN = lazy_pattern(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*", re.ASCII)
_SCHEME = lazy_pattern(r"[A-Za-z][A-Za-z0-9+.-]*:/")


class PathOutsideError(ValueError):
    """A path argument that cannot be inside the workspace, whatever files it has."""


def name_matcher(globs: Iterable[str]) -> Callable[[str], bool]:
    """A test whether a name matches one of the globs. Nothing matches an empty list."""
    kept = tuple(globs)
    if any(g.strip("*") == "" and g for g in kept):
        return lambda _name: True
    exact = frozenset(g for g in kept if "*" not in g)
    starts = tuple(g.rstrip("*") for g in kept if g.endswith("*") and "*" not in g.rstrip("*"))
    rest = [g for g in kept if "*" in g.rstrip("*")]
    if not rest:
        return lambda name: name in exact or name.startswith(starts)
    match = re.compile("|".join(f"(?:{_regex(g)})" for g in rest), re.DOTALL).match
    return lambda name: name in exact or name.startswith(starts) or match(name) is not None


def name_covers(outer: str, inner: str) -> bool:
    """True only if every name that `inner` matches is matched by `outer` too.

    A star in `inner`, read as a plain character, can only match a star of `outer`, and that star matches anything the inner
    star does.
    """
    return re.compile(_regex(outer), re.DOTALL).match(inner) is not None


class PathGlob:
    """One compiled path glob."""

    def __init__(self, glob: str) -> None:
        """Compile the glob. Raises: ConfigurationError if it is not workspace-relative or misuses `**`."""
        self.glob = glob
        self.segments = tuple(s for s in glob.split("/") if s not in {"", "."})
        wrong = None
        if not glob or "\0" in glob:
            wrong = "the path glob is empty or contains a null character"
        elif glob.startswith("/"):
            wrong = "the path glob starts with `/`, but paths are relative to the workspace"
        elif ".." in self.segments:
            wrong = "the path glob has a `..` segment"
        elif any("**" in s and s != "**" for s in self.segments):
            wrong = "`**` must be a whole segment of the path glob"
        if wrong:
            raise ConfigurationError(f"{wrong}: `{glob}`", hint="for example `src/**` or `**/*.py`")
        self._any = self.segments == ("**",)
        self._match = tuple(None if s == "**" else _segment_matcher(s, ".") for s in self.segments)

    def matches(self, path: str) -> bool:
        """True if a normal path (from `workspace_path`) matches."""
        return self._any or _match_segments(self._match, _segments(path))

    def matches_segments(self, segments: Sequence[str]) -> bool:
        """As `matches`, for a path that is already split."""
        return self._any or _match_segments(self._match, segments)

    def covers(self, inner: PathGlob) -> bool:
        """True only if every path that `inner` matches is matched by this glob too. (False does not prove the opposite.)"""
        # A question mark must not match a star, which may stand for any number of characters.
        cover = [None if s == "**" else _segment_matcher(s, "[^*]") for s in self.segments]
        return _match_segments(cover, inner.segments, covering=True)

    def within(self, path: str) -> bool:
        """True if this glob's matches are at or below `path`, so that replacing `path` would replace them.

        Only the segments before the first `**` count: `**/x` is within no directory in particular.
        """
        subject = _segments(path)
        definite = list(itertools.takewhile(lambda m: m is not None, self._match))
        return len(subject) <= len(definite) and all(m(s) for m, s in zip(definite, subject, strict=False) if m)


def path_matcher(globs: Iterable[str]) -> Callable[[str], bool]:
    """A test whether a normal path matches one of the globs. Raises: ConfigurationError."""
    compiled = [PathGlob(g) for g in globs]
    if any(g.segments == ("**",) for g in compiled):
        return lambda _path: True

    def matches(path: str) -> bool:
        segments = _segments(path)
        return any(g.matches_segments(segments) for g in compiled)

    return matches


def workspace_path(value: Any, root: str | None = None) -> str:
    """The normal form of a path argument, relative to the workspace: no `.`, `..`, double or trailing slash.

    `value` is a string or `{"b64": "..."}` (names that are not UTF-8; they come back with surrogate escapes, as from
    `os.fsdecode`). An absolute path is accepted only beneath `root`. The workspace itself is `"."`. A tool must open
    the returned path, not the argument: if `a` is a link, the kernel resolves `a/../b` elsewhere.

    Raises: ValueError (PathOutsideError if the path leaves the workspace), with a reason that does not repeat the path.
    """
    if isinstance(value, str) and len(value) < PATH_BYTES_MAX and _PLAIN.fullmatch(value):
        return value  # fast path for nearly all paths; the rest of this function gives the same result
    text = _text(value)
    if "\0" in text:
        raise ValueError("contains a null character")
    if len(text.encode("utf-8", "surrogateescape")) > PATH_BYTES_MAX:
        raise ValueError("is longer than the kernel allows")
    if text.startswith("~"):
        raise ValueError("starts with `~`, which some programs expand: write `./~...`")
    if _SCHEME.match(text):
        raise ValueError("looks like a URL")
    if text.startswith("/"):
        below = _below_root(text, root)
        if below is None:
            raise PathOutsideError("is absolute and not inside the workspace")
        return below
    return "/".join(_collapse(text)) or ROOT


def _segments(path: str) -> Sequence[str]:
    return () if path == ROOT else path.split("/")


def _below_root(text: str, root: str | None) -> str | None:
    if root is None:
        return None
    absolute, top = _collapse(text), _collapse(root)
    return ("/".join(absolute[len(top) :]) or ROOT) if absolute[: len(top)] == top else None


def _collapse(text: str) -> list[str]:
    out: list[str] = []
    absolute = text.startswith("/")
    for segment in text.split("/"):
        if segment in {"", "."}:
            continue
        if segment != "..":
            out.append(segment)
        elif out:
            out.pop()
        elif not absolute:
            raise PathOutsideError("leaves the workspace")
    return out


def _text(value: Any) -> str:
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError("is not Unicode text") from None
        return value
    if isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str):
        try:
            raw = base64.b64decode(value["b64"], validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not base64") from None
        return raw.decode("utf-8", "surrogateescape")
    raise ValueError("is not a path: a string, or an object with `b64`")


def _regex(glob: str, one: str = "") -> str:
    """A regular expression without backtracking: each literal between two stars is matched at its first occurrence.

    `one` is the translation of a question mark; if empty, it is an ordinary character.
    """
    pieces = ["".join(one if c == "?" and one else re.escape(c) for c in p) for p in re.split(r"\*+", glob)]
    if len(pieces) == 1:
        return pieces[0] + r"\Z"
    middle = "".join(f"(?>.*?{p})" for p in pieces[1:-1])
    return f"{pieces[0]}{middle}.*{pieces[-1]}\\Z"


def _segment_matcher(glob: str, one: str) -> Callable[[str], object]:
    """A test of one segment. Most have no wildcard, and need no regular expression."""
    if "*" not in glob and "?" not in glob:
        return partial(eq, glob)
    return re.compile(_regex(glob, one), re.DOTALL).match


def _match_segments(
    pattern: Sequence[Callable[[str], object] | None], subject: Sequence[str], *, covering: bool = False
) -> bool:
    """Wildcard matching over segments, `None` being `**`; only the last `**` ever needs backtracking."""
    p = s = 0
    star = -1
    taken = 0
    while s < len(subject):
        matcher = pattern[p] if p < len(pattern) else None
        if p < len(pattern) and matcher is None:
            star, taken = p, s
            p += 1
        elif matcher is not None and not (covering and subject[s] == "**") and matcher(subject[s]):
            p += 1
            s += 1
        elif star >= 0:
            taken += 1
            p, s = star + 1, taken
        else:
            return False
    return all(m is None for m in pattern[p:])
