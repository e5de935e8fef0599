"""Neutron's own tests with our driver swapped in: run, compare, report.  `make neutron-own` calls this.

Exit code 0: whatever passes with a driver that does nothing passes with ours, and the audit after each test finds
no difference; 1: not so, each named; 2: the list of what passes does not belong to this Neutron.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from own import expected, pool
from own.pool import Arrangement, Result

LINES_OF_WHY = 12
NOT_OBJECTS = ("gone", "took back", "refused", "bulk statements", "drained at once", "not drained at once")
"""Counted by the audit besides the objects that exist."""


def all_tests() -> list[str]:
    """Every test that there is, asked of a process of its own."""
    argv = [*Arrangement(False).argv(), "--list"]
    done = subprocess.run(argv, env=pool.environment(), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode().split()


def table(no_op: expected.Expected, results: Sequence[Result]) -> str:
    """One line a module: tests, those that pass with the no-op and with ours, audits, objects compared."""
    by_module: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_module[expected.class_of(result.test).rpartition(".")[0]].append(result)
    lines = [
        "| module | tests | pass with no-op | pass with ours | audited | objects |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    totals: Counter[str] = Counter()
    for module, some in [*by_module.items(), ("**all**", list(results))]:
        passing = sum(no_op.passes(result.test) for result in some)
        ours = sum(result.outcome == "passed" for result in some)
        audited = [result.audited for result in some if result.audited is not None]
        objects = sum(sum(count for kind, count in counts.items() if kind not in NOT_OBJECTS) for counts in audited)
        lines.append(f"| {module} | {len(some)} | {passing} | {ours} | {len(audited)} | {objects} |")
    for result in results:
        totals.update(result.audited or {})
    return "\n".join([*lines, "", "Objects: " + ", ".join(f"{n} {kind}" for kind, n in totals.most_common())])


def why(result: Result) -> str:
    """The end of what a failed test said, without the lines that only point at other lines."""
    lines = [line for line in result.why.splitlines() if line.strip(" ^~{}")]
    return "\n".join("    " + line[:200] for line in lines[-LINES_OF_WHY:])


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    options.add_argument("--every", type=int, default=1, help="run every Nth test only")
    options.add_argument("--only", default="", help="run tests whose name matches this regular expression only")
    options.add_argument("--pair", action="store_true", help="run the no-op too, instead of trusting the list")
    options.add_argument("--write", action="store_true", help="run the no-op over all tests and write the list")
    options.add_argument("--directory", type=Path, default=Path("build/neutron-own"), help="for logs and the report")
    asked = options.parse_args()
    asked.directory.mkdir(parents=True, exist_ok=True)
    tests = all_tests()
    chosen = [test for test in tests if re.search(asked.only, test)][:: asked.every]

    def run(title: str, arrangement: Arrangement, some: Sequence[str]) -> tuple[str, list[Result]]:
        log = asked.directory / f"{title}.log"
        log.unlink(missing_ok=True)
        print(f"[neutron-own] {title}: {len(some)} tests in {asked.processes} processes", flush=True)
        return pool.run(
            arrangement, some, asked.processes, log, lambda line: print(f"[neutron-own] {line}", flush=True)
        )

    if asked.write:
        expected.write(expected.of_results(*run("no-op", Arrangement(ours=False), tests)))
    no_op = expected.read()
    if asked.pair and not asked.write:
        no_op = expected.of_results(*run("no-op", Arrangement(ours=False), chosen))
    neutron, results = run("ours", Arrangement(ours=True), chosen)
    if not asked.pair:
        try:
            no_op.check(neutron, tests)
        except expected.Outdated as error:
            print(f"[neutron-own] {error}", file=sys.stderr)
            return 2
    report = table(no_op, results)
    (asked.directory / "report.md").write_text(f"Neutron {neutron}\n\n{report}\n")
    print(report)
    wrong = no_op.wrong(results)
    for result in wrong:
        print(f"FAILED {result.test}\n{why(result)}")
    passing = no_op.unexpected(results)
    for test in passing:
        print(f"PASSES, though it is said to fail by design: {test}")
    excused = sum(result.test in expected.BY_DESIGN for result in results)
    print(
        f"[neutron-own] {len(results)} tests: {len(wrong)} pass with the no-op and not with ours; {excused} by design"
    )
    return 1 if wrong or passing else 0


if __name__ == "__main__":
    sys.exit(main())
