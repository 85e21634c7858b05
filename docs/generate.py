"""Writes what the reference can take from the code: `python docs/generate.py`, or `--check` to see whether it is current.

A page of `docs/reference/` may hold regions between `<!-- generated: NAME -->` and `<!-- end -->`; `REGIONS` says how each is
made. What is around them is written by hand.
"""

from __future__ import annotations

import datetime as dt
import inspect
import os
import re
import sys
import tempfile
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

import interlock
from interlock.detect.prompts import PROMPT_FLAGS
from interlock.detect.shapes import KINDS as SECRET_KINDS
from interlock.isolation import seccomp, syscalls
from interlock.model import codes, events
from interlock.model.errors import InterlockError
from interlock.model.limits import Limits
from interlock.policy.shapes import Atom, Fields, Many
from interlock.policy.world import BUILT_IN, COMMAND, ENTITY_TYPES, PROPOSAL
from interlock.settings.decode import description_of, fields_of, shown, unit_of
from interlock.settings.overlay import RULES
from interlock.settings.sections import Settings
from interlock.surfaces.cli.app import root as cli
from interlock.surfaces.web import openapi

REFERENCE: Final = Path(__file__).resolve().parent / "reference"
WIDTH: Final = 100
_REGION: Final = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# -- codes


def reasons() -> str:
    """The reasons, under the headings that the comments in `codes.py` are."""
    sections: dict[str, list[str]] = {}
    current: list[str] = []
    for line in inspect.getsource(codes).split("REASONS: Final", 1)[1].split("\n}\n", 1)[0].splitlines():
        if heading := re.match(r"\s+# (.+)", line):
            current = sections.setdefault(heading[1], [])
        elif key := re.match(r'\s+"(\w+)":', line):
            current.append(key[1])
    assert sorted([key for keys in sections.values() for key in keys]) == sorted(codes.REASONS)
    return "\n".join(
        f"### {heading[:1].upper()}{heading[1:]}\n\n{_codes({key: codes.REASONS[key] for key in keys})}"
        for heading, keys in sections.items()
    )


def _codes(texts: dict[str, str]) -> str:
    return table(("code", "meaning"), ((f"`{code}`", text) for code, text in texts.items()))


def system_calls() -> str:
    """The filter around processes."""
    numbers = {machine: syscalls.numbers(machine) for machine in syscalls.MACHINES}
    rows = (
        (
            f"`{rule.call}`",
            *(str(numbers[machine].get(rule.call, "")) for machine in numbers),
            rule.condition,
            rule.answer,
            rule.reason,
        )
        for rule in sorted(seccomp.rules())
    )
    return table(("call", *syscalls.MACHINES, "when", "answer", "why"), rows)


def exit_codes() -> str:
    """The classes of errors with their exit codes."""
    rows = []
    for name in interlock.__all__:
        kind = getattr(interlock, name)
        if isinstance(kind, type) and issubclass(kind, InterlockError):
            rows.append((f"`{name}`", f"{kind.exit_code}", kind.fault, first_line(kind.__doc__)))
    return table(("class", "exit code", "fault", "meaning"), rows)


# -- tools


def tools() -> str:
    """Every built-in tool."""
    local = {
        "provider": "openai-compatible",
        "endpoint": "http://localhost:8000/v1",
        "tools": ["infer", "classify", "embed"],
    }
    settings = {"models": {"fast": local}, "learning": {"memory": True, "distill": True}}
    with tempfile.TemporaryDirectory() as empty, interlock.Runtime.open(settings=settings, workspace=empty) as runtime:
        return "\n".join(_tool(tool) for tool in runtime.tools())


def _tool(tool: interlock.Tool) -> str:
    by = "" if tool.compensation is None else f" by `{tool.compensation.tool}`"
    facts = [tool.reversibility + by]
    facts += ["read only"] if tool.read_only else []
    facts += ["reaches the world"] if tool.open_world else []
    facts += [f"runs as a {tool.isolation}"] if tool.isolation else []
    facts += [f"time-out {tool.timeout_ms // 1000} s"]
    facts += [f"tags {', '.join(f'`{tag}`' for tag in tool.tags)}"] if tool.tags else []
    out = f"## `{tool.name}`\n\n{tool.description}\n\n{'; '.join(facts)}.\n\n"
    out += "Parameters:\n\n" + _properties(tool.parameters)
    for choice in tool.parameters.get("oneOf", ()):
        out += f"\nEither `{choice['required'][0]}`" if "Either" not in out else f" or `{choice['required'][0]}`"
    out += ", not both.\n" if "oneOf" in tool.parameters else ""
    if tool.returns is not None:
        out += "\nOutput:\n\n" + _properties(tool.returns, output=True)
    return out


def _properties(schema: dict[str, Any], *, output: bool = False) -> str:
    required = schema.get("required", ())
    rows = []
    for name, part in schema.get("properties", {}).items():
        notes = [part["description"]] if "description" in part else []
        notes += [f"Default `{_literal(part['default'])}`."] if part.get("default") is not None else []
        mark = part.get("x-interlock") or part.get("items", {}).get("x-interlock")
        notes += [f"Checked against the grant as `{mark}`."] if mark else []
        optional = "" if output or name in required else "?"
        rows.append((f"`{name}{optional}`", schema_type(part), " ".join(notes)))
    return table(("name", "type", "meaning"), rows) if rows else "None.\n"


def _literal(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def schema_type(part: dict[str, Any]) -> str:
    """A JSON Schema as a few words."""
    if "enum" in part:
        return ", ".join(f"`{_literal(value)}`" for value in part["enum"])
    if "$ref" in part:
        return str(part["$ref"]).rpartition("/")[2]
    choices = part.get("anyOf", ())
    if any("b64" in choice.get("properties", {}) for choice in choices):
        return "string or `{b64}`"
    if choices:
        return " or ".join(dict.fromkeys(schema_type(choice) for choice in choices))
    kind = part.get("type", "any")
    if isinstance(kind, list):
        return " or ".join(kind)
    if kind == "array":
        item = part.get("items", {})
        fields = item.get("properties")
        if fields:
            optional = set(fields) - set(item.get("required", fields))
            return f"array of `{{{', '.join(f + ('?' if f in optional else '') for f in fields)}}}`"
        return f"array of {schema_type(item)}" if item else "array"
    limits = [f"{word} {part[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in part]
    return " ".join([kind, *limits])


# -- settings


def settings() -> str:
    """Every section of `interlock.toml` with its settings."""
    return "\n".join(_sections(Settings, ""))


def _sections(section: type, name: str) -> Iterator[str]:
    rows, below = [], []
    defaults = {field.encode_name: field for field in msgspec.structs.fields(section)}
    for key, (_, hint) in fields_of(section).items():
        inner, wrapper = _inner(hint)
        if inner is not None and inner.__name__ != "Paths":
            place = {"dict": f"{name}.{key}.NAME" if name else f"{key}.NAME", "tuple": f"{name}.{key}"}
            at = place.get(wrapper, f"{name}.{key}" if name else key)
            at = at.replace(".by_name.NAME", '."NAME"')
            below.append((inner, f"[{at}]" if wrapper == "tuple" else at))
            continue
        rows.append((f"`{key}`", _type(hint), _default(defaults[key], hint), description_of(hint), _tighten(name, key)))
    title = f"[{name}]" if name else "Top level"
    yield f"## `{title}`\n\n{first_line(section.__doc__)}\n" if name else "## Top level\n"
    if rows:
        yield table(("key", "type", "default", "meaning", "environment and flags may"), rows)
    for inner, at in below:
        yield from _sections(inner, at)


def _inner(hint: Any) -> tuple[Any, str]:
    """The section that a setting holds, and whether it holds one, many by name, or a list."""
    plain = hint
    while typing.get_origin(plain) is typing.Annotated:
        plain = plain.__origin__
    origin, arguments = typing.get_origin(plain), typing.get_args(plain)
    if isinstance(plain, type) and issubclass(plain, msgspec.Struct):
        return plain, ""
    if origin is dict and (found := _inner(arguments[1])[0]):
        return found, "dict"
    if origin is tuple and (found := _inner(arguments[0])[0]):
        return found, "tuple"
    if origin in (typing.Union, types.UnionType):
        return _inner(arguments[0])
    return None, ""


def _type(hint: Any) -> str:
    if unit_of(hint) is not None:
        return str(unit_of(hint))
    while typing.get_origin(hint) is typing.Annotated:
        hint = hint.__origin__
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f'`"{value}"`' for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return _type(arguments[0])
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"table of {_type(arguments[1])}"
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return "`{" + ", ".join(hint.__struct_fields__) + "}`"
    names = {dt.datetime: "date and time", str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _default(field: Any, hint: Any) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "none"
    return f"`{_literal(shown(value, hint))}`"


def _tighten(section: str, key: str) -> str:
    rule = RULES.get(f"{section}.{key}")
    words = {
        "smaller": "make it smaller",
        "rule": "go further, never back",
        "added": "add to it",
        "fewer": "take from it",
        "allowed": "narrow it",
        "merge_ask": "add what is allowed",
        "nothing": "switch it off",
    }
    return words[rule.__name__] if rule is not None else "not set it"


# -- command line


def commands() -> str:
    """Every command with its own `--help`."""
    return "\n".join(f"## `{path}`\n\n```text\n{text}\n```\n" for path, text in help_texts())


def help_texts() -> Iterator[tuple[str, str]]:
    """Each command, as `interlock runs list`, and what its `--help` prints in a terminal that is `WIDTH` wide."""
    for command, ctx in all_commands():
        yield ctx.command_path, command.get_help(ctx)


def all_commands() -> Iterator[tuple[click.Command, click.Context]]:
    """Each command of the tree, parents first, in the context that the command line makes for it.

    click remembers a command's help option from the first context it sees: whoever walks the tree walks it here.
    """
    yield from _below(cli, click.Context(cli, info_name="interlock", terminal_width=WIDTH, **cli.context_settings))


def _below(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    yield command, ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            inner = command.get_command(ctx, name)
            assert inner is not None
            yield from _below(inner, click.Context(inner, parent=ctx, info_name=name))


# -- journal


def kinds() -> str:
    """Every kind of event with its own fields."""
    common = set(events.Event.__struct_fields__)
    rows = []
    for kind in events.AnyEvent.__args__:
        fields = [f.encode_name + ("" if f.required else "?") for f in msgspec.structs.fields(kind)]
        own = [f"`{name}`" for name in fields if name.removesuffix("?") not in common]
        rows.append((f"`{kind.__struct_config__.tag}`", ", ".join(own), paragraph(kind.__doc__)))
    return table(("kind", "fields", "meaning"), rows)


def limits() -> str:
    """Every limit."""
    said = _field_docs(Limits)
    fields = msgspec.structs.fields(Limits)
    return table(("limit", "value", "note"), ((f"`{f.name}`", f"{f.default:,}", said.get(f.name, "")) for f in fields))


# -- Cedar


def entities() -> str:
    """The entity types with their attributes."""
    rows = []
    for name, (parents, fields) in ENTITY_TYPES.items():
        attributes = [f"`{key}`: {_shape(field.shape)}" for key, field in fields.fields.items()]
        if name == "Host":
            attributes.append("`ip`: ipaddr, where the host is an address")
        rows.append((f"`{name}`", ", ".join(f"`{p}`" for p in parents) or "none", "; ".join(attributes) or "none"))
    return table(("type", "in", "attributes"), rows)


def built_in_actions() -> str:
    """The actions that are not tools."""
    return table(
        ("action", "resource", "`context.params`"),
        ((f"`{name}`", f"`{kind}`", _shape(fields)) for name, (kind, fields) in BUILT_IN.items()),
    )


def proposal_context() -> str:
    """`context.proposal`."""
    return _shape(PROPOSAL) + "\n"


def command_context() -> str:
    """`context.command`."""
    return _shape(COMMAND) + "\n"


def flags() -> str:
    """The detectors."""
    return table(("flag", "fires on"), ((f"`{name}`", text) for name, text in PROMPT_FLAGS.items()))


def secret_kinds() -> str:
    """The kinds of secrets that are recognised by their shape."""
    return ", ".join(f"`{kind}`" for kind in sorted(SECRET_KINDS)) + ".\n"


def _shape(shape: Any) -> str:
    match shape:
        case Atom(name=name):
            return name
        case Many(element=element):
            return f"set of {_shape(element)}"
        case Fields(fields=fields) if fields:
            return "`{" + ", ".join(f"{key}: {_shape(f.shape)}" for key, f in fields.items()) + "}`"
        case Fields(rest=None):
            return "empty"
        case _:
            return "anything"


# -- REST


def routes() -> str:
    """The routes of the OpenAPI document."""
    rows = []
    for path, methods in openapi.document()["paths"].items():
        for method, one in methods.items():
            answers = ", ".join(sorted(one["responses"]))
            token = "yes" if one["security"] else "no"
            rows.append((f"`{method.upper()} {path}`", one["summary"], token, answers))
    return table(("route", "what it does", "token", "answers"), rows)


def bodies() -> str:
    """The bodies that routes take, and the query of the list."""
    schemas = openapi.document()["components"]["schemas"]
    parts = [f"### `{name}`\n\n{schemas[name]['description']}\n\n{_properties(schemas[name])}" for name in _BODIES]
    query = openapi.document()["paths"]["/api/v1/approvals"]["get"]["parameters"]
    properties = {"properties": {one["name"]: one["schema"] | {"description": one["description"]} for one in query}}
    return "\n".join([*parts, f"### Query of the list\n\n{_properties(properties)}"])


_BODIES: Final = ("ApproveBody", "EditBody", "DenyBody")


# -- Python


def exports() -> str:
    """Every exported name."""
    return "\n".join(_export(name) for name in interlock.__all__ if name != "__version__")


def _export(name: str) -> str:
    value = getattr(interlock, name)
    if not isinstance(value, type):
        alias = typing.get_origin(value) is typing.Annotated
        said = _module_docs(interlock._HOMES[name]).get(name, "") if alias else paragraph(value.__doc__)  # noqa: SLF001
        head = f"{name}" if alias else f"{name}{_signature(value)}"
        return f"## `{head}`\n\n{said}\n"
    out = f"## `{name}`\n\n{paragraph(value.__doc__)}\n"
    if issubclass(value, msgspec.Struct):
        out += _fields(name, value)
    members = [
        (f"`{_awaited(member)}{key}{_signature(member)}`", paragraph(member.__doc__))
        for key in vars(value)
        if not key.startswith("_")
        and key not in HIDDEN.get(name, ())
        and (member := _callable(inspect.getattr_static(value, key))) is not None
    ]
    return out + ("\n" + table(("member", "meaning"), members) if members else "")


DESCRIBED: Final = {
    **dict.fromkeys(("Action", "Budget", "Limits", "Proposal"), "proposal.md"),
    **dict.fromkeys(("ActionResult", "Cost", "NotUndone", "ProposalResult"), "results.md"),
}
"""Exported classes whose fields another page describes."""

HIDDEN: Final = {
    "Runtime": ("approval_desk",),
    "Run": ("carry_on", "configuration_changed", "count", "leave", "resume", "start"),
}
"""Members that only the engine calls."""


def _fields(name: str, value: Any) -> str:
    said, fields = _field_docs(value), msgspec.structs.fields(value)
    if name in DESCRIBED:
        page = DESCRIBED[name]
        rows = [(f"`{f.name}`", _annotation(f.type)) for f in fields]
        return f"\nWhat the fields mean: [{page}]({page}).\n\n" + table(("field", "type"), rows)
    return "\n" + table(
        ("field", "type", "meaning"), ((f"`{f.name}`", _annotation(f.type), said.get(f.name, "")) for f in fields)
    )


def _awaited(member: Any) -> str:
    return "await " if inspect.iscoroutinefunction(member) else ""


def _callable(member: Any) -> Any:
    if isinstance(member, property):
        return member
    if isinstance(member, classmethod | staticmethod):
        return member.__func__
    return member if inspect.isfunction(member) else None


def _signature(member: Any) -> str:
    if isinstance(member, property):
        return ""
    overloads = typing.get_overloads(member)
    found = inspect.signature(overloads[-1] if overloads else member)
    kept = [p.replace(annotation=p.empty) for name, p in found.parameters.items() if name not in ("self", "cls")]
    return str(found.replace(parameters=kept, return_annotation=inspect.Signature.empty))


def _annotation(kind: Any) -> str:
    text = inspect.formatannotation(kind)
    text = re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", text)
    return f"`{text}`"


def _field_docs(kind: type) -> dict[str, str]:
    """The strings that stand under the fields of a class."""
    return _strings(inspect.getsource(kind))


def _module_docs(name: str) -> dict[str, str]:
    return _strings(inspect.getsource(sys.modules[f"interlock.{name}"]))


def _strings(source: str) -> dict[str, str]:
    found = re.findall(r'^ *(\w+)(?:: [^\n=]+)?(?: = [^\n]+)?\n *"""(.+?)"""', source, re.MULTILINE | re.DOTALL)
    return {name: " ".join(text.split()) for name, text in found}


def first_line(text: str | None) -> str:
    """The first line of a docstring."""
    return inspect.cleandoc(text or "").partition("\n")[0]


def paragraph(text: str | None) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(text or "").partition("\n\n")[0].split())


REGIONS: Final[dict[str, Callable[[], str]]] = {
    "bodies": bodies,
    "built-in-actions": built_in_actions,
    "command-context": command_context,
    "commands": commands,
    "entities": entities,
    "error-codes": lambda: _codes(codes.ERROR_CODES),
    "exit-codes": exit_codes,
    "exports": exports,
    "flags": flags,
    "kinds": kinds,
    "limits": limits,
    "proposal-context": proposal_context,
    "reasons": reasons,
    "routes": routes,
    "secret-kinds": secret_kinds,
    "settings": settings,
    "system-calls": system_calls,
    "tools": tools,
    "warnings": lambda: _codes(codes.WARNINGS),
}


def current(page: str) -> str:
    """A page with its regions made anew."""
    return _REGION.sub(lambda found: f"{found[1]}\n{REGIONS[found[2]]()}\n{found[3]}", page)


def main() -> int:
    """Write the pages; with `--check` only say which are not current."""
    stale = []
    for path in sorted(REFERENCE.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = current(before)
        if before != after:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(after, encoding="utf-8")
    verb = "not current" if "--check" in sys.argv else "written"
    print(f"{verb}: {', '.join(stale) or 'none'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    os.environ.pop("COLUMNS", None)
    sys.exit(main())
