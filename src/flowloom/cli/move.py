"""`flowloom store move`: another northbound database under a running cloud.

The move is in Neutron's database, and the recovery processes carry it on: it goes on when this command is ended, and when
one of them dies; asking again for the same move watches it.

Exit code: 0 moved (or, of `--abort`, gone back; of `--status`, nothing is under way and the last one did not fail); 1 not
so; 2 a wrong command line, or a secret in the URL; 3 no recovery process answers.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import TextIO
from urllib.parse import urlsplit

from flowloom.cli import recovery
from flowloom.cli.answers import MoveState
from flowloom.cli.deployment import Deployment, find
from flowloom.cli.table import age, clean, emit, say
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.northbound.pointer import check_public, public

OK, NOT_SO = 0, 1

POLL_SECONDS = 0.3
SILENCE_SECONDS = 60.0
"""So long no recovery process may answer: one that died is started again, or another takes over."""

BEGIN_SECONDS = 60.0
"""A move begins with opening its target."""

WORDS = {"done": "moved", "aborted": "gone back", "failed": "failed"}


def run(arguments: argparse.Namespace) -> int:
    """Begin a move and watch it, or look at one, or go back."""
    deployment = find(arguments.deployment)
    try:
        if arguments.abort or arguments.status:
            state = _of_one(arguments, deployment)
            code = OK if not state.under_way and state.step != "failed" else NOT_SO
        else:
            state = follow(deployment, _question(arguments))
            code = OK if state.step == "done" and state.done == state.total else NOT_SO
    except Rejected as error:  # It answers: that cannot be.
        print(f"flowloom: {error.why}", file=sys.stderr)
        return NOT_SO
    if arguments.json:
        emit(state)
    else:
        say(show(state))
    return code


def _of_one(arguments: argparse.Namespace, deployment: Deployment) -> MoveState:
    if arguments.abort and arguments.status:
        raise Misconfigured("--abort", "either that or --status")
    if arguments.source or arguments.target:
        raise Misconfigured("--from", "--abort and --status are of the move that there is: give no URL")
    question = {"ask": "move abort", "by": recovery.myself()} if arguments.abort else {"ask": "move status"}
    return recovery.put(deployment, question, MoveState)[0]


def _question(arguments: argparse.Namespace) -> Mapping[str, object]:
    for setting, url in (("--from", arguments.source), ("--to", arguments.target)):
        if not url:
            raise Misconfigured(setting, "name the URL (or ask with --status, or go back with --abort)")
        schemes = sorted(point.name for point in entry_points(group="flowloom.stores"))
        try:
            scheme = urlsplit(url).scheme
        except ValueError as error:
            raise Misconfigured(setting, f"the URL cannot be read: {error}") from error
        if scheme not in schemes:
            raise Misconfigured(setting, f"no driver for {public(url)!r}; known schemes: {', '.join(schemes)}")
    check_public("--to", arguments.target)
    lost = {"lost": True} if arguments.lost else {}
    return {"ask": "move", "from": arguments.source, "to": arguments.target, "by": recovery.myself(), **lost}


def follow(
    deployment: Deployment,
    question: Mapping[str, object],
    sleep: Callable[[float], None] = time.sleep,
    terminal: TextIO | None = None,
) -> MoveState:
    """Begin a move and watch it to its end, whichever process carries it on.  Unavailable when none answers for long."""
    state, _ = recovery.put(deployment, question, MoveState, BEGIN_SECONDS)
    number, lines = state.number, Lines(terminal or sys.stderr)
    silent_since = None
    try:
        while state.number == number and state.under_way:
            lines.show(state)
            sleep(POLL_SECONDS)
            try:
                state, _ = recovery.put(deployment, {"ask": "move status"}, MoveState)
                silent_since = None
            except Unavailable as error:
                silent_since = silent_since or time.monotonic()
                if time.monotonic() - silent_since > SILENCE_SECONDS:
                    why = "the move goes on as soon as a recovery process runs: flowloom store move --status"
                    raise Unavailable(f"{error}; {why}") from error
    finally:
        lines.end()
    return state


class Lines:
    """A line for each thing that is done; on a terminal, the last one tells how far it is."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._on = stream.isatty()
        self._said = ("", "", "")
        self._open = False

    def show(self, state: MoveState) -> None:
        """Where the move stands."""
        said = (state.step, state.what, state.why)
        if self._on:
            self._stream.write(("\n" if self._open and said != self._said else "\r") + _progress(state).ljust(78))
            self._open = True
        elif said != self._said:
            self._stream.write(_progress(state) + "\n")
        self._stream.flush()
        self._said = said

    def end(self) -> None:
        """The next line is another's."""
        if self._open:
            self._stream.write("\n")


def _progress(state: MoveState) -> str:
    text = f"{state.step}: {state.what or 'waiting for a recovery process'}"
    text += f", {state.done} of {state.total}" if state.total else ""
    text += f", {age(state.seconds_left)} left" if state.seconds_left >= 0 and state.done < state.total else ""
    text += f" ({state.why})" if state.why else ""
    return clean(text)


def show(state: MoveState) -> str:
    """The verdict, and what comes next."""
    out = [f"in force: {clean(state.in_force)} (generation {state.generation})\n"]
    if not state.number:
        return "".join([*out, "there was never a move\n"])
    of = f"move {state.number} from {clean(state.source)} to {clean(state.target)}, asked for by {clean(state.by)}"
    if state.under_way:
        return "".join([*out, f"{of}: under way\n{_progress(state)}\n"])
    why = f": {clean(state.why)}" if state.why else ""
    out.append(f"{of}: {WORDS.get(state.step, clean(state.step))}{why}\n")
    if state.step == "done":
        out.append(
            "next: set `store` to the new URL in every neutron.conf, agent.toml and flowloom.toml; keep the former\n"
            "store running until every process that was configured with it has been restarted\n"
        )
    elif state.step == "aborted":
        out.append("what was copied stays in the target; a later move to it goes on from there\n")
    return "".join(out)
