"""Layer L3: the root directory that a process sees. Uses only the standard library.

It is built in two steps. The launcher, in its own user and mount namespace, prepares once what every action shares: the
system's directories and tool chains (read-only), /etc without its secrets, and a few devices. Each action, in a mount
namespace copied from that, adds its own workspace, /tmp and /proc, and makes the result its root. The namespace then
contains no other files of the machine, so there is no path to them.

Only mounts are made, never files in directories of the machine, so nothing is left behind however the action ends.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Sequence
from typing import Final

from interlock.isolation import syscalls
from interlock.isolation.syscalls import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REC,
    MS_SLAVE,
)
from interlock.isolation.system_files import TOPS, copy_public, secret_files, without
from interlock.isolation.wire import Bind, Request, Walls

SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/nix/store")
"""Directories that every process may read."""
DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
HOME: Final = "/tmp/home"  # noqa: S108 - in the action's private /tmp
_HOMES: Final = {
    "GRADLE_USER_HOME": "{}/.gradle",
    "GRADLE_OPTS": "-Duser.home={}",
    "MAVEN_OPTS": "-Duser.home={}",
    "SBT_OPTS": "-Duser.home={}",
}
"""Variables that set the home of a JVM, which ignores HOME. JAVA_TOOL_OPTIONS would make every JVM print a notice."""
PREPARED: Final = "/sys"
"""Where the launcher prepares the root, in its own mount namespace: a directory that every Linux has and no action sees."""
RESOLVER: Final = {
    "/etc/resolv.conf": "nameserver 127.0.0.1\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n",
    "/etc/hosts": "127.0.0.1 localhost box\n::1 localhost ip6-localhost ip6-loopback\n",
}
"""Makes processes resolve names only through the egress proxy's stub resolver.

The machine's own `/etc/hosts` would resolve a name before the proxy is asked; the proxy reads it instead.
"""
_PREPARED_BYTES: Final = 64 * 1024**2
"""The most that the shared part of the root may use of memory, with its copy of /etc."""
_PRIVATE: Final = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV


def prepare(read: Sequence[str], *, machine_network: bool = False) -> None:
    """In the launcher: enter a user and a mount namespace, and prepare the shared part of the root. Raises: OSError.

    Afterwards the capability bounding set is empty, in everything that the launcher starts. `read` are directories to show
    besides `SYSTEM`: tool chains, and Interlock's own Python. With `machine_network`, names are resolved as on the machine.
    """
    uid, gid = os.getuid(), os.getgid()
    secret = [top for top in TOPS if next(secret_files(top), None) is not None]
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    syscalls.map_ids(uid, gid)
    syscalls.drop_bounding_set()
    syscalls.mount(None, "/", None, MS_REC | MS_SLAVE)
    syscalls.mount("tmpfs", PREPARED, "tmpfs", MS_NOSUID | MS_NODEV, f"mode=755,size={_PREPARED_BYTES}")
    for directory in ("dev", "dev/pts", "dev/shm", "proc", "tmp", "run", "var", "var/tmp", ".empty"):
        os.mkdir(f"{PREPARED}/{directory}")
    os.symlink("../run", f"{PREPARED}/var/run")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{PREPARED}/dev/{name}")
    os.symlink("pts/ptmx", f"{PREPARED}/dev/ptmx")
    for name in DEVICES:
        _show(f"/dev/{name}", MOUNT_ATTR_NOSUID)
    # Show a directory before its contents; otherwise it would seem to be shown already.
    for path in (*(path for path in SYSTEM if path not in secret), *sorted(read, key=os.path.realpath)):
        _show(path, _PRIVATE | MOUNT_ATTR_RDONLY)
    for number, top in enumerate(secret):
        _show_public(top, f"{PREPARED}/.public{number}")
    for number, (path, text) in enumerate(() if machine_network else RESOLVER.items()):
        _replace(path, text, f"{PREPARED}/.resolver{number}")


def enter(walls: Walls, layer: int | None) -> None:
    """In the action: add its own part, and make the result its root. Leaves the process in `/`. Raises: OSError.

    `layer` is the merged root of a workspace layer, mounted in place of the workspace's directory.
    """
    for directory in ("tmp", "dev/shm"):
        options = f"mode=1777,size={walls['tmp_bytes']}"
        syscalls.mount("tmpfs", f"{PREPARED}/{directory}", "tmpfs", MS_NOSUID | MS_NODEV, options)
    syscalls.mount(f"{PREPARED}/tmp", f"{PREPARED}/var/tmp", None, MS_BIND)  # noqa: S108
    syscalls.mount(
        "devpts", f"{PREPARED}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"
    )
    syscalls.mount("proc", f"{PREPARED}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
    _hide(f"{PREPARED}/proc/keys")  # the keyrings of a user have no namespace
    above = [bind for bind in walls["binds"] if walls["workspace"].startswith(bind["path"].rstrip("/") + "/")]
    for bind in above:
        _add_bind(bind)
    pinned = _add_workspace(walls, layer)
    for bind in walls["binds"]:
        if bind not in above:
            _add_bind(bind)
    _hide_all(walls, pinned)
    os.chdir(PREPARED)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".")
    os.chdir("/")
    syscalls.set_mount("/", MOUNT_ATTR_RDONLY, recursive=False)


def point_home(request: Request, home: str) -> None:
    """Set the variables for a program's home. Behind walls, also those of programs that read it from `/etc/passwd`."""
    environment = request["environment"]
    environment["HOME"] = home
    if request["walls"] is not None:
        for name, text in _HOMES.items():
            environment.setdefault(name, text.format(home))


def make_home(files: dict[str, bytes]) -> None:
    """Create a new home directory in the action's private /tmp. Raises: OSError."""
    os.mkdir(HOME, 0o700)
    write_files(HOME, files)


def write_files(directory: str, files: dict[str, bytes]) -> None:
    """Write new files, named by relative paths, readable only by this user. Raises: OSError."""
    for name, data in files.items():
        target = os.path.join(directory, name)
        os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
        with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)


def _show(path: str, attributes: int) -> None:
    """Bind a path of the machine at the same place in the prepared root; skips a path that does not exist."""
    path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    target = PREPARED + path
    if os.path.lexists(target):  # beneath a directory that is already shown
        return
    if os.path.islink(path):
        _make_directory(os.path.dirname(target))
        os.symlink(os.readlink(path), target)
        path = os.path.realpath(path)
        target = PREPARED + path
        if os.path.lexists(target):
            return
    if os.path.exists(path):
        _bind(path, target)
        syscalls.set_mount(target, attributes)


def _show_public(top: str, copy: str) -> None:
    """Show a copy of `top` without secrets in its place."""
    copy_public(top, copy)
    _bind(copy, PREPARED + top)
    syscalls.set_mount(PREPARED + top, _PRIVATE | MOUNT_ATTR_RDONLY)


def _bind(path: str, target: str) -> None:
    if os.path.isdir(path):
        _make_directory(target)
    else:
        _make_directory(os.path.dirname(target))
        if not os.path.exists(target):
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    syscalls.mount(path, target, None, MS_BIND | MS_REC)


def _make_directory(target: str) -> None:
    """Create a directory of the prepared root, and its parents. Raises: OSError if the path contains a symbolic link."""
    place = PREPARED
    for name in target[len(PREPARED) + 1 :].split("/"):
        place += f"/{name}"
        try:
            found = os.lstat(place).st_mode
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # another action has just created it
                os.mkdir(place)
            continue
        if not stat.S_ISDIR(found):
            raise OSError(errno.ELOOP if stat.S_ISLNK(found) else errno.ENOTDIR, f"no directory: {place}")


def _add_workspace(walls: Walls, layer: int | None) -> set[str]:
    """Mount the workspace. Returns which of its paths are now mounts."""
    top = PREPARED + walls["workspace"]
    _make_directory(top)
    if layer is None:
        syscalls.mount(walls["copy"] or walls["workspace"], top, None, MS_BIND | MS_REC)
    else:
        syscalls.attach_tree(layer, top)
    whole = "" in walls["writable"]
    syscalls.set_mount(top, _PRIVATE | (0 if whole else MOUNT_ATTR_RDONLY))
    pinned: set[str] = set()
    if not whole:
        for path in walls["writable"]:
            if _pin(top, path, pinned):
                syscalls.set_mount(f"{top}/{path}", 0, clear=MOUNT_ATTR_RDONLY)
    for path in walls["protected"]:
        if _pin(top, path, pinned):
            syscalls.set_mount(f"{top}/{path}", MOUNT_ATTR_RDONLY)
    return pinned


def _hide_all(walls: Walls, pinned: set[str]) -> None:
    top = PREPARED + walls["workspace"]
    for path in walls["hidden"]:
        inside = path.startswith(f"{walls['workspace']}/")
        if not inside or _pin(top, path[len(walls["workspace"]) + 1 :], pinned):
            _hide(PREPARED + path)


def _pin(top: str, path: str, pinned: set[str]) -> bool:
    """Turn a path beneath `top`, and each directory on the way to it, into a mount, which cannot be renamed or removed.

    Returns False if there is no such file (then nothing becomes a mount), or only through a symbolic link (then the link does).
    Raises: OSError.
    """
    names = path.split("/")
    places = ["/".join(names[: depth + 1]) for depth in range(len(names))]
    directory = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if path in pinned or _is_missing(directory, path):
            return path in pinned
        for place in places:
            if place not in pinned and not _pin_one(top, place):
                return False
            pinned.add(place)
    finally:
        os.close(directory)
    return True


def _is_missing(directory: int, path: str) -> bool:
    """Returns True if a path does not exist, False if it contains a symbolic link. Raises: OSError."""
    try:
        os.close(syscalls.open_beneath(directory, path, os.O_PATH | os.O_NOFOLLOW))
    except OSError as error:
        if error.errno == errno.ELOOP:
            return False
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return True
        raise
    return False


def _pin_one(top: str, place: str) -> bool:
    """Turn one name into a mount. Returns False for a symbolic link, which also becomes one. Raises: OSError."""
    # Open `top` again: a descriptor from before is beneath the mounts.
    directory = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fd = syscalls.open_beneath(directory, place, os.O_PATH | os.O_NOFOLLOW)
    finally:
        os.close(directory)
    try:
        syscalls.mount(f"/proc/self/fd/{fd}", f"/proc/self/fd/{fd}", None, MS_BIND | MS_REC)
        return not stat.S_ISLNK(os.fstat(fd).st_mode)
    finally:
        os.close(fd)


def _add_bind(bind: Bind) -> None:
    path = bind["path"]
    target = PREPARED + path
    if not os.path.exists(path):
        return
    _bind(path, target)
    syscalls.set_mount(target, _PRIVATE | (0 if bind["writable"] else MOUNT_ATTR_RDONLY))


def _hide(target: str) -> None:
    if os.path.isdir(target):
        syscalls.mount(f"{PREPARED}/.empty", target, None, MS_BIND)
        syscalls.set_mount(target, _PRIVATE | MOUNT_ATTR_RDONLY)
    elif os.path.lexists(target):
        syscalls.mount("/dev/null", target, None, MS_BIND)


def _replace(path: str, text: str, spare: str) -> None:
    """Show other text in place of a file of the machine. Skips a file that does not exist or is not shown.

    /etc is the machine's own directory, read-only here, so nothing can be added to it; but the target of a link into
    /run can.
    """
    real = os.path.realpath(path)
    target = PREPARED + real
    if not os.path.exists(target):
        if not real.startswith("/run/"):
            return
        _make_directory(os.path.dirname(target))
        spare = target
    with os.fdopen(os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w") as file:
        file.write(text)
    os.chmod(spare, 0o644)
    if spare != target:
        syscalls.mount(spare, target, None, MS_BIND)
        syscalls.set_mount(target, _PRIVATE | MOUNT_ATTR_RDONLY)


def readable(read: Iterable[str]) -> list[str]:
    """Returns what a process without its own root may read: the same directories, /etc entry by entry, all without secrets."""
    secrets = {path for top in TOPS for path in secret_files(top)}
    places = [*(path for path in SYSTEM if path != "/etc"), *(f"/etc/{name}" for name in os.listdir("/etc"))]
    return [*(inner for path in places for inner in without(path, secrets)), *read]
