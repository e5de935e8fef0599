"""The declaration as a page of documentation: `docs/pipeline.md` is its output, and CI compares the two."""

from __future__ import annotations

from collections.abc import Iterator

from flowloom.pipeline.layout import GROUP_KINDS, REGISTERS, TABLES, Priority


def render() -> str:
    """The whole page, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# The pipeline"
    yield ""
    yield "Generated from `src/flowloom/pipeline/layout.py` by `python -m flowloom.pipeline.render`; not edited by hand."
    yield ""
    yield "```"
    for table in TABLES:
        yield f"{table.name:<9} -> {', '.join(table.next) or 'out'}"
    yield "```"
    yield ""
    yield "## Tables"
    yield ""
    yield "| # | table | purpose | matches | sets | does | goes on to |"
    yield "|---|---|---|---|---|---|---|"
    for table in TABLES:
        names = (
            ", ".join(quantity.name for quantity in table.matches),
            ", ".join(quantity.name for quantity in table.sets) or "–",
            ", ".join(table.does) or "–",
            ", ".join(table.next) or "–",
        )
        yield f"| {table.number} | {table.name} | {table.purpose} | {' | '.join(names)} |"
    yield ""
    yield "What a table does not match is dropped."
    yield ""
    yield "## Registers"
    yield ""
    yield "| name | bits | meaning |"
    yield "|---|---|---|"
    for quantity in REGISTERS.declared:
        last = quantity.offset + quantity.bits - 1
        yield f"| {quantity.name} | {quantity.field.name}[{quantity.offset}..{last}] | {quantity.meaning} |"
    yield ""
    yield "## Groups"
    yield ""
    yield "| family | ids from | purpose | buckets look up in |"
    yield "|---|---|---|---|"
    for group in GROUP_KINDS:
        yield f"| {group.name} | {group.first:#x} | {group.purpose} | {', '.join(group.buckets_to)} |"
    yield ""
    yield "## Priorities"
    yield ""
    yield "| name | number |"
    yield "|---|---|"
    for name, priority in Priority.__members__.items():
        yield f"| {name} | {int(priority)} |"


if __name__ == "__main__":
    print(render(), end="")
