"""`flowloom demo`: the system does its job before your eyes and survives its faults.

A demo is a list of named steps.  Each shows one thing and returns what was seen, or raises `NotSo` with what was
seen instead; the end is a table of verdicts, and exit code 0 only if every step held.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, NoReturn, TypeVar

from flowloom.cli.table import emit, say, table
from flowloom.kernel.clock import Clock, SystemClock
from flowloom.kernel.errors import Misconfigured

if TYPE_CHECKING:
    from flowloom.lab.cloud import Lab

S = TypeVar("S")
Say = Callable[[str], None]


class NotSo(Exception):
    """What a step promised did not hold; the text is what was seen instead."""


@dataclass(frozen=True)
class Step(Generic[S]):
    """One thing to show.

    show: does it on the stage and returns what was seen, in one line.
    needed: the steps behind it make no sense without it.
    always: shown even when a needed one failed.
    """

    name: str
    show: Callable[[S], str]
    needed: bool = False
    always: bool = False


@dataclass(frozen=True)
class Verdict:
    """How a step ended, after how many seconds, and what was seen."""

    step: str
    verdict: Literal["held", "FAILED", "not tried"]
    seconds: float | None
    seen: str


def play(steps: Sequence[Step[S]], stage: S, clock: Clock, tell: Say) -> list[Verdict]:
    """Show the steps in order; after a needed one that failed the rest is not tried."""
    verdicts: list[Verdict] = []
    lost = False
    for number, step in enumerate(steps, start=1):
        if lost and not step.always:
            verdicts.append(Verdict(step.name, "not tried", None, ""))
            continue
        tell(f"[{number}/{len(steps)}] {step.name}")
        verdict = _show(step, stage, clock)
        verdicts.append(verdict)
        tell(f"    {verdict.verdict}: {verdict.seen} ({verdict.seconds:.1f} s)")
        lost = lost or (step.needed and verdict.verdict == "FAILED")
    return verdicts


def _show(step: Step[S], stage: S, clock: Clock) -> Verdict:
    start = clock.monotonic()
    try:
        seen = step.show(stage)
        return Verdict(step.name, "held", clock.monotonic() - start, seen)
    except (NotSo, Misconfigured) as error:
        return Verdict(step.name, "FAILED", clock.monotonic() - start, str(error))
    except Exception as error:  # noqa: BLE001  The outermost loop of a demo: whatever a step met is its verdict.
        where = traceback.extract_tb(error.__traceback__)[-1]
        seen = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Verdict(step.name, "FAILED", clock.monotonic() - start, " ".join(seen.split()))


def show(verdicts: Sequence[Verdict]) -> str:
    """The table at the end."""
    rows = [(n, v.step, v.verdict, _seconds(v.seconds), v.seen) for n, v in enumerate(verdicts, start=1)]
    return table(("#", "SHOWN", "VERDICT", "SECONDS", "SEEN"), rows)


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def all_held(verdicts: Sequence[Verdict]) -> bool:
    """Whether every step was shown and held."""
    return bool(verdicts) and all(verdict.verdict == "held" for verdict in verdicts)


def run(arguments: argparse.Namespace) -> int:
    """Play the release's demo in a lab of its own; 0 when all held, else 1."""
    from flowloom.cli.demo_steps import STEPS, Stage
    from flowloom.lab.cloud import Lab

    lab = Lab(arguments.dir)
    if lab.layout.state_file.exists():
        raise Misconfigured("--dir", f"there is a lab in {lab.layout.dir}: flowloom lab down --dir {lab.layout.dir}")
    clock, tell = SystemClock(), _to_stderr if arguments.json else _to_stdout
    # Taken down on every way out, Ctrl-C and SIGTERM included.
    with _terminated_as_interrupt(), _closing(lab, keep=arguments.keep, tell=tell) as ending:
        last = Step[Stage]("nothing is left behind", lambda stage: ending(stage.lab), always=True)
        verdicts = play(STEPS if arguments.keep else (*STEPS, last), Stage(lab, tell), clock, tell)
    if arguments.json:
        emit(verdicts)
    else:
        say("\n" + show(verdicts) + ("\nAll of it held.\n" if all_held(verdicts) else "\nNOT all of it held.\n"))
    if arguments.keep:
        tell(invitation(lab))
    return 0 if all_held(verdicts) else 1


@contextmanager
def _closing(lab: Lab, keep: bool, tell: Say) -> Iterator[Callable[[Lab], str]]:
    """Yields the last step, which takes the lab down; makes sure of it when something else ended the demo."""
    done = False

    def take_down(lab: Lab) -> str:
        nonlocal done
        from flowloom.lab.network import namespaces

        lab.down()
        done = True
        left = [*namespaces(lab.layout), *_processes_of(lab.layout.dir)]
        if left or lab.layout.dir.exists():
            raise NotSo(f"still there: {', '.join(left) or lab.layout.dir}")
        return "processes, namespaces and files are gone"

    try:
        yield take_down
    except BaseException:
        keep = False  # Half a lab is of no use to anyone.
        raise
    finally:
        if not done and not keep:
            tell("cleaning up")
            lab.down()


def _processes_of(directory: Path) -> list[str]:
    """The processes whose command lines name something in `directory`; the lab itself finds its own otherwise."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if any(f"{directory}/".encode() in word for word in words):
                    found.append(f"process {entry.name} ({b' '.join(words[:4]).decode(errors='replace')})")
    return found


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does: through the clean-up."""

    def interrupt(number: int, frame: object) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def invitation(lab: Lab) -> str:
    """How to play with a lab that was kept."""
    me = f"flowloom --config {lab.deployment_file}"
    openstack = f"OS_CLIENT_CONFIG_FILE={lab.clouds_file} openstack --os-cloud flowloom"
    return f"""
The lab is still up.  Play with it:
    {openstack} network list
    {openstack} port list
    {me} status
    {me} port show PORT_ID
    {me} flows --host h1 --explain
    flowloom lab exec --dir {lab.layout.dir} vm1 -- ping -c 3 10.10.0.12
    flowloom lab cut --dir {lab.layout.dir} store
and take it down again:
    flowloom lab down --dir {lab.layout.dir}"""


def _to_stdout(line: str) -> None:
    print(line, flush=True)


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def await_so(what: str, holds: Callable[[], bool], seconds: float) -> float:
    """Wait until `holds()`; how long it took.  NotSo, naming `what`, when it did not within `seconds`."""
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise NotSo(f"after {seconds:g} s still not: {what}")
        time.sleep(0.05)
    return time.monotonic() - start
