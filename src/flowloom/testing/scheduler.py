"""One seed decides everything: cooperative tasks in virtual time, on greenlets.

A task is a plain function that calls ports as production code does.  The ports of a simulation call `pause`
at every step, and there the scheduler decides who goes on, when, and whether the task still lives.  Between
two pauses a task is alone in the world, so what two pauses enclose is atomic.

    scheduler = Scheduler(Random(seed))
    scheduler.spawn("neutron0", work)
    scheduler.run(until=60.0)

A task that is killed gets `Killed` thrown in where it pauses.  That derives from BaseException, so no error
handler of production code sees it; and every later pause of that task raises it again, so that what its `finally`
blocks do on the way out never reaches the world: as after kill -9.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Final

from greenlet import getcurrent, greenlet

NEVER: Final = float("inf")


class Killed(BaseException):
    """The process of this task is gone."""


class Task:
    """One thread of a simulated process.

    error: what ended it, if anything but its own return did.  latency: seconds that each of its steps takes.
    """

    __slots__ = ("_greenlet", "_turn", "error", "killed", "latency", "name", "waiting")

    def __init__(self, name: str) -> None:
        self.name = name
        self.latency = 0.0
        self.killed = False
        self.waiting = False
        self.error: BaseException | None = None
        self._greenlet: greenlet | None = None
        self._turn = 0  # What is in the heap for a task counts only if it is of this turn.

    @property
    def done(self) -> bool:
        """It has returned, failed or been killed."""
        return self._greenlet is None


class Scheduler:
    """Runs tasks and timers in the order of virtual time; who comes first at the same moment is drawn.

    spread: of those who may go on at the same moment, who came first is drawn from about so many: 1 is the order of
        coming, and the more, the longer one may go on before the others come to their turn.
    now: virtual seconds.  steps: how often a task went on.
    """

    def __init__(self, random: Random, spread: float = 4.0) -> None:
        self.now = 0.0
        self._spread = spread
        self._number = 0
        self.steps = 0
        self.current: Task | None = None
        self._chance = random.random
        self._heap: list[tuple[float, float, int, Task | Callable[[], None]]] = []
        self._hub: greenlet = getcurrent()
        self._tasks: list[Task] = []

    # For whoever runs the world ------------------------------------------------------------------

    def spawn(self, name: str, run: Callable[[], None]) -> Task:
        """A task that begins now."""
        task = Task(name)

        def body() -> None:
            try:
                run()
            except Killed:
                pass
            except Exception as error:  # noqa: BLE001 - outermost of the task: whoever runs the world looks at it.
                task.error = error
            task._greenlet = None

        task._greenlet = greenlet(body, self._hub)
        self._tasks.append(task)
        self._later(task, 0.0)
        return task

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Do `action` then; it must not pause."""
        heapq.heappush(self._heap, (self.now + seconds, self._turn_of(), 0, action))

    def wake(self, task: Task, seconds: float = 0.0) -> None:
        """Let a task that waits go on after `seconds`; nothing happens to one that does not wait."""
        if task.waiting:
            task.waiting = False
            self._later(task, seconds)

    def kill(self, task: Task) -> None:
        """End a task where it pauses; without any effect of it from now on."""
        task.killed = True
        body = task._greenlet
        if body is None:
            return
        if task is self.current:
            raise Killed
        if body:  # It has begun: unwind it.
            before, self.current = self.current, task
            body.parent = getcurrent()
            body.throw(Killed)
            self.current = before
        task._greenlet = None

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> None:
        """Let time pass until `until`, or until `stop`, asked after every step, says so."""
        self._hub = getcurrent()
        heap = self._heap
        while heap and heap[0][0] <= until:
            at, _, turn, what = heapq.heappop(heap)
            if at > self.now:
                self.now = at
            if type(what) is Task:
                body = what._greenlet
                if body is None or turn != what._turn:
                    continue
                self.current = what
                self.steps += 1
                body.switch()
                self.current = None
            else:
                what()  # type: ignore[operator]
            if stop is not None and stop():
                return
        if until != NEVER and until > self.now:
            self.now = until

    def close(self) -> None:
        """End every task."""
        for task in self._tasks:
            self.kill(task)
        self._tasks.clear()
        self._heap.clear()

    # For tasks -----------------------------------------------------------------------------------

    def pause(self, seconds: float = 0.0) -> None:
        """Let others go on, for `seconds` at least.  Killed when this task is gone.

        Outside any task (a test that uses a port of the simulation by itself) it does nothing.
        """
        task = self.current
        if task is None:
            return
        if task.killed:
            raise Killed
        self._number = number = self._number + 1
        order = number + self._chance() * self._spread
        if seconds <= 0.0:
            first = self._heap[0] if self._heap else None
            if first is None or first[0] > self.now or first[1] > order:
                self.steps += 1
                return  # It would be the next one anyway.
        task._turn = turn = task._turn + 1
        heapq.heappush(self._heap, (self.now + seconds, order, turn, task))
        self._hub.switch()

    def wait(self, seconds: float = NEVER) -> None:
        """Sleep until `wake`, or for `seconds`."""
        task = self.current
        if task is None:
            raise RuntimeError("only a task can wait")
        if task.killed:
            raise Killed
        task._turn += 1
        task.waiting = True
        if seconds != NEVER:
            heapq.heappush(self._heap, (self.now + seconds, self._turn_of(), task._turn, task))
        self._hub.switch()
        task.waiting = False

    def _turn_of(self) -> float:
        self._number += 1
        return self._number + self._chance() * self._spread

    def _later(self, task: Task, seconds: float) -> None:
        task._turn += 1
        heapq.heappush(self._heap, (self.now + seconds, self._turn_of(), task._turn, task))


class TaskClock:
    """The clock of a simulated process: sleeping lets others go on.  Implements `kernel.clock.Clock`."""

    def __init__(self, scheduler: Scheduler, wall: float = 1_700_000_000.0) -> None:
        self._scheduler = scheduler
        self._wall = wall

    def monotonic(self) -> float:
        return self._scheduler.now

    def wall(self) -> float:
        return self._wall + self._scheduler.now

    def sleep(self, seconds: float) -> None:
        self._scheduler.pause(seconds)
