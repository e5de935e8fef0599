"""Neutron's own tests of the service plug-ins' and extensions' behaviour, with our driver: what passes without it passes with it, and is captured."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from own import part
from own.pool import Arrangement, Child


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with part.running_child(tmp_path_factory.mktemp("own") / "log", Arrangement(ours=True)) as running:
        yield running


@pytest.mark.parametrize("name", part.classes(ml2=False))
def test_what_passes_with_a_no_op_passes_with_ours_and_the_audit_finds_nothing(child: Child, name: str) -> None:
    part.hold(child, name)
