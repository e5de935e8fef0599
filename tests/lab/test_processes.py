"""A process is known by more than its pid, and nobody else's is ever touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowloom.lab import processes
from flowloom.lab.processes import Process, end, marked, recorded, spawn, until
from flowloom.lab.state import boot_id

ENV = {**os.environ, "FLOWLOOM_LAB": "/test"}


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process."""
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as process:
        yield process
        process.kill()


def start(tmp_path: Path, *argv: str) -> Process:
    return spawn(argv, tmp_path / "x.pid", tmp_path / "x.log", ENV)


def born(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_process_is_found_again_by_its_pid_file_and_ended(tmp_path: Path) -> None:
    started = start(tmp_path, "sleep", "600")
    found = recorded(tmp_path / "x.pid")
    assert found == started
    assert until(lambda: Path(f"/proc/{started.pid}/cmdline").read_bytes() == b"sleep\x00600\x00", 5)
    assert os.getsid(started.pid) == started.pid
    end([found])
    assert not started.alive
    assert recorded(tmp_path / "x.pid") is None


def test_strangers_pid_in_a_stale_file_is_not_our_process(tmp_path: Path, stranger: subprocess.Popen[bytes]) -> None:
    for identity in (
        f"{stranger.pid} {born(stranger.pid) - 1} {boot_id()}",
        f"{stranger.pid} {born(stranger.pid)} another-boot",
        f"{stranger.pid}",
        "",
        "rubbish",
    ):
        (tmp_path / "x.pid").write_text(identity + "\n")
        assert recorded(tmp_path / "x.pid") is None, identity


def test_signal_for_an_earlier_owner_of_a_pid_does_not_reach_the_present_one(stranger: subprocess.Popen[bytes]) -> None:
    earlier = Process(stranger.pid, born(stranger.pid) - 1)
    earlier.send(signal.SIGKILL)
    end([earlier], grace_seconds=0.2)
    assert stranger.poll() is None


def test_signal_reaches_the_whole_group(tmp_path: Path) -> None:
    started = start(tmp_path, "sh", "-c", f"sleep 600 & echo $! >{tmp_path}/child; wait")
    assert until((tmp_path / "child").exists, 5) and until(lambda: (tmp_path / "child").read_text() != "", 5)
    child = int((tmp_path / "child").read_text())
    identity = Process(child, born(child))
    started.send(signal.SIGKILL)
    assert until(lambda: not identity.alive, 5)


def test_group_that_outlives_its_leader_is_ended_too(tmp_path: Path) -> None:
    deaf = "trap '' TERM; echo $$ >{0}/child; while :; do sleep 1; done"
    started = start(tmp_path, "sh", "-c", f'sh -c "{deaf.format(tmp_path).replace("$", chr(92) + "$")}" & wait')
    assert until((tmp_path / "child").exists, 5) and until(lambda: (tmp_path / "child").read_text() != "", 5)
    child = int((tmp_path / "child").read_text())
    identity = Process(child, born(child))
    end([started], grace_seconds=0.5)
    assert not identity.alive and started.gone


def test_process_that_ignores_term_is_killed(tmp_path: Path) -> None:
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    started = start(tmp_path, sys.executable, "-c", code)
    assert until(lambda: b"deaf" in (tmp_path / "x.log").read_bytes(), 10)
    end([started], grace_seconds=0.3)
    assert not started.alive


def test_paused_process_is_seen_as_paused_and_can_be_ended(tmp_path: Path) -> None:
    started = start(tmp_path, "sleep", "600")
    started.send(signal.SIGSTOP)
    assert until(lambda: started.paused, 5)
    end([started], grace_seconds=5)
    assert not started.alive


def test_mark_finds_processes_without_a_pid_file_but_not_us_or_strangers(
    tmp_path: Path, stranger: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = f"FLOWLOOM_LAB={tmp_path}"
    with subprocess.Popen(["sleep", "600"], env={"FLOWLOOM_LAB": str(tmp_path)}) as ours:
        with subprocess.Popen(["sleep", "600"], env={"FLOWLOOM_LAB": f"{tmp_path}2"}) as neighbour:
            found = [process.pid for process in marked(mark)]
            neighbour.kill()
        end(marked(mark))
        assert found == [ours.pid]
    code = f"from flowloom.lab.processes import marked; print(marked({mark!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ | {"FLOWLOOM_LAB": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n"
    assert stranger.poll() is None


def test_zombie_does_not_count_as_alive() -> None:
    with subprocess.Popen(["true"]) as ended:
        pid = ended.pid
        assert until(lambda: processes._state(pid) == "Z", 5)
        assert not Process(pid, born(pid)).alive
