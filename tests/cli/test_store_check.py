"""`flowloom store check`: what it says of a store that keeps the contract, of one that does not, of one that is away."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from flowloom.cli import store_check
from flowloom.cli.main import main
from flowloom.cli.store import shown
from flowloom.kernel.errors import Unavailable
from flowloom.northbound.store import Entry, Outcome, Write
from flowloom.testing.conformance import Result
from flowloom.testing.fake_store import MemoryDatabase, MemoryStore
from flowloom.testing.store_conformance import CHECKS


def check(database: MemoryDatabase, handle: type[MemoryStore] = MemoryStore) -> tuple[store_check.Report, list[str]]:
    said: list[str] = []
    return store_check.check(lambda: handle(database), "memory://", 50, said.append), said


def test_every_check_of_the_suite_belongs_to_a_guarantee() -> None:
    assert sorted(each.name for each in CHECKS) == sorted(
        name for names in store_check.GUARANTEES.values() for name in names
    )


def test_a_store_that_keeps_the_contract(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"sqlite:///{tmp_path}/northbound.sqlite?synchronous=normal"
    assert main(["store", "check", url, "--objects", "50", "--json"]) == 0
    out, progress = capsys.readouterr()
    report = json.loads(out)
    assert report["verdict"] == "kept: 24 checks; 3 not tried here"
    verdicts = {each["guarantee"]: each["verdict"] for each in report["guarantees"]}
    assert verdicts.pop("lost history is said") == verdicts.pop("an applied write survives") == "not tried"
    assert verdicts.pop("unavailable is not empty") == "in part"
    assert set(verdicts.values()) == {"kept"}
    assert all(rate["value"] > 0 for rate in report["rates"] if rate["unit"] == "/s")
    assert len(report["rates"]) == 7
    assert report["store"] == url.partition("?")[0]
    assert progress.count("kept (") == 24 and "[27/27]" in progress


def test_for_people_it_ends_with_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", f"sqlite:///{tmp_path}/northbound.sqlite", "--objects", "50"]) == 0
    out = capsys.readouterr().out
    assert "changes are fed without loss          yes       kept" in out
    assert "writes, one at a time" in out
    assert "tombstones and 1 value at the largest version" in out
    assert out.endswith("\nkept: 24 checks; 3 not tried here\n")


def test_it_leaves_others_alone_and_of_its_own_only_tombstones() -> None:
    database = MemoryDatabase()
    database.open().apply([Write("/theirs", 7, b"kept"), Write("/flowloom-check", 1, b"kept")])
    report, _ = check(database)
    others = [entry for entry in database.entries() if not entry.key.startswith(report.left.prefix)]
    assert others == [Entry("/flowloom-check", 1, b"kept"), Entry("/theirs", 7, b"kept")]
    own = database.entries(report.left.prefix)
    assert sum(entry.value is None for entry in own) == report.left.tombstones > 50
    # Nothing can be newer than the largest version.
    assert [entry.version for entry in own if entry.value is not None] == [2**63 - 1] and report.left.values == 1


class Forgetful(MemoryStore):
    """Takes every write, newer or not."""

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        super().apply(writes)
        for write in writes:
            self._database._held[write.key] = Entry(*write)
        return [Outcome(write.key, True, write.version) for write in writes]


def test_a_store_that_takes_older_writes_is_broken_by_name() -> None:
    report, said = check(MemoryDatabase(), Forgetful)
    assert report.broken
    verdicts = {each.guarantee: each for each in report.guarantees}
    first = verdicts["a write is applied only if newer"]
    assert first.verdict == "broken"
    assert "older_or_equal_write_is_refused" in first.why and "older write" in first.why
    assert verdicts["a deleted object stays deleted"].verdict == "broken"
    assert verdicts["changes are fed without loss"].verdict == "kept"
    assert report.verdict.startswith("BROKEN: ")
    assert any(line.endswith("older_or_equal_write_is_refused: broken (0.0 s)") for line in said)
    assert "BROKEN" in store_check.show(report)


STRANGERS = """
from flowloom.northbound.store import Entry, Outcome
from flowloom.testing.fake_store import MemoryDatabase, MemoryStore

DATABASE = MemoryDatabase()

class Forgetful(MemoryStore):
    def apply(self, writes):
        super().apply(writes)
        self._database._held.update((write.key, Entry(*write)) for write in writes)
        return [Outcome(write.key, True, write.version) for write in writes]

def open_store(url):
    return Forgetful(DATABASE)
"""


def test_a_stranger_runs_it_on_a_driver_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "strangers_store.py").write_text(STRANGERS)
    metadata = tmp_path / "strangers_store-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-store\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[flowloom.stores]\nstrange = strangers_store:open_store\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["store", "check", "strange://here", "--objects", "50"]) == 1
    assert "\nBROKEN: " in capsys.readouterr().out


def test_a_broken_check_decides_the_verdict() -> None:
    kept, broken = Result("a", "", "kept"), Result("b", "", "broken", "why")
    assert store_check.verdict([kept, broken]) == "BROKEN: 1 of 2 checks"
    assert [each.verdict for each in store_check.judge([kept, broken], MemoryStore(MemoryDatabase()).capabilities)] == [
        "broken",
        "not tried",
    ]


def test_a_database_that_goes_away_meanwhile_is_said_and_so_is_what_is_left() -> None:
    database = MemoryDatabase()
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        database.available = "closed_store" not in line and database.available

    report = store_check.check(database.open, "memory://", 50, say)
    assert not report.rates
    assert any("not measured: the database is cut off" in line for line in said)
    assert "could not be removed: the database is cut off" in report.left.why
    assert "could not be removed" in store_check.show(report)


def test_a_database_that_does_not_answer_at_all() -> None:
    database = MemoryDatabase()
    database.available = False
    with pytest.raises(Unavailable):
        check(database)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nonsense://h"], "no driver for 'nonsense'"),
        (["sqlite:///relative"], "four slashes"),
        (["sqlite:////tmp/x.sqlite", "--objects", "0"], "--objects"),
    ],
)
def test_a_wrong_word_is_one_sentence(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "check", *words]) == 2
    assert says in capsys.readouterr().err


def test_no_secret_is_shown() -> None:
    assert shown("etcd://me:secret@h1:1,h2:2/p?password_file=/x") == "etcd://h1:1,h2:2/p"
