"""Loads the user's files and rules into a `PolicyJudge`, or raises one error that lists every problem.

A set is always built from scratch; a caller that reloads keeps the old judge until `load` returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from interlock._version import __version__
from interlock.lazy import lazy
from interlock.model import typed
from interlock.model.canonical import digest_bytes
from interlock.model.errors import ConfigurationError
from interlock.model.tool import Tool
from interlock.policy import rules as short
from interlock.policy import syntax
from interlock.policy.calls import Paths
from interlock.policy.compile import NotCoveredError
from interlock.policy.contexts import Context, Resolver
from interlock.policy.index import Compiled, Index, applicable
from interlock.policy.judge import PolicyJudge
from interlock.policy.names import Names, check_tools, path_globs
from interlock.policy.policies import Absence, Policy, PolicyError, Problem, parse
from interlock.policy.reference import Reference, compile_policy
from interlock.policy.rules import Rules
from interlock.policy.schema import cedar_schema
from interlock.policy.source import split
from interlock.policy.uses import uses
from interlock.policy.world import ActionType, World, action_groups, actions, entities

if TYPE_CHECKING:
    import cedarpy
else:
    cedarpy = lazy("cedarpy")

NO_RULES = Rules()


class Checked(Protocol):
    """A cache across processes of policy sets that passed the checks. Entries may be lost, but must never be wrong."""

    def find(self, key: str) -> bytes | None:
        """The data stored under a key; None if there is none."""
        ...

    def keep(self, key: str, data: bytes) -> None:
        """Store data under a key."""
        ...


class _Sound(msgspec.Struct, frozen=True, array_like=True):
    """A policy set without problems: the result of parsing and checking it."""

    policies: tuple[Policy, ...]
    absent: tuple[Absence, ...]
    """Names in the policies that do not exist in the world."""
    warnings: tuple[Absence, ...]


class _Resolved(NamedTuple):
    """The policies that can match, the world they refer to, and the parts of each action's context that they use."""

    world: World
    actions: dict[str, ActionType]
    policies: list[Policy]
    contexts: dict[str, Context]


@functools.cache
def _decoder() -> msgspec.msgpack.Decoder[_Sound]:
    """The decoder. Built on first use, because that takes milliseconds and a runtime in memory needs none."""
    return typed.msgpack_decoder(_Sound)


def load(
    files: Iterable[tuple[str, str]],
    rules: Rules = NO_RULES,
    world: World | None = None,
    checked: Checked | None = None,
) -> PolicyJudge:
    """Build the judge from the policy files (name, text), the short rules and the world that they refer to.

    A set that `checked` knows to be sound is not checked again. Raises: PolicyConfigurationError, which names every
    problem and its place; its `path` is the place of the first.
    """
    files, world = tuple(files), world or World()
    key = None if checked is None else _key(files, rules, world)
    if checked is None or key is None:
        sound, resolved = _check(files, rules, world)
    else:
        known = _read(checked.find(key))
        if known is None:
            sound, resolved = _check(files, rules, world)
            checked.keep(key, msgspec.msgpack.encode(sound))
        else:
            sound, resolved = known, _resolve(known, world)
    shared = entities(resolved.world, resolved.actions)
    reference = Reference(shared)
    policies = [Compiled(each, compile_policy(each.tree, each.statement.text, reference)) for each in resolved.policies]
    return PolicyJudge(
        world=resolved.world,
        actions=resolved.actions,
        entities=shared,
        contexts=resolved.contexts,
        policies=resolved.policies,
        index=Index(policies, resolved.actions),
        paths=Paths(path_globs(resolved.policies), resolved.world.root, resolved.world.home),
        warnings=sound.warnings,
    )


def _key(files: Sequence[tuple[str, str]], rules: Rules, world: World) -> str | None:
    """A digest of everything the check depends on; None if it cannot be encoded, as for a workspace path that is not UTF-8."""
    about = (__version__, files, rules, world)
    try:
        return digest_bytes("policies", msgspec.msgpack.encode(about, order="deterministic"))
    except UnicodeEncodeError:
        return None


def _read(data: bytes | None) -> _Sound | None:
    try:
        return None if data is None else _decoder().decode(data)
    except msgspec.MsgspecError:
        return None  # stored by another version, or damaged: check again


def _resolve(sound: _Sound, world: World) -> _Resolved:
    """The same result as `_check`, for a set that is known to be sound."""
    world, known, _, policies = _with(sound.absent, world, list(sound.policies))
    resolver = Resolver(known)
    for policy in policies:
        resolver.add(policy, uses(policy.tree), applicable(policy.tree, known.values()))
    return _Resolved(world, known, policies, resolver.contexts())


def _check(files: Sequence[tuple[str, str]], rules: Rules, world: World) -> tuple[_Sound, _Resolved]:
    """Parse and check everything. Raises: PolicyConfigurationError."""
    known, groups = actions(world), action_groups(world)
    found_in_rules = short.check(rules, known, groups)
    problems = [*check_tools(world, groups), *(each for each in found_in_rules if not isinstance(each, Absence))]
    warnings = [each for each in found_in_rules if isinstance(each, Absence)]
    # an invalid rule would be reported a second time as the policy made from it
    texts = [*files] if problems else [*short.statements(rules), *files]
    parsed = _parse(texts, problems)
    absent = [
        each for policy in parsed for each in Names(world, known, groups).check(policy) if isinstance(each, Absence)
    ]
    warnings += [each for each in absent if not each.place.startswith(f"{short.FILE}.")]
    world, known, groups, policies = _with(absent, world, parsed)
    names = Names(world, known, groups)
    resolver = Resolver(known)
    named: list[Policy] = []
    for policy in policies:
        found = [each for each in names.check(policy) if not isinstance(each, Absence)]
        problems.extend(found)
        if found:
            continue
        try:
            looked_at = list(uses(policy.tree))
        except NotCoveredError as error:
            place = policy.statement.place
            problems.append(Problem(place, f"`{error}` is Cedar syntax that this version of Interlock does not know"))
            continue
        named.append(policy)
        resolver.add(policy, looked_at, applicable(policy.tree, known.values()))
    contexts = resolver.contexts()
    problems.extend(resolver.problems)
    # a policy for an empty group (no tool has the tag) is valid, but Cedar cannot check it without an action
    empty = groups.difference(group for action in known.values() for group in action.groups)
    sound = [policy for policy in named if policy.id not in resolver.faulty and not _only_about(policy, empty)]
    problems.extend(_types(sound, cedar_schema(known, groups, contexts)))
    if problems:
        raise _error(_ordered(problems, [name for name, _ in texts]))
    kept = _Sound(tuple(parsed), tuple(absent), tuple(warnings))
    return kept, _Resolved(world, known, policies, contexts)


def _with(
    absent: Sequence[Absence], world: World, policies: list[Policy]
) -> tuple[World, dict[str, ActionType], set[str], list[Policy]]:
    """Extend a world by names that only policies mention. Also returns its actions, groups, and policies to check.

    A policy that also names an existing tool must be valid for that tool, so its other names have to exist.
    """
    tools, more = set(), set()
    for each in absent:
        if each.kind == "Server":
            more.add(f"server:{each.name}")
        elif each.kind == "tag":
            more.add(f"tag:{each.name}")
        elif each.name.startswith(("tag:", "server:")):
            more.add(each.name)
        else:
            tools.add(each.name)
    if tools:
        world = msgspec.structs.replace(world, tools=(*world.tools, *(Tool(name=name) for name in sorted(tools))))
    rest = [policy for policy in policies if not _only_about(policy, tools | more)] if absent else policies
    return world, actions(world), action_groups(world) | more, rest


def _parse(texts: Iterable[tuple[str, str]], problems: list[Problem]) -> list[Policy]:
    found: dict[str, Policy] = {}
    for name, text in texts:
        for statement in split(name, text):
            try:
                policy = parse(statement)
            except PolicyError as wrong:
                problems.append(wrong.problem)
                continue
            other = found.setdefault(policy.id, policy)
            if other is not policy:
                where = other.statement.place
                what = f"the id `{policy.id}`" if "id" in policy.tree.annotations else "the same policy"
                problems.append(Problem(statement.place_of(policy.id), f"{what} is already used at {where}"))
    return list(found.values())


def _only_about(policy: Policy, groups: set[str]) -> bool:
    """True if the actions of a policy are all among these names."""
    scope = policy.tree.action
    if isinstance(scope, syntax.ActionEq):
        return scope.entity.id in groups
    return (
        isinstance(scope, syntax.ActionIn) and bool(scope.entities) and all(uid.id in groups for uid in scope.entities)
    )


def _types(policies: Sequence[Policy], schema: dict[str, Any]) -> list[Problem]:
    """The problems that Cedar's own type checker finds."""
    if not policies:
        return []
    result = cedarpy.validate_policies("\n".join(policy.statement.text for policy in policies), schema)
    found: dict[Problem, None] = {}
    for error in result.errors:
        number = error.policy_id.removeprefix("policy")
        if not number.isdigit() or int(number) >= len(policies):
            found[Problem("policies", error.error)] = None
            continue
        statement = policies[int(number)].statement
        message = error.error.removeprefix(f"for policy `{error.policy_id}`, ")
        found[Problem(_place(message, statement.place, statement.place_of), message)] = None
    # a problem of a policy usually applies to all its actions, so report it once
    once = {
        (problem.place, problem.message.partition(" in context for Action::")[0]): problem
        for problem in reversed(found)
    }
    return [problem for problem in found if problem in once.values()]


def _place(message: str, default: str, place_of: Callable[[str], str]) -> str:
    """The line of the first name in backticks in the message."""
    parts = message.split("`")
    for quoted in parts[1::2]:
        for word in (quoted, quoted.rpartition(".")[2]):
            place = place_of(word)
            if place != default:
                return place
    return default


class PolicyConfigurationError(ConfigurationError):
    """The policies or rules cannot be used. `problems` lists every reason, in the order of the files."""

    default_code = "policy"

    def __init__(self, message: str, *, problems: Sequence[Problem], path: str, hint: str) -> None:
        """Store the problems."""
        super().__init__(message, path=path, hint=hint)
        self.problems = tuple(problems)

    def placed(self, where: Callable[[str], str]) -> PolicyConfigurationError:
        """The same error with each place replaced by `where(place)`."""
        return _error([Problem(where(problem.place), problem.message) for problem in self.problems])


def _ordered(problems: Iterable[Problem], files: Sequence[str]) -> list[Problem]:
    def where(problem: Problem) -> tuple[int, int]:
        file, _, line = problem.place.rpartition(":")
        return (files.index(file) if file in files else -1, int(line) if line.isdigit() else 0)

    return sorted(dict.fromkeys(problems), key=where)


def _error(problems: Sequence[Problem]) -> PolicyConfigurationError:
    listed = "; ".join(map(str, problems))
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return PolicyConfigurationError(
        f"the policies cannot be used ({count}): {listed}",
        problems=problems,
        path=problems[0].place,
        hint="correct the policies, then run `interlock policy check`; a set already in force stays in force",
    )
