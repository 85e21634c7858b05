"""Vectors of facts, beside the words of `facts.py`: exact nearest neighbours, by cosine.

A vector belongs to one embedder, identified by a string that changes with its model: vectors of different embedders are
never compared. Each process keeps a matrix of the vectors it has read, and reads only those added since. Needs numpy.

The tables are those of the room `memory`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from interlock.disk import Database
from interlock.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

SIMILARITY_MIN: Final = 0.3
"""Minimum similarity to the query for a fact to be found by its vector."""
_NEAREST_MAX: Final = 400
"""Maximum number of the nearest facts of the reader's scopes that are considered."""
_DIGITS: Final = 4
"""Digits of a similarity that count: further ones would depend on the machine."""


class _Matrix:
    """The vectors of one embedder that have been read."""

    def __init__(self) -> None:
        self.last = 0
        self.numbers: Any = np.zeros(0, dtype=np.int64)
        self.scopes: Any = np.zeros(0, dtype=np.int32)
        self.vectors: Any = None


class VectorIndex:
    """The vectors of one workspace's facts. Thread-safe. Every method may raise StoreError."""

    def __init__(self, db: Database, workspace: str) -> None:
        """The tables must exist."""
        self._db = db
        self._workspace = workspace
        self._lock = threading.Lock()
        self._matrices: dict[str, _Matrix] = {}
        self._scopes: dict[str, int] = {}
        self._complete: dict[tuple[str, ...], Sequence[Any]] = {}
        """For an embedder and scopes: the state in which every fact had its vector."""

    def missing(self, embedder: str, scopes: Sequence[str], bytes_max: int | None = None) -> list[tuple[int, str]]:
        """Returns facts (number and text) of some scopes without a vector, newest first: as many as fit `bytes_max`."""
        key, state = (embedder, *scopes), self._state()
        if self._complete.get(key) == state:
            return []
        marks = ", ".join("?" * len(scopes))
        condition = f"f.workspace = ? and f.scope in ({marks})"
        rows = self._db.execute(
            "select f.number, w.words from memory_facts f join memory_words w on w.rowid = f.number"  # noqa: S608 - marks alone
            f" where {condition} and not exists"
            " (select 1 from memory_vectors v where v.embedder = ? and v.fact = f.number) order by f.number desc",
            (self._workspace, *scopes, embedder),
        )
        if not rows:
            self._complete[key] = state
        found, left = [], bytes_max
        for number, text in rows:
            if left is not None:
                left -= len(text.encode("utf-8", "surrogatepass"))
                if left < 0:
                    break
            found.append((int(number), str(text)))
        return found

    def _state(self) -> Sequence[Any]:
        """Returns values that change whenever a fact without a vector is added, which is cheaper than looking for one.

        The number of a forgotten fact is reused, but its vector was deleted. Withdrawn facts have vectors too.
        """
        (newest,) = self._db.execute("select max(number) from memory_facts")[0]
        return (newest, *self._db.execute("select count(*), max(id) from memory_vectors")[0])

    def add(self, embedder: str, vectors: Sequence[tuple[int, Sequence[float]]]) -> None:
        """Store the vectors of facts, as unit vectors. A fact that has been forgotten meanwhile gets none."""
        rows = []
        for number, vector in vectors:
            unit = _unit(vector)
            data = b"" if unit is None else unit.tobytes()  # empty: never near a query, and not requested again
            rows.append((self._workspace, embedder, number, data, number, self._workspace))
        with self._db.transaction():
            self._db.execute_many(
                "insert into memory_vectors (workspace, embedder, fact, vector)"
                " select ?, ?, ?, ? where exists (select 1 from memory_facts where number = ? and workspace = ?)"
                " on conflict (embedder, fact) do nothing",
                rows,
            )

    def nearest(self, embedder: str, vector: Sequence[float], scopes: Sequence[str]) -> list[tuple[int, float]]:
        """Returns the facts (number and similarity) of some scopes that are nearest to a vector, best first.

        Of equal ones, the newest come first.

        They include facts that do not hold.
        """
        query = _unit(vector)
        if query is None:
            return []
        with self._lock:
            found = self._read(embedder)
            if found.vectors is None or found.vectors.shape[1] != query.shape[0]:
                return []
            wanted = [self._scopes[scope] for scope in scopes if scope in self._scopes]
            similar = np.round(found.vectors @ query, _DIGITS)
            chosen = np.flatnonzero(np.isin(found.scopes, wanted) & (similar >= SIMILARITY_MIN))
            order = np.lexsort((-found.numbers[chosen], -similar[chosen]))[:_NEAREST_MAX]
            return [(int(found.numbers[row]), round(float(similar[row]), _DIGITS)) for row in chosen[order]]

    def _read(self, embedder: str) -> _Matrix:
        """Returns the matrix, after reading the vectors added since the last call."""
        matrix = self._matrices.setdefault(embedder, _Matrix())
        rows = self._db.execute(
            "select v.id, v.fact, v.vector, f.scope from memory_vectors v join memory_facts f on f.number = v.fact"
            " where v.workspace = ? and v.embedder = ? and v.id > ? order by v.id",
            (self._workspace, embedder, matrix.last),
        )
        size = next((len(row[2]) for row in rows if row[2]), 0)
        if matrix.vectors is not None:
            size = matrix.vectors.shape[1] * 4
        new = [row for row in rows if row[2] and len(row[2]) == size]
        if rows:
            matrix.last = int(rows[-1][0])
        if not new:
            return matrix
        vectors = np.frombuffer(b"".join(row[2] for row in new), dtype="<f4").reshape(len(new), -1)
        numbers = np.array([row[1] for row in new], dtype=np.int64)
        scopes = np.array([self._scopes.setdefault(row[3], len(self._scopes)) for row in new], dtype=np.int32)
        if matrix.vectors is not None:
            kept = ~np.isin(matrix.numbers, numbers)  # a number is reused after its fact was forgotten
            vectors = np.concatenate((matrix.vectors[kept], vectors))
            numbers = np.concatenate((matrix.numbers[kept], numbers))
            scopes = np.concatenate((matrix.scopes[kept], scopes))
        matrix.vectors, matrix.numbers, matrix.scopes = vectors, numbers, scopes
        return matrix


def _unit(vector: Sequence[float]) -> Any:
    """Returns the vector scaled to length 1; None if it has no direction."""
    with np.errstate(over="ignore"):  # a number that is too large is infinite, and then there is no direction
        found = np.asarray(vector, dtype="<f4")
    length = float(np.linalg.norm(found))
    return found / np.float32(length) if length > 0 and np.isfinite(length) else None
