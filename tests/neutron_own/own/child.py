"""One process that runs Neutron's tests: lines of test names in, a line of JSON for each out.

Neutron's tests leave their marks on the process that runs them (registries, caches, mocks), so they have
processes of their own.  The first line out is `{"ready": …}`, the last of a batch `{"batch": "done"}`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import unittest
import warnings
from typing import Any, TextIO

WHY_CHARACTERS_MAX = 6000


class Outcome(unittest.TestResult):
    """The outcome of one test; the worst, where it is run in several scenarios."""

    def __init__(self) -> None:
        super().__init__()
        self.outcome, self.why = "passed", ""

    def _worse(self, outcome: str, why: str) -> None:
        if self.outcome in ("passed", "skipped"):
            self.outcome, self.why = outcome, why

    def addError(self, test: Any, err: Any) -> None:
        self._worse("failed", self._exc_info_to_string(err, test))  # type: ignore[attr-defined]

    addFailure = addError

    def addSkip(self, test: Any, reason: str) -> None:
        self._worse("skipped", reason)

    def addUnexpectedSuccess(self, test: Any) -> None:
        self._worse("failed", "unexpected success")


def run(case: unittest.TestCase) -> dict[str, Any]:
    outcome, started = Outcome(), time.monotonic()
    case.run(outcome)
    return {
        "outcome": outcome.outcome,
        "why": outcome.why[-WHY_CHARACTERS_MAX:],
        "seconds": round(time.monotonic() - started, 3),
        "audited": getattr(case, "audited", None),
    }


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--ours", action="store_true")
    options.add_argument("--list", action="store_true")
    options.add_argument("--break", dest="broken", default="")
    asked = options.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What tests print is for the log.
    os.environ.setdefault("OS_TEST_TIMEOUT", "120")
    warnings.simplefilter("ignore")
    import neutron.version

    from own import swap

    if asked.list:
        answers.write("\n".join(swap.test_ids()) + "\n")
        return
    arranged = swap.Swap(asked.ours)
    arranged.install()
    if asked.broken:
        from own import breakages

        getattr(breakages, asked.broken)()
    # All at once: modules bring tables of their own, and the first test makes the schema of all that follow.
    originals = {(suite.module, each.__name__): (suite, each) for suite in swap.SUITES for each in swap.classes(suite)}
    say(answers, {"ready": str(neutron.version.version_info.release_string())})
    cases: dict[tuple[str, str], type[unittest.TestCase]] = {}
    for line in sys.stdin:
        for name in json.loads(line):
            module, class_name, method = name.rsplit(".", 2)
            if not hasattr(originals[module, class_name][1], method):
                say(answers, {"test": name, "outcome": "failed", "why": "this Neutron has no such test"})
                continue
            if (module, class_name) not in cases:
                cases[module, class_name] = arranged.case(*originals[module, class_name])
            say(answers, {"test": name, **run(cases[module, class_name](method))})
        say(answers, {"batch": "done"})


def say(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")


if __name__ == "__main__":
    main()
