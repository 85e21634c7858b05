"""Runs a command as an ordinary user: `python ordinary_user.py UID HOME COMMAND...`, started by root.

Root's Python and checkout may be in directories that others cannot enter. So this takes place in a mount namespace of its
own, where those directories are replaced by ones that show just what the command needs.
"""

import os
import sys
import tempfile

from interlock.isolation import syscalls


def closed_above(path):
    """The topmost directory on the way to a path that other users cannot enter; None if there is none."""
    parts = path.split("/")
    for place in ("/".join(parts[: n + 1]) or "/" for n in range(len(parts))):
        if not os.stat(place).st_mode & 0o001:
            return place
    return None


def main():
    user, home, *command = sys.argv[1:]
    needed = [sys.base_prefix, sys.prefix, os.path.dirname(os.path.dirname(os.path.abspath(syscalls.__file__)))]
    hidden = {path: above for path in needed if (above := closed_above(path))}
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    kept = {path: tempfile.mkdtemp(dir="/var/tmp") for path in hidden}
    for path, place in kept.items():
        syscalls.mount(path, place, None, syscalls.MS_BIND | syscalls.MS_REC)
    for above in set(hidden.values()):
        syscalls.mount("tmpfs", above, "tmpfs", 0, "mode=755")
    for path, place in kept.items():
        os.makedirs(path, exist_ok=True)
        syscalls.mount(place, path, None, syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.umount(place)
        os.rmdir(place)
    os.setgroups([])
    os.setresgid(int(user), int(user), int(user))
    os.setresuid(int(user), int(user), int(user))
    syscalls.drop_capabilities()
    syscalls.set_dumpable(dumpable=True)
    os.chdir(home)
    environment = {"HOME": home, "PATH": "/usr/bin:/bin", "INTERLOCK_STATE_DIR": f"{home}/state", "LC_ALL": "C.UTF-8"}
    os.execve(command[0], command, environment)


main()
