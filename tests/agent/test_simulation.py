"""Heal, then converge: seeds of a whole cloud under faults."""

from __future__ import annotations

import pytest

from flowloom.testing.simulator import Cloud

SEEDS = 200


def converge(seed: int) -> Cloud:
    cloud = Cloud(seed)
    cloud.run(40.0)
    cloud.heal()
    cloud.run(cloud.settle_seconds)
    return cloud


@pytest.mark.parametrize("part", range(4))
def test_after_faults_every_switch_and_every_status_is_right(part: int) -> None:
    for seed in range(part, SEEDS, 4):
        assert converge(seed).differences() == [], f"seed {seed}"
