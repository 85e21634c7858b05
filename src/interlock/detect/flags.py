"""The flags of a value: which detectors fired, in the form that policies see in `context.flags`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from interlock.detect.addresses import find_private
from interlock.detect.credentials import is_secret_name
from interlock.detect.paths import find_escapes
from interlock.detect.redact import find_secrets
from interlock.detect.unicode import find_unseen

FLAGS: Final[dict[str, str]] = {
    "secret": "A value contains a token, key or password, or a field with such a name is not empty.",
    "invisible_text": "Invisible characters: zero width, tags, fillers, variation selectors where they change nothing.",
    "bidirectional_text": "Characters that change the direction in which the text around them is shown.",
    "control_characters": "Control characters other than tab and line ends, such as terminal escape sequences.",
    "private_address": "A private, loopback, link-local, metadata, carrier, multicast, mapped or reserved address or name.",
    "path_escape": "A path that leaves the workspace: `..` above its start, absolute, `~`, also encoded.",
}
"""Every flag with its meaning. Stable names, because policies use them."""

_UNSEEN_FLAG: Final = {"bidirectional": "bidirectional_text", "control": "control_characters"}


def flags(value: Any) -> tuple[str, ...]:
    """Returns the names of `FLAGS` that hold for a JSON value, including its keys, in alphabetical order."""
    found: set[str] = set()
    seen: set[str] = set()
    for text in texts(value, found):
        if text not in seen:
            seen.add(text)
            _flag(text, found)
            if len(found) == len(FLAGS):
                break
    return tuple(sorted(found))


def texts(value: Any, found: set[str] | None = None) -> Iterator[str]:
    """Yields every string in a value, depth first, without recursion.

    Adds `secret` to `found` if a field named like a secret is not empty.
    """
    found = set() if found is None else found
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            for key, inner in item.items():
                yield key
                if inner not in (None, "", True, False) and is_secret_name(key):
                    found.add("secret")
                todo.append(inner)
        elif isinstance(item, (list, tuple)):
            # An argument vector is also read as one line, to catch `["--password", "x"]`.
            if item and all(isinstance(x, str) for x in item):
                yield " ".join(item)
            todo += item


def _flag(text: str, found: set[str]) -> None:
    if "secret" not in found and find_secrets(text):
        found.add("secret")
    if "private_address" not in found and find_private(text):
        found.add("private_address")
    if "path_escape" not in found and find_escapes(text):
        found.add("path_escape")
    if not (text.isascii() and text.isprintable()):
        found.update(_UNSEEN_FLAG.get(f.kind, "invisible_text") for f in find_unseen(text))
