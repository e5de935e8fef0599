"""How a demo judges its steps; the demo itself is shown by `make demo`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flowloom.cli.demo import NotSo, Step, Verdict, all_held, await_so, play, show
from flowloom.cli.demo_steps import STEPS
from flowloom.kernel.clock import ManualClock
from flowloom.kernel.errors import Misconfigured


class Theatre:
    """A stage on which steps note that they were shown, and time passes."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.shown: list[str] = []
        self.lines: list[str] = []

    def step(
        self, name: str, error: Exception | None = None, needed: bool = False, always: bool = False
    ) -> Step[Theatre]:
        def act(stage: Theatre) -> str:
            stage.shown.append(name)
            stage.clock.advance(2.0)
            if error is not None:
                raise error
            return f"saw {name}"

        return Step(name, act, needed, always)

    def play(self, *steps: Step[Theatre]) -> list[Verdict]:
        return play(steps, self, self.clock, self.lines.append)


def test_steps_that_hold_say_what_was_seen_and_how_long_it_took() -> None:
    theatre = Theatre()
    verdicts = theatre.play(theatre.step("a"), theatre.step("b"))
    assert verdicts == [Verdict("a", "held", 2.0, "saw a"), Verdict("b", "held", 2.0, "saw b")]
    assert all_held(verdicts)
    assert theatre.lines == ["[1/2] a", "    held: saw a (2.0 s)", "[2/2] b", "    held: saw b (2.0 s)"]


@pytest.mark.parametrize("error", [NotSo("2 lost"), Misconfigured("--dir", "too long"), ValueError("2\nlines")])
def test_step_that_fails_says_what_was_seen_and_the_others_go_on(error: Exception) -> None:
    theatre = Theatre()
    verdicts = theatre.play(theatre.step("a", error), theatre.step("b"))
    assert [verdict.verdict for verdict in verdicts] == ["FAILED", "held"]
    assert " ".join(str(error).split()) in verdicts[0].seen
    assert "\n" not in verdicts[0].seen
    assert not all_held(verdicts)


def test_nothing_is_tried_after_a_needed_step_that_failed() -> None:
    theatre = Theatre()
    verdicts = theatre.play(theatre.step("a", NotSo("no"), needed=True), theatre.step("b"), theatre.step("c"))
    assert [verdict.verdict for verdict in verdicts] == ["FAILED", "not tried", "not tried"]
    assert theatre.shown == ["a"]
    assert not all_held(verdicts)


def test_step_that_is_always_shown_is_shown_after_a_needed_one_that_failed() -> None:
    theatre = Theatre()
    failed, clean_up = theatre.step("a", NotSo("no"), needed=True), theatre.step("c", always=True)
    verdicts = theatre.play(failed, theatre.step("b"), clean_up)
    assert [verdict.verdict for verdict in verdicts] == ["FAILED", "not tried", "held"]
    assert theatre.shown == ["a", "c"]


@pytest.mark.parametrize("leave", [KeyboardInterrupt, SystemExit])
def test_interrupt_is_not_a_verdict(leave: type[BaseException]) -> None:
    def act(stage: Theatre) -> str:
        raise leave

    theatre = Theatre()
    with pytest.raises(leave):
        theatre.play(Step("a", act))


def test_nothing_shown_is_nothing_held() -> None:
    assert not all_held([])


def test_table_of_verdicts() -> None:
    verdicts = [Verdict("a cloud", "held", 12.34, "2 hosts"), Verdict("a ping", "not tried", None, "")]
    assert show(verdicts) == (
        "#  SHOWN    VERDICT    SECONDS  SEEN\n"
        "1  a cloud  held          12.3  2 hosts\n"
        "2  a ping   not tried        -  -\n"
    )


def test_waiting_ends_when_it_is_so_and_says_what_never_was() -> None:
    answers = iter([False, False, True])
    assert await_so("it is so", lambda: next(answers), 5) >= 0
    never: Callable[[], bool] = lambda: False  # noqa: E731
    with pytest.raises(NotSo, match=r"^after 0.1 s still not: the sun shines$"):
        await_so("the sun shines", never, 0.1)


def test_every_step_of_the_release_has_a_name_of_its_own() -> None:
    assert len({step.name for step in STEPS}) == len(STEPS)
