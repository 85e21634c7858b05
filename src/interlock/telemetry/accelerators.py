"""GPUs and other accelerators, read from driver files: complete for AMD; for NVIDIA only whether a card is present.

NVIDIA's driver reports use and memory only through its library and its `nvidia-smi` program. Starting a program takes a
tenth of a second or more, so only `interlock telemetry` asks it (`ask=True`), never the sampler.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from interlock.lazy import lazy
from interlock.telemetry.procfs import Absent, read
from interlock.telemetry.snapshot import Accelerator

if TYPE_CHECKING:
    import shutil
else:
    shutil = lazy("shutil")

_ASK_TIMEOUT_S = 3.0
NOT_ASKED = "the NVIDIA driver reports use and memory only through nvidia-smi, which only `interlock telemetry` runs"


def accelerators(proc: Path, sys: Path, *, ask: bool = False) -> tuple[Accelerator, ...]:
    """Returns the accelerators, in the order of the kernel's names. Raises: Absent if there are none."""
    found = _nvidia(proc, ask=ask) + _amd(sys)
    if not found:
        raise Absent("no NVIDIA driver, and no DRM device that reports its use")
    return tuple(found)


def _nvidia(proc: Path, *, ask: bool) -> list[Accelerator]:
    cards = sorted((proc / "driver" / "nvidia" / "gpus").glob("*/information"))
    if cards and ask and (asked := _ask_nvidia()):
        return asked
    out = []
    for card in cards:
        try:
            lines = read(card).decode("utf-8", "replace").splitlines()
        except Absent:
            continue
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "NVIDIA")
        out.append(Accelerator(name=name))
    return out


def _ask_nvidia() -> list[Accelerator]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = ["--query-gpu=name,utilization.gpu,memory.used,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            [program, *query], capture_output=True, timeout=_ASK_TIMEOUT_S, check=False, env={"LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_nvidia_smi(done.stdout.decode("utf-8", "replace")) if done.returncode == 0 else []


def parse_nvidia_smi(text: str) -> list[Accelerator]:
    """Parses lines of `name, per cent, MiB used, MiB total`, with `[N/A]` for a value that a card does not report."""
    out = []
    for line in text.splitlines():
        words = [w.strip() for w in line.split(",")]
        if len(words) == 4:
            busy, used, total = (float(w) if w.replace(".", "", 1).isdigit() else None for w in words[1:])
            out.append(
                Accelerator(
                    name=words[0],
                    busy_percent=busy,
                    memory_used_bytes=None if used is None else int(used * 2**20),
                    memory_total_bytes=None if total is None else int(total * 2**20),
                )
            )
    return out


def _amd(sys: Path) -> list[Accelerator]:
    out = []
    for busy in sorted((sys / "class" / "drm").glob("card*/device/gpu_busy_percent")):
        device = busy.parent
        out.append(
            Accelerator(
                name=f"{device.parent.name} (amdgpu)",
                busy_percent=_number(busy),
                memory_used_bytes=_number(device / "mem_info_vram_used"),
                memory_total_bytes=_number(device / "mem_info_vram_total"),
            )
        )
    return out


def _number(path: Path) -> int | None:
    try:
        return int(read(path))
    except (Absent, ValueError):
        return None
