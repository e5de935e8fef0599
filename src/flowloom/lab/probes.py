"""Pings and raw frames in a lab's namespaces, seen from the outside: each is a helper process inside the namespace."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import IO

import msgspec

from flowloom.lab import tools
from flowloom.lab.errors import LabFailed
from flowloom.lab.layout import Layout
from flowloom.lab.network import enter
from flowloom.lab.processes import until

_READY_SECONDS = 20.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class RoundTrip:
    """Times of the answers, milliseconds."""

    min_ms: float
    avg_ms: float
    max_ms: float


@dataclass(frozen=True)
class PingResult:
    """A finished series.  lost_numbers: which requests, counted from 0, the first 1000.  rtt: None without answers."""

    sent: int
    received: int
    lost: int
    lost_numbers: tuple[int, ...]
    duplicates: int
    rtt: RoundTrip | None


class _Inside:
    """A helper process inside a namespace; its output goes to a file, so that nobody has to keep reading."""

    def __init__(self, layout: Layout, netns: str, module: str, *argv: str) -> None:
        command = enter(netns, *tools.python("-m", f"flowloom.lab.{module}", *argv))
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the helper runs
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._errors,
            env=tools.environment(layout),
            cwd="/",
        )
        self._wait("ready")

    def lines(self) -> list[str]:
        """What it has printed so far, whole lines only."""
        # pread: the helper writes at the file offset that a seek of ours would move.
        file = self._output.fileno()
        return [line.decode() for line in os.pread(file, os.fstat(file).st_size, 0).split(b"\n")[:-1]]

    def finish(self, seconds: float) -> list[str]:
        """End its input, wait for its end, and return all that it printed."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise LabFailed(f"a probe did not end within {seconds:g} s") from error
        if code != 0:
            raise LabFailed(f"a probe failed: {self._words()}")
        return self.lines()

    def _wait(self, word: str) -> None:
        def there() -> bool:
            return word in self.lines() or self._process.poll() is not None

        until(there, _READY_SECONDS)
        if word not in self.lines():
            self._process.kill()
            self._process.wait()
            raise LabFailed(f"a probe did not start: {self._words()}")

    def _words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def __enter__(self) -> _Inside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()
        self._output.close()
        self._errors.close()


class Ping:
    """A running series of pings; `stop` tells what was lost.  A context manager that ends it in any case."""

    def __init__(self, layout: Layout, netns: str, address: str, count: int, interval: float, size: int) -> None:
        self._count, self._interval = count, interval
        self._inside = _Inside(layout, netns, "pinger", address, str(count), str(interval), str(size))

    def await_first(self, seconds: float) -> None:
        """Wait for the first answer.  LabFailed when there is none."""
        if not until(lambda: "first" in self._inside.lines(), seconds):
            raise LabFailed(f"no answer to a ping within {seconds:g} s")

    def stop(self) -> PingResult:
        """End the series (one with a count ends by itself) and wait for the answers that are on their way."""
        lines = self._inside.finish(_STOP_SECONDS + self._count * self._interval)
        return msgspec.json.decode(lines[-1], type=PingResult)

    def __enter__(self) -> Ping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.__exit__(kind, error, trace)


class Capture:
    """Frames that arrive at an interface, from the moment this exists.  A context manager."""

    def __init__(self, layout: Layout, netns: str, interface: str) -> None:
        self._inside = _Inside(layout, netns, "frames", "capture", interface)

    def frames(self) -> list[bytes]:
        """What has arrived so far, with VLAN tags."""
        return [bytes.fromhex(line) for line in self._inside.lines() if line != "ready"]

    def await_frame(self, wanted: Callable[[bytes], bool], seconds: float) -> bytes:
        """Wait for a frame that `wanted` accepts.  LabFailed when there is none in time."""
        if not until(lambda: any(map(wanted, self.frames())), seconds):
            raise LabFailed(f"the frame did not arrive within {seconds:g} s; {len(self.frames())} others did")
        return next(filter(wanted, self.frames()))

    def __enter__(self) -> Capture:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inside.__exit__(kind, error, trace)


def inject(layout: Layout, netns: str, interface: str, frames: Iterable[bytes]) -> None:
    """Put frames on the wire as they are, whatever their source says; returns when all have been sent."""
    command = enter(netns, *tools.python("-m", "flowloom.lab.frames", "send", interface))
    tools.run(command, stdin="".join(f"{frame.hex()}\n" for frame in frames), env=tools.environment(layout))
