"""References: parameter texts that stand for the output of another action.

`$ID.output` stands for the output, `$ID.output.files[0]['a name']` for a part of it. Which texts are references depends
on the ids of the proposal, because an id may contain spaces, letters of any alphabet and dots. A text that begins with
`$` and an id of the proposal but is not a reference is refused: passed on as text, a misspelt reference would do
something other than its author intended. Write `$$` instead of `$` to make such a text plain.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from interlock.lazy import lazy_pattern
from interlock.model.errors import ProposalError
from interlock.model.values import step

Path = tuple[str | int, ...]
"""Steps into an output: keys and indices."""

_STEPS: Final = r"(?:\.[^.\[\]$]+|\[[0-9]{1,9}\]|\['[^']*'\]|\[\"[^\"]*\"\])*"
_REFERENCE: Final = lazy_pattern(rf"\$([A-Za-z0-9_.:-]+?)\.output({_STEPS})", re.ASCII)
_OUTPUT: Final = lazy_pattern(rf"\.output({_STEPS})")
_STEP: Final = lazy_pattern(r"\.([^.\[\]$]+)|\[([0-9]+)\]|\['([^']*)'\]|\[\"([^\"]*)\"\]")


class Reference(NamedTuple):
    """One reference: the id (which may be unknown) and the steps into that action's output."""

    id: str
    path: Path


class References:
    """Distinguishes references from plain text, for the ids of one proposal."""

    __slots__ = ("_ids", "_lengths", "_nested")

    def __init__(self, ids: Iterable[str]) -> None:
        """`ids` are those of all actions of the proposal; a mapping or a set is not copied."""
        self._ids = ids if isinstance(ids, dict | set | frozenset) else frozenset(ids)
        self._lengths: list[int] | None = None  # needed only for a text that does not have the usual form
        self._nested = False

    def read(self, text: str) -> Reference | None:
        """Returns the reference that a text stands for, or None for plain text.

        Raises: ProposalError `reference_malformed` if it begins with `$` and a known id and cannot be distinguished
        from plain text.
        """
        if text[:1] != "$" or text[1:2] == "$":
            return None
        if self._lengths is None:
            self._lengths = sorted({len(name) for name in self._ids}, reverse=True)
            self._nested = any(".output" in name for name in self._ids)
        usual = _REFERENCE.fullmatch(text)
        if usual and usual[1] in self._ids and not self._nested:
            return Reference(usual[1], _path(usual[2]))
        begun = [name for name in self._begun(text, 1) if name]
        found = [(name, rest) for name in begun if (rest := _OUTPUT.fullmatch(text, 1 + len(name)))]
        if len(found) == 1:
            return Reference(found[0][0], _path(found[0][1][1]))
        if found:
            names = " or ".join(f"`{name}`" for name, _ in found)
            raise _malformed(f"the text could refer to {names}", "give the actions ids that do not end in `.output`")
        if usual:
            return Reference(usual[1], _path(usual[2]))
        if begun:
            raise _malformed(
                f"the text begins with `$` and the id `{begun[0]}`, but is not a reference", _how(begun[0])
            )
        if text[1:2] == "{" and (inside := [name for name in self._begun(text, 2) if text[2 + len(name)] == "."]):
            raise _malformed(f"the id `{inside[0]}` is in braces", _how(inside[0]))
        return None

    def of(self, value: Any) -> Iterator[Reference]:
        """Yields the references in parameters, at any depth. Raises: ProposalError as `read`."""
        if value.__class__ is str:
            if value[:1] == "$" and (found := self.read(value)) is not None:
                yield found
        elif value.__class__ is dict or value.__class__ is list:
            for inner in value.values() if value.__class__ is dict else value:
                yield from self.of(inner)

    def any_in(self, value: Any) -> bool:
        """Returns True if the value is or contains a reference. Raises: ProposalError as `read`."""
        return has_dollar([value]) and next(self.of(value), None) is not None

    def resolve(self, value: Any, lookup: Callable[[str, Path], Any]) -> Any:
        """Returns a copy of `value` with each reference replaced by `lookup(id, path)`, and texts escaped by `$$` made plain.

        Raises: ProposalError as `read`.
        """
        if value.__class__ is str:
            if value[:1] != "$":
                return value
            if value[:2] == "$$":
                return value[1:] if self._means_something(value) else value
            found = self.read(value)
            return value if found is None else lookup(*found)
        if value.__class__ is dict:
            return {k: self.resolve(v, lookup) for k, v in value.items()}
        if value.__class__ is list:
            return [self.resolve(v, lookup) for v in value]
        return value

    def check(self, value: Any, path: str) -> Iterator[Reference]:
        """As `of`, for a value at `path`. Raises: ProposalError that names the place, also for an unknown id."""
        if value.__class__ is str:
            if value[:1] != "$":
                return
            try:
                found = self.read(value)
            except ProposalError as error:
                raise ProposalError(error.message, code=error.code, path=path, hint=error.hint) from None
            if found is None:
                return
            if found.id not in self._ids:
                raise ProposalError(
                    f"there is no action `{found.id}` in this proposal",
                    code="dependency_unknown",
                    path=path,
                    hint='write "$$" for a text that only looks like a reference',
                )
            yield found
        elif value.__class__ is dict:
            for key, inner in value.items():
                yield from self.check(inner, path + step(key))
        elif value.__class__ is list:
            for index, inner in enumerate(value):
                yield from self.check(inner, f"{path}[{index}]")

    def escape(self, value: Any) -> Any:
        """Returns a copy of `value` in which no text is a reference or refused; `resolve` turns it back into the same value."""
        if value.__class__ is str:
            return f"${value}" if value[:1] == "$" and self._means_something(value) else value
        if value.__class__ is dict:
            return {k: self.escape(v) for k, v in value.items()}
        return [self.escape(v) for v in value] if value.__class__ is list else value

    def _means_something(self, text: str) -> bool:
        """Returns True if the text, with exactly one leading `$`, would not be plain."""
        try:
            return self.read("$" + text.lstrip("$")) is not None
        except ProposalError:
            return True

    def _begun(self, text: str, start: int) -> Iterator[str]:
        """Yields the known ids that begin at `start` and end at the end of a word, longest first."""
        for length in self._lengths or ():
            after = text[start + length : start + length + 1]
            if len(text) >= start + length and not (after.isalnum() or after == "_"):
                name = text[start : start + length]
                if name in self._ids and (start == 1 or after):
                    yield name


def has_dollar(parameters: Any) -> bool:
    """Returns True if some string in the parameters begins with `$`: only then is there something to resolve."""
    for value in parameters.values() if parameters.__class__ is dict else parameters:
        if value.__class__ is str:
            if value[:1] == "$":
                return True
        elif (value.__class__ is dict or value.__class__ is list) and has_dollar(value):
            return True
    return False


def _path(text: str) -> Path:
    return tuple(
        int(found[2]) if found[2] is not None else next(part for part in found.groups() if part is not None)
        for found in _STEP.finditer(text)
    )


def _how(name: str) -> str:
    return f'write `${name}.output`, with `.name` or `[0]` after it for a part; "$$" at the front makes it plain text'


def _malformed(message: str, hint: str) -> ProposalError:
    return ProposalError(message, code="reference_malformed", hint=hint)
