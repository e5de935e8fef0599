"""Plain aligned tables for a terminal, JSON for machines."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

import msgspec

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
"""Names come from other people; an escape sequence in one must not reach the terminal."""

CELL_MAX = 72
"""Characters; a column is not made wider than that for the sake of a few cells."""


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """`rows` under `head`, columns two spaces apart, as wide as their widest cell; no blanks at a line's end.

    A cell wider than CELL_MAX pushes the rest of its own line to the right, and nothing else.

    None and "" are shown as `-`.  Numbers are set to the right, fractions with one digit.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    lines = [list(head), *cells]
    widths = [max(min(len(line[n]), CELL_MAX) for line in lines) for n in range(len(head))]
    columns = [[row[n] for row in rows if row[n] not in (None, "")] for n in range(len(head))]
    right = [bool(column) and all(map(_is_number, column)) for column in columns]
    out = []
    for line in lines:
        shown = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right, strict=True))
        out.append("  ".join(shown).rstrip() + "\n")
    return "".join(out)


def age(seconds: float | None) -> str:
    """A length of time in its two largest units, `12 s`, `3 min 20 s`, `2 h 5 min`; "" for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(seconds, 0):.1f} s"
    whole = int(seconds)
    for size, unit, below, below_unit in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {unit}" + (f" {rest} {below_unit}" if rest else "")
    return f"{whole} s"


def count(number: int, thing: str) -> str:
    """`1 flow`, `2 flows`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def emit(document: object, stream: TextIO | None = None) -> None:
    """`document` (msgspec structs, dataclasses or plain data) as indented JSON and a newline."""
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    print(text, file=stream or sys.stdout)


def say(text: str) -> None:
    """`text`, which brings its own line ends, on standard output."""
    sys.stdout.write(text)


def clean(text: str) -> str:
    """`text` with control characters spelled out."""
    return text.translate(_CONTROL)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    return clean(f"{value:.1f}" if isinstance(value, float) else str(value))
