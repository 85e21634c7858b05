"""Derives the walls of each process action (its `WallSpec`) from settings, machine, workspace and grant."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from interlock.isolation.posture import Recorder, lacking, posture_of
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import Bind, Launch, Network, Profile
from interlock.model.errors import ConfigurationError, ToolError

_TOOL_CHAINS: Final = (
    ".cargo/bin",
    ".rustup",
    ".pyenv",
    ".nvm",
    ".local/bin",
    ".local/pipx/venvs",
    ".local/share/uv/python",
    ".local/share/uv/tools",
    ".local/share/mise/installs",
    ".local/share/mise/shims",
    ".local/share/pipx/venvs",
    ".local/share/pipx/shared",
    ".volta",
    ".asdf",
    ".rbenv",
    ".sdkman/candidates",
    ".bun/bin",
    ".deno/bin",
    "go/bin",
    "miniconda3",
    "anaconda3",
)
"""Where tool chains are beneath a home: programs and what they need, no credentials (uv has some beside). Shown read-only."""
_ROOTS: Final = {"RUSTUP_HOME": ".rustup", "PYENV_ROOT": ".pyenv", "NVM_DIR": ".nvm"}
"""Variables that tell a tool chain where it is, since the home of a process is another one."""


_UNRECORDED: Final = "absent(programs that live on, MCP servers and workers of capsules are not recorded)"

Enclose = Callable[[], "Enclosure"]
"""Gives the walls of a runtime; finds out what the machine allows when it is first asked. Raises: ConfigurationError."""


class Enclosure(msgspec.Struct, frozen=True):
    """The walls that a runtime raises around its processes."""

    profile: Profile = "none"
    offered: dict[str, str] = {}
    """What the machine allows, as `isolation.probe` found it."""
    hidden: tuple[str, ...] = ()
    """Absolute paths that no process sees: the state directory."""
    shown: tuple[str, ...] = ()
    """Directories beyond the system's that every process may read: tool chains, and Interlock's own Python."""
    variables: dict[str, str] = {}
    """Variables that say where tool chains are."""
    require: tuple[str, ...] = ()
    """Layers without which no process starts."""
    tmp_bytes: int = 1024**3
    """Size of the private /tmp, and of /dev/shm."""
    recorder: Recorder = "none"

    def launch(self) -> Launch:
        """How to set up a fork server for such processes."""
        alone = self.profile != "ns"
        shown = [path for path in self.shown if alone or not _is_temporary(path)]
        return {"namespaces": not alone, "groups": True, "shown": shown}

    def around(
        self,
        workspace: Any,
        *,
        network: Network = "none",
        ports: Sequence[int] = (),
        binds: Sequence[Bind] = (),
        in_scope: bool = False,
    ) -> WallSpec | None:
        """The walls of one action in a `Workspace`; None without walls.

        `ports` are for the network of that name. `binds` are shown to it beyond the workspace. With `in_scope` it reads only what
        the grant's `paths.read` allows. A glob of the grant that names no directory and no file (`src/*.py`) cannot be a wall: it
        makes nothing readable or writable.
        """
        if self.profile == "none":
            return None
        layer = workspace.layer
        own_root = layer is not None and self.profile == "ns"
        return WallSpec(
            profile=self.profile,
            workspace=os.fspath(workspace.root),
            root=workspace.fd if own_root and layer.copy is None else None,
            copy=os.fspath(layer.copy) if own_root and layer.copy is not None else None,
            # What a process changes in a layer is compared with the grant before it counts.
            writable=("",) if layer is not None else _places(workspace.root, workspace.written),
            readable=_places(workspace.root, workspace.readable) if in_scope else ("",),
            protected=tuple("/".join(os.fsdecode(name) for name in path) for path in workspace.protected),
            hidden=(*self.hidden, *(_sockets_in(workspace.root) if self.profile == "ns" and layer is None else ())),
            guarded="configuration" in self.require,
            binds=(*self._late(), *binds),
            network="none" if network == "proxied" and self.profile != "ns" else network,
            tcp_ports=tuple(ports),
            tmp_bytes=self.tmp_bytes,
        )

    def _late(self) -> list[Bind]:
        """What is shown beneath /tmp, which is private to each action."""
        return [{"path": path, "writable": False} for path in self.shown if _is_temporary(path)]

    def posture(self, network: Network = "none") -> dict[str, str]:
        """The posture of a process behind these walls."""
        guarded = "configuration" in self.require
        return posture_of(self.profile, self.offered, network, guarded=guarded, recorder=self.recorder)

    def posture_unrecorded(self, network: Network = "none") -> dict[str, str]:
        """The posture of a process that has no recorder: one that lives on, an MCP server, a capsule's worker.

        Raises: ToolError `isolation_failed` if `isolation.require` names `record`.
        """
        if "record" in self.require:
            raise ToolError(
                "`isolation.require` names `record`, and programs that live on, MCP servers and workers of capsules are not",
                code="isolation_failed",
                retryable=False,
                hint="nothing has run; use `shell` or `exec`, or take `record` out of `isolation.require`",
            )
        posture = self.posture(network)
        return posture if self.recorder == "none" else {**posture, "record": _UNRECORDED}

    def posture_for(self, network: Network) -> dict[str, str]:
        """The posture of a process that is about to start. Raises: ToolError `isolation_failed` if it lacks what is required."""
        posture, usual = self.posture(network), self.posture()
        weaker = [
            name for name in self.require if posture.get(name) != usual.get(name)
        ]  # the rest was looked at before
        if absent := lacking(weaker, posture):
            raise ToolError(
                f"a layer that `isolation.require` names is missing for this tool: {'; '.join(absent)}",
                code="isolation_failed",
                retryable=False,
                hint="nothing has run; `interlock doctor` says what this machine allows, and what to do about it",
            )
        return posture


def enclosure(
    profile: Profile,
    offered: Mapping[str, str],
    *,
    environment: Mapping[str, str],
    hidden: Sequence[Path] = (),
    tmp_bytes: int = 1024**3,
    read: Sequence[str] = (),
) -> Enclosure:
    """The walls of a runtime. `environment` is Interlock's own, where PATH and HOME are looked up; `read` is `isolation.read`."""
    if profile == "none":
        return Enclosure()
    home = environment.get("HOME", "")
    chains = [os.path.join(home, name) for name in _TOOL_CHAINS] if home.startswith("/") else []  # noqa: PTH118 - texts
    chains = [path for path in chains if Path(path).is_dir()]
    variables = {
        name: os.path.join(home, place)  # noqa: PTH118
        for name, place in _ROOTS.items()
        if os.path.join(home, place) in chains  # noqa: PTH118
    }
    programs = [tree for path in environment.get("PATH", "").split(":") if (tree := _tree_of(path, home)) is not None]
    own = [sys.base_prefix, sys.prefix, os.fspath(Path(__file__).parents[1])]
    asked = [os.path.join(home, path[2:]) if path.startswith("~/") else path for path in read]  # noqa: PTH118
    shown = tuple(dict.fromkeys((*own, *chains, *programs, *(path for path in asked if path.startswith("/")))))
    return Enclosure(
        profile, dict(offered), tuple(os.fspath(path) for path in hidden), shown, variables, tmp_bytes=tmp_bytes
    )


def none() -> Enclosure:
    """No walls: for a program that raises none."""
    return Enclosure()


def of(enclose: Enclose) -> Enclosure:
    """The walls, for an action. Raises: ToolError `isolation_failed` where the machine has none and `none` was not asked for."""
    try:
        return enclose()
    except ConfigurationError as error:
        raise ToolError(error.message, code="isolation_failed", retryable=False, hint=error.hint) from error


def _sockets_in(root: Path) -> list[str]:
    """Sockets of the machine's programs in a workspace, by path: a network namespace does not confine those. A layer does.

    One that was bound by a relative path is known by its name alone, so every socket of that name is taken.
    """
    try:
        lines = Path("/proc/net/unix").read_bytes().splitlines()[1:]
    except OSError:  # which of them are in use is not known
        return sorted(_socket_files(root))
    paths = {os.fsdecode(fields[7]) for line in lines if len(fields := line.split(None, 7)) == 8}
    found = {path for path in paths if path.startswith(f"{root}/")}
    names = {os.path.basename(path) for path in paths if not path.startswith(("/", "@"))}  # noqa: PTH119 - texts
    if names:
        found.update(path for path in _socket_files(root) if os.path.basename(path) in names)  # noqa: PTH119
    return sorted(found)


def _socket_files(root: Path) -> Iterator[str]:
    """The sockets beneath a directory, by path. What cannot be listed is left out."""
    pending = [os.fspath(root)]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            elif not entry.is_file(follow_symlinks=False) and _is_socket(entry.path):
                yield entry.path


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:  # gone just now
        return False


def _is_temporary(path: str) -> bool:
    """True beneath the private directories of an action: such a path is shown only after they are mounted."""
    return path.startswith(("/tmp/", "/var/tmp/", "/dev/shm/"))  # noqa: S108


def _tree_of(directory: str, home: str) -> str | None:
    """What must be shown to run the programs of a directory in PATH: their environment (venv), or the directory alone."""
    if not directory.startswith("/") or not Path(directory).is_dir():
        return None
    parent = Path(directory).parent
    if (parent / "pyvenv.cfg").is_file() or (parent / "conda-meta").is_dir():
        return os.fspath(parent)
    if parent.is_relative_to("/opt") and parent != Path("/opt"):
        return os.fspath(parent)
    return None if os.fspath(directory) in ("/", home) else directory


def _places(root: Path, globs: Sequence[str]) -> tuple[str, ...]:
    """The files, and the directories with all that is in them, that path globs name; what has a wildcard elsewhere is left out,
    and so is a directory without its contents.
    """
    found = []
    for glob in globs:
        rest = "" if glob == "**" else glob.removesuffix("/**")
        if not any(c in rest for c in "*?") and (rest != glob or not (root / rest).is_dir()):
            found.append("" if rest == "." else rest)
    return ("",) if "" in found else tuple(dict.fromkeys(found))
