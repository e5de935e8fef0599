"""The generated parts of docs/operations.md: a table of metrics for each process.

    python -m flowloom.cli.reference docs/operations.md

writes them anew between `<!-- metrics: PART -->` and `<!-- end -->`; the rest of the file is people's.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from flowloom.agent import metrics as agent
from flowloom.metrics import Metric, answers_of, document
from flowloom.neutron import metrics as neutron

PARTS: dict[str, tuple[Metric, ...]] = {agent.PART: agent.METRICS, **neutron.METRICS}

_SECTION = re.compile(r"<!-- metrics: (\w+) -->\n.*?<!-- end -->\n", re.DOTALL)


def written_anew(text: str) -> str:
    """`text` with every table as the declarations say it.  KeyError names a part that there is none of."""

    def section(found: re.Match[str]) -> str:
        part = found[1]
        table = document((answers_of(part), *PARTS[part]))
        return f"<!-- metrics: {part} -->\n{table}<!-- end -->\n"

    return _SECTION.sub(section, text)


def main(path: str) -> None:
    """Rewrite one file."""
    file = Path(path)
    file.write_text(written_anew(file.read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
