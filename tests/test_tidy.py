"""The house rules that no other tool holds. The lists of exceptions only shrink."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from importlib.util import find_spec
from pathlib import Path

import pytest

from interlock.model.codes import ERROR_CODES, REASONS

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src/interlock").rglob("*.py"))

LINES_MAX = 600
FUNCTION_LINES_MAX = 60
CLASS_LINES_MAX = 250
DEPTH_MAX = 3

OUTCOMES = {"resolved", "recorded"}
"""What an answer to a question can come to without being an error."""

LONG_FUNCTIONS = {
    "interlock/executors/files.py:_reading",  # a table of tool definitions, nothing else
}
"""`file:function` over the limit, with a reason beside each. This list only shrinks."""

LONG_CLASSES: set[str] = set()
"""`file:class` over the limit. This list only shrinks."""

IMPORTS_IN_FUNCTIONS = {
    "interlock/__init__.py",  # names are loaded when first used
    "interlock/detect/commands.py",  # the grammar of shells is loaded when the first rule about commands asks
    "interlock/detect/literals.py",  # the automaton is loaded for the first long text
    "interlock/telemetry/otel.py",  # the extra `otel`
    "interlock/executors/pydantic_types.py",  # pydantic, where a tool's module has imported it
    "interlock/engine/inspect/history.py",  # a list of runs starts quickly: the rest of it is loaded when it is asked for
}


def name(path: Path) -> str:
    return path.relative_to(ROOT / "src").as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LINES_MAX, f"{name(path)} is over {LINES_MAX} lines: split it by concept"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            known = f"{name(path)}:{node.name}" in LONG_FUNCTIONS
            assert known or lines <= FUNCTION_LINES_MAX, f"{name(path)}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_classes_stay_small(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            known = f"{name(path)}:{node.name}" in LONG_CLASSES
            assert known or lines <= CLASS_LINES_MAX, f"{name(path)}: class {node.name} has {lines} lines"
            assert not known or lines > CLASS_LINES_MAX, f"{name(path)}: {node.name} is small enough now: unlist it"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_packages_are_shallow_and_rooms_have_names(path: Path) -> None:
    parts = path.relative_to(ROOT / "src/interlock").parts
    assert len(parts) <= DEPTH_MAX
    assert not {"utils", "utils.py", "helpers", "helpers.py", "common", "common.py"} & set(parts)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_imports_stand_at_the_top(path: Path) -> None:
    if name(path) in IMPORTS_IN_FUNCTIONS or name(path).startswith("interlock/surfaces/cli/"):
        return  # the command line loads a command when it is used
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            inside = [n for n in ast.walk(node) if isinstance(n, ast.Import | ast.ImportFrom)]
            assert not inside, f"{name(path)}: {node.name} imports inside"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_codes_are_registered(path: Path) -> None:
    """A `code="..."` anywhere in the source is in one of the two tables, where it is documented."""
    for code in re.findall(
        r'\b(?:code|default_code)(?:: [\w\[\]]+)? ?= ?"([a-z_]+)"', path.read_text(encoding="utf-8")
    ):
        known = code in ERROR_CODES or code in REASONS or code in OUTCOMES
        assert known, f"{name(path)}: `{code}` is in no table of model/codes.py"


@pytest.mark.parametrize("path", [p for p in SOURCES if "surfaces" in p.parts], ids=name)
def test_doors_use_what_is_public(path: Path) -> None:
    """No door reaches the services behind a runtime, nor a private attribute of anything but itself."""
    reached = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            private = node.attr.startswith("_") and not node.attr.startswith("__") and not own
            if node.attr == "services" or (private and ast.unparse(node) != "os._exit"):
                reached.append(f"{node.lineno}: {ast.unparse(node)}")
    assert reached == []


def test_every_module_says_what_it_is_for() -> None:
    silent = [name(p) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert silent == []


def test_nothing_in_the_repository_names_a_place_of_one_machine() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    places = re.compile(r"(?<![\w.])/(?:work|root)/")
    found = [
        f"{file}:{number}"
        for file in tracked.stdout.split()
        if (ROOT / file).is_file() and not file.startswith("requirements/")
        for number, line in enumerate((ROOT / file).read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if places.search(line) and file != "tests/test_tidy.py"
    ]
    assert found == []


def test_no_merge_was_left_half_done() -> None:
    marks = subprocess.run(
        ["git", "grep", "-nE", r"^(<{7} |>{7} |={7}$)"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert not marks.stdout


def lazy_modules(tree: ast.AST) -> dict[str, str]:
    """The names that `lazy("...")` is given to, with the modules."""
    return {
        target.id: node.value.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id == "lazy"
        and isinstance(node.value.args[0], ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_lazy_modules_are_what_type_checkers_see(path: Path) -> None:
    """Beside each `lazy("...")` the same module is imported for type checking, so mypy and import-linter know of it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update({each.asname or each.name: each.name for each in node.names})
        elif isinstance(node, ast.ImportFrom):
            imported.update({each.asname or each.name: f"{node.module}.{each.name}" for each in node.names})
    for known, module in lazy_modules(tree).items():
        assert module in sys.modules or find_spec(module), f"{name(path)}: there is no module {module}"
        assert imported.get(known) == module, f"{name(path)}: `{known}` is {module}, and {imported.get(known)} for mypy"


def imported_modules(tree: ast.AST) -> set[str]:
    """The names that the imports of a module may refer to, those for type checking included, and its lazy modules."""
    found = set(lazy_modules(tree).values())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.update(f"{node.module}.{each.name}" for each in node.names)
    return found


def import_circles(sources: dict[str, str]) -> list[list[str]]:
    """One circle of each graph that has any: that of the modules, and for each package that of its parts."""
    graphs: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, text in sources.items():
        for imported in imported_modules(ast.parse(text)):
            parts = imported.split(".")
            prefixes = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
            target = next((one for one in prefixes if one in sources), module)
            if target == module:
                continue
            graphs["modules"][module].add(target)
            here, there = module.split("."), target.split(".")
            shared = next((i for i, pair in enumerate(zip(here, there, strict=False)) if pair[0] != pair[1]), None)
            if shared is not None:
                graphs[".".join(here[:shared])][here[shared]].add(there[shared])
    circles = []
    for graph in graphs.values():
        try:
            TopologicalSorter(graph).prepare()
        except CycleError as error:
            circles.append(error.args[1])
    return circles


def test_no_circle_of_imports() -> None:
    """Between modules, and between the parts of any package; import-linter does not follow `lazy("...")` itself."""
    names = {path: ".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in SOURCES}
    sources = {known.removesuffix(".__init__"): path.read_text(encoding="utf-8") for path, known in names.items()}
    assert import_circles(sources) == []


@pytest.mark.parametrize(
    "back",
    [
        "from p.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p import a",
        "def f():\n    import p.a",
        'a = lazy("p.a")',
    ],
)
def test_a_circle_of_imports_is_found(back: str) -> None:
    there = {"p": "", "p.a": "from p import b", "p.b": ""}
    assert import_circles(there) == []
    assert {"p.a", "p.b"} in [set(circle) for circle in import_circles(there | {"p.b": back})]


def test_a_circle_of_packages_is_found() -> None:
    sources = {"p.a.one": "from p.b import one", "p.a.two": "", "p.b": "", "p.b.one": "", "p.b.two": "import p.a.two"}
    assert [set(circle) for circle in import_circles(sources)] == [{"a", "b"}]


def test_one_module_decodes_into_types() -> None:
    """First uses of a type by many threads at once crash `msgspec`: everything goes through `model/typed.py`."""
    found = []
    for path in SOURCES:
        if name(path) == "interlock/model/typed.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                what = ast.unparse(node.func)
                into = what in {"msgspec.json.decode", "msgspec.msgpack.decode"} and "type" in {
                    k.arg for k in node.keywords
                }
                if into or what in {"msgspec.convert", "msgspec.json.Decoder", "msgspec.msgpack.Decoder"}:
                    found.append(f"{name(path)}:{node.lineno}: {what}")
    assert not found


def test_patterns_that_are_compiled_on_first_use_can_be_compiled() -> None:
    """A wrong one would be found at its first use, and not at start."""
    script = (
        "import pkgutil, importlib, interlock\n"
        "from interlock.lazy import LazyPattern\n"
        "found = 0\n"
        "for one in pkgutil.walk_packages(interlock.__path__, 'interlock.'):\n"
        "    if one.name.startswith(('interlock.detect', 'interlock.policy', 'interlock.model', 'interlock.settings')):\n"
        "        for value in list(vars(importlib.import_module(one.name)).values()):\n"
        "            found += isinstance(value, LazyPattern) and bool(value.pattern)\n"
        "print(found)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=25, check=True)
    assert int(done.stdout) > 50
