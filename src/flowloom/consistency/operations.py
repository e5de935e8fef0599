"""What an operator asks of a recovery service: compare now, repair, rebuild, what was done, what waits.

Questions are answered at once; work is a job, done in steps by whoever calls `work`.  Any service answers for
everything, whoever holds which shards: the project locks protect what is repaired.  A job that dies with its
service is begun anew: it looks at what is, so it goes on where it was.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from flowloom.consistency.compare import (
    OBJECTS_PER_READ,
    Survey,
    Suspect,
    is_plain,
    project_of,
    ref_of,
    reread,
    row_key,
    survey,
)
from flowloom.consistency.differences import Difference, Kind
from flowloom.consistency.drain import Drain, Northbound
from flowloom.consistency.guard import Finding, Guard, family_of
from flowloom.consistency.options import Options
from flowloom.consistency.pace import Pace
from flowloom.consistency.repair import BEFORE, Repairer
from flowloom.consistency.table import AuditEntry, AuditTable, LeaseTable, Ref, SyncTable
from flowloom.kernel.clock import Clock
from flowloom.kernel.errors import FlowloomError, Rejected, Unavailable
from flowloom.model.keys import deployment_prefix, key_of
from flowloom.model.records import NORTHBOUND

LOG = logging.getLogger(__name__)

JOBS_KEPT = 20
SAMPLE_MAX = 20
LIMIT_MAX = 1000
LOCK_TRIES_MAX = 100
LOCK_WAIT_SECONDS = 0.2

REBUILT = frozenset({Kind.MISSING, Kind.STALE, Kind.TOMBSTONE_MISSING})
"""What an empty or old store lacks.  The other kinds are the regular repair's."""


@dataclass
class Job:
    """One repair that was asked for.

    state: running, done, held (by `guard`: approve it, ask again) or failed (`why`).
    done, total: objects looked at, of those that differ.  found: by kind.
    repaired: by this job.  equal: repaired by somebody else meanwhile.
    """

    id: str
    by: str
    dry_run: bool
    project: str | None
    object: str | None
    kinds: frozenset[Kind] | None
    rebuild: bool
    pace: Pace
    state: Literal["running", "done", "held", "failed"] = "running"
    done: int = 0
    total: int = 0
    repaired: int = 0
    equal: int = 0
    guard: str = ""
    why: str = ""
    found: Counter[str] = field(default_factory=Counter)
    sample: list[Difference] = field(default_factory=list)
    queue: deque[Suspect] = field(default_factory=deque)
    tries: int = 0
    surveyed: bool = False
    began_at: float = 0.0

    @property
    def scope(self) -> str:
        return f"{'rebuild' if self.rebuild else 'repair'} {self.project or ''} {self.object or ''}"


class Operations:
    """Of one service.  `ask` may be called from any thread, `work` from one."""

    def __init__(
        self,
        table: SyncTable,
        leases: LeaseTable,
        audit: AuditTable,
        northbound: Northbound,
        clock: Clock,
        random: Random,
        owner: str,
        options: Options,
    ) -> None:
        self._table = table
        self._audit = audit
        self._northbound = northbound
        self._clock = clock
        self._random = random
        self._owner = owner
        self._options = options
        self._guard = Guard(audit, owner, options.guard_share, options.guard_objects)
        name = f"{owner}/job"
        batch, seconds = options.drain_batch, options.lease_seconds
        drain = Drain(table, leases, northbound, clock, options.deployment, name, batch, seconds)
        self._repairer = Repairer(
            table, leases, audit, northbound, drain, clock, options.deployment, name, options.lease_seconds
        )
        self._jobs: dict[str, Job] = {}

    # --- questions ---------------------------------------------------------------------------

    def ask(self, question: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to drift, repair, rebuild, job, audit or guards.

        Rejected names what is wrong with the question; Unavailable: the database does not answer.
        """
        match question.get("ask"):
            case "drift":
                return self.drift(_limit(question), deep=question.get("deep") is not False)
            case "repair":
                return {"job": self._begin(question, rebuild=False).id}
            case "rebuild":
                return {"job": self._begin(question, rebuild=True).id}
            case "job":
                job = self._jobs.get(str(question.get("id")))
                if job is None:
                    raise Rejected(
                        str(question.get("id")), "no such job here; a job ends with its process: ask again for it"
                    )
                return self._told(job)
            case "audit":
                return {"entries": self._entries(question)}
            case "guards":
                return {"guards": [guard._asdict() for guard in self._audit.guards()]}
            case other:
                raise Rejected("ask", f"{other!r} is not known here")

    def drift(self, limit: int, deep: bool = True) -> Mapping[str, Any]:
        """A full comparison, made now.  One that could not be finished is not complete, and says why."""
        began = self._clock.monotonic()
        try:
            found = survey(self._table, self._northbound.store(), self._options.deployment, deep)
            why = ""
        except Unavailable as error:
            found, why = Survey(), str(error)
        return {
            "complete": not why,
            "why": why,
            "objects": found.objects,
            "dirty": found.dirty,
            "counts": dict(Counter(each.kind.value for each in found.differences)),
            "differences": [_plain(each) for each in found.differences[:limit]],
            "seconds": self._clock.monotonic() - began,
        }

    def _begin(self, question: Mapping[str, Any], rebuild: bool) -> Job:
        by = str(question.get("by") or "somebody")
        approve = question.get("approve")
        if approve and not self._audit.approve(str(approve), by):
            raise Rejected(str(approve), "no such guard; what it held is repaired or gone, or it has another id")
        rate = question.get("rate")
        if rate is not None and not (isinstance(rate, int | float) and rate > 0):
            raise Rejected("rate", "objects a second, greater than 0")
        project, wanted = question.get("project"), question.get("object")
        unlimited = 1e6 if rebuild else self._options.repairs_per_second
        job = Job(
            id=f"{self._random.getrandbits(48):012x}",
            by=f"{by} via {self._owner}",
            dry_run=bool(question.get("dry_run")),
            project=None if project is None else str(project),
            object=None if wanted is None else str(wanted),
            kinds=REBUILT if rebuild else None,
            rebuild=rebuild,
            pace=Pace(self._clock, float(rate or unlimited)),
            began_at=self._clock.monotonic(),
        )
        if job.object is not None and not self._of_object(job.object):
            raise Rejected(job.object, "neither Neutron nor the store has ever had it")
        while len(self._jobs) >= JOBS_KEPT:
            ended = next((id for id, old in self._jobs.items() if old.state != "running"), None)
            if ended is None:
                raise Rejected("repair", f"{JOBS_KEPT} jobs are running here already; wait for one")
            del self._jobs[ended]
        self._jobs[job.id] = job
        return job

    def _told(self, job: Job) -> Mapping[str, Any]:
        spent = self._clock.monotonic() - job.began_at
        left = (job.total - job.done) * spent / job.done if job.state == "running" and job.done else None
        return {
            "state": job.state,
            "done": job.done,
            "total": job.total,
            "seconds_left": left,
            "found": dict(job.found),
            "repaired": job.repaired,
            "equal": job.equal,
            "guard": job.guard,
            "why": job.why,
            "sample": [_plain(each) for each in job.sample],
        }

    def _entries(self, question: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """Audit entries, the newest first; what was written before a repair only where nothing came after it."""
        project, wanted = question.get("project"), question.get("object")
        limit = _limit(question)
        if wanted is None:
            found = self._audit.recent(2 * limit, None if project is None else str(project))
        else:
            found = [
                entry
                for kind in NORTHBOUND
                for entry in self._audit.recent(2 * limit, None, Ref(kind.kind, str(wanted)))
                if project is None or entry.project_id == project
            ]
            found = sorted(found, key=lambda entry: entry.at, reverse=True)
        return [entry._asdict() for entry in _finished(found)][:limit]

    # --- work --------------------------------------------------------------------------------

    def work(self) -> float:
        """Do a bounded piece of the oldest running job; in how many seconds to go on."""
        job = next((job for job in self._jobs.values() if job.state == "running"), None)
        if job is None:
            return LOCK_WAIT_SECONDS
        try:
            if not job.surveyed:
                self._survey(job)
                return 0.0
            return self._repair_some(job)
        except FlowloomError as error:
            LOG.warning("Job %s ends: %s", job.id, error)
            job.state, job.why = "failed", str(error)
            return 0.0

    def _survey(self, job: Job) -> None:
        if not job.dry_run and job.object is None and not job.rebuild:
            self._table.adopt(self._options.suspects_max)
        objects, differences, epoch = self._found(job)
        repairable = [each for each in differences if not each.left]
        job.found = Counter(each.kind.value for each in differences)
        job.sample = differences[:SAMPLE_MAX]
        job.total, job.surveyed, job.began_at = len(repairable), True, self._clock.monotonic()
        left = Counter(each.left for each in differences if each.left)
        job.why = "; ".join(f"{n} cannot be repaired: {why}" for why, n in left.items())
        if job.dry_run or not repairable:
            job.state = "done"
            return
        counts = Counter(each.kind.value for each in repairable)
        sample = tuple(f"{each.kind}: {each.ref.kind} {each.ref.id}" for each in differences[:SAMPLE_MAX])
        decision = self._guard.decide(Finding(epoch, family_of(job.scope), counts, objects, sample))
        if decision.held and job.rebuild:
            # Who asks for a rebuild has said what is to be done.
            self._audit.approve(decision.guard, job.by)
        elif decision.held:
            job.state, job.guard = "held", decision.guard
            job.why = f"it would touch {job.total} of {objects} objects; approve guard {decision.guard}, or look first"
            return
        job.guard = decision.guard
        # Project after project: a lock is taken for many objects, not for each.
        job.queue.extend(_suspect(each) for each in sorted(repairable, key=lambda each: each.project_id))

    def _found(self, job: Job) -> tuple[int, list[Difference], str]:
        """How many objects there are, what differs of what was asked for, and in which history of the store."""
        store, deployment = self._northbound.store(), self._options.deployment
        if job.object is not None:
            chosen = self._of_object(job.object)
            return len(chosen), reread(self._table, store, deployment, chosen).differences, ""
        wanted: Callable[[str, Ref], bool] = lambda project, _ref: job.project in (None, project)  # noqa: E731
        found = survey(self._table, store, deployment, not job.rebuild, wanted)
        differences = [each for each in found.differences if job.kinds is None or each.kind in job.kinds]
        return found.objects, differences, found.epoch

    def _repair_some(self, job: Job) -> float:
        if not job.queue:
            job.state = "done"
            self._lift(job)
            return 0.0
        n = job.pace.take(min(len(job.queue), OBJECTS_PER_READ))
        chosen = [job.queue.popleft() for _ in range(n)]
        done = self._repairer.repair(chosen, (), job.guard, job.by)
        job.repaired += len(done.repaired)
        job.equal += len(done.equal)
        job.done += len(chosen) - len(done.again)
        if done.again:
            job.tries += 1
            if job.tries > LOCK_TRIES_MAX:
                raise Unavailable(f"the lock of project {done.again[0].project_id or '-'} was always another's")
            job.queue.extend(done.again)
            return LOCK_WAIT_SECONDS
        return job.pace.wait(min(len(job.queue), OBJECTS_PER_READ))

    def _lift(self, job: Job) -> None:
        if job.guard:
            self._audit.lift(job.guard)

    def _of_object(self, wanted: str) -> list[Suspect]:
        """Everywhere an object of this id is: rows of Neutron, else keys of the store."""
        facts = self._table.facts([Ref(kind.kind, wanted) for kind in NORTHBOUND if is_plain(wanted)])
        found = []
        for fact in facts:
            key = row_key(self._options.deployment, fact.row)
            found.append(Suspect(fact.row.ref, fact.row.project_id, key, Kind.DIFFERENT, fact.row, None, "asked for"))
        if not found:
            versions = self._northbound.store().versions(deployment_prefix(self._options.deployment)).versions
            end = "/" + key_of("-", "-", "-", "-", wanted).split("/", 5)[5]
            for key in (key for key in versions if key.endswith(end) and key.count("/") == 5):
                found.append(Suspect(ref_of(key), project_of(key), key, Kind.ORPHAN, None, None, "asked for"))
        return found


def _finished(entries: Sequence[AuditEntry]) -> Iterator[AuditEntry]:
    """Without what was written before a repair whose end is there too.  The newest come first."""
    ends: Counter[tuple[object, ...]] = Counter()
    for entry in entries:
        repair = (entry.kind, entry.ref, entry.comparison, entry.neutron_version, entry.store_version, entry.by)
        if entry.done != BEFORE:
            ends[repair] += 1
            yield entry
        elif ends[repair]:
            ends[repair] -= 1
        else:
            yield entry


def _suspect(each: Difference) -> Suspect:
    return Suspect(each.ref, each.project_id, each.key, each.kind, None, None, each.comparison)


def _plain(each: Difference) -> Mapping[str, Any]:
    return {
        "kind": each.kind.value,
        "object": list(each.ref),
        "project": each.project_id,
        "key": each.key,
        "neutron_version": each.neutron_version,
        "store_version": each.store_version,
        "comparison": each.comparison,
        "left": each.left,
    }


def _limit(question: Mapping[str, Any]) -> int:
    limit = question.get("limit", 100)
    if not isinstance(limit, int) or not 1 <= limit <= LIMIT_MAX:
        raise Rejected("limit", f"a number from 1 to {LIMIT_MAX}")
    return limit
