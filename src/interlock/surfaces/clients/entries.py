"""Entries in a file that belongs to a client: adds them, and removes exactly what was added.

All of it works on plain values; `documents.py` handles the text.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

from interlock.surfaces.clients.documents import unusable


class Entry(NamedTuple):
    """One entry of a file: a value at these keys, or, with `listed`, a value in the list at these keys.

    Without keys it is the whole file as text, which then belongs to Interlock alone.
    """

    keys: tuple[str, ...]
    value: Any
    listed: bool = False


def add(document: dict[str, Any], entries: tuple[Entry, ...], path: Path) -> dict[str, Any]:
    """A copy of the document with the entries. Raises: UsageError `client_file` if one does not fit the existing content."""
    found = copy.deepcopy(document)
    for entry in entries:
        place = found
        for key in entry.keys[:-1]:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise unusable(path, f"`{'.'.join(entry.keys[:-1])}` is not an object")
        last = entry.keys[-1]
        if not entry.listed:
            place[last] = entry.value
            continue
        values = place.setdefault(last, [])
        if not isinstance(values, list):
            raise unusable(path, f"`{'.'.join(entry.keys)}` is not a list")
        if entry.value not in values:
            values.append(entry.value)
    return found


def take_out(document: dict[str, Any], entries: tuple[Entry, ...], before: dict[str, Any]) -> dict[str, Any]:
    """A copy of the document without the entries, except for those that it had `before`."""
    found = copy.deepcopy(document)
    for entry in entries:
        *above, last = entry.keys
        places = [found]
        for key in above:
            inner = places[-1].get(key)
            places.append(inner if isinstance(inner, dict) else {})
        place, old = places[-1], _at(before, entry.keys)
        if entry.listed:
            values = place.get(last)
            if (
                isinstance(values, list)
                and entry.value in values
                and not (isinstance(old, list) and entry.value in old)
            ):
                values.remove(entry.value)
            if values == [] and old != []:
                del place[last]
        elif place.get(last) == entry.value:
            if old is None:
                del place[last]
            else:
                place[last] = old
        for depth in range(len(above), 0, -1):  # created for the entry or for one of others, and empty now
            if (
                not places[depth]
                and places[depth - 1].get(above[depth - 1]) == {}
                and _at(before, entry.keys[:depth]) != {}
            ):
                del places[depth - 1][above[depth - 1]]
    return found


def has(document: dict[str, Any], entries: tuple[Entry, ...]) -> bool:
    """True if the document has all of the entries."""
    for entry in entries:
        found = _at(document, entry.keys)
        if entry.value not in found if entry.listed and isinstance(found, list) else found != entry.value:
            return False
    return True


def _at(document: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document
