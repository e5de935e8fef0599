"""The audit after Neutron's tests finds what a broken capture loses; so that it finds nothing means something."""

from __future__ import annotations

from pathlib import Path

import pytest
from own import expected, part, pool
from own.pool import Arrangement, Result

ML2 = "plugins.ml2.test_plugin."
UPDATE = ML2 + "TestMl2PortsV2.test_update_port_update_ip"
CREATE = ML2 + "TestMl2SubnetsV2.test_create_subnet"
DELETE = ML2 + "TestMl2SubnetsV2.test_delete_network"

GET, LIST = ML2 + "TestMl2NetworksV2.test_show_network", ML2 + "TestMl2NetworksV2.test_list_networks"


def ran(test: str, broken: str, directory: Path) -> Result:
    _, [result] = pool.run(Arrangement(ours=True, broken=broken), [test], 1, directory / "log")
    return result


@pytest.mark.parametrize(
    ("broken", "test", "found"),
    [
        ("lost_update", UPDATE, "the store holds b'"),
        ("lost_create", UPDATE, "no sync row"),
        ("lost_delete", DELETE, "Neutron has it: False"),
        ("sleeping_worker", UPDATE, "no worker was woken for it"),
        ("past_the_capture", UPDATE, "bulk statement on ports"),
    ],
)
def test_a_broken_capture_is_found(broken: str, test: str, found: str, tmp_path: Path) -> None:
    result = ran(test, broken, tmp_path)
    assert result.outcome == "failed" and found in result.why, result.why


def test_the_same_tests_pass_unbroken_and_are_audited(tmp_path: Path) -> None:
    _, results = pool.run(Arrangement(ours=True), [UPDATE, CREATE, DELETE], 1, tmp_path / "log")
    assert [result.outcome for result in results] == ["passed"] * 3, results
    assert all(result.audited for result in results)


def test_a_test_process_that_dies_fails_its_test_and_no_other(tmp_path: Path) -> None:
    _, results = pool.run(Arrangement(ours=True, broken="dies"), [GET, CREATE, LIST], 1, tmp_path / "log")
    assert [result.outcome for result in results] == ["passed", "failed", "passed"], results
    assert "ended with code 70" in results[1].why


def test_what_runs_in_every_test_run_fails_and_names_the_tests(tmp_path: Path) -> None:
    name = "plugins.ml2.test_plugin.TestMl2PortBinding"
    with (
        part.running_child(tmp_path / "log", Arrangement(ours=True, broken="lost_create")) as child,
        pytest.raises(AssertionError) as failed,
    ):
        part.hold(child, name)
    assert f"{name}.test_" in str(failed.value) and "no sync row" in str(failed.value)


def test_a_test_that_fails_with_ours_only_is_named() -> None:
    no_op = expected.of_results("29.0.0", [Result("m.C.one", "passed"), Result("m.C.two", "failed")])
    ours = [Result("m.C.one", "failed"), Result("m.C.two", "failed")]
    assert [result.test for result in no_op.wrong(ours)] == ["m.C.one"]
    assert [result.test for result in no_op.wrong([Result("m.C.one", "skipped")])] == ["m.C.one"]


@pytest.mark.parametrize(("neutron", "tests"), [("29.0.1", ["m.C.one"]), ("29.0.0", ["m.C.one", "m.C.two"])])
def test_a_list_of_another_neutron_is_refused(neutron: str, tests: list[str]) -> None:
    no_op = expected.of_results("29.0.0", [Result("m.C.one", "passed")])
    no_op.check("29.0.0", ["m.C.one"])
    with pytest.raises(expected.Outdated):
        no_op.check(neutron, tests)
