"""Paths that leave the workspace: `..` above the start, absolute, home, drive and UNC, and their encoded spellings.

A detector, not the wall: `capability` and the kernel (`openat2`) decide what a file tool may touch. The workspace's
location is not known here, so every absolute path counts.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote

from interlock.detect.finding import Finding
from interlock.lazy import lazy_pattern

_HARMLESS: Final = frozenset(("/dev/null", "/dev/stdin", "/dev/stdout", "/dev/stderr"))
_TOKEN: Final = lazy_pattern(r"(?:\$\{\w{1,64}\}|[^\s\"'`=,;|&<>()\[\]{}])+")
_WORTH: Final = lazy_pattern(
    r"\.\.|[/~\\$]|(?i:%(?:25){0,3}(?:2e|2f|5c|c0|e0))|\uff0e|\u2025|\u2024|\uff0f|\u2215|\u2044|\uff3c"
)
_ABSOLUTE: Final = lazy_pattern(r"(?:file:)?/+[\w.~*?$-]")
_HOME: Final = lazy_pattern(r"~(?:[A-Za-z_][\w.+-]*)?(?:/|\Z)|\$\{?(?:HOME|OLDPWD|TMPDIR|XDG_\w+)\b")
_WINDOWS: Final = lazy_pattern(r"[A-Za-z]:[\\/]|\\\\[\w.?]")
_URL: Final = lazy_pattern(r"(?i:[a-z][a-z0-9+.-]{1,20})://")
_LOOKALIKES: Final = str.maketrans(
    {"\uff0e": ".", "\u2024": ".", "\u2025": "..", "\uff0f": "/", "\u2215": "/", "\u2044": "/", "\uff3c": "\\"}
)
_OVERLONG: Final = lazy_pattern(r"(?i:%c0%ae|%e0%80%ae|%c0%2e)")
_OVERLONG_SLASH: Final = lazy_pattern(r"(?i:%c0%af|%e0%80%af|%c0%2f|%c1%9c)")


def find_escapes(text: str) -> list[Finding]:
    """Returns the words of a text that are paths out of the workspace.

    Kinds: `parent` (more `..` than names before them), `absolute`, `home`, `windows`. URLs are not paths, except
    `file:` URLs.
    """
    if _WORTH.search(text) is None:
        return []
    if text.strip() == "/":
        return [Finding("absolute", 0, len(text))]  # the root; in a longer text a lone slash is a separator
    found = []
    for match in _TOKEN.finditer(text):
        kind = _escapes(match.group(), closes_tag=text[match.start() - 1 : match.start()] == "<" and match.start() > 0)
        if kind is not None:
            found.append(Finding(kind, match.start(), match.end()))
    return found


def _escapes(word: str, closes_tag: bool) -> str | None:
    if _WORTH.search(word) is None or word in _HARMLESS:
        return None
    if closes_tag and word.count("/") == 1 and word[0] == "/":
        return None  # `</div>`
    word = _plain(word)
    # `-I/usr/include`, `PATH:/bin` and `host:/path` name a path after an option letter or a colon.
    for part in (word, *word.split(":")[1:], word[2:] if word[:1] == "-" else ""):
        if _URL.match(part) and not part.lower().startswith("file:"):
            return None
        if _WINDOWS.match(part):
            return "windows"
        if _HOME.match(part):
            return "home"
        if _ABSOLUTE.match(part) and not (part is not word and part.startswith("//")):
            return "absolute"
        if _leaves(part):
            return "parent"
    return None


def _plain(word: str) -> str:
    """Undo percent-encoding (up to three times), overlong encodings and letters that look like dots and slashes."""
    for _ in range(3):
        if "%" not in word:
            break
        word = unquote(_OVERLONG_SLASH.sub("/", _OVERLONG.sub(".", word)), errors="replace")
    return word if word.isascii() else word.translate(_LOOKALIKES)


def _leaves(path: str) -> bool:
    depth = 0
    for segment in path.replace("\\", "/").split("/"):
        if segment == "..":
            depth -= 1
            if depth < 0:
                return True
        elif segment not in ("", "."):
            depth += 1
    return False
