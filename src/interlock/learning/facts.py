"""Facts that agents and people have noted, in the workspace's database, each with the action that noted it.

Which of several facts about the same thing holds is computed at look-up, not stored: the newest one, and a person's
before any agent's. So an undo only has to withdraw the new facts, and the earlier ones hold again.

A fact is pending until its proposal has ended: an aborted proposal leaves nothing behind, and what a process that dies
leaves is seen only by its own resumed proposal.

Schema history: 1: first. 2: vectors. The table of words is SQLite's FTS5; another database uses its own full-text search.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from interlock.disk import Database
from interlock.learning.vectors import VectorIndex
from interlock.model.canonical import canonical
from interlock.model.clock import Clock
from interlock.model.errors import UsageError
from interlock.model.ids import CANDIDATES_MAX, choose_id

_SCHEMA: Final = (
    """
    create table memory_facts (
        number integer primary key,
        workspace text not null, id text not null, scope text not null, subject text not null, predicate text not null,
        value text not null, author text not null, person integer not null, confidence real not null,
        run text not null, proposal text not null, action text not null, pending integer not null,
        created_us bigint not null, expires_us bigint, withdrawn_by text,
        unique (workspace, id)
    );
    create index memory_facts_about on memory_facts (workspace, subject, predicate, scope);
    create index memory_facts_of on memory_facts (workspace, run, proposal, action);
    create virtual table memory_words using fts5(words, tokenize = 'unicode61 remove_diacritics 2');
    create virtual table memory_counts using fts5vocab(memory_words, 'row');
    """,
    """
    create table memory_vectors (
        id integer primary key autoincrement,
        workspace text not null, embedder text not null, fact integer not null, vector blob not null,
        unique (embedder, fact)
    );
    create index memory_vectors_of on memory_vectors (workspace, embedder, id);
    create index memory_vectors_fact on memory_vectors (fact);
    """,
)
WORKSPACE: Final = "workspace"
"""The scope that all agents of a workspace share."""
PERSON: Final = "person:"
EPISODE: Final = "episode"
"""Author and subject of an episode: a recorded proposal with its goal and outcome."""
SUBJECT_CHARS_MAX: Final = 200
VALUE_BYTES_MAX: Final = 8_192
_WORD: Final = re.compile(r"\w+")
_WORDS_MAX: Final = 24
_RARE: Final = 2_000
"""A word that occurs in more facts than this distinguishes little; it is ignored if the query has rarer words."""
_CANDIDATES_MAX: Final = 200
_FUSION: Final = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009)."""


class Fact(msgspec.Struct, frozen=True, kw_only=True):
    """Something that was noted. `run`, `proposal` and `action` identify the action that noted it; empty if a person did."""

    id: str
    scope: str
    """Readers: `agent:NAME`, `group:NAME` or `workspace`."""
    subject: str
    predicate: str
    """The property that the value is of; empty for a note that replaces no other."""
    value: Any
    author: str
    """`agent:NAME` or `person:NAME`."""
    confidence: float
    """The author's own estimate, from 0 to 1. It is shown, and decides nothing."""
    run: str
    proposal: str
    action: str
    created_us: int
    expires_us: int | None = None
    pending: bool = False
    withdrawn_by: str | None = None
    """The run whose undo withdrew the fact."""

    @property
    def kind(self) -> str:
        """`fact`, or `episode` for a recorded proposal."""
        return EPISODE if self.author == EPISODE else "fact"

    @property
    def by_person(self) -> bool:
        """Returns True if a person noted it."""
        return self.author.startswith(PERSON)


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A fact that matches a query. Scores can be compared only within one search."""

    fact: Fact
    score: float


class Origin(msgspec.Struct, frozen=True):
    """The action that notes something; empty for a person at the command line."""

    run: str = ""
    proposal: str = ""
    action: str = ""


NOWHERE: Final = Origin()
_COLUMNS: Final = (
    "id, scope, subject, predicate, value, author, confidence, run, proposal, action, created_us, expires_us, pending,"
    " withdrawn_by"
)
_HOLDS: Final = """
    f.workspace = :workspace and f.withdrawn_by is null and (f.expires_us is null or f.expires_us > :now)
    and (f.pending = 0 or (f.run = :run and f.proposal = :proposal))
    and not exists (
        select 1 from memory_facts o
        where f.predicate <> '' and o.workspace = f.workspace and o.subject = f.subject and o.predicate = f.predicate
        and o.withdrawn_by is null and (o.pending = 0 or (o.run = :run and o.proposal = :proposal))
        and (
            (o.scope = f.scope and (o.person > f.person or (o.person = f.person and o.number > f.number)))
            or (o.person = 1 and f.person = 0 and o.scope in SCOPES)
        )
    )
"""
"""The SQL condition that a fact holds for a reader of some scopes.

It is visible, and no fact of higher precedence says something about the same thing.
"""


class FactStore:
    """The facts of one workspace. Every method may raise StoreError."""

    def __init__(self, db: Database, workspace: str, clock: Clock) -> None:
        """Create the tables if they do not exist."""
        self.db = db
        self.vectors = VectorIndex(db, workspace)
        self._workspace = workspace
        self._clock = clock
        db.migrate("memory", _SCHEMA)

    # -- writing

    def note(
        self,
        fact_id: str,
        scope: str,
        subject: str,
        predicate: str,
        value: Any,
        *,
        author: str,
        confidence: float = 1.0,
        ttl_ms: int | None = None,
        origin: Origin = NOWHERE,
        pending: bool = False,
    ) -> Fact:
        """Store a fact. Replaces what an earlier attempt of the same action noted.

        Raises: UsageError for a subject or value that is empty or too long; CanonicalError if the value is not JSON.
        """
        _check(subject, predicate, value)
        now = self._clock.now_us()
        fact = Fact(
            id=fact_id, scope=scope, subject=subject, predicate=predicate, value=value, author=author,
            confidence=confidence, run=origin.run, proposal=origin.proposal, action=origin.action, created_us=now,
            expires_us=None if ttl_ms is None else now + ttl_ms * 1000, pending=pending,
        )  # fmt: skip
        with self.db.transaction():
            if origin.run:
                self._delete("run = ? and proposal = ? and action = ?", origin.run, origin.proposal, origin.action)
            self.db.execute(
                "insert into memory_facts (workspace, id, scope, subject, predicate, value, author, person, confidence, run,"
                " proposal, action, pending, created_us, expires_us) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    self._workspace, fact_id, scope, subject, predicate, msgspec.json.encode(value).decode(), author,
                    fact.by_person, confidence, *msgspec.structs.astuple(origin), pending, now, fact.expires_us,
                ),
            )  # fmt: skip
            self.db.execute(
                "insert into memory_words (rowid, words) select number, ? from memory_facts where workspace = ? and id = ?",
                (_words_of(fact), self._workspace, fact_id),
            )
        return fact

    def correct(self, fact_id: str, value: Any, *, by: str, new_id: str) -> Fact:
        """Store a person's correction, which holds from now on, whatever agents note. Raises: UsageError `not_found`."""
        old = self.get(fact_id)
        predicate = old.predicate
        if not predicate:  # a note: the correction needs the same predicate to replace it
            predicate = f"note {old.id}"
            self.db.execute(
                "update memory_facts set predicate = ? where workspace = ? and id = ?",
                (predicate, self._workspace, old.id),
            )
        return self.note(new_id, old.scope, old.subject, predicate, value, author=PERSON + by)

    def settle(self, run: str, proposal: str, actions: Sequence[str]) -> None:
        """End a proposal: the facts that these actions noted hold, and its other facts are discarded."""
        with self.db.transaction():
            for action in actions:
                self.db.execute(
                    "update memory_facts set pending = 0 where workspace = ? and run = ? and proposal = ? and action = ?",
                    (self._workspace, run, proposal, action),
                )
            self._delete("run = ? and proposal = ? and pending = 1", run, proposal)

    def withdraw(self, run: str, action: str | None, *, by: str) -> tuple[list[str], list[str]]:
        """Withdraw what a run (or one action of it) noted, and restore what that run itself had withdrawn.

        Returns the ids of the restored facts, and of the withdrawn ones.
        """
        with self.db.transaction():
            back = self._ids("withdrawn_by = ?", run)
            self._set_withdrawn("withdrawn_by = ?", None, run)
            gone = self._ids("run = ? and withdrawn_by is null and (? is null or action = ?)", run, action, action)
            self._set_withdrawn(
                "run = ? and withdrawn_by is null and (? is null or action = ?)", by, run, action, action
            )
        return back, gone

    def forget(self, *, ids: Sequence[str] = (), scope: str | None = None, run: str | None = None) -> list[str]:
        """Delete facts permanently: those named, all of a scope, or all that a run noted. Returns their ids."""
        with self.db.transaction():
            found = list(ids)
            if scope is not None:
                found += self._ids("scope = ?", scope)
            if run is not None:
                found += self._ids("run = ?", run)
            for each in found:
                self._delete("id = ?", each)
        return found

    def prune(self, before_us: int) -> int:
        """Delete the facts that agents noted before a time; those of people remain. Returns their number."""
        with self.db.transaction():
            return self._delete("created_us < ? and person = 0", before_us)

    # -- reading

    def get(self, fact_id: str) -> Fact:
        """Returns a fact, whether it holds or not. Raises: UsageError `not_found`."""
        rows = self._select("f.id = :id", {"id": fact_id})
        if not rows:
            raise UsageError(f"there is no fact `{fact_id}`", code="not_found", hint="`interlock memory list --all`")
        return rows[0]

    def find(self, text: str) -> str:
        """Returns the id of a fact from any unambiguous prefix. Raises: UsageError `not_found`, `ambiguous_id`."""
        rows = self.db.execute(
            "select id from memory_facts where workspace = ? and (substr(id, 1, ?) = ? or substr(id, 1, ?) = ?)"
            " order by id <> ?, id limit ?",
            (self._workspace, len(text), text, len(text) + 4, f"mem_{text}", text, CANDIDATES_MAX + 1),
        )
        return choose_id(text, [row[0] for row in rows], what="fact", hint="`interlock memory list --all` shows them")

    def correction(self, subject: str, predicate: str, scopes: Sequence[str]) -> Fact | None:
        """Returns a person's fact about this in one of the scopes; None if there is none."""
        marks, values = _in(scopes)
        known = self._select(
            f"f.subject = :subject and f.predicate = :predicate and f.predicate <> '' and f.person = 1"
            f" and f.scope in {marks} and {_HOLDS.replace('SCOPES', marks)}",
            {**values, "subject": subject, "predicate": predicate, "run": "", "proposal": ""},
        )
        return known[0] if known else None

    def scopes(self) -> list[str]:
        """Returns the scopes that contain facts, in order."""
        rows = self.db.execute(
            "select distinct scope from memory_facts where workspace = ? order by scope", (self._workspace,)
        )
        return [row[0] for row in rows]

    def facts(self, scopes: Sequence[str], *, everything: bool = False, limit: int = 1_000) -> list[Fact]:
        """Returns the facts of some scopes that hold, newest first. `everything` includes those that do not hold."""
        marks, values = _in(scopes)
        condition = f"f.scope in {marks}" + ("" if everything else f" and {_HOLDS.replace('SCOPES', marks)}")
        return self._select(condition, {**values, "run": "", "proposal": "", "limit": limit}, "order by f.number desc")

    def search(
        self,
        query: str,
        scopes: Sequence[str],
        *,
        origin: Origin = NOWHERE,
        limit: int = 10,
        near: Sequence[int] = (),
    ) -> list[Found]:
        """Returns the facts of some scopes that hold, and share words with the query or are `near` it, best first.

        `near` lists numbers of facts, nearest first. Words, nearness and age all count.

        `origin` names the proposal that asks, which sees its own pending facts.
        """
        words = self._telling(query)
        if not scopes:
            return []
        by_words = self._by_words(words, scopes, origin) if words else []
        by_vectors = self._by_number(near, scopes, origin) if near else []
        return fuse(by_words, by_vectors)[:limit]

    def _by_words(self, words: Sequence[str], scopes: Sequence[str], origin: Origin) -> list[Fact]:
        """Returns the facts that hold and share words with a query, the most relevant first."""
        marks, values = _in(scopes)
        match = " OR ".join(f'"{word}"' for word in words)
        given = {**values, "run": origin.run, "proposal": origin.proposal, "match": match, "limit": _CANDIDATES_MAX}
        return self._select(
            f"memory_words match :match and f.scope in {marks} and {_HOLDS.replace('SCOPES', marks)}",
            given, "order by bm25(memory_words), f.number desc", "memory_words w join memory_facts f on f.number = w.rowid",
        )  # fmt: skip

    def _by_number(self, near: Sequence[int], scopes: Sequence[str], origin: Origin) -> list[Fact]:
        """Returns the facts with these numbers that hold, in this order."""
        marks, values = _in(scopes)
        given = {**values, "run": origin.run, "proposal": origin.proposal, "near": msgspec.json.encode(near).decode()}
        return self._select(
            f"f.scope in {marks} and {_HOLDS.replace('SCOPES', marks)}",
            {**given, "limit": _CANDIDATES_MAX}, "order by n.key",
            "json_each(:near) n cross join memory_facts f on f.number = n.value",
        )  # fmt: skip

    def _telling(self, query: str) -> list[str]:
        """Returns the words of a query that distinguish facts.

        Those are words that few facts contain, or the rarest one if all are common.
        """
        words = list(dict.fromkeys(word.lower() for word in _WORD.findall(query)))[:_WORDS_MAX]
        counted = []
        for word in words:
            rows = self.db.execute("select sum(doc) from memory_counts where term = ?", (_folded(word),))
            counted.append((int(rows[0][0] or 0), word))
        known = sorted(each for each in counted if each[0])
        rare = [word for count, word in known if count <= _RARE]
        return rare or [word for _, word in known[:1]]

    def _select(
        self, condition: str, values: dict[str, Any], rest: str = "", source: str = "memory_facts f"
    ) -> list[Fact]:
        columns = ", ".join(f"f.{name.strip()}" for name in _COLUMNS.split(","))
        limit = " limit :limit" if "limit" in values else ""
        rows = self.db.execute(
            f"select {columns} from {source} where f.workspace = :workspace and {condition} {rest}{limit}",  # noqa: S608 - constants of this module
            {"workspace": self._workspace, "now": self._clock.now_us(), **values},
        )
        return [_fact(row) for row in rows]

    def _ids(self, condition: str, *values: Any) -> list[str]:
        rows = self.db.execute(
            f"select id from memory_facts where workspace = ? and {condition} order by number",  # noqa: S608 - as above
            (self._workspace, *values),
        )
        return [row[0] for row in rows]

    def _set_withdrawn(self, condition: str, by: str | None, *values: Any) -> None:
        self.db.execute(
            f"update memory_facts set withdrawn_by = ? where workspace = ? and {condition}",  # noqa: S608 - as above
            (by, self._workspace, *values),
        )

    def _delete(self, condition: str, *values: Any) -> int:
        self.db.execute(
            f"delete from memory_vectors where fact in (select number from memory_facts where workspace = ? and {condition})",  # noqa: S608 - as above
            (self._workspace, *values),
        )
        self.db.execute(
            f"delete from memory_words where rowid in (select number from memory_facts where workspace = ? and {condition})",  # noqa: S608 - as above
            (self._workspace, *values),
        )
        self.db.execute(f"delete from memory_facts where workspace = ? and {condition}", (self._workspace, *values))  # noqa: S608 - as above
        return self.db.changes


def fuse(*rankings: Sequence[Fact]) -> list[Found]:
    """Merge rankings by reciprocal rank fusion, in which age is a weaker ranking. Equal scores are ordered by id."""
    facts = {fact.id: fact for ranking in rankings for fact in ranking}
    newest = sorted(facts.values(), key=lambda fact: (-fact.created_us, fact.id))
    scores = {fact.id: 0.25 / (_FUSION + rank) for rank, fact in enumerate(newest)}
    for ranking in rankings:
        for rank, fact in enumerate(ranking):
            scores[fact.id] += 1 / (_FUSION + rank)
    found = [Found(fact=facts[each], score=round(score, 6)) for each, score in scores.items()]
    return sorted(found, key=lambda one: (-one.score, one.fact.id))


def _fact(row: tuple[Any, ...]) -> Fact:
    fields = dict(zip((name.strip() for name in _COLUMNS.split(",")), row, strict=True))
    return Fact(**{**fields, "value": msgspec.json.decode(fields["value"]), "pending": bool(fields["pending"])})


def _in(scopes: Iterable[str]) -> tuple[str, dict[str, str]]:
    """Returns `(:s0, :s1)` and the values of these placeholders."""
    values = {f"s{index}": scope for index, scope in enumerate(scopes)}
    return "(" + ", ".join(f":{name}" for name in values) + ")", values


def _check(subject: str, predicate: str, value: Any) -> None:
    for name, text in (("subject", subject), ("predicate", predicate)):
        if len(text) > SUBJECT_CHARS_MAX:
            raise UsageError(f"the {name} has {len(text)} characters; the limit is {SUBJECT_CHARS_MAX}")
    if not subject.strip():
        raise UsageError("the subject is empty")
    if len(canonical(value)) > VALUE_BYTES_MAX:
        raise UsageError(
            f"the value is longer than {VALUE_BYTES_MAX} bytes",
            hint="memory holds facts: keep a document in a file, and note its path",
        )


def _words_of(fact: Fact) -> str:
    value = fact.value if isinstance(fact.value, str) else msgspec.json.encode(fact.value).decode()
    return f"{fact.subject} {fact.predicate} {value}"


def _folded(word: str) -> str:
    """Returns a word as FTS5's tokenizer `unicode61 remove_diacritics 2` stores it."""
    decomposed = unicodedata.normalize("NFD", word.lower())
    return "".join(c for c in decomposed if not unicodedata.combining(c))
