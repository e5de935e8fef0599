"""Which store is the deployment's: a fact in SQL that every writer shares, and the move from one store to another.

Stores that were in force one after the other are told apart by a generation.  What a writer has done is acknowledged
under the generation in which it wrote (`SyncTable.acknowledge`); one that is left behind on a former store is refused,
its rows stay dirty, and they are drained again into the store in force.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple, Protocol


class Step(StrEnum):
    """How far a move is.  From the cut-over on it does not go back.

    copying: the source is in force, the target is being filled.
    cut over: the target is in force; what the source took until then is still being brought over.
    settling: all of it is there; Neutron is compared with the target.
    done; aborted (somebody asked for it), failed (it could not be): the source is in force, as before.
    """

    COPYING = "copying"
    CUT_OVER = "cut over"
    SETTLING = "settling"
    DONE = "done"
    ABORTED = "aborted"
    FAILED = "failed"


UNDER_WAY = frozenset({Step.COPYING, Step.CUT_OVER, Step.SETTLING})


class Progress(NamedTuple):
    """Of a step.  what: in words.  done, total: in what is counted there; total 0: not known.

    seconds_left: of this step; -1: not known.  why: what it waits for, what it found, or why it failed.
    """

    what: str = ""
    done: int = 0
    total: int = 0
    seconds_left: float = -1.0
    why: str = ""


NO_PROGRESS = Progress()


class Move(NamedTuple):
    """One move.  number: the generation that its target gets; no number is given twice.

    source, target: URLs without secrets.  by: who asked for it.  seconds: since then, by the database's clock.
    """

    number: int
    step: Step
    source: str
    target: str
    by: str
    seconds: float = 0.0
    progress: Progress = NO_PROGRESS

    @property
    def under_way(self) -> bool:
        return self.step in UNDER_WAY


class Place(NamedTuple):
    """Where the northbound store is.

    generation: of the store in force; 0: there was no move yet, and the configured one is it.
    url: of the store in force, without secrets; "" in generation 0.
    cloud: a random id of this Neutron database, by which a store is recognised as one of its own; "" before a move.
    move: the newest one, ended or not.
    """

    generation: int = 0
    url: str = ""
    cloud: str = ""
    move: Move | None = None


class PlaceTable(Protocol):
    """The fact, and the moves.  Every method is one transaction of its own; errors are those of `table`."""

    def place(self) -> Place:
        """What is now."""
        ...

    def begin(self, source: str, target: str, by: str) -> Move | None:
        """A move that begins to copy; None when another is under way."""
        ...

    def advance(self, number: int, before: Step, after: Step, progress: Progress = NO_PROGRESS) -> bool:
        """Bring the move from one step to the next, with `progress` from now on; False, and nothing is changed, when it is not in `before`.

        To CUT_OVER: its number becomes the generation in force and its target the URL, in the same transaction; what
        was acknowledged under the former generation is seen by every read that begins after this has returned.
        """
        ...

    def report(self, number: int, progress: Progress) -> None:
        """Keep where a move stands, for whoever asks; nothing happens to one that has ended."""
        ...
