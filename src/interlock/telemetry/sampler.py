"""The sampler: one daemon thread that takes a sample of the machine once a second.

An action only picks up the last sample.

It starts with the first call and costs little: the scan of the process table, its most expensive part, is repeated only
as often as takes 1 % of the time. Nothing here raises because the machine hides something: see `Snapshot.absent`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from interlock.model.clock import Clock
from interlock.telemetry import procfs
from interlock.telemetry.accelerators import NOT_ASKED, accelerators
from interlock.telemetry.processes import Scan, scan, summarize
from interlock.telemetry.procfs import TICKS_PER_S, Absent
from interlock.telemetry.snapshot import Accelerator, Processes, Snapshot

_T = TypeVar("_T")
_SCAN_SHARE: Final = 0.01
_PAUSE_S: Final = 0.2
"""How long `snapshot_now` observes the CPUs."""


class Sampler:
    """Samples of this machine; `path` selects the disk (the workspace). Thread-safe."""

    def __init__(
        self,
        clock: Clock,
        path: Path,
        *,
        interval_s: float = 1.0,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
    ) -> None:
        """Starts nothing yet. Tests pass other trees as `proc` and `sys`."""
        self._clock = clock
        self._path = path
        self._interval_s = interval_s
        self._proc = proc
        self._sys = sys
        self._latest: Snapshot | None = None
        self._between: Snapshot | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._cpu: procfs.CpuTimes | None = None
        self._scan: Scan | None = None
        self._summary: Processes | None = None
        self._table: dict[tuple[int, int], str] = {}
        self._own_cpu_percent: float | None = None
        self._scan_due_ns = 0

    def warm_up(self) -> None:
        """Take the first sample on a thread, if there is none yet, so that the first action waits less."""
        if self._latest is None:
            threading.Thread(target=self.latest, name="interlock-first-sample", daemon=True).start()

    def latest(self) -> Snapshot:
        """Returns the last sample.

        The first call takes one, with the process table (some milliseconds), and starts the thread.
        """
        latest = self._latest
        return latest if latest is not None else self._start()

    def fresh(self, age_ns: int) -> Snapshot:
        """Returns a sample at most `age_ns` old.

        It is the last one, or a copy of it with current memory, disk, load and pressure (0.2 ms).

        CPU use and processes are those of the last full sample: over so short a time they say nothing, and the guard
        must not see them.
        """
        newest = self.latest()
        between = self._between
        if between is not None and between.mono_ns > newest.mono_ns:
            newest = between
        now_ns = self._clock.mono_ns()
        if now_ns - newest.mono_ns <= age_ns:
            return newest
        absent = {name: why for name, why in newest.absent.items() if name in ("cpu", "processes", "accelerators")}
        memory = self._memory(absent)
        self._between = msgspec.structs.replace(
            newest,
            ts=self._clock.now_us(),
            mono_ns=now_ns,
            load=_try(absent, "load", lambda: procfs.load(self._proc)),
            memory_total_bytes=memory.total if memory else None,
            memory_used_bytes=memory.used if memory else None,
            pressure=_try(absent, "pressure", lambda: procfs.pressure(self._proc)) or {},
            absent=absent,
            took_ms=round((self._clock.mono_ns() - now_ns) / 1e6, 3),
            **(_try(absent, "disk", self._disk) or {}),
        )
        return self._between

    def snapshot_now(self) -> Snapshot:
        """Take a full sample now: observe the CPUs for 0.2 s and run nvidia-smi. Meant for people, not for actions."""
        with self._lock:
            self._sample(processes=True)
            self._stop.wait(_PAUSE_S)
            self._scan_due_ns = 0
            return self._sample(processes=True, ask=True)

    def close(self) -> None:
        """Stop the thread. The last sample remains available."""
        self._stop.set()
        with self._lock:  # `warm_up` may be about to start it on another thread
            thread = self._thread
        if thread is not None:
            thread.join(timeout=5)

    def _start(self) -> Snapshot:
        with self._lock:
            if self._latest is None:
                self._latest = self._sample(processes=True)
                if not self._stop.is_set():
                    self._thread = threading.Thread(target=self._run, name="interlock-sampler", daemon=True)
                    self._thread.start()
            return self._latest

    def _run(self) -> None:
        # The first full sample follows soon, so that a short run also gets its processes and CPU use.
        pause_s = min(0.1, self._interval_s)
        while not self._stop.wait(pause_s):
            pause_s = self._interval_s
            with self._lock:
                sample = self._sample(processes=True)
            _ = sample.view  # computed here, so that no action pays for it
            self._latest = sample

    def _sample(self, *, processes: bool, ask: bool = False) -> Snapshot:
        began_ns = self._clock.mono_ns()
        absent: dict[str, str] = {}
        if processes and began_ns >= self._scan_due_ns:
            self._scan_processes(absent)
        elif self._summary is None:
            absent["processes"] = "not scanned yet"
        memory = self._memory(absent)
        disk = _try(absent, "disk", self._disk) or {}
        gpus: tuple[Accelerator, ...] = (
            _try(absent, "accelerators", lambda: accelerators(self._proc, self._sys, ask=ask)) or ()
        )
        if any(g.busy_percent is None for g in gpus):
            absent["accelerators"] = NOT_ASKED
        return Snapshot(
            ts=self._clock.now_us(),
            mono_ns=began_ns,
            cpus=os.cpu_count() or 1,
            cpu_percent=self._cpu_percent(absent),
            own_cpu_percent=self._own_cpu_percent,
            load=_try(absent, "load", lambda: procfs.load(self._proc)),
            memory_total_bytes=memory.total if memory else None,
            memory_used_bytes=memory.used if memory else None,
            own_memory_bytes=self._scan.own_memory_bytes if self._scan else None,
            pressure=_try(absent, "pressure", lambda: procfs.pressure(self._proc)) or {},
            accelerators=gpus,
            processes=self._summary,
            table=self._table,
            absent=absent,
            took_ms=round((self._clock.mono_ns() - began_ns) / 1e6, 3),
            **disk,
        )

    def _cpu_percent(self, absent: dict[str, str]) -> float | None:
        now = _try(absent, "cpu", lambda: procfs.cpu_times(self._proc))
        before, self._cpu = self._cpu, now
        if now is None:
            return None
        if before is None or now.total <= before.total:
            absent["cpu"] = "needs two samples"
            return None
        busy = (now.total - now.idle) - (before.total - before.idle)
        return round(min(100.0, max(0.0, 100.0 * busy / (now.total - before.total))), 1)

    def _memory(self, absent: dict[str, str]) -> procfs.Memory | None:
        machine = _try(absent, "memory", lambda: procfs.memory(self._proc))
        try:
            group = procfs.control_group_memory(self._proc, self._sys)
        except Absent:
            return machine  # having no limit is the ordinary case, not a missing measure
        if machine is None or group.used * machine.total > machine.used * group.total:
            return group
        return machine

    def _disk(self) -> dict[str, Any]:
        try:
            disk = os.statvfs(self._path)
        except OSError as error:
            raise Absent(f"{self._path}: {os.strerror(error.errno or 0)}") from None
        used = disk.f_blocks - disk.f_bfree
        usable = used + disk.f_bavail
        return {
            "disk_total_bytes": disk.f_blocks * disk.f_frsize,
            "disk_used_bytes": used * disk.f_frsize,
            "disk_percent": round(100.0 * used / usable, 1) if usable else None,
        }

    def _scan_processes(self, absent: dict[str, str]) -> None:
        now = _try(absent, "processes", lambda: scan(self._proc, os.getpid(), self._clock))
        took_ns = self._clock.mono_ns()
        if now is None:
            self._scan = self._summary = None
            self._table = {}
            return
        before, self._scan = self._scan, now
        self._summary = summarize(now, before)
        self._table = {key: row.name for key, row in now.rows.items()}
        if before is not None and now.mono_ns > before.mono_ns:
            seconds = (now.mono_ns - before.mono_ns) / 1e9
            share = (now.own_ticks - before.own_ticks) / TICKS_PER_S / seconds / (os.cpu_count() or 1)
            # The sum falls if a child ends that nobody waited for; then too little is known, but the use is never negative.
            self._own_cpu_percent = round(min(100.0, max(0.0, 100.0 * share)), 1)
        self._scan_due_ns = took_ns + round((took_ns - now.mono_ns) / _SCAN_SHARE)


def _try(absent: dict[str, str], name: str, measure: Callable[[], _T]) -> _T | None:
    try:
        return measure()
    except Absent as reason:
        absent[name] = str(reason)
        return None
