"""Build the stand-in for RAMCloud's client library with the machine's C compiler, and make things go wrong in it.

A stand-in, not a server: see `ramcloud_stand_in.c`.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("ramcloud_stand_in.c")
INSTEAD, AFTERWARDS, TWICE, BROKEN = range(4)

ports = itertools.count(1000)


def compiled(source: Path, library: Path, *options: str) -> Path:
    """A shared library out of C; a visible skip where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in for libramcloud.so with")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    subprocess.run([compiler, *flags, *options, "-o", str(library), str(source)], check=True)
    return library


class StandIn:
    """One cluster in the stand-in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.port = next(ports)
        self.locator = f"tcp:host=stand-in,port={self.port}".encode()

    def url(self, **options: object) -> str:
        chosen = {"library": self.path, "timeout_seconds": 2, "poll_seconds": 0.01, **options}
        query = "&".join(f"{name}={value}" for name, value in chosen.items())
        return f"ramcloud://stand-in:{self.port}/flowloom?{query}"

    def away(self, away: bool) -> None:
        self.library.stand_in_away(self.locator, int(away))

    def delay(self, seconds: float) -> None:
        self.library.stand_in_delay(self.locator, int(1000 * seconds))

    def fail(self, call: str, status: int, times: int = 1, mode: int = INSTEAD, skip: int = 0) -> None:
        """After `skip` calls of that name the next `times` give `status`."""
        self.library.stand_in_fail(self.locator, call.encode(), status, times, mode, skip)

    def wipe(self) -> None:
        self.library.stand_in_wipe(self.locator)

    def violations(self) -> int:
        found: int = self.library.stand_in_violations(self.locator)
        return found
