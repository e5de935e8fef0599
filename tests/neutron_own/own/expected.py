"""What passes with a mechanism driver that does nothing: a file that is checked in, and the comparison with it.

The file names Neutron's version, how many tests each class has, and those that do not pass.  All others pass, so a
test that fails with our driver and is not named here is our fault.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from own.pool import Result

PATH = Path(__file__).parents[1] / "no_op.txt"

_BINDS = "ours binds the port, which this test relies on nobody doing"
_BLOCKS = "ours blocks every bound port that its host has not confirmed; the test counts any block as DHCP's"
_REACHES_ALL = (
    "every host of ours reaches every network by tunnels; the test looks for hosts whose agent maps the segment"
)
_TRUNKS = "ours brings a trunk driver for the same VIF type as the test's own"
_ML2 = "plugins.ml2.test_plugin."
_TRUNK = "services.trunk."

BY_DESIGN: dict[str, str] = {
    f"{_ML2}TestMl2PortsV2.test_update_port_mac": _BINDS,
    f"{_ML2}TestMl2DvrPortsV2.test_update_port_mac": _BINDS,
    f"{_ML2}TestMl2PortsV2.test_dhcp_provisioning_blocks_not_inserted_on_no_addr_change": _BLOCKS,
    f"{_ML2}TestMl2DvrPortsV2.test_dhcp_provisioning_blocks_not_inserted_on_no_addr_change": _BLOCKS,
    f"{_ML2}TestMl2HostsNetworkAccess.test_filter_hosts_with_network_access": _REACHES_ALL,
    f"{_ML2}TestMl2HostsNetworkAccess.test_filter_hosts_with_network_access_multi_segments": _REACHES_ALL,
    "extensions.test_segment.TestDhcpAgentSegmentScheduling.test_segment_scheduling_no_host_mapping": _REACHES_ALL,
    f"{_TRUNK}test_plugin.TrunkPluginCompatDriversTestCase.test_plugin_fails_to_start_no_loaded_drivers": _TRUNKS,
    f"{_TRUNK}test_plugin.TrunkPluginCompatDriversTestCase.test_plugin_with_fake_driver": _TRUNKS,
    f"{_TRUNK}test_plugin.TrunkPluginCompatDriversTestCase.test_plugins_fails_to_start_seg_type_validator_not_found": _TRUNKS,
    f"{_TRUNK}test_rules.TrunkPortValidatorTestCase.test_can_be_trunked_or_untrunked_returns_false": _TRUNKS,
    f"{_TRUNK}test_rules.TrunkPortValidatorTestCase.test_can_be_trunked_or_untrunked_returns_true": _TRUNKS,
}
"""Passes with a driver that does nothing, because it does nothing: test -> what ours does instead.

`make neutron-own` fails too when one of these passes with ours: then it is to be taken out.
"""


class Outdated(Exception):
    """The file is of another Neutron."""


@dataclass(frozen=True)
class Expected:
    """neutron: version.  classes: how many tests each has.  others: test -> failed or skipped."""

    neutron: str
    classes: dict[str, int]
    others: dict[str, str]

    def check(self, neutron: str, tests: Sequence[str]) -> None:
        """Outdated unless `tests` are all that Neutron `neutron` has, and the file was written with those."""
        if neutron != self.neutron:
            raise Outdated(
                f"{PATH.name} is of Neutron {self.neutron}, installed is {neutron}: make neutron-own WRITE=1"
            )
        found = Counter(class_of(test) for test in tests)
        changed = sorted(found.items() ^ self.classes.items())
        if changed:
            raise Outdated(f"{PATH.name} knows other tests than there are: {changed[:5]}: make neutron-own WRITE=1")

    def passes(self, test: str) -> bool:
        return test not in self.others

    def wrong(self, results: Sequence[Result]) -> list[Result]:
        """Results of ours that are failures: the test passes with the no-op, and not with ours."""
        return [
            result
            for result in results
            if result.outcome != "passed" and self.passes(result.test) and result.test not in BY_DESIGN
        ]

    def unexpected(self, results: Sequence[Result]) -> list[str]:
        """Tests that are said to fail by design, and pass."""
        return [result.test for result in results if result.outcome == "passed" and result.test in BY_DESIGN]


def class_of(test: str) -> str:
    return test.rpartition(".")[0]


def of_results(neutron: str, results: Sequence[Result]) -> Expected:
    """What a run with the no-op says."""
    others = {result.test: result.outcome for result in results if result.outcome != "passed"}
    return Expected(neutron, dict(Counter(class_of(result.test) for result in results)), others)


def write(expected: Expected) -> None:
    lines = ["# What Neutron's own tests do with a driver that does nothing.  Written by: make neutron-own WRITE=1"]
    lines += [f"neutron {expected.neutron}"]
    lines += [f"class {name} {count}" for name, count in expected.classes.items()]
    lines += [f"{outcome} {test}" for test, outcome in expected.others.items()]
    PATH.write_text("\n".join(lines) + "\n")


def read() -> Expected:
    neutron, classes, others = "", dict[str, int](), dict[str, str]()
    for line in PATH.read_text().splitlines():
        match line.split():
            case ["#", *_] | []:
                continue
            case ["neutron", version]:
                neutron = version
            case ["class", name, count]:
                classes[name] = int(count)
            case [("failed" | "skipped") as outcome, test]:
                others[test] = outcome
            case _:
                raise ValueError(f"{PATH}: {line!r}")
    return Expected(neutron, classes, others)
