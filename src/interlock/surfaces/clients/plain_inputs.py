"""Paths, patterns and commands that clients use as they are given.

Some clients change an input before they use it: they cut off white space, expand `~`, take `..` and the name before it
off, or follow a pattern out of the directory that is searched. What is judged would then not be what is done, so such
inputs are refused.
"""

from __future__ import annotations

import os
import re
from typing import Final

_ODD_PATH: Final = re.compile(r"~|[A-Za-z][A-Za-z0-9+.-]+:")
_ODD_CHARACTER: Final = re.compile("[\x00-\x1f\x7f-\x9f\ufeff]|[^\\S ]")


def check_path(path: str) -> None:
    """Refuse a path that some clients change before they use it. Raises: ValueError."""
    why = None
    if _ODD_CHARACTER.search(path) is not None:
        why = "it contains a control character, or white space other than a plain space"
    elif path != path.strip():
        why = "it starts or ends with white space"
    elif _ODD_PATH.match(path) is not None:
        why = "it starts with `~` or like a URL; if that is its name, write `./` in front"
    if why is not None:
        raise ValueError(f"a client may change the path {path[:_SHOWN]!r} before it uses it: {why}. Nothing was done")


def real_path(path: str) -> str:
    """An absolute path without links.

    Raises: ValueError for a path that means one file for some programs and another one for others: `..` after a link,
    and the links in `/proc` to the process that follows them, to which those in `/dev` lead.
    """
    real = _followed(path)
    if ".." in path.split("/") and _followed(os.path.normpath(path)) != real:
        raise ValueError(
            f"the path {path[:_SHOWN]!r} has a `..` after a link, which programs follow in two ways: give the path without"
            " `..`. Nothing was done"
        )
    return real


def _followed(path: str) -> str:
    """The path without links, as the system follows them. What is missing counts as a directory."""
    at: list[str] = []
    left, links = path.split("/")[::-1], 0
    while left:
        name = left.pop()
        if name == "..":
            del at[-1:]
        if name in ("", ".", ".."):
            continue
        at.append(name)
        if at == ["proc"]:
            raise ValueError("a path in `/proc` can mean another file for another program. Nothing was done")
        try:
            target = os.readlink("/" + "/".join(at))  # noqa: PTH115 - a call that takes microseconds
        except OSError:
            continue  # no link, or not there
        links += 1
        if links > _LINKS_MAX:
            raise ValueError(f"the path {path[:_SHOWN]!r} leads through too many links. Nothing was done")
        at = [] if target[:1] == "/" else at[:-1]
        left += target.split("/")[::-1]
    return "/" + "/".join(at)


_LINKS_MAX: Final = 40
"""As in the kernel."""


def check_command(command: str) -> None:
    """Refuse a command whose ends some clients cut off, although they belong to it in a shell. Raises: ValueError."""
    core = command.strip(" \t\n")
    if core != core.strip().strip("\ufeff"):
        raise ValueError("the command starts or ends with white space other than plain spaces and lines")


def check_glob(pattern: str, directory: str, root: str) -> None:
    """Refuse a pattern that can match files outside of the workspace `root`, wherever in it the `directory` is.

    `*` and the like match no `..`, and are not followed further here. Raises: ValueError.
    """
    for one in _braces(pattern):
        parts = one.split("/")
        if any(part.translate(_NO_MAGIC) == ".." for part in parts):
            raise ValueError(f"the pattern `{pattern[:_SHOWN]}` has a part `..`: give the directory as a path instead")
        if pattern[:1] in ("~", " ") or (
            len(parts) > 1 and not parts[0].translate(_NO_MAGIC) and not {*parts[0]} & {*"*?"}
        ):
            raise ValueError(
                f"the pattern `{pattern[:_SHOWN]}` is not relative: give the directory as a path, and a pattern beneath it"
            )
        plain = next((depth for depth, part in enumerate(parts) if re.search(r"[*?\[\]()\\]", part)), len(parts) - 1)
        real = real_path("/".join([directory, *parts[:plain]]))
        if real != root and not real.startswith(root.rstrip("/") + "/"):
            raise ValueError(
                f"path_outside_workspace: the pattern `{pattern[:_SHOWN]}` leads out of the workspace by a link"
            )


def _braces(pattern: str) -> list[str]:
    """The patterns that one with alternatives in braces stands for. Raises: ValueError if there are too many, or ranges."""
    done, left = [], [pattern]
    while left:
        one = left.pop()
        found = _GROUP.search(one)
        if found is None:
            done.append(one)
        elif ".." in found[1] and "," not in found[1]:
            raise ValueError(f"the pattern `{pattern[:_SHOWN]}` has a range in braces: write its values with commas")
        else:
            left += [one[: found.start()] + each + one[found.end() :] for each in found[1].split(",")]
        if len(done) + len(left) > _BRACES_MAX:
            raise ValueError(f"the pattern `{pattern[:_SHOWN]}` has too many alternatives")
    return done


_GROUP: Final = re.compile(r"\{([^{}]*)\}")
_NO_MAGIC: Final = {ord(character): None for character in "[]\\()@!+?*|"}
_BRACES_MAX: Final = 1000
_SHOWN: Final = 200
