"""What the conformance suites share: named checks that run with or without pytest.

A check is a function of a *bench*: what it needs of the thing under test.  A bench that cannot do
something (cut power, trim history) raises `Skip` there, and the check counts as skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from unittest import SkipTest as Skip

B = TypeVar("B")

__all__ = ["Check", "CheckFailed", "Result", "Skip", "as_test_methods", "expect", "named", "run_checks"]


class CheckFailed(AssertionError):
    """The driver does not keep its contract; the text says what was expected and what happened."""


def expect(held: bool, sentence: str) -> None:
    """Raise CheckFailed with `sentence` unless `held`."""
    if not held:
        raise CheckFailed(sentence)


@dataclass(frozen=True)
class Check(Generic[B]):
    """One promise.  about: the promise, one sentence."""

    name: str
    about: str
    run: Callable[[B], None]


@dataclass(frozen=True)
class Result:
    """outcome: `kept`, `broken` or `skipped`; why: "" when kept."""

    name: str
    about: str
    outcome: str
    why: str = ""


def named(*functions: Callable[[B], None]) -> tuple[Check[B], ...]:
    """Checks out of functions: name and promise are the function's own."""
    return tuple(Check(f.__name__, (f.__doc__ or "").strip().splitlines()[0], f) for f in functions)


def run_checks(checks: Iterable[Check[B]], new_bench: Callable[[str], B], end: Callable[[B], None]) -> list[Result]:
    """Run each check on a bench of its own (`new_bench(name)`, ended by `end`); never raises for a broken promise."""
    results = []
    for check in checks:
        bench = new_bench(check.name)
        try:
            check.run(bench)
            results.append(Result(check.name, check.about, "kept"))
        except Skip as why:
            results.append(Result(check.name, check.about, "skipped", str(why)))
        except Exception as error:  # noqa: BLE001 - outermost: whatever a driver raises is a result.
            results.append(Result(check.name, check.about, "broken", f"{type(error).__name__}: {error}"))
        finally:
            end(bench)
    return results


def as_test_methods(suite: type, checks: Iterable[Check[Any]]) -> None:
    """Give `suite` one `test_<name>` method a check, run on `self.bench`."""
    for check in checks:
        setattr(suite, f"test_{check.name}", _method(check))


def _method(check: Check[Any]) -> Callable[[Any], None]:
    def method(self: Any) -> None:
        check.run(self.bench)

    method.__doc__ = check.about
    return method
