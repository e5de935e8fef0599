"""`flowloom repair`, `store rebuild` and `audit`, as processes, against one that answers as recovery does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from answering import answering

from flowloom.cli.answers import Job, Unequal
from flowloom.cli.deployment import Deployment, load
from flowloom.cli.repair import code_of, follow, show
from flowloom.kernel.errors import Unavailable

SAMPLE = {
    "kind": "stale",
    "object": ["port", "p1"],
    "project": "p",
    "key": "/lab/p/n1/port/p1",
    "neutron_version": 5,
    "store_version": 4,
    "comparison": "the listing of the store",
}
DONE = {"state": "done", "done": 2, "total": 2, "seconds_left": 0.0, "found": {"stale": 2}, "repaired": 2, "guard": "",
        "why": "", "sample": [SAMPLE]}  # fmt: skip


def flowloom(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowloom", "--config", str(file), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flowloom.toml"
    recoveries = json.dumps([str(tmp_path / "gone.sock"), str(tmp_path / "recovery.sock")])
    path.write_text(
        f'deployment = "lab"\nstore = "sqlite:///{tmp_path}/nb.sqlite"\n[neutron]\nrecovery = {recoveries}\n'
    )
    return path


class Recovery:
    """Answers `job` with what the list holds, one after the other; the last one for ever."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any]] = [DONE]
        self.others: dict[str, Any] = {}
        self.questions: list[dict[str, Any]] = []

    def __call__(self, question: Any) -> object:
        if question["ask"] == "job":
            assert question["id"] == "j1"
            return self.jobs.pop(0) if len(self.jobs) > 1 else self.jobs[0]
        return self.others.get(question["ask"], {"job": "j1"})


@pytest.fixture
def recovery(tmp_path: Path) -> Iterator[Recovery]:
    made = Recovery()
    with answering(tmp_path / "recovery.sock", made) as questions:
        made.questions = questions
        yield made


def test_repair_shows_what_was_found_and_is_0_when_all_of_it_is_repaired(file: Path, recovery: Recovery) -> None:
    recovery.jobs.insert(0, {"state": "running", "done": 1, "total": 2, "seconds_left": 1.5})
    ended = flowloom(file, "repair", "--project", "p", "--object", "p1", "--rate", "50")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == (
        "KIND   FOUND\n"
        "stale      2\n"
        "    stale: port p1: Neutron holds version 5, the store version 4 (project p); found by the listing of the store\n"
        "    ... of 2 differences\n"
        "2 differences found, 2 repaired\n"
    )
    asked = recovery.questions[0]
    assert asked == asked | {
        "ask": "repair", "dry_run": False, "project": "p", "object": "p1", "approve": None, "rate": 50.0,
    }  # fmt: skip
    assert "@" in asked["by"]


def test_dry_run_that_finds_something_is_1_and_nothing_0(file: Path, recovery: Recovery) -> None:
    recovery.jobs = [DONE | {"repaired": 0}]
    ended = flowloom(file, "repair", "--dry-run")
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1] == "2 differences found; a dry run: nothing was changed"
    assert recovery.questions[0]["dry_run"] is True
    recovery.jobs = [{"state": "done"}]
    ended = flowloom(file, "repair", "--dry-run")
    assert (ended.returncode, ended.stdout) == (0, "nothing differs\n")


def test_held_repair_names_its_guard_and_how_to_let_it_pass(file: Path, recovery: Recovery) -> None:
    recovery.jobs = [{"state": "held", "found": {"orphan": 900}, "guard": "g-12", "why": "900 of 1000 objects"}]
    ended = flowloom(file, "repair")
    assert ended.returncode == 1
    assert "held by guard g-12: 900 of 1000 objects\n" in ended.stdout
    assert ended.stdout.endswith("let it pass with: flowloom repair --approve g-12\n")
    recovery.jobs = [DONE]
    assert flowloom(file, "repair", "--approve", "g-12").returncode == 0
    assert next(q for q in reversed(recovery.questions) if q["ask"] == "repair")["approve"] == "g-12"


@pytest.mark.parametrize("how", ["job", "answer"])
def test_object_that_exists_nowhere_is_said_so_and_1(file: Path, recovery: Recovery, how: str) -> None:
    why = "neither Neutron nor the store knows it"
    recovery.jobs = [{"state": "failed", "why": f"x9: {why}"}]
    if how == "answer":
        recovery.others["repair"] = {"error": f"x9: {why}"}
    ended = flowloom(file, "repair", "--object", "x9")
    assert (ended.returncode, ended.stderr) == (1, "")
    assert ended.stdout.startswith("failed: ") and f"x9: {why}" in ended.stdout


def test_what_could_not_be_repaired_is_1(file: Path, recovery: Recovery) -> None:
    recovery.jobs = [DONE | {"repaired": 1, "why": "port p2 is refused"}]
    ended = flowloom(file, "repair", "--json")
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["repaired"] == 1


def test_what_somebody_else_repaired_meanwhile_is_0(file: Path, recovery: Recovery) -> None:
    recovery.jobs = [DONE | {"repaired": 1, "equal": 1}]
    ended = flowloom(file, "repair")
    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (
        0,
        "2 differences found, 1 repaired, 1 by others meanwhile",
    )


@pytest.mark.parametrize("words", [("audit", "--limit", "0"), ("drift", "--limit", "1001"), ("audit", "--limit", "x")])
def test_limit_that_is_too_much_or_none_is_2(file: Path, words: tuple[str, ...]) -> None:
    assert flowloom(file, *words).returncode == 2


def test_wrong_rate_is_2(file: Path) -> None:
    ended = flowloom(file, "repair", "--rate", "0")
    assert (ended.returncode, ended.stderr) == (2, "flowloom: --rate: 0 is not a number of objects a second above 0\n")


def test_no_recovery_process_is_3(file: Path, tmp_path: Path) -> None:
    for words in (("repair",), ("store", "rebuild"), ("audit",), ("audit", "--guards")):
        ended = flowloom(file, *words)
        assert (ended.returncode, ended.stdout) == (3, "")
        assert ended.stderr == f"flowloom: {tmp_path}/gone.sock does not exist: the process is not running\n"


def test_deployment_without_recovery_is_2(tmp_path: Path) -> None:
    path = tmp_path / "f.toml"
    path.write_text('deployment = "lab"\nstore = "s:"\n')
    ended = flowloom(path, "repair")
    assert ended.returncode == 2
    assert ended.stderr.startswith("flowloom: neutron.recovery: ")


def test_rebuild_asks_for_one_and_follows_it(file: Path, recovery: Recovery) -> None:
    recovery.jobs = [{"state": "running", "done": 0, "total": 0}, DONE | {"found": {"missing": 7}, "repaired": 7}]
    ended = flowloom(file, "store", "rebuild", "--json")
    assert ended.returncode == 0
    assert json.loads(ended.stdout)["found"] == {"missing": 7}
    assert [question["ask"] for question in recovery.questions] == ["rebuild", "job", "job"]
    assert (file.parent / "nb.sqlite").exists(), "a store that is gone is made before anybody refills it"


def test_rebuild_of_a_store_that_cannot_be_opened_is_3(file: Path, recovery: Recovery) -> None:
    file.write_text(file.read_text().replace("nb.sqlite", "none/nb.sqlite"))
    ended = flowloom(file, "store", "rebuild")
    assert (ended.returncode, ended.stdout, recovery.questions) == (3, "", [])
    assert "none does not exist; create it" in ended.stderr


ENTRY = {
    "at": 1_700_000_000.0, "kind": "stale", "ref": ["port", "p1"], "project_id": "p", "comparison": "digest of shard 7",
    "neutron_version": 5, "store_version": -1, "version": 5, "done": "written again", "verified": "read back, equal",
    "by": "recovery@n1:7", "guard": "g-1",
}  # fmt: skip


def test_audit_is_a_table_of_the_newest(file: Path, recovery: Recovery) -> None:
    recovery.others["audit"] = {"entries": [ENTRY]}
    ended = flowloom(file, "audit", "--object", "p1", "--limit", "5")
    assert ended.returncode == 0
    assert ended.stdout.splitlines()[1] == (
        "2023-11-14T22:13:20Z  stale  port p1  5/-/5              written again  read back, equal  digest of shard 7"
        "  recovery@n1:7 (guard g-1)"
    )
    assert recovery.questions == [{"ask": "audit", "limit": 5, "project": None, "object": "p1"}]
    assert json.loads(flowloom(file, "audit", "--json").stdout)[0]["ref"] == ["port", "p1"]


def test_empty_audit_says_so(file: Path, recovery: Recovery) -> None:
    recovery.others["audit"] = {"entries": []}
    assert flowloom(file, "audit").stdout == "nothing was repaired\n"


def test_guard_that_waits_is_1_with_the_command_that_lets_it_pass(file: Path, recovery: Recovery) -> None:
    guard = {"id": "g-1", "at": 1_700_000_000.0, "by": "recovery@n1:7", "found": {"orphan": 900, "stale": 1},
             "of_objects": 1000, "sample": ["port p1"], "approved_by": ""}  # fmt: skip
    recovery.others["guards"] = {"guards": [guard]}
    ended = flowloom(file, "audit", "--guards")
    assert ended.returncode == 1
    assert "g-1    2023-11-14T22:13:20Z  900 orphan, 1 stale        1000  waits\n" in ended.stdout
    assert "    let it pass with: flowloom repair --approve g-1\n" in ended.stdout
    recovery.others["guards"] = {"guards": [guard | {"approved_by": "root@n1"}]}
    ended = flowloom(file, "audit", "--guards")
    assert ended.returncode == 0
    assert "approved by root@n1" in ended.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def watched(file: Path, sleep: Callable[[float], None] = lambda seconds: None) -> tuple[Job, str]:
    terminal = Terminal()
    deployment: Deployment = load(file, "--config")
    return follow(deployment, {"ask": "rebuild"}, "rebuilding", sleep, terminal), terminal.getvalue()


def test_progress_and_time_left_are_shown_on_a_terminal_and_taken_away(file: Path, recovery: Recovery) -> None:
    recovery.jobs = [
        {"state": "running"},
        {"state": "running", "done": 1500, "total": 20000, "seconds_left": 95.0},
        {"state": "running", "done": 9, "total": 10},
        DONE,
    ]
    job, shown = watched(file)
    assert job.repaired == 2
    lines = shown.split("\r")
    assert [line.rstrip() for line in lines[1:4]] == [
        "rebuilding: looking",
        "rebuilding: 1500 of 20000, 1 min 35 s left",
        "rebuilding: 9 of 10",
    ]
    assert not lines[-2].strip() and lines[-1] == ""


def test_process_that_ends_with_its_job_is_no_answer(file: Path, tmp_path: Path) -> None:
    with answering(tmp_path / "recovery.sock", lambda q: {"job": "j1"} if q["ask"] != "job" else {"state": "running"}):
        asked = []

        def sleep(seconds: float) -> None:
            asked.append(seconds)
            if len(asked) == 2:
                (tmp_path / "recovery.sock").unlink()

        with pytest.raises(Unavailable, match="ask again for the rest"):
            watched(file, sleep)
    assert len(asked) == 2


def test_words_of_others_do_not_reach_the_terminal_as_they_are() -> None:
    job = Job(state="failed", why="\x1b[2Jx", sample=(Unequal(kind="\x1b", object=("port", "\x07")),))
    assert "\x1b" not in show(job, False) and "\x07" not in show(job, False)


@pytest.mark.parametrize("state", ["held", "failed", "running", "of a later release"])
def test_only_done_is_0(state: str) -> None:
    assert code_of(Job(state=state), dry_run=False) == 1
