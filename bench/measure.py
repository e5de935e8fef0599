"""CPU and memory of another process, from the kernel's own accounts."""

from __future__ import annotations

import time
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Time on a CPU so far, user and system, of all threads of a process, those that ended included.

    The process's own CPU clock (clock_getcpuclockid(3); its number is made of the pid as in the C library).
    """
    return time.clock_gettime(~pid << 3 | 2)


def rss_mb(pid: int) -> float:
    """Resident memory, MB (2**20 bytes)."""
    return _memory_mb(pid, "VmRSS")


def peak_rss_mb(pid: int) -> float:
    """The most there ever was of it, MB."""
    return _memory_mb(pid, "VmHWM")


def _memory_mb(pid: int, what: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"process {pid} says nothing of its memory")
