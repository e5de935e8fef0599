"""What `flowloom store check` does: the public conformance suite against a live database, and its rates.

It writes under a prefix of its own and takes back what it wrote, as far as the contract of stores can: tombstones
remain, and so does a value at the largest version there is, which nothing can replace.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from flowloom.cli.table import clean, count, table
from flowloom.kernel.errors import FlowloomError, Unavailable
from flowloom.northbound.limits import VERSION_MAX
from flowloom.northbound.store import Capabilities, Store, Write, pages
from flowloom.testing.conformance import Result, run_checks
from flowloom.testing.store_conformance import CHECKS, StoreBench

GUARANTEES: Mapping[str, Sequence[str]] = {
    "a write is applied only if newer": (
        "newer_write_is_applied",
        "older_or_equal_write_is_refused",
        "repeating_a_call_is_harmless",
        "newest_of_a_key_twice_in_a_batch_counts",
        "one_winner_per_version",
        "largest_version_is_kept",
    ),
    "a deleted object stays deleted": (
        "deleted_object_does_not_rise_again",
        "delete_of_an_unknown_key_is_remembered",
    ),
    "one stale write stops no other": ("stale_member_does_not_stop_its_batch",),
    "a batch is one step": ("batch_is_seen_whole",),
    "keys and values are kept as they are": (
        "absent_key_is_no_error",
        "prefix_is_exact",
        "prefix_special_characters_are_ordinary",
        "every_legal_character_is_kept",
        "illegal_write_is_rejected_by_name",
        "value_at_the_limit_is_kept",
    ),
    "a listing is a snapshot": (
        "reads_agree_and_watch_goes_on",
        "read_is_a_snapshot_of_its_cursor",
    ),
    "changes are fed without loss": (
        "watch_loses_nothing",
        "watch_wakes_another_thread",
        "quiet_watch_returns_in_time",
        "watch_resumes_after_reopening",
        "slow_consumer_is_never_silently_behind",
    ),
    "lost history is said": (
        "trimmed_history_says_start_over",
        "another_epoch_says_start_over",
    ),
    "unavailable is not empty": (
        "cut_database_is_unavailable_not_empty",
        "closed_store_says_so",
    ),
}
"""What an operator is promised, and the checks that hold it."""

_OTHER = "other promises"
_DECLARED: Mapping[str, Callable[[Capabilities], bool]] = {
    "a batch is one step": lambda can: can.atomic_batch,
    "a listing is a snapshot": lambda can: can.consistent_read,
    "changes are fed without loss": lambda can: can.watch,
}

VALUE = b"x" * 500
FLIGHT = 64
LATENCIES = 100
_BATCH = 500
_SINGLE_SECONDS = 2.0
_KEYS = 100  # Written over and over: each key written leaves a tombstone.

Verdict = Literal["kept", "in part", "broken", "not tried"]


@dataclass(frozen=True)
class Guarantee:
    """declared: by the driver; None where every store must.  why: what is broken, or was not tried."""

    guarantee: str
    declared: bool | None
    verdict: Verdict
    checks: int
    why: str


@dataclass(frozen=True)
class Rate:
    """One thing measured.  unit: `/s` is better large, `ms` small."""

    what: str
    value: float
    unit: str


@dataclass(frozen=True)
class Left:
    """What is still there under `prefix`: tombstones, and values that could not be removed; why not."""

    prefix: str
    tombstones: int
    values: int
    why: str


@dataclass(frozen=True)
class Report:
    """One run.  store: its URL without credentials or options."""

    store: str
    epoch: str
    capabilities: Capabilities
    verdict: str
    guarantees: tuple[Guarantee, ...]
    checks: tuple[Result, ...]
    rates: tuple[Rate, ...]
    left: Left
    seconds: float

    @property
    def broken(self) -> bool:
        """The driver or the database does not keep its contract."""
        return any(result.outcome == "broken" for result in self.checks)


class _LiveBench(StoreBench):
    """A database that others use: it is neither cut off nor wiped nor trimmed."""

    def __init__(self, prefix: str, connect: Callable[[], Store]) -> None:
        super().__init__(prefix)
        self._connect = connect

    def connect(self) -> Store:
        return self._connect()


def check(connect: Callable[[], Store], shown: str, objects: int, say: Callable[[str], None]) -> Report:
    """Check the database that `connect` opens, and say how far it is.

    objects: how many are loaded, listed and read for the rates.  Raises Unavailable or Misconfigured when it cannot
    even be opened.
    """
    began = time.monotonic()
    root = f"/flowloom-check-{secrets.token_hex(4)}/"
    store = connect()
    try:
        epoch = store.read(root).cursor.epoch
        try:
            results = _run(root, connect, say)
            rates = _measure(store, f"{root}rates/", objects, say)
        finally:
            left = _remove(store, root, say)
        return Report(
            shown,
            epoch,
            store.capabilities,
            verdict(results),
            judge(results, store.capabilities),
            tuple(results),
            tuple(rates),
            left,
            round(time.monotonic() - began, 1),
        )
    finally:
        store.close()


def _run(root: str, connect: Callable[[], Store], say: Callable[[str], None]) -> list[Result]:
    results: list[Result] = []
    for number, each in enumerate(CHECKS, 1):
        began = time.monotonic()
        results += run_checks([each], lambda name: _LiveBench(f"{root}{name}/", connect), StoreBench.end)
        said = "not tried" if results[-1].outcome == "skipped" else results[-1].outcome
        say(f"[{number:2}/{len(CHECKS)}] {each.name}: {said} ({time.monotonic() - began:.1f} s)")
    return results


def judge(results: Sequence[Result], can: Capabilities) -> tuple[Guarantee, ...]:
    """The verdict on each guarantee, from its checks'."""
    known = {name for names in GUARANTEES.values() for name in names}
    groups = {**GUARANTEES, _OTHER: [result.name for result in results if result.name not in known]}
    judged = []
    for guarantee, names in groups.items():
        of = [result for result in results if result.name in names]
        if of:
            declared = _DECLARED[guarantee](can) if guarantee in _DECLARED else None
            judged.append(_judge(guarantee, declared, of))
    durable = "no kill -9 from here: the driver declares that a write survives one" if can.durable else "not declared"
    judged.append(Guarantee("an applied write survives", can.durable, "not tried", 0, durable))
    return tuple(judged)


def _judge(guarantee: str, declared: bool | None, results: Sequence[Result]) -> Guarantee:
    outcomes = {result.outcome for result in results}
    verdict: Verdict
    if "broken" in outcomes:
        verdict = "broken"
    elif outcomes == {"skipped"}:
        verdict = "not tried"
    else:
        verdict = "in part" if "skipped" in outcomes else "kept"
    which = "broken" if verdict == "broken" else "skipped"
    why = "; ".join(f"{result.name}: {result.why}" for result in results if result.outcome == which)
    return Guarantee(guarantee, declared, verdict, len(results), why)


def verdict(results: Sequence[Result]) -> str:
    """One line."""
    outcomes = [result.outcome for result in results]
    broken, skipped = outcomes.count("broken"), outcomes.count("skipped")
    said = f"BROKEN: {broken} of {count(len(results), 'check')}" if broken else f"kept: {outcomes.count('kept')} checks"
    return said + (f"; {skipped} not tried here" if skipped else "")


# Rates --------------------------------------------------------------------------------------------


def _measure(store: Store, prefix: str, objects: int, say: Callable[[str], None]) -> list[Rate]:
    """Rates of one process on one handle.  A database that stops answering ends it early."""
    rates: list[Rate] = []
    try:
        for measure in (_singles, _flights, _batches, _reads, _latencies):
            say(f"measuring {(measure.__doc__ or '').rstrip('.').lower()}")
            rates += measure(store, f"{prefix}{measure.__name__}/", objects)
    except FlowloomError as error:
        say(f"the rest was not measured: {error}")
    return rates


def _singles(store: Store, prefix: str, objects: int) -> list[Rate]:
    """Writes, one at a time."""
    began = time.monotonic()
    done = 0
    while done < objects and time.monotonic() - began < _SINGLE_SECONDS:
        store.apply([Write(f"{prefix}{done % _KEYS}", done // _KEYS + 1, VALUE)])
        done += 1
    return [Rate("writes, one at a time", _rate(done, began), "/s")]


def _flights(store: Store, prefix: str, objects: int) -> list[Rate]:
    """Writes, many in flight."""
    began = time.monotonic()

    def write(lane: int) -> int:
        done = 0
        while done * FLIGHT < objects and time.monotonic() - began < _SINGLE_SECONDS:
            store.apply([Write(f"{prefix}{lane}", done + 1, VALUE)])
            done += 1
        return done

    with ThreadPoolExecutor(FLIGHT) as pool:
        done = sum(pool.map(write, range(FLIGHT)))
    return [Rate(f"writes, {FLIGHT} in flight", _rate(done, began), "/s")]


def _batches(store: Store, prefix: str, objects: int) -> list[Rate]:
    """Writes in batches."""
    began = time.monotonic()
    for page in pages([Write(f"{prefix}{number:07}", 1, VALUE) for number in range(objects)], _BATCH):
        store.apply(page)
    return [Rate(f"writes, {_BATCH} a call", _rate(objects, began), "/s")]


def _reads(store: Store, prefix: str, objects: int) -> list[Rate]:
    """Listings."""
    prefix = prefix.replace(_reads.__name__, _batches.__name__)
    began = time.monotonic()
    listed = len(store.read(prefix).entries)
    between = time.monotonic()
    store.versions(prefix)
    ended = time.monotonic()
    objects_listed = count(listed, "object")
    return [
        Rate(f"listing of {objects_listed}", round((between - began) * 1000, 1), "ms"),
        Rate(f"versions of {objects_listed}", round((ended - between) * 1000, 1), "ms"),
    ]


def _latencies(store: Store, prefix: str, objects: int) -> list[Rate]:
    """Latency of the change feed."""
    del objects
    if not store.capabilities.watch:
        return []
    watch = store.watch(prefix, store.read(prefix).cursor)
    seen: dict[str, float] = {}

    def follow() -> None:
        deadline = time.monotonic() + 30
        while len(seen) < LATENCIES and time.monotonic() < deadline:
            entries = watch.next(1.0).entries
            now = time.monotonic()
            seen.update((entry.key, now) for entry in entries)

    sent: dict[str, float] = {}
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow)
        for number in range(LATENCIES):
            key = f"{prefix}{number}"
            sent[key] = time.monotonic()
            store.apply([Write(key, 1, VALUE)])
            time.sleep(0.01)
        following.result()
    watch.close()
    took = sorted((seen[key] - at) * 1000 for key, at in sent.items() if key in seen)
    if len(took) < LATENCIES:
        raise Unavailable(f"the change feed showed {len(took)} of {LATENCIES} writes in 30 s")
    return [
        Rate("from a write to its notice, half within", round(took[len(took) // 2], 1), "ms"),
        Rate("from a write to its notice, 99 % within", round(took[len(took) * 99 // 100 - 1], 1), "ms"),
    ]


def _rate(done: int, began: float) -> float:
    return round(done / max(time.monotonic() - began, 1e-6))


# Afterwards ---------------------------------------------------------------------------------------


def _remove(store: Store, root: str, say: Callable[[str], None]) -> Left:
    """Delete everything under `root`; what is left."""
    say(f"removing what was written under {root}")
    try:
        held = store.read(root).entries
        dead = [
            Write(key, version + 1, None) for key, version, value in held if value is not None and version < VERSION_MAX
        ]
        for page in pages(dead, _BATCH):
            store.apply(page)
        states = [tombstone for _, tombstone in store.versions(root).versions.values()]
    except FlowloomError as error:
        return Left(root, 0, 0, f"it could not be removed: {error}")
    return Left(root, sum(states), len(states) - sum(states), "")


def show(report: Report) -> str:
    """The report for people."""
    can = report.capabilities
    out = [f"{report.store} (epoch {report.epoch}), checked in {report.seconds:.1f} s\n\n"]
    rows = [
        (g.guarantee, {None: "", True: "yes", False: "no"}[g.declared], g.verdict, g.checks or "")
        for g in report.guarantees
    ]
    out.append(table(("GUARANTEE", "DECLARED", "VERDICT", "CHECKS"), rows))
    notes = [g for g in report.guarantees if g.why and g.verdict != "kept"]
    out += ["\n", *(clean(f"{g.guarantee}: {g.verdict}: {g.why}") + "\n" for g in notes)] if notes else []
    out += ["\n", table(("MEASURED", "", ""), [(rate.what, rate.value, rate.unit) for rate in report.rates])]
    limits = f"largest value {can.value_bytes_max} bytes"
    if can.batch_writes_max or can.batch_bytes_max:
        limits += f"; largest atomic step {can.batch_writes_max or 'any number of'} writes, {can.batch_bytes_max or 'any number of'} bytes"
    out.append(f"\n{limits}\n")
    left = report.left
    remain = f"{count(left.tombstones, 'tombstone')} and {count(left.values, 'value')} at the largest version"
    remain += "; only the database's own client can remove these"
    out.append(f"left under {left.prefix}: {left.why or remain}\n")
    out.append(f"\n{report.verdict}\n")
    return "".join(out)
