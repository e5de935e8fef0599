"""Runs tests in several processes and collects what became of each."""

from __future__ import annotations

import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SILENCE_SECONDS_MAX = 180.0
BATCH = 12
PATHS = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


@dataclass(frozen=True)
class Result:
    """What became of a test.  outcome: passed, failed or skipped.

    audited: None when no audit was made (no-op, or a test without ML2); else what it counted.
    """

    test: str
    outcome: str
    why: str = ""
    seconds: float = 0.0
    audited: dict[str, int] | None = None


@dataclass(frozen=True)
class Arrangement:
    """How the children are started; see `swap.Swap` and `breakages`."""

    ours: bool
    broken: str = ""

    def argv(self) -> list[str]:
        chosen = ["--ours"] if self.ours else []
        return [sys.executable, "-m", "own.child", *chosen, *(["--break", self.broken] if self.broken else [])]


def environment() -> dict[str, str]:
    """Of a process that runs tests."""
    return {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join([str(ROOT), *PATHS])}


class ChildDied(Exception):
    """The process ended, or said nothing for too long."""


class Child:
    """One process that runs tests."""

    def __init__(self, arrangement: Arrangement, log: Path) -> None:
        with open(log, "ab") as out:
            self._process = subprocess.Popen(
                arrangement.argv(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=out,
                start_new_session=True,
                env=environment(),
            )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._rest = b""
        self.neutron = str(self._line()["ready"])

    def run(self, tests: Sequence[str], report: Callable[[Result], None]) -> None:
        """Run them one after the other.  ChildDied: those not reported did not end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(tests).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise ChildDied(str(error)) from error
        while "test" in (line := self._line()):
            report(Result(**line))  # type: ignore[arg-type]

    def _line(self) -> dict[str, object]:
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            if not self._selector.select(SILENCE_SECONDS_MAX):
                raise ChildDied(f"nothing said for {SILENCE_SECONDS_MAX:.0f} s")
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            if not part:
                raise ChildDied(f"the process ended with code {self._process.wait()}")
            self._rest += part
        line, self._rest = self._rest.split(b"\n", 1)
        found: dict[str, object] = json.loads(line)
        return found

    def stop(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()


def batches(tests: Sequence[str]) -> list[list[str]]:
    """Tests of one class, a few at a time."""
    made: list[list[str]] = []
    for test in tests:
        if made and len(made[-1]) < BATCH and made[-1][0].rpartition(".")[0] == test.rpartition(".")[0]:
            made[-1].append(test)
        else:
            made.append([test])
    return made


def run(
    arrangement: Arrangement, tests: Sequence[str], processes: int, log: Path, say: Callable[[str], None] = print
) -> tuple[str, list[Result]]:
    """Neutron's version, and a result for every test, in the order of `tests`.

    log: what the processes print; results as they come stand beside it (`.jsonl`).
    """
    results = log.with_suffix(".jsonl")
    results.unlink(missing_ok=True)
    waiting: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for batch in batches(tests):
        waiting.put(batch)
    done: dict[str, Result] = {}
    versions: set[str] = set()
    failures: list[BaseException] = []

    def note(result: Result) -> None:
        done[result.test] = result
        with open(results, "a") as out:
            out.write(json.dumps(asdict(result)) + "\n")

    def work() -> None:
        child: Child | None = None
        try:
            while True:
                try:
                    batch = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    child = child or Child(arrangement, log)
                    versions.add(child.neutron)
                    child.run(batch, note)
                except ChildDied as error:
                    left = [test for test in batch if test not in done]
                    if not left or child is None:
                        raise
                    note(Result(left[0], "failed", str(error)))
                    child.stop()
                    child = None
                    if left[1:]:
                        waiting.put(left[1:])
        except BaseException as error:  # noqa: BLE001  (handed to the thread that waits)
            failures.append(error)
        finally:
            if child is not None:
                child.stop()

    threads = [threading.Thread(target=work) for _ in range(max(1, min(processes, len(tests))))]
    started = said = time.monotonic()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(0.2) if threads[0].is_alive() else time.sleep(0.2)
        if time.monotonic() - said >= 20:
            said = time.monotonic()
            failed = sum(result.outcome == "failed" for result in list(done.values()))
            say(f"{len(done)} of {len(tests)} tests, {failed} failed, {said - started:.0f} s")
    if failures:
        raise failures[0]
    return "/".join(sorted(versions)), [done[test] for test in tests]
