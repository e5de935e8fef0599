"""`flowloom store move`, as a process, against one that answers as recovery does."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from answering import answering
from test_repair import flowloom

from flowloom.cli.answers import MoveState
from flowloom.cli.deployment import load
from flowloom.cli.move import follow, show
from flowloom.kernel.errors import Unavailable

URLS = ("--from", "sqlite:////a/nb.sqlite", "--to", "etcd://h1:2379/flowloom")
BEGUN = {
    "generation": 0, "in_force": URLS[1], "number": 1, "step": "copying", "under_way": True, "source": URLS[1],
    "target": URLS[3], "by": "anna@desk", "what": "",
}  # fmt: skip
COPYING = BEGUN | {"what": "copying", "done": 200, "total": 1000, "seconds_left": 8.0}
DONE = BEGUN | {"generation": 1, "in_force": URLS[3], "step": "done", "under_way": False, "done": 1000, "total": 1000,
                "why": "1000 objects equal; 2 of 2 chassis write there"}  # fmt: skip
FAILED = BEGUN | {"step": "failed", "under_way": False, "why": "--to: it holds 3 keys of something else"}


class Recovery:
    """Answers with what the list holds, one after the other; the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[dict[str, Any] | bytes] = [DONE]
        self.questions: list[dict[str, Any]] = []

    def __call__(self, _question: Any) -> object:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flowloom.toml"
    recoveries = json.dumps([str(tmp_path / "gone.sock"), str(tmp_path / "recovery.sock")])
    path.write_text(f'deployment = "lab"\nstore = "sqlite:////a/nb.sqlite"\n[neutron]\nrecovery = {recoveries}\n')
    return path


@pytest.fixture
def recovery(tmp_path: Path) -> Iterator[Recovery]:
    made = Recovery()
    with answering(tmp_path / "recovery.sock", made) as questions:
        made.questions = questions
        yield made


def test_a_move_is_watched_to_its_end_and_says_what_comes_next(file: Path, recovery: Recovery) -> None:
    recovery.answers = [BEGUN, COPYING, DONE]
    ended = flowloom(file, "store", "move", *URLS)
    assert ended.returncode == 0
    assert ended.stderr == ("copying: waiting for a recovery process\ncopying: copying, 200 of 1000, 8.0 s left\n")
    assert ended.stdout == (
        "in force: etcd://h1:2379/flowloom (generation 1)\n"
        "move 1 from sqlite:////a/nb.sqlite to etcd://h1:2379/flowloom, asked for by anna@desk: moved: "
        "1000 objects equal; 2 of 2 chassis write there\n"
        "next: set `store` to the new URL in every neutron.conf, agent.toml and flowloom.toml; keep the former\n"
        "store running until every process that was configured with it has been restarted\n"
    )
    asked = recovery.questions[0]
    assert asked == asked | {"ask": "move", "from": URLS[1], "to": URLS[3]} and "@" in asked["by"]
    assert "lost" not in asked
    recovery.answers = [DONE]
    assert flowloom(file, "store", "move", *URLS, "--lost").returncode == 0
    assert recovery.questions[-1]["lost"] is True


@pytest.mark.parametrize(
    ("end", "code"),
    [(DONE, 0), (DONE | {"done": 998}, 1), (FAILED, 1), (FAILED | {"step": "aborted", "why": "aborted by bert"}, 1)],
)
def test_the_exit_code_says_whether_everything_is_there(
    file: Path, recovery: Recovery, end: dict[str, Any], code: int
) -> None:
    recovery.answers = [end]
    ended = flowloom(file, "store", "move", *URLS, "--json")
    assert ended.returncode == code
    assert json.loads(ended.stdout)["step"] == end["step"]


def test_a_recovery_process_that_dies_is_waited_for(file: Path, recovery: Recovery) -> None:
    recovery.answers = [BEGUN, b"", b"", COPYING, DONE]
    assert flowloom(file, "store", "move", *URLS).returncode == 0


def test_status_and_abort_ask_for_just_that(file: Path, recovery: Recovery) -> None:
    recovery.answers = [COPYING]
    ended = flowloom(file, "store", "move", "--status")
    assert ended.returncode == 1 and ended.stdout.endswith("under way\ncopying: copying, 200 of 1000, 8.0 s left\n")
    recovery.answers = [{"generation": 0, "in_force": URLS[1]}]
    ended = flowloom(file, "store", "move", "--status")
    assert (ended.returncode, ended.stdout.splitlines()[1]) == (0, "there was never a move")
    recovery.answers = [FAILED | {"step": "aborted", "why": "aborted by bert"}]
    ended = flowloom(file, "store", "move", "--abort")
    assert ended.returncode == 0 and "gone back: aborted by bert" in ended.stdout
    assert [question["ask"] for question in recovery.questions] == ["move status", "move status", "move abort"]


def test_what_recovery_refuses_is_said_in_its_words(file: Path, recovery: Recovery) -> None:
    recovery.answers = [{"error": "--from: the store in force is redis://r"}]
    ended = flowloom(file, "store", "move", *URLS)
    assert (ended.returncode, ended.stderr) == (1, "flowloom: --from: the store in force is redis://r\n")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--to", URLS[3]), "--from: name the URL"),
        (("--from", URLS[1], "--to", "etc://h"), "--to: no driver for 'etc://h'; known schemes: etcd"),
        (("--from", URLS[1], "--to", "etc://u:hidden@h"), "no driver for 'etc://u@h'"),
        (("--from", URLS[1], "--to", "etcd://[::1/x"), "--to: the URL cannot be read"),
        (("--from", URLS[1], "--to", "redis://u:hidden@h"), "--to: the URL holds a password, and it is written where"),
        (("--abort", "--status"), "--abort: either that or --status"),
        (("--abort", "--to", URLS[3]), "give no URL"),
    ],
)
def test_a_wrong_command_line_is_one_sentence_and_exit_code_2(
    file: Path, words: tuple[str, ...], sentence: str
) -> None:
    ended = flowloom(file, "store", "move", *words)
    assert ended.returncode == 2 and sentence in ended.stderr and ended.stderr.count("\n") == 1
    assert "hidden" not in ended.stderr


def test_without_a_recovery_process_it_ends_with_3_and_nothing_is_begun(file: Path) -> None:
    ended = flowloom(file, "store", "move", *URLS)
    assert ended.returncode == 3 and "does not exist: the process is not running" in ended.stderr


def test_when_nobody_answers_for_long_it_says_that_the_move_goes_on(
    file: Path, recovery: Recovery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flowloom.cli.move.SILENCE_SECONDS", 0.0)
    recovery.answers = [BEGUN, b""]
    with pytest.raises(Unavailable, match="the move goes on as soon as a recovery process runs"):
        follow(load(file, "--config"), {"ask": "move"}, sleep=lambda _seconds: None, terminal=io.StringIO())


def test_a_terminal_shows_one_line_for_each_thing_that_is_done(file: Path, recovery: Recovery) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    recovery.answers = [COPYING, COPYING | {"done": 400}, COPYING | {"what": "comparing", "done": 0}, DONE]
    state = follow(load(file, "--config"), {"ask": "move"}, lambda _seconds: None, terminal)
    assert state.step == "done"
    lines = terminal.getvalue().split("\n")
    assert [line.count("\r") for line in lines] == [2, 0, 0] and "400 of 1000" in lines[0] and "comparing" in lines[1]


def test_nothing_of_an_answer_can_drive_the_terminal() -> None:
    assert "\x1b" not in show(MoveState(number=1, step="failed", why="\x1b[2J", target="\x1b"))
