"""The move of a deployment from one northbound store to another, while everything runs.

What is done and what comes next is in SQL (`place`), so that any recovery service goes on where another one died:

1. copying: the target is looked at, filled, compared by content, and follows what changes in the source.
2. The cut-over, one SQL transaction: the target's generation is in force.  From then on no acknowledgement of the
   former generation counts; what a writer wrote into the source and could not acknowledge stays dirty, and the
   drain writes it into the target.
3. cut over: what the source took until then is brought over, up to a barrier; then both stores get a pointer.
   It is the source's last word, and sends everybody on who follows it, or opens it later.
4. settling: what stayed dirty is drained, and the target compared with Neutron.

Safety rests on versions and generations; the lease only keeps two services from doing the same work.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from flowloom.consistency.compare import survey
from flowloom.consistency.copying import KEYS_PER_PAGE, Sides, check_target
from flowloom.consistency.drain import Drain, Northbound
from flowloom.consistency.lease import LEASE_SECONDS, Held, LeaseLost, hold
from flowloom.consistency.place import Move, Place, PlaceTable, Progress, Step
from flowloom.consistency.table import LeaseTable, SyncTable
from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import FlowloomError, Misconfigured, Rejected, StartOver, Unavailable
from flowloom.model.keys import NO_PROJECT, deployment_prefix, parse_key, project_prefix
from flowloom.model.records import Chassis
from flowloom.northbound.pointer import Pointer, check_public, pointer_key, pointer_of, public, same_place, write_of
from flowloom.northbound.store import Store, Write

LOG = logging.getLogger(__name__)

LEASE = "store:move"
IDLE_SECONDS = 1.0
TOLD_SECONDS = 0.5
"""How often it is told how far a move is."""

NEARLY_THERE = 50
"""Changes in one page of the feed below which the target is cut over to: the rest is brought over afterwards."""

FOLLOWED_SECONDS_MAX = 10.0
"""How long a barrier is waited for in the feed before the lists of versions are compared instead."""

JUDGED_MAX = 5
SETTLED_TRIES = 30
SETTLED_SECONDS = 2.0
CHASSIS_SECONDS = 20.0
"""How long the verdict waits for chassis to write into the target; those that are switched off never will."""

SOURCE_SECONDS_MAX = 600.0
"""How long, after the cut-over, a source that does not answer is asked again before it is left without a pointer."""


class Mover:
    """Of one service: it carries on whatever move SQL says is under way, if no other service does.

    open_store: opens a store by the URL that a move carries.  configured: the URL of generation 0.
    One thread calls `step`, any may call `ask` and `keep`.
    """

    def __init__(
        self,
        places: PlaceTable,
        table: SyncTable,
        leases: LeaseTable,
        northbound: Northbound,
        open_store: Callable[[str], Store],
        configured: str,
        clock: Clock,
        deployment: str,
        owner: str,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._places = places
        self._table = table
        self._leases = leases
        self._northbound = northbound
        self._open_store = open_store
        self._configured = configured
        self._clock = clock
        self._deployment = deployment
        self._owner = f"{owner}/move"
        self._lease_seconds = lease_seconds
        self._drain = Drain(table, leases, northbound, clock, deployment, self._owner, lease_seconds=lease_seconds)
        self._lock = threading.Lock()  # Guards the lease.
        self._held: Held | None = None
        self._at: tuple[int, Step | None] | None = None  # Which move, and the step that `_work` does.
        self._work: Iterator[float] = iter(())
        self._sides: Sides | None = None
        self._told = Progress()
        self._told_at = self._began_at = self._failing_at = float("-inf")

    # --- questions -----------------------------------------------------------------------------

    def ask(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to move, move status or move abort.  Rejected and Misconfigured name what is wrong."""
        match question.get("ask"):
            case "move":
                self._begin(
                    str(question.get("from")),
                    str(question.get("to")),
                    str(question.get("by") or "somebody"),
                    bool(question.get("lost")),
                )
            case "move abort":
                self._abort(str(question.get("by") or "somebody"))
            case "move status":
                pass
            case other:
                raise Rejected("ask", f"{other!r} is not known here")
        return self._state(self._northbound.look_again())

    def _state(self, place: Place) -> Mapping[str, Any]:
        in_force = {"generation": place.generation, "in_force": place.url or public(self._configured)}
        if place.move is None:
            return in_force
        move = place.move
        return {
            **in_force,
            "number": move.number,
            "step": move.step.value,
            "under_way": move.under_way,
            "source": move.source,
            "target": move.target,
            "by": move.by,
            "seconds": move.seconds,
            **move.progress._asdict(),
        }

    def _begin(self, source: str, target: str, by: str, lost: bool) -> None:
        check_public("--to", target)
        place = self._northbound.look_again()
        move = place.move
        if move is not None and move.under_way:
            if same_place(move.source, source) and same_place(move.target, target):
                return  # Asked for again.
            raise Rejected(
                "store move", f"one from {move.source} to {move.target} is under way; wait for it, or --abort it"
            )
        in_force = place.url or public(self._configured)
        if not same_place(source, in_force):
            raise Rejected("--from", f"the store in force is {in_force}")
        if same_place(target, in_force):
            raise Rejected("--to", f"{in_force} is in force already")
        with contextlib.closing(self._open_store(target)) as opened:  # What cannot be opened is said at once.
            if lost:
                self._check_lost(in_force)
                check_target(opened, self._deployment, self._is_own(opened, place))
            begun = self._places.begin(in_force, target, by)
            if begun is None:
                raise Rejected("store move", "another one has just begun")
            LOG.info("%s moves the northbound store from %s to %s", by, in_force, target)
            if lost:
                self._begin_anew(opened, begun)

    def _check_lost(self, source: str) -> None:
        """Rejected when the source is not lost at all."""
        with contextlib.suppress(Unavailable, Misconfigured), contextlib.closing(self._open_store(source)) as opened:
            opened.versions(pointer_key(self._deployment))
            raise Rejected("--lost", f"{source} answers: move without --lost, and nothing has to be written anew")

    def _begin_anew(self, target: Store, move: Move) -> None:
        """Cut over without a copy: all that Neutron knows is written again by a rebuild, and nodes know their own."""
        place = self._places.place()
        self._mark_target(target, place, move)
        target.apply([write_of(self._deployment, Pointer(move.number, move.target, place.cloud))])
        why = f"{move.source} is lost: restart what still uses it, then flowloom store rebuild"
        if self._places.advance(move.number, Step.COPYING, Step.CUT_OVER, Progress(why=why)):
            self._places.advance(move.number, Step.CUT_OVER, Step.SETTLING, Progress(why=why))

    def _abort(self, by: str) -> None:
        move = self._northbound.look_again().move
        if move is None or not move.under_way:
            raise Rejected("--abort", "no move is under way")
        if not self._places.advance(move.number, Step.COPYING, Step.ABORTED, Progress(why=f"aborted by {by}")):
            back = f"flowloom store move --from '{move.target}' --to '{move.source}'"
            raise Rejected(
                "--abort", f"{move.target} is in force already, and the rest is being finished; to go back: {back}"
            )

    # --- work ----------------------------------------------------------------------------------

    def keep(self) -> None:
        """Renew the lease while `step` is in the middle of a long call.  Unavailable: the database does not answer."""
        with self._lock:
            if self._held is not None:
                try:
                    self._held.check()
                except LeaseLost:
                    self._held = None

    def step(self) -> float:
        """A bounded piece of the move that is under way; in how many seconds to go on.

        Unavailable: a store or the database did not answer; call again.
        """
        place = self._northbound.look_again()
        move = place.move
        if move is None or not move.under_way:
            self.stop()
            return IDLE_SECONDS
        if not self._holds():
            return IDLE_SECONDS
        if self._at != (move.number, move.step):
            self._begin_step(place, move)
        try:
            return next(self._work)
        except StopIteration:
            self._at = (move.number, None)
            return 0.0
        except (Rejected, Misconfigured, StartOver) as error:
            self._at = None
            if move.step is not Step.COPYING:
                self._stumble(move, error)
                raise Unavailable(str(error)) from error
            LOG.error("The move to %s ends: %s", move.target, error)
            self._places.advance(move.number, Step.COPYING, Step.FAILED, Progress(why=str(error)))
            return 0.0
        except LeaseLost:
            self._at = None
            return IDLE_SECONDS
        except Unavailable as error:
            self._at = None
            self._stumble(move, error)
            raise

    def stop(self) -> None:
        """Let go of stores and lease; repeating it does nothing."""
        self._at = None
        self._let_go_of_stores()
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(Unavailable):  # Then it runs out.
                while not held.release():
                    pass

    def _holds(self) -> bool:
        self.keep()
        with self._lock:
            if self._held is None:
                self._held = hold(self._leases, self._clock, LEASE, self._owner, self._lease_seconds)
            return self._held is not None

    def _begin_step(self, place: Place, move: Move) -> None:
        if self._at is None or self._at[0] != move.number or move.step is Step.COPYING:
            self._let_go_of_stores()
        self._at = (move.number, move.step)
        self._told_at = float("-inf")
        works = {Step.COPYING: self._copy, Step.CUT_OVER: self._catch_up, Step.SETTLING: self._settle}
        self._work = works[move.step](place, move)

    def _stumble(self, move: Move, error: FlowloomError) -> None:
        """Say what the move waits for; begin its step anew with connections of its own."""
        self._let_go_of_stores()
        with contextlib.suppress(Unavailable):
            self._places.report(move.number, self._told._replace(why=str(error)))

    def _let_go_of_stores(self) -> None:
        if self._sides is not None:
            self._sides.close()
            self._sides = None

    def _opened(self, move: Move) -> Sides:
        if self._sides is None:
            source = self._open_store(move.source)
            try:
                self._sides = Sides(self._deployment, source, self._open_store(move.target))
            except BaseException:
                source.close()
                raise
        return self._sides

    # --- copying -------------------------------------------------------------------------------

    def _copy(self, place: Place, move: Move) -> Iterator[float]:
        sides = self._opened(move)
        self._tell(move, "checking the target")
        sides.check_two()
        check_target(sides.target, self._deployment, self._is_own(sides.target, place))
        self._mark_target(sides.target, place, move)
        yield 0.0
        yield from self._bring_lacking(sides, move, "copying")
        yield from self._compare(sides, move)
        self._tell(move, "following")
        changed = NEARLY_THERE
        while changed >= NEARLY_THERE:
            if sides.follows:
                try:
                    changed = len(sides.follow(0.0))
                except StartOver:
                    continue  # It does not follow any more.
            else:
                changed = yield from self._bring_lacking(sides, move, "following")
            yield 0.0
        if self._places.advance(move.number, Step.COPYING, Step.CUT_OVER):
            LOG.info("The northbound store in force is %s (generation %d)", move.target, move.number)

    def _is_own(self, target: Store, place: Place) -> bool:
        keys = [_marker_key(self._deployment), pointer_key(self._deployment)]
        found = [pointer_of(entry) for entry in target.get(keys)]
        return any(each is not None and each.cloud == place.cloud for each in found)

    def _mark_target(self, target: Store, place: Place, move: Move) -> None:
        """Say in it whose it is, and see at the same time that it keeps what a store must."""
        value = msgspec.json.encode(Pointer(move.number, move.target, place.cloud))
        marker = Write(_marker_key(self._deployment), move.number, value)
        target.apply([marker])
        older = marker._replace(version=max(1, move.number - 1), value=b"older")
        refused = not target.apply([marker])[0].applied and not target.apply([older])[0].applied
        entry = target.get([marker.key])[0]
        if not refused or entry is None or (entry.version, entry.value) != (move.number, value):
            raise Rejected("--to", f"it does not keep what is written: flowloom store check '{move.target}'")

    def _bring_lacking(self, sides: Sides, move: Move, what: str) -> Generator[float, None, int]:
        """What the target lacks by the versions of both sides; how much it was."""
        lacking = sides.lacking()
        for start in range(0, len(lacking), KEYS_PER_PAGE):
            self._tell(move, what, start, len(lacking))
            sides.bring(lacking[start : start + KEYS_PER_PAGE])
            yield 0.0
        self._tell(move, what, len(lacking), len(lacking), now=True)
        return len(lacking)

    def _compare(self, sides: Sides, move: Move) -> Iterator[float]:
        """Both sides by content.  Rejected when the target holds something else than the source."""
        suspects: list[str] = []
        parts = sides.parts()
        for number, part in enumerate(parts):
            self._tell(move, "comparing", number, len(parts))
            suspects += sides.differing(part)
            yield 0.0
        conflicts: list[str] = []
        for _ in range(JUDGED_MAX):
            again, conflicts = suspects, []
            suspects = []
            for start in range(0, len(again), KEYS_PER_PAGE):
                judged = sides.judge(again[start : start + KEYS_PER_PAGE])
                sides.bring(judged.lacking)
                suspects += [*judged.lacking, *judged.conflicts]
                conflicts += judged.conflicts
                yield 0.0
            if not suspects:
                break
        if conflicts:
            why = f"it holds {len(conflicts)} records that the source does not, or otherwise, such as {sorted(conflicts)[0]}"
            raise Rejected("--to", f"{why}: empty it, or name another prefix")
        self._tell(move, "comparing", len(parts), len(parts), now=True)

    # --- after the cut-over ----------------------------------------------------------------------

    def _catch_up(self, place: Place, move: Move) -> Iterator[float]:
        """Idempotent, and right whoever begins it anew: what was acknowledged before the cut-over is in the source."""
        self._tell(move, "bringing the rest over")
        try:
            sides = self._opened(move)
            barrier = Write(f"{deployment_prefix(self._deployment)[:-1]}!move/barrier", move.number, b"")
            yield from self._bring_rest(sides, move, barrier)
            pointer = write_of(self._deployment, Pointer(move.number, move.target, place.cloud))
            for store, url in ((sides.target, move.target), (sides.source, move.source)):
                if store is sides.source:
                    yield from self._bring_rest(sides, move, pointer)
                elif store.apply([pointer])[0].held != move.number:
                    raise Rejected(url, f"it holds a pointer of a later generation than {move.number}")
            self._publish(pointer)
            why = ""
        except (Unavailable, Misconfigured) as error:
            if not self._gives_up():
                raise
            self._let_go_of_stores()
            with contextlib.closing(self._open_store(move.target)) as target:  # It is the source that does not answer.
                target.apply([write_of(self._deployment, Pointer(move.number, move.target, place.cloud))])
            why = f"{move.source} does not answer and has no pointer: restart what still uses it ({error})"
        self._failing_at = float("-inf")
        self._places.advance(move.number, Step.CUT_OVER, Step.SETTLING, Progress(why=why))

    def _gives_up(self) -> bool:
        """Whether the source has been failing for long enough."""
        now = self._clock.monotonic()
        if self._failing_at == float("-inf"):
            self._failing_at = now
        return now - self._failing_at >= SOURCE_SECONDS_MAX

    def _bring_rest(self, sides: Sides, move: Move, last: Write) -> Iterator[float]:
        """Write `last` into the source, and bring over what it took before that."""
        written = sides.source.apply([last])[0]
        if written.held > last.version:
            raise Rejected(
                move.source, f"{last.key} holds generation {written.held}, which is later than {last.version}"
            )
        deadline = self._clock.monotonic() + FOLLOWED_SECONDS_MAX
        if written.applied and sides.follows:
            with contextlib.suppress(StartOver):
                while self._clock.monotonic() < deadline:
                    if last.key in sides.follow(TOLD_SECONDS):
                        return
                    yield 0.0
        yield from self._bring_lacking(sides, move, "bringing the rest over")

    def _publish(self, pointer: Write) -> None:
        publisher = self._northbound.publisher()
        if publisher is not None:
            with contextlib.suppress(Unavailable):  # They find it when they compare with the source.
                publisher.publish([(pointer.key, pointer.version, pointer.value)])

    def _settle(self, _place: Place, move: Move) -> Iterator[float]:
        warned = "" if move.progress.what else move.progress.why  # What the step before had to say.
        found = None
        for _ in range(SETTLED_TRIES):
            self._tell(move, "comparing with Neutron", why=warned)
            self._drain.drain()
            found = survey(self._table, self._northbound.store(), self._deployment, deep=False)
            if not found.differences:
                break
            yield SETTLED_SECONDS  # Recovery repairs them meanwhile.
        assert found is not None
        differing = len(found.differences)
        said = [warned] if warned else []
        said.append(
            f"{differing} of {found.objects} objects differ: flowloom drift"
            if differing
            else f"{found.objects} objects equal"
        )
        yield from self._await_chassis(move, said)
        objects = Progress(done=found.objects - differing, total=found.objects, why="; ".join(said))
        self._places.advance(move.number, Step.SETTLING, Step.DONE, objects)
        LOG.info("The northbound store was moved to %s: %s", move.target, "; ".join(said))

    def _await_chassis(self, move: Move, said: list[str]) -> Iterator[float]:
        """How many chassis write into the target by now; for people, and only where both sides answer."""
        deadline = self._clock.monotonic() + CHASSIS_SECONDS
        there = total = 0
        try:
            sides = self._opened(move)
            while True:
                keys = _chassis(sides.target, self._deployment)
                total = len(keys)
                there = _newer(sides.source, sides.target, keys)
                if there == total or self._clock.monotonic() >= deadline:
                    break
                self._tell(move, "waiting for chassis", there, total, now=True)
                yield 1.0
        except FlowloomError as error:
            LOG.warning("How many chassis have come over is not known: %s", error)
            return
        if total:
            said.append(f"{there} of {total} chassis write there")

    # --- telling -------------------------------------------------------------------------------

    def _tell(self, move: Move, what: str, done: int = 0, total: int = 0, why: str = "", now: bool = False) -> None:
        """Keep where it stands, now and then."""
        moment = self._clock.monotonic()
        if self._told.what != what or done == 0:
            self._began_at = moment
        fresh = self._told.what != what
        left = (moment - self._began_at) * (total - done) / done if done else -1.0
        self._told = Progress(what, done, total, left, why)
        if now or fresh or moment - self._told_at >= TOLD_SECONDS:
            self._told_at = moment
            self._places.report(move.number, self._told)


def _marker_key(deployment: str) -> str:
    """Where a target says whose it is to become; outside of what followers see."""
    return f"{deployment_prefix(deployment)[:-1]}!move/target"


def _chassis(store: Store, deployment: str) -> list[str]:
    versions = store.versions(project_prefix(deployment, NO_PROJECT)).versions
    return [key for key, (_, dead) in versions.items() if not dead and _kind_of(key) == Chassis.kind]


def _kind_of(key: str) -> str:
    try:
        return parse_key(key).kind
    except Rejected:
        return ""


def _newer(source: Store, target: Store, keys: Sequence[str]) -> int:
    """How many of the keys the target holds at a later version than the source."""
    found = 0
    for start in range(0, len(keys), KEYS_PER_PAGE):
        page = keys[start : start + KEYS_PER_PAGE]
        for old, new in zip(source.get(page), target.get(page), strict=True):
            found += new is not None and (old is None or new.version > old.version)
    return found
