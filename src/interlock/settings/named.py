"""Finds the other files that the settings name: policies, capsule manifests, the sources of tool modules. Reads no file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from interlock.model.errors import ConfigurationError
from interlock.settings.decode import Locate, Place, dotted
from interlock.settings.sections import Settings

if TYPE_CHECKING:
    from interlock.model.capsule import Manifest

MANIFEST: Final = "capsule.toml"
"""The file name of a capsule's manifest."""
_SUFFIXES: Final = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
"""File name suffixes that Python recognises as modules."""


CLIENT_FILES: Final = (
    ".mcp.json", ".agents/plugins", ".agents/skills", ".claude/agents", ".claude/commands", ".claude/hooks", ".claude/plugins",
    ".claude/settings.json", ".claude/settings.local.json", ".claude/skills", ".claude/workflows", ".codex", ".copilot",
    ".cursor/agents", ".cursor/cli.json", ".cursor/commands", ".cursor/environment.json", ".cursor/hooks", ".cursor/hooks.json",
    ".cursor/mcp.json", ".cursor/permissions.json", ".cursor/plugins", ".cursor/sandbox.json", ".cursor/skills",
    ".cursor/worktrees.json", ".gemini", ".github/agents", ".github/copilot", ".github/extensions", ".github/hooks",
    ".github/lsp.json", ".github/mcp.json", ".github/plugin", ".github/skills", ".opencode", ".vscode/mcp.json",
    ".vscode/settings.json", "opencode.json", "opencode.jsonc",
)  # fmt: skip
"""Files in which coding agents configure servers to start, hooks to run, and their own tools.

Sub-agents, skills and commands are among them, because these can name hooks, servers and commands that start without a tool
call. Files that only instruct a model, such as `CLAUDE.md`, `.claude/rules` and `.cursor/rules`, are not.
"""


class Named(msgspec.Struct, frozen=True):
    """One file that a setting names."""

    place: Place
    path: Path
    module: str | None = None
    """The dotted name, for the source of a Python module."""


def named_files(settings: Settings, root: Path, locate: Locate) -> Iterator[Named]:
    """Every file that the settings name, even if it is missing. Patterns yield existing files.

    Raises: ConfigurationError for an invalid pattern, and for a missing or ambiguous module.
    """
    for index, pattern in enumerate(settings.policy.files):
        place: Place = ("policy", "files", index)
        if "*" in pattern:
            _check_pattern(pattern, root, place, locate)
            yield from (Named(place, path) for path in _listed(_directory(pattern, root), pattern.rpartition("/")[2]))
        else:
            yield Named(place, root / pattern)
    for name, capsule in settings.capsules.items():
        yield Named(("capsules", name, "path"), root / capsule.path / MANIFEST)
    for index, module in enumerate(settings.tools.modules):
        yield from _module(module, root, ("tools", "modules", index), locate)


def protected_names(names: Iterable[str], settings: Settings, root: Path) -> tuple[str, ...]:
    """The paths that no agent may write, relative to the root: the files `names` that were read, and the places of new ones."""
    inside = [name for name in names if not name.startswith(("/", "../"))]
    modules = (each for module in settings.tools.modules for each in _module_names(module, inside))
    return tuple(dict.fromkeys((*inside, *_directories(settings, root), *modules, *CLIENT_FILES)))


def component_names(settings: Settings, capsules: Mapping[str, Manifest], root: Path) -> Iterator[str]:
    """The WebAssembly files of capsules; relative to the root if they are beneath it."""
    for name, manifest in capsules.items():
        path = Path(os.path.normpath(root / settings.capsules[name].path / manifest.component.file))
        if path.is_relative_to(root):
            yield path.relative_to(root).as_posix()


def _module_names(module: str, read: Sequence[str]) -> Iterator[str]:
    """Every file that Python could load as the module or a package above it, other than the one that was read.

    If such a file exists, the project does not start: which file is meant must not depend on who wrote last.
    """
    parts = module.split(".")
    for base in ("", "src/"):
        prefixes = [f"{base}{'/'.join(parts[:length])}" for length in range(1, len(parts) + 1)]
        for prefix in prefixes:
            yield from (f"{stem}{suffix}" for stem in (prefix, f"{prefix}/__init__") for suffix in _SUFFIXES)
        if {f"{prefixes[-1]}.py", f"{prefixes[-1]}/__init__.py"} & {*read}:
            return  # later entries are never searched


def _directories(settings: Settings, root: Path) -> Iterator[str]:
    """The directories of patterns, relative to the root."""
    for pattern in settings.policy.files:
        directory = _directory(pattern, root)
        if "*" in pattern and directory.is_relative_to(root):
            yield directory.relative_to(root).as_posix()


def _directory(pattern: str, root: Path) -> Path:
    return Path(os.path.normpath(root / pattern.rpartition("/")[0]))


def _check_pattern(pattern: str, root: Path, place: Place, locate: Locate) -> None:
    above, _, last = pattern.rpartition("/")
    wrong = None
    if "*" in above or "**" in last:
        wrong = "`*` is allowed only in the last part of a path"
    elif root.is_relative_to(_directory(pattern, root)):
        # Agents may not write where a new file would be read. That cannot be the whole project.
        wrong = "a pattern needs a directory of its own"
    elif not _directory(pattern, root).is_dir():
        # The directory may be empty, but a misspelt one would silently drop forbid policies.
        wrong = "there is no such directory"
    if wrong is not None:
        raise ConfigurationError(f"`{dotted(place)}`: {wrong}", path=locate(place), hint="for example `policy/*.cedar`")


def _listed(directory: Path, pattern: str) -> list[Path]:
    # As in a shell, `*` does not match hidden names, which editors use for locks and copies.
    return sorted(path for path in directory.glob(pattern) if not path.name.startswith("."))


def _module(module: str, root: Path, place: Place, locate: Locate) -> Iterator[Named]:
    """The module's source and the `__init__.py` of the packages above it, which all run when it is imported."""
    parts = module.split(".")
    for base in (root, root / "src"):
        found = _sources(base.joinpath(*parts))
        if len(found) > 1 or any(path.suffix != ".py" for path in found):
            # Python would import one of them, and a newly written file must not change which one.
            raise ConfigurationError(
                f"`{dotted(place)}`: more than one file could be this module, or the module is binary",
                path=locate(place),
                hint=f"keep one of: {', '.join(sorted(path.relative_to(root).as_posix() for path in found))}",
            )
        if found:
            for length in range(1, len(parts)):
                package = base.joinpath(*parts[:length], "__init__.py")
                if os.path.lexists(package):
                    yield Named(place, package, ".".join(parts[:length]))
            yield Named(place, found[0], module)
            return
    raise ConfigurationError(
        f"`{dotted(place)}`: there is no such module beneath the project",
        path=locate(place),
        hint="modules are searched for beneath the project and its `src` directory",
    )


def _sources(target: Path) -> list[Path]:
    found = [path for path in (target / "__init__.py", target.with_name(target.name + ".py")) if os.path.lexists(path)]
    return found + [path for suffix in EXTENSION_SUFFIXES if os.path.lexists(path := Path(f"{target}{suffix}"))]
