"""Sends reports through a socket that the program has inherited, one JSON object per message."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import stat
import threading
from typing import Any, Mapping

MESSAGE_BYTES_MAX = 60_000
_ARGUMENTS_BYTES_MAX = 4096
_TEXT_CHARS_MAX = 4096
_NAME_CHARS_MAX = 1024


class Channel:
    """Sends the reports of one process; a forked child counts as another writer. Thread-safe. Never raises into the program."""

    def __init__(self, connection: socket.socket, run_id: str) -> None:
        self._socket, self._run_id = connection, run_id
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    @classmethod
    def inherited(cls, environ: Mapping[str, str]) -> Channel | None:
        """Returns the channel that the environment names; None if this process has no such socket, or has closed it."""
        number, _, inode = environ.get("INTERLOCK_AGENT_SHIM_SOCKET", "").partition(":")
        try:
            found = os.fstat(int(number))
            if not stat.S_ISSOCK(found.st_mode) or str(found.st_ino) != inode:
                return None
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=int(number))
        except (ValueError, OSError):
            return None
        return cls(connection, environ.get("INTERLOCK_AGENT_SHIM_RUN", ""))

    def _begin(self) -> None:
        self._writer = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._seq = 0
        self._lock = threading.Lock()
        self._names = itertools.count(1)

    def new_call_id(self) -> str:
        """Returns an id for a call to which the SDK gives none."""
        return f"shim-{self._writer}-{next(self._names)}"

    def start_call(self, call_id: str | None, tool: str, arguments: Any) -> tuple[str, str, str]:
        """Report that a tool is about to be called. Returns the argument for `end_call`."""
        source = "provider" if call_id else "shim"
        call = (_cut(call_id or self.new_call_id()), source, _cut(tool or "unknown"))
        fields = {} if (known := _bounded(arguments)) is None else {"arguments": known}
        self.send("tool_call_started", tool_call_id=call[0], call_id_source=source, tool=call[2], **fields)
        return call

    def end_call(self, call: tuple[str, str, str], error: str | None = None) -> None:
        """Report that a call has ended; `error` says why it failed."""
        fields = {} if error is None else {"error": error[:_TEXT_CHARS_MAX]}
        status = "succeeded" if error is None else "failed"
        self.send(
            "tool_call_completed", tool_call_id=call[0], call_id_source=call[1], tool=call[2], status=status, **fields
        )

    def finish_run(self, error: str | None = None) -> None:
        """Report that the agent's own run has ended; `error` says why it failed."""
        if error is None:
            self.send("run_finished")
        else:
            self.send("run_failed", error=error[:_TEXT_CHARS_MAX])

    def send(self, kind: str, **fields: Any) -> None:
        """Send one report. One that cannot be sent is lost, and leaves no gap in the sequence numbers."""
        with self._lock:
            message = {"kind": kind, "run_id": self._run_id, "writer": self._writer, "seq": self._seq, **fields}
            try:
                data = json.dumps(message, ensure_ascii=False).encode("utf-8", "replace")
                if len(data) <= MESSAGE_BYTES_MAX:
                    self._socket.send(data, socket.MSG_NOSIGNAL)
                    self._seq += 1
            except (TypeError, ValueError, OSError):
                pass


def _cut(text: Any) -> str:
    return str(text)[:_NAME_CHARS_MAX]


def _bounded(arguments: Any) -> Any:
    """Returns arguments as JSON; None if they are not JSON, or too long."""
    if isinstance(arguments, str):
        if len(arguments) > _ARGUMENTS_BYTES_MAX:
            return None
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return arguments
    try:
        data = json.dumps(arguments, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return arguments if len(data) <= _ARGUMENTS_BYTES_MAX else None
