"""docs/operations.md lists what is exported, all of it, by the names that are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowloom.cli.reference import PARTS, written_anew

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_tables_are_what_the_declarations_say() -> None:
    text = PAGE.read_text()
    assert text == written_anew(text), "run: python -m flowloom.cli.reference docs/operations.md"


def test_every_part_has_its_table() -> None:
    assert set(re.findall(r"<!-- metrics: (\w+) -->", PAGE.read_text())) == set(PARTS)


def test_alerts_name_metrics_that_there_are() -> None:
    named = set(re.findall(r"flowloom_[a-z_]+", PAGE.read_text()))
    declared = {metric.name for metrics in PARTS.values() for metric in metrics}
    assert named - declared <= {f"flowloom_{part}_answers" for part in PARTS}


@pytest.mark.parametrize("part", sorted(PARTS))
def test_names_say_part_and_kind(part: str) -> None:
    names = [metric.name for metric in PARTS[part]]
    assert len(set(names)) == len(names)
    for metric in PARTS[part]:
        assert metric.name.startswith(f"flowloom_{part}_")
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.help.endswith(".")
