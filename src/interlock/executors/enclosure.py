"""Derives the walls (`WallSpec`) of each process action from the settings, the machine, the workspace and the grant."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from interlock.isolation.posture import Recorder, lacking, posture_of
from interlock.isolation.spec import WallSpec
from interlock.isolation.wire import Bind, Launch, Network, Profile
from interlock.lazy import lazy
from interlock.model.errors import ConfigurationError, ToolError

if TYPE_CHECKING:
    from interlock.workspace import loaded_files
else:
    loaded_files = lazy("interlock.workspace.loaded_files")


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
"""Directories of tool chains beneath HOME, shown read-only.

They hold programs and libraries, and no credentials, except that uv keeps some nearby.
"""
_ROOTS: Final = {"RUSTUP_HOME": ".rustup", "PYENV_ROOT": ".pyenv", "NVM_DIR": ".nvm"}
"""Variables that point a tool chain to its directory, because processes have another HOME."""


_UNRECORDED: Final = (
    "absent(what several runs can use is not recorded: programs of a session, MCP servers, workers of capsules)"
)

Enclose = Callable[[], "Enclosure"]
"""Returns the walls of a runtime; the first call probes what the machine supports. Raises: ConfigurationError."""


class Enclosure(msgspec.Struct, frozen=True):
    """The walls that a runtime raises around its processes."""

    profile: Profile = "none"
    offered: dict[str, str] = {}
    """What the machine supports, as reported by `isolation.probe`."""
    hidden: tuple[str, ...] = ()
    """Absolute paths that are hidden from every process, such as the state directory."""
    shown: tuple[str, ...] = ()
    """Directories besides the system's that every process may read: tool chains and Interlock's own Python."""
    variables: dict[str, str] = {}
    """Variables that point to tool chains."""
    require: tuple[str, ...] = ()
    """Layers of isolation that must be active before a process may start."""
    tmp_bytes: int = 1024**3
    """Size of the private /tmp, and of /dev/shm."""
    recorder: Recorder = "none"

    def launch(self) -> Launch:
        """Returns how the fork server for these processes is launched."""
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
        """Returns the walls of one action in a `Workspace`; None if there are no walls.

        `ports` applies to the network kind of that name. `binds` are paths to show besides the workspace. With
        `in_scope`, the process reads only what the grant's `paths.read` allows. A glob in the grant that names neither
        a file nor a directory (`src/*.py`) cannot be enforced by walls, so it makes nothing readable or writable.
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
            # In a layer, the engine compares the changes with the grant before it commits them.
            writable=("",) if layer is not None else _places(workspace.root, workspace.written),
            readable=_places(workspace.root, workspace.readable) if in_scope else ("",),
            protected=tuple(
                "/".join(os.fsdecode(name) for name in path) for path in loaded_files.protected_places(workspace)
            ),
            hidden=(*self.hidden, *(_sockets_in(workspace.root) if self.profile == "ns" and layer is None else ())),
            guarded="configuration" in self.require,
            binds=(*self._late(), *binds),
            network="none" if network == "proxied" and self.profile != "ns" else network,
            tcp_ports=tuple(ports),
            tmp_bytes=self.tmp_bytes,
        )

    def _late(self) -> list[Bind]:
        """Read-only binds of shown paths beneath /tmp, which is private to each action."""
        return [{"path": path, "writable": False} for path in self.shown if _is_temporary(path)]

    def posture(self, network: Network = "none") -> dict[str, str]:
        """Returns the posture of a process behind these walls."""
        guarded = "configuration" in self.require
        return posture_of(self.profile, self.offered, network, guarded=guarded, recorder=self.recorder)

    def posture_unrecorded(self, network: Network = "none") -> dict[str, str]:
        """Returns the posture of a process that several runs can use: a session's program, an MCP server or a capsule worker.

        It has no recorder, because its effects belong to no single run.

        Raises: ToolError `isolation_failed` if `isolation.require` names `record`.
        """
        if "record" in self.require:
            raise ToolError(
                "`isolation.require` names `record`, but what several runs can use cannot be recorded: a session's program, "
                "an MCP server, a capsule worker",
                code="isolation_failed",
                retryable=False,
                hint="nothing has run; use `shell`, or `proc.start` for the run, or remove `record` from `isolation.require`",
            )
        posture = self.posture(network)
        return posture if self.recorder == "none" else {**posture, "record": _UNRECORDED}

    def posture_for(self, network: Network) -> dict[str, str]:
        """Returns the posture of a process that is about to start.

        Raises: ToolError `isolation_failed` if a required layer is absent.
        """
        posture, usual = self.posture(network), self.posture()
        weaker = [
            name for name in self.require if posture.get(name) != usual.get(name)
        ]  # the other layers were checked at start-up
        if absent := lacking(weaker, posture):
            raise ToolError(
                f"a layer that `isolation.require` names is missing for this tool: {'; '.join(absent)}",
                code="isolation_failed",
                retryable=False,
                hint="nothing has run; `interlock doctor` shows what this machine supports, and how to enable the rest",
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
    """Build the walls of a runtime.

    `environment` is Interlock's own, for PATH and HOME; `read` is the setting `isolation.read`.
    """
    if profile == "none":
        return Enclosure()
    home = environment.get("HOME", "")
    chains = [os.path.join(home, name) for name in _TOOL_CHAINS] if home.startswith("/") else []  # noqa: PTH118 - requests hold strings
    chains = [path for path in chains if os.path.isdir(path)]  # noqa: PTH112 - also of what may not be examined
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
    """No walls."""
    return Enclosure()


def of(enclose: Enclose) -> Enclosure:
    """Returns the walls for an action.

    Raises: ToolError `isolation_failed` if the machine supports none and `none` was not configured.
    """
    try:
        return enclose()
    except ConfigurationError as error:
        raise ToolError(error.message, code="isolation_failed", retryable=False, hint=error.hint) from error


def _sockets_in(root: Path) -> list[str]:
    """Returns the paths of Unix sockets in a workspace that belong to other programs.

    A network namespace does not confine these; a layer does.

    A socket bound by a relative path is known only by its file name, so every socket with that name is included.
    """
    try:
        lines = Path("/proc/net/unix").read_bytes().splitlines()[1:]
    except OSError:  # which sockets are in use is unknown
        return sorted(_socket_files(root))
    paths = {os.fsdecode(fields[7]) for line in lines if len(fields := line.split(None, 7)) == 8}
    found = {path for path in paths if path.startswith(f"{root}/")}
    names = {os.path.basename(path) for path in paths if not path.startswith(("/", "@"))}  # noqa: PTH119 - texts
    if names:
        found.update(path for path in _socket_files(root) if os.path.basename(path) in names)  # noqa: PTH119
    return sorted(found)


def _socket_files(root: Path) -> Iterator[str]:
    """Paths of the sockets beneath a directory; skips directories that cannot be listed."""
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
    except OSError:  # removed meanwhile
        return False


def _is_temporary(path: str) -> bool:
    """Returns True for a path beneath an action's private directories; it can be shown only after those are mounted."""
    return path.startswith(("/tmp/", "/var/tmp/", "/dev/shm/"))  # noqa: S108


def _tree_of(directory: str, home: str) -> str | None:
    """Returns the directory to show for the programs of a PATH entry: their virtual environment, or the entry itself.

    Never the home directory or one above it, by whatever name.
    """
    if not directory.startswith("/") or not os.path.isdir(directory):  # noqa: PTH112 - as above
        return None
    parent = Path(directory).parent
    environment = os.path.isfile(parent / "pyvenv.cfg") or os.path.isdir(parent / "conda-meta")  # noqa: PTH112, PTH113
    own = environment or (parent.is_relative_to("/opt") and parent != Path("/opt"))
    places = [os.fspath(parent), directory] if own else [directory]
    return next((place for place in places if not _is_above(place, home or "/")), None)


def _is_above(directory: str, home: str) -> bool:
    """Returns True for a directory that is, or contains, the home directory."""
    return f"{os.path.realpath(home)}/".startswith(f"{os.path.realpath(directory).rstrip('/')}/")


def _places(root: Path, globs: Sequence[str]) -> tuple[str, ...]:
    """Returns the paths that globs name: files, and directories with everything in them.

    Leaves out other globs with wildcards, and directories without their contents.
    """
    found = []
    for glob in globs:
        rest = "" if glob == "**" else glob.removesuffix("/**")
        if not any(c in rest for c in "*?") and (rest != glob or not (root / rest).is_dir()):
            found.append("" if rest == "." else rest)
    return ("",) if "" in found else tuple(dict.fromkeys(found))
