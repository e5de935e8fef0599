"""Heal, then converge: fresh schedules of the consistency simulator on every run, and every seed that was kept."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from flowloom.testing.consistency_simulator import DRAIN_ALONE, simulate, simulate_many
from flowloom.testing.consistency_simulator_ports import Faults

SCHEDULES = int(os.environ.get("FLOWLOOM_SIMULATE", "20000"))
PARTS = 50
SEEDS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line[:1].isdigit()
]


@pytest.mark.parametrize("part", range(PARTS))
def test_after_any_faults_all_copies_are_equal_and_nothing_acknowledged_is_lost(part: int) -> None:
    base = secrets.randbelow(10**12)
    for result in simulate_many(range(base, base + SCHEDULES // PARTS)):
        assert result.failures == (), f"scripts/simulate --seed {result.seed} --trace"


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_found_once_stays_fixed(seed: int) -> None:
    for result in simulate_many([seed]):
        assert result.failures == (), f"scripts/simulate --seed {seed} --trace"


def test_drain_alone_loses_nothing_that_no_hand_has_touched() -> None:
    base = secrets.randbelow(10**12)
    for result in simulate_many(range(base, base + 200), DRAIN_ALONE):
        assert result.failures == (), f"scripts/simulate --parts drain-alone --seed {result.seed} --trace"


def test_without_faults_users_are_acknowledged_and_copies_equal_within_seconds() -> None:
    for result in simulate_many(range(20), faults=Faults()):
        assert result.failures == () and result.acknowledged > 0 and result.settled_seconds < 30.0


def test_schedules_meet_every_fault() -> None:
    said: set[str] = set()
    wanted = ("crash at", "held up", "no answer", "given up", "the bus loses", "is away", "jumps", "wiped", "restored")
    wanted += ("tampers", "past the capture", "approves", "stays dirty")
    for seed in range(1000):
        trace: list[str] = []
        simulate(seed, trace=trace)
        said |= {sign for sign in wanted for line in trace if sign in line}
        if said == set(wanted):
            return
    pytest.fail(f"never seen: {set(wanted) - said}")


def test_seed_is_replayed_exactly_whatever_python_hashes() -> None:
    code = (
        "import hashlib, sys\n"
        "from flowloom.testing.consistency_simulator import simulate\n"
        "for seed in range(12):\n"
        "    trace = []\n"
        "    simulate(seed, trace=trace)\n"
        "    print(hashlib.sha256('\\n'.join(trace).encode()).hexdigest())\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hashing},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hashing in ("1", "2")
    ]
    assert said[0] == said[1]
    trace: list[str] = []
    simulate(0, trace=trace)
    assert said[0].splitlines()[0] == hashlib.sha256("\n".join(trace).encode()).hexdigest()
