"""`interlock capsule build`: compiles the source of a capsule with the tools of its language, for the person who typed it."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from interlock.disk import Disk
from interlock.engine.inspect.capsule_files import OPTIONAL_EXPORTS, open_manifest, world_of
from interlock.model.capsule import Manifest
from interlock.model.errors import UsageError
from interlock.model.extras import how_to_install
from interlock.surfaces.cli.capsule_templates import LANGUAGES

_TIMEOUT_S: Final = 600
_COMPONENTIZE: Final = "import componentize_py; componentize_py.script()"
_C_FLAGS: Final = ("-mbulk-memory", "-O2", "-Wl,--strip-all", "-Wl,-z,stack-size=131072")
_C_ALONE: Final = ("-target", "wasm32-freestanding", "-nostdlib", "-Wl,--no-entry")
_C_LIBRARY: Final = ("-target", "wasm32-wasi", "-mexec-model=reactor")
_ALONE: Final = frozenset(
    {"float.h", "iso646.h", "limits.h", "stdalign.h", "stdarg.h", "stdbool.h", "stddef.h", "stdint.h", "stdnoreturn.h"}
)
"""C headers that need no library."""
_INCLUDE: Final = re.compile(r"^[ \t]*#[ \t]*include[ \t]*[<\"]([^>\"]+)", re.MULTILINE)
_QJS: Final = "componentize-qjs"
_SHIMS: Final = {
    "text_encoding.js": re.compile(r"\bText(?:En|De)coder\b"),
    "console.js": re.compile(r"\bconsole\."),
}
"""Shims for features that QuickJS lacks, by file beside this one, with the names in a source that need them."""
_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)


def build(directory: Path) -> Path:
    """Build the capsule in a directory. Returns the component's path. Raises: UsageError, ConfigurationError, StoreError."""
    manifest = open_manifest(directory)
    found = [name for name, one in LANGUAGES.items() if (directory / one.source).is_file()]
    if len(found) != 1:
        known = ", ".join(f"`{one.source}`" for one in LANGUAGES.values())
        raise UsageError(
            f"expected one source file in `{directory}`, found {len(found)}",
            code="not_found",
            hint=f"one of {known}; a component built by other means does not need `interlock capsule build`",
        )
    target = directory / manifest.component.file
    data = COMPILERS[found[0]](directory / LANGUAGES[found[0]].source, manifest)
    Disk().make_directory(target.parent, mode=0o755)
    Disk().write_atomic(target, data, mode=0o644, durable=False)
    return target


def _from_wat(source: Path, _manifest: Manifest) -> bytes:
    _need("wasmtime", how_to_install("wasm"))
    import wasmtime  # noqa: PLC0415 - an optional extra

    try:
        return bytes(wasmtime.wat2wasm(source.read_text(encoding="utf-8")))
    except wasmtime.WasmtimeError as error:
        raise UsageError(f"`{source}` cannot be assembled: {' '.join(str(error).split())[:500]}") from None
    except UnicodeDecodeError:
        raise UsageError(f"`{source}` is not UTF-8") from None


def _from_c(source: Path, _manifest: Manifest) -> bytes:
    _need("ziglang", "pip install ziglang")
    included = set(_INCLUDE.findall(source.read_text(encoding="utf-8", errors="replace")))
    target = _C_ALONE if included <= _ALONE else _C_LIBRARY
    command = [sys.executable, "-m", "ziglang", "cc", *target, *_C_FLAGS]
    return _compiled(source, lambda output: [*command, "-o", output, source.name])


def _from_js(source: Path, manifest: Manifest) -> bytes:
    places = [
        str(directory / "node_modules" / ".bin") for directory in (source.parent, *source.parent.resolve().parents)
    ]
    found = shutil.which(_QJS, path=os.pathsep.join([*places, os.environ.get("PATH", "")]))
    if found is None:
        raise UsageError(
            f"building this capsule needs `{_QJS}`",
            code="extra_missing",
            hint=f"`npm install {_QJS}` beside the capsule",
        )
    text = source.read_text(encoding="utf-8", errors="replace")
    exports = [name for name in OPTIONAL_EXPORTS if re.search(rf"\bfunction\s+{_camel(name)}\b", text)]
    with _world(manifest, exports) as world, _with_shims(source, text) as script:
        command = [found, "--wit", str(world), "-n", "capsule", "--js", script.name]
        return _compiled(source, lambda output: [*command, "-o", output])


@contextlib.contextmanager
def _with_shims(source: Path, text: str) -> Iterator[Path]:
    """The script to compile: the source, or a temporary file beside it that also has the shims it needs."""
    shims = [
        _COMMENT.sub("", Path(__file__).with_name(name).read_text(encoding="utf-8"))
        for name, named in _SHIMS.items()
        if named.search(text)
    ]
    if not shims:
        yield source
        return
    script = source.with_suffix(f".{os.getpid()}.tmp.js")
    try:
        script.write_text(
            " ".join(line.strip() for shim in shims for line in shim.splitlines()) + text, encoding="utf-8"
        )
        yield script
    finally:
        script.unlink(missing_ok=True)


def _camel(name: str) -> str:
    first, *others = name.split("-")
    return first + "".join(part.capitalize() for part in others)


@contextlib.contextmanager
def _world(manifest: Manifest, exports: Sequence[str]) -> Iterator[Path]:
    """A file with the world of the component."""
    with tempfile.TemporaryDirectory() as directory:
        world = Path(directory) / "capsule.wit"
        world.write_text(world_of(manifest, exports), encoding="utf-8")
        yield world


def _from_python(source: Path, manifest: Manifest) -> bytes:
    _need("componentize_py", "pip install componentize-py")
    try:
        tree = ast.parse(source.read_bytes())
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"`{source}` cannot be compiled: {error}") from None
    worlds = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    defined = {node.name for world in worlds for node in world.body if isinstance(node, ast.FunctionDef)}
    exports = [name for name in OPTIONAL_EXPORTS if name.replace("-", "_") in defined]
    with _world(manifest, exports) as world:
        command = [sys.executable, "-c", _COMPONENTIZE, "-d", str(world), "-w", "capsule", "componentize", source.stem]
        return _compiled(source, lambda output: [*command, "-o", output])


def _compiled(source: Path, command: Callable[[str], list[str]]) -> bytes:
    """The output of a compiler for a source file; `command` gets the name of the output file."""
    output = source.with_suffix(f".{os.getpid()}.tmp.wasm")
    try:
        ended = subprocess.run(
            command(output.name),
            cwd=source.parent,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
        if ended.returncode != 0:
            raise UsageError(f"`{source}` cannot be compiled", hint=f"the compiler says: {ended.stderr.strip()[:2000]}")
        return output.read_bytes()
    except subprocess.TimeoutExpired:
        raise UsageError(f"compiling `{source}` took longer than {_TIMEOUT_S} s") from None
    finally:
        output.unlink(missing_ok=True)


def _need(module: str, command: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UsageError(f"building this capsule needs `{module}`", code="extra_missing", hint=f"`{command}`")


COMPILERS: Final[dict[str, Callable[[Path, Manifest], bytes]]] = {
    "wat": _from_wat,
    "c": _from_c,
    "python": _from_python,
    "js": _from_js,
}
"""The function that builds the component from a source file, by language."""
