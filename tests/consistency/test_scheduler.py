"""The scheduler of the simulator: virtual time, fair turns, and kill -9."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from flowloom.testing.scheduler import Scheduler, Task


def test_time_passes_only_where_nobody_can_go_on() -> None:
    scheduler, seen = Scheduler(Random(1)), list[tuple[str, float]]()

    def run(name: str, seconds: float) -> None:
        for _ in range(2):
            scheduler.pause(seconds)
            seen.append((name, scheduler.now))

    scheduler.spawn("slow", lambda: run("slow", 5.0))
    scheduler.spawn("quick", lambda: run("quick", 2.0))
    scheduler.run(until=60.0)
    assert seen == [("quick", 2.0), ("quick", 4.0), ("slow", 5.0), ("slow", 10.0)]
    assert scheduler.now == 60.0


def test_everybody_who_may_go_on_comes_to_a_turn_soon() -> None:
    scheduler, turns = Scheduler(Random(1), spread=4.0), list[int]()

    def run(number: int) -> None:
        while True:
            scheduler.pause()
            turns.append(number)

    for number in range(3):
        scheduler.spawn(str(number), lambda number=number: run(number))  # type: ignore[misc]
    scheduler.run(until=1.0, stop=lambda: len(turns) > 300)
    scheduler.close()
    assert min(turns.count(number) for number in range(3)) > 50
    assert any(a == b for a, b in pairwise(turns)), "and not always in the same order"


def test_killed_task_has_no_effect_on_its_way_out() -> None:
    scheduler, done = Scheduler(Random(1)), list[str]()

    def step(what: str) -> None:
        scheduler.pause()
        done.append(what)

    def run() -> None:
        try:
            step("began")
            scheduler.pause(10.0)
            step("went on")
        except Exception:  # noqa: BLE001 - what production code catches must not catch this.
            step("caught")
        finally:
            step("cleaned up")

    task: Task = scheduler.spawn("victim", run)
    scheduler.after(5.0, lambda: scheduler.kill(task))
    scheduler.run(until=60.0)
    assert done == ["began"] and task.done and task.error is None


def test_task_that_waits_goes_on_when_woken_or_when_its_time_is_over() -> None:
    scheduler, seen = Scheduler(Random(1)), list[float]()

    def run() -> None:
        scheduler.wait()
        seen.append(scheduler.now)
        scheduler.wait(4.0)
        seen.append(scheduler.now)

    task = scheduler.spawn("waits", run)
    scheduler.after(3.0, lambda: scheduler.wake(task))
    scheduler.run(until=60.0)
    assert seen == [3.0, 7.0]


def test_error_of_a_task_is_kept_for_whoever_runs_the_world() -> None:
    scheduler = Scheduler(Random(1))

    def run() -> None:
        raise ValueError("broken")

    task = scheduler.spawn("broken", run)
    scheduler.run(until=1.0)
    assert isinstance(task.error, ValueError) and task.done
