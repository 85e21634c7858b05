"""Loads the user's files and rules into a `PolicyJudge`, or raises one error that lists every problem.

A set is always built from scratch; a caller that reloads keeps the old judge until `load` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import cedarpy
import msgspec
from cedarpy import pst

from interlock.model.errors import ConfigurationError
from interlock.model.tool import Tool
from interlock.policy import rules as short
from interlock.policy.calls import Paths
from interlock.policy.compile import NotCoveredError
from interlock.policy.contexts import Resolver
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

NO_RULES = Rules()


def load(files: Iterable[tuple[str, str]], rules: Rules = NO_RULES, world: World | None = None) -> PolicyJudge:
    """Build the judge from the policy files (name, text), the short rules and the world that they refer to.

    Raises: PolicyConfigurationError naming every problem with its place; its `path` is the first one's.
    """
    world = world or World()
    known, groups = actions(world), action_groups(world)
    checked = short.check(rules, known, groups)
    problems = [*check_tools(world, groups), *(each for each in checked if not isinstance(each, Absence))]
    warnings = [each for each in checked if isinstance(each, Absence)]
    # an invalid rule would be reported again as the policy it became
    texts = [*files] if problems else [*short.statements(rules), *files]
    policies = _parse(texts, problems)
    absent = [
        each for policy in policies for each in Names(world, known, groups).check(policy) if isinstance(each, Absence)
    ]
    warnings += [each for each in absent if not each.place.startswith(f"{short.FILE}.")]
    world, known, groups, policies = _with(absent, world, policies)
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
    # a policy for an empty group (no tool has the tag) is valid, but Cedar has no action to check it with
    empty = groups.difference(group for action in known.values() for group in action.groups)
    sound = [policy for policy in named if policy.id not in resolver.faulty and not _only_about(policy, empty)]
    problems.extend(_types(sound, cedar_schema(known, groups, contexts)))
    if problems:
        raise _error(_ordered(problems, [name for name, _ in texts]))
    shared = entities(world, known)
    reference = Reference(shared)
    return PolicyJudge(
        world=world,
        actions=known,
        entities=shared,
        contexts=contexts,
        policies=policies,
        index=Index(
            [Compiled(each, compile_policy(each.tree, each.statement.text, reference)) for each in policies], known
        ),
        paths=Paths(path_globs(policies), world.root, world.home),
        warnings=warnings,
    )


def _with(
    absent: Sequence[Absence], world: World, policies: list[Policy]
) -> tuple[World, dict[str, ActionType], set[str], list[Policy]]:
    """A world extended by the names that exist only in policies, its actions and groups, and the policies about existing names.

    A policy that also names an existing tool must be valid for it, so its other names have to exist.
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
    if isinstance(scope, pst.ActionEq):
        return scope.entity.id in groups
    return isinstance(scope, pst.ActionIn) and bool(scope.entities) and all(uid.id in groups for uid in scope.entities)


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
    # a problem of a policy usually applies to all its actions
    once = {
        (problem.place, problem.message.partition(" in context for Action::")[0]): problem
        for problem in reversed(found)
    }
    return [problem for problem in found if problem in once.values()]


def _place(message: str, default: str, place_of: Callable[[str], str]) -> str:
    """The line of the first name that the message puts in backticks."""
    parts = message.split("`")
    for quoted in parts[1::2]:
        for word in (quoted, quoted.rpartition(".")[2]):
            place = place_of(word)
            if place != default:
                return place
    return default


class PolicyConfigurationError(ConfigurationError):
    """The policies or rules cannot be used. `problems` has every reason, in the order of the files."""

    default_code = "policy"

    def __init__(self, message: str, *, problems: Sequence[Problem], path: str, hint: str) -> None:
        """Make the error of these problems."""
        super().__init__(message, path=path, hint=hint)
        self.problems = tuple(problems)

    def placed(self, where: Callable[[str], str]) -> PolicyConfigurationError:
        """The same error with its places as `where` names them."""
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
