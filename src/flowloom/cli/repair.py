"""`flowloom repair` and `flowloom store rebuild`: have the recovery process make the store what Neutron says.

Both are jobs of the recovery process: they go on when this command is ended, and may be asked for again.
Exit code: 0 nothing differs any more; 1 something does (found by a dry run, held by a guard, refused, or named and
nowhere to be found); 3 the recovery process does not answer.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from flowloom.cli import recovery, sources
from flowloom.cli.answers import Job, JobStarted
from flowloom.cli.ask import ask
from flowloom.cli.deployment import Deployment, find
from flowloom.cli.drift import why_of
from flowloom.cli.table import age, clean, count, emit, say, table
from flowloom.kernel.errors import FlowloomError, Misconfigured, Rejected, Unavailable

OK, NOT_SO = 0, 1

POLL_SECONDS = 0.2
SAMPLE_SHOWN = 5
"""Of what is repaired; a dry run, which is there to be read, shows all that it was told."""

SILENCE_SECONDS = 30.0
"""A process that does not answer for so long is given up; its job goes on if it lives."""


def run(arguments: argparse.Namespace) -> int:
    """`flowloom repair`."""
    if arguments.rate is not None and arguments.rate <= 0:
        raise Misconfigured("--rate", f"{arguments.rate:g} is not a number of objects a second above 0")
    question = {
        "ask": "repair",
        "dry_run": arguments.dry_run,
        "project": arguments.project,
        "object": arguments.object,
        "approve": arguments.approve,
        "by": recovery.myself(),
        "rate": arguments.rate,
    }
    deployment = find(arguments.deployment)
    job = follow(deployment, question, "comparing" if arguments.dry_run else "repairing")
    return _end(job, arguments.json, arguments.dry_run)


def run_rebuild(arguments: argparse.Namespace) -> int:
    """`flowloom store rebuild`."""
    deployment = find(arguments.deployment)
    with sources.opened(deployment):  # An embedded store whose file is gone is made here: no running process does that.
        job = follow(deployment, {"ask": "rebuild", "by": recovery.myself()}, "rebuilding")
    return _end(job, arguments.json, dry_run=False)


def follow(
    deployment: Deployment,
    question: Mapping[str, object],
    doing: str,
    sleep: Callable[[float], None] = time.sleep,
    terminal: TextIO | None = None,
) -> Job:
    """Begin a job and watch it to its end, with progress where somebody looks.

    Unavailable when the process that has the job stops answering: repairs are repeatable, ask again.
    """
    try:
        started, path = recovery.put(deployment, question, JobStarted)
    except Rejected as error:  # It answers: there is no such object, or guard, or work is under way.
        return Job(state="failed", why=error.why)
    line = Progress(terminal or sys.stderr, doing)
    silent_since = None
    try:
        while True:
            try:
                job = ask(path, {"ask": "job", "id": started.job}, Job, recovery.ANSWER_SECONDS)
            except Unavailable as error:
                silent_since = silent_since or time.monotonic()
                if not _may_return(error, silent_since):
                    raise Unavailable(f"{error}; what was repaired stays so: ask again for the rest") from error
            else:
                silent_since = None
                if job.state != "running":
                    return job
                line.show(job)
            sleep(POLL_SECONDS)
    finally:
        line.clear()


def _may_return(error: FlowloomError, silent_since: float) -> bool:
    """A process that ended has forgotten its job; one that is busy answers later."""
    ended = isinstance(error.__cause__, FileNotFoundError | ConnectionRefusedError)
    return not ended and time.monotonic() - silent_since < SILENCE_SECONDS


class Progress:
    """One line on a terminal, written over; nothing where there is none."""

    def __init__(self, stream: TextIO, doing: str) -> None:
        self._stream = stream
        self._doing = doing
        self._shown = 0
        self._on = stream.isatty()

    def show(self, job: Job) -> None:
        """Where the job stands."""
        if not self._on:
            return
        text = f"{self._doing}: " + (f"{job.done} of {job.total}" if job.total else "looking")
        text += f", {age(job.seconds_left)} left" if job.seconds_left is not None else ""
        self._stream.write("\r" + text.ljust(self._shown))
        self._stream.flush()
        self._shown = len(text)

    def clear(self) -> None:
        """Take the line away."""
        if self._shown:
            self._stream.write("\r" + " " * self._shown + "\r")
            self._stream.flush()


def _end(job: Job, as_json: bool, dry_run: bool) -> int:
    if as_json:
        emit(job)
    else:
        say(show(job, dry_run))
    return code_of(job, dry_run)


def code_of(job: Job, dry_run: bool) -> int:
    """0 when nothing differs any more, else 1."""
    if job.state != "done":
        return NOT_SO
    found = sum(job.found.values())
    return OK if not found or (job.repaired + job.equal >= found and not dry_run) else NOT_SO


def show(job: Job, dry_run: bool) -> str:
    """What was found as a table, a sample of it, and what became of it in the last line."""
    out = []
    if job.found:
        out.append(table(("KIND", "FOUND"), sorted(job.found.items())))
    sample = job.sample if dry_run else job.sample[:SAMPLE_SHOWN]
    for one in sample:
        named = " ".join(one.object).strip() or one.key
        out.append(clean(f"    {one.kind}: {named}: {why_of(one)}") + "\n")
    if len(sample) < sum(job.found.values()):
        out.append(f"    ... of {count(sum(job.found.values()), 'difference')}\n")
    return "".join(out) + _sentence(job, dry_run) + "\n"


def _sentence(job: Job, dry_run: bool) -> str:
    found = sum(job.found.values())
    why = f": {clean(job.why)}" if job.why else ""
    match job.state:
        case "held":
            return (
                f"held by guard {clean(job.guard)}{why}\n"
                f"nothing was changed; look with: flowloom repair --dry-run\n"
                f"let it pass with: flowloom repair --approve {clean(job.guard)}"
            )
        case "failed":
            after = f" after {count(job.repaired, 'repair')}" if job.repaired else ""
            return f"failed{after}{why}"
        case "done" if not found:
            return f"nothing differs{why}"
        case "done" if dry_run:
            return f"{count(found, 'difference')} found; a dry run: nothing was changed{why}"
        case "done":
            others = f", {job.equal} by others meanwhile" if job.equal else ""
            return f"{count(found, 'difference')} found, {job.repaired} repaired{others}{why}"
        case other:
            return f"the recovery process says {clean(other)!r}{why}"
