"""A sample of Neutron's own tests inside our test run: few enough for every run, all of them by `make neutron-own`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from own import expected
from own.pool import Arrangement, Child, ChildDied, Result
from own.run import all_tests, why

EVERY = 9
"""One test of so many: about two and a half minutes on two cores."""


@cache
def tests() -> list[str]:
    """Every test of Neutron's that is in our suites."""
    return all_tests()


def sample(name: str) -> list[str]:
    """Tests of one class; the choice stays the same as long as the list does."""
    return [test for test in tests()[::EVERY] if expected.class_of(test) == name]


def classes(ml2: bool) -> list[str]:
    """Classes of ML2's tests, or of all others, of which there are some in the sample."""
    found, first = [], 0
    for name, count in expected.read().classes.items():
        if any(number % EVERY == 0 for number in range(first, first + count)) and ml2 == name.startswith(
            "plugins.ml2."
        ):
            found.append(name)
        first += count
    return found


@contextmanager
def running_child(log: Path, arrangement: Arrangement) -> Iterator[Child]:
    child = Child(arrangement, log)
    try:
        yield child
    finally:
        child.stop()


def hold(child: Child, name: str) -> list[Result]:
    """Run the sample of a class with our driver; fails with every test that passes with the no-op and not with it."""
    no_op = expected.read()
    no_op.check(child.neutron, tests())
    results: list[Result] = []
    chosen = sample(name)
    assert chosen
    try:
        child.run(chosen, results.append)
    except ChildDied as error:
        results.append(Result(chosen[len(results)], "failed", str(error)))
    wrong = no_op.wrong(results)
    assert not wrong, "\n".join(f"{result.test}\n{why(result)}" for result in wrong)
    return results
