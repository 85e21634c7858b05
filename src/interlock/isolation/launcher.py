"""Starts supervisors for the fork server, as plain children or in new namespaces. Uses only the standard library."""

from __future__ import annotations

import contextlib
import errno
import os

from interlock.isolation import root, seccomp, syscalls
from interlock.isolation.cgroup import Groups
from interlock.isolation.layer0 import RefusedError
from interlock.isolation.networks import UNTOUCHED, Entered, Loan, Networks, exit_status
from interlock.isolation.walls import NAMESPACES
from interlock.isolation.wire import RUN, RUN_CONFINED, RUN_PROXIED, Launch


class Launcher:
    """What the fork server prepares once for all actions to inherit. Must be created before any thread."""

    def __init__(self, launch: Launch, runtime: int) -> None:
        """Prepare what `launch` requests.

        Finds a place for control groups, enters a user and a mount namespace, and builds the shared part of the root.

        `runtime` is the pid of the process that this fork server serves.
        """
        self.shown = launch["shown"]
        """What processes see besides the system's directories."""
        self.refused = 0 if launch["namespaces"] else errno.ENOSYS
        """The errno that prevents supervisors from having namespaces; 0 if they can have them."""
        self.readable: list[str] = []
        """What processes without their own root may read; computed when the first one starts."""
        self.moved = False
        """True in a separate mount namespace, where a directory that was opened outside has no path."""
        self.group: int | None = None
        """In a supervisor: the directory of its control group, if it has one."""
        self._networks = Networks()
        self._loan: Loan | None = None
        self._entered: Entered | None = None
        self._loan_of: dict[int, Loan] = {}
        self._groups: Groups | None = None
        self._group_of: dict[int, tuple[str, int]] = {}
        if launch.get("groups", False):
            with contextlib.suppress(OSError):  # each action reports what limited its memory
                self._groups = Groups.find(runtime)
        if launch["namespaces"]:
            try:
                root.prepare(self.shown, machine_network=launch.get("machine_network", False))
                seccomp.assembled("all")
                self.moved = True
            except OSError as error:
                self.refused = error.errno or errno.EINVAL

    def fork(self, message: bytes) -> int:
        """Fork a supervisor of the kind that the message requests. Returns 0 in the supervisor.

        Raises: RefusedError, OSError.
        """
        if message == RUN_CONFINED and not self.readable:
            self.readable = root.readable(self.shown)
            seccomp.assembled("pairs")
        plain = message in {RUN, RUN_CONFINED}
        if self.refused and not plain:
            raise RefusedError("namespaces", self.refused)
        if plain:
            with contextlib.suppress(OSError):
                return self._fork_into_group(0)
            return os.fork()
        return self._fork_inside(proxied=message == RUN_PROXIED)

    def _fork_inside(self, *, proxied: bool) -> int:
        """Fork a supervisor in new namespaces. Raises: RefusedError."""
        loan = self._networks.lend(proxied=proxied)
        namespaces = NAMESPACES if loan.network is None else NAMESPACES & ~syscalls.CLONE_NEWNET
        try:
            try:
                pid = self._fork_into_group(namespaces)
            except OSError:
                pid = syscalls.clone(namespaces)
        except OSError as error:
            self._networks.give_back(loan, UNTOUCHED)
            raise RefusedError("namespaces", error.errno or errno.EAGAIN) from error
        if pid == 0:
            self._loan = loan
        else:
            self._loan_of[pid] = loan
        return pid

    def enter_network(self) -> int:
        """In a supervisor with namespaces: enter its network namespace. Returns the family of its listeners.

        Raises: OSError.
        """
        assert self._loan is not None
        self._entered = self._networks.enter(self._loan)
        return self._entered.family

    def exit_status(self) -> int:
        """In a supervisor, after its tree has ended: the exit status that says whether its network can be lent again."""
        return 0 if self._entered is None else exit_status(self._entered)

    def _fork_into_group(self, namespaces: int) -> int:
        """Fork into a new control group. Raises: OSError if groups are unavailable or this one could not be created."""
        if self._groups is None:
            raise OSError(errno.ENOENT, "no control groups")
        name, directory = self._groups.make()
        try:
            pid = syscalls.clone_into(namespaces, directory)
        except OSError:
            self._groups.remove(name, directory)
            raise
        if pid == 0:
            self.group = directory
        else:
            self._group_of[pid] = name, directory
        return pid

    def forget(self, pid: int, status: int) -> None:
        """Clean up after a supervisor with this exit status: remove its control group, and end what is left in it."""
        if pid in self._loan_of:
            self._networks.give_back(self._loan_of.pop(pid), status)
        if self._groups is not None and pid in self._group_of:
            self._groups.remove(*self._group_of.pop(pid))

    def tidy(self) -> bool:
        """Remove the control groups that could not be removed before. Returns True if any are left."""
        if self._groups is None:
            return False
        self._groups.tidy()
        return self._groups.busy
