"""Tables for terminals."""

from __future__ import annotations

import pytest

from flowloom.cli.table import age, table


def test_columns_are_aligned_and_numbers_stand_right() -> None:
    assert table(("LAYER", "N", "NOTE"), [("store", 7, ""), ("agent h1", 12, "in sync")]) == (
        "LAYER      N  NOTE\n"
        "store      7  -\n"
        "agent h1  12  in sync\n"
    )  # fmt: skip


def test_column_of_words_and_nothing_stands_left() -> None:
    assert table(("A", "B"), [(None, "x"), ("yes", "")]) == "A    B\n-    x\nyes  -\n"


def test_very_wide_cell_widens_its_own_line_alone() -> None:
    wide = "x" * 100
    assert table(("A", "B"), [("y", "z"), (wide, "z")]).splitlines() == [f"{'A':72}  B", f"{'y':72}  z", f"{wide}  z"]


def test_empty_table_is_its_head() -> None:
    assert table(("A", "B"), []) == "A  B\n"


def test_escape_sequences_of_others_do_not_reach_the_terminal() -> None:
    assert "\x1b" not in table(("NAME",), [("\x1b[2J",)])


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""), (-1, "0.0 s"), (0.04, "0.0 s"), (3.25, "3.2 s"), (12.9, "12 s"), (60, "1 min"), (200, "3 min 20 s"),
        (7500, "2 h 5 min"), (90000, "1 d 1 h"),
    ],
)  # fmt: skip
def test_age_in_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert age(seconds) == text
