"""A port that is not ACTIVE has one sentence that says why, whichever layers answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowloom.cli.diagnosis import (
    AtAgent,
    Diagnosis,
    Facts,
    InNeutron,
    InStore,
    Reported,
    Unknown,
    diagnose,
)

ID = "1b2c"
NEUTRON = InNeutron(version=3, synced_version=3, status="ACTIVE", host="h1", vif_type="ovs")
DOWN = replace(NEUTRON, status="DOWN")
WAITING = replace(DOWN, synced_version=2, undone_seconds=12.0)
STORE = InStore(version=3, host="h1")
AGENT = AtAgent(version=3, confirmed=3, ofport=5)
REPORT = Reported(port_version=3, up=True)
SILENT = Unknown("does not exist")
ALL = Facts(ID, DOWN, STORE, True, AGENT, REPORT)


def states(diagnosis: Diagnosis) -> dict[str, str]:
    return {step.name: step.state for step in diagnosis.steps}


def test_active_port_has_every_step_done() -> None:
    diagnosis = diagnose(replace(ALL, neutron=NEUTRON))
    assert (diagnosis.verdict, diagnosis.why) == ("ACTIVE", "ACTIVE")
    assert set(states(diagnosis).values()) == {"done"}
    assert list(states(diagnosis)) == [
        "accepted", "bound", "store", "agent", "interface", "switch", "report", "ACTIVE",
    ]  # fmt: skip


CASES = {
    "switched off": (
        replace(ALL, neutron=replace(DOWN, admin_state_up=False)),
        "accepted",
        "it is switched off: admin_state_up is false",
    ),
    "unbound": (
        replace(ALL, neutron=replace(DOWN, host=""), store=replace(STORE, host="")),
        "bound",
        "it is not bound to a host: binding:host_id is empty",
    ),
    "unknown host": (
        replace(ALL, neutron=replace(DOWN, host="h9"), chassis=False),
        "bound",
        "no agent on host h9",
    ),
    "binding failed": (
        replace(ALL, neutron=replace(DOWN, vif_type="binding_failed")),
        "bound",
        "Neutron could not bind it to host h1: see its log",
    ),
    "binding under way": (
        replace(ALL, neutron=replace(DOWN, vif_type="unbound")),
        "bound",
        "Neutron has not yet bound it to host h1",
    ),
    "store silent": (
        replace(
            ALL,
            neutron=WAITING,
            store=SILENT,
            chassis=SILENT,
            agent=replace(AGENT, version=None, confirmed=0),
            report=SILENT,
        ),
        "store",
        "committed in Neutron at version 3; not yet in the store: the store does not answer (since 12 s)",
    ),
    "not in the store": (
        replace(ALL, neutron=WAITING, store=None, agent=replace(AGENT, version=None, confirmed=0), report=None),
        "store",
        "committed in Neutron at version 3; not yet in the store: waiting to be written (since 12 s)",
    ),
    "nobody writes it": (
        replace(ALL, neutron=WAITING, store=None, agent=replace(AGENT, version=None), report=None, recovery=SILENT),
        "store",
        "committed in Neutron at version 3; not yet in the store: waiting to be written (since 12 s); "
        "the recovery process does not answer",
    ),
    "rejected by the store": (
        replace(
            ALL,
            neutron=replace(WAITING, last_error="value too large"),
            store=None,
            agent=replace(AGENT, version=None),
            report=None,
        ),
        "store",
        "committed in Neutron at version 3; not yet in the store: waiting to be written (since 12 s); "
        "the last attempt met: value too large",
    ),
    "old in the store": (
        replace(ALL, neutron=WAITING, store=replace(STORE, version=2), agent=replace(AGENT, version=2, confirmed=2)),
        "store",
        "committed in Neutron at version 3; the store still has version 2: waiting to be written (since 12 s)",
    ),
    "lost by the store": (
        replace(ALL, store=None, agent=replace(AGENT, version=None, confirmed=0), report=None),
        "store",
        "committed in Neutron at version 3; not yet in the store, although Neutron wrote it: "
        "recovery will write it again",
    ),
    "agent silent": (
        replace(ALL, agent=SILENT, report=None),
        "agent",
        "the agent of h1 cannot be asked: does not exist",
    ),
    "agent starting": (
        replace(ALL, agent=replace(AGENT, version=None, confirmed=0, in_sync=False), report=None),
        "agent",
        "the agent of h1 is not in sync with the store",
    ),
    "agent without it": (
        replace(ALL, agent=replace(AGENT, version=None, confirmed=0), report=None),
        "agent",
        "the agent of h1 has not received it",
    ),
    "agent with an old one": (
        replace(ALL, agent=replace(AGENT, version=2, confirmed=2), report=None),
        "agent",
        "the agent of h1 still has version 2",
    ),
    "not plugged": (
        replace(ALL, agent=replace(AGENT, ofport=None, confirmed=0), report=None),
        "interface",
        "no interface with external_ids:iface-id=1b2c on h1",
    ),
    "plugged and broken": (
        replace(ALL, agent=replace(AGENT, ofport=None, interface_error="No such device", confirmed=0)),
        "interface",
        "the interface of h1 could not be brought up: No such device",
    ),
    "rule failed": (
        replace(ALL, agent=replace(AGENT, failed=("l2.unicast: no key",), confirmed=0), report=None),
        "switch",
        "the agent of h1 could not compute its flows: l2.unicast: no key",
    ),
    "flow refused": (
        replace(ALL, agent=replace(AGENT, refused=("table=LOOKUP …: OFPBAC_BAD_TYPE",), confirmed=0), report=None),
        "switch",
        "the switch of h1 refused a flow: table=LOOKUP …: OFPBAC_BAD_TYPE",
    ),
    "switch away": (
        replace(ALL, agent=replace(AGENT, connected=False, confirmed=0), report=None),
        "switch",
        "the switch of h1 is not connected to its agent",
    ),
    "switch busy": (
        replace(ALL, agent=replace(AGENT, confirmed=2), report=None),
        "switch",
        "the switch of h1 has not yet confirmed the flows of version 3",
    ),
    "not reported": (replace(ALL, report=None), "report", "the agent of h1 has not yet reported it"),
    "reported down": (
        replace(ALL, report=Reported(3, False, "carrier lost")),
        "report",
        "the agent of h1 reports it down: carrier lost",
    ),
    "old report": (
        replace(ALL, report=Reported(2, True)),
        "report",
        "the agent of h1 has reported version 2, not yet 3",
    ),
    "report unreadable": (
        replace(ALL, store=SILENT, report=SILENT),
        "report",
        "the store does not answer: does not exist",
    ),
    "not taken up": (ALL, "ACTIVE", "the agent of h1 reported it up; Neutron still says DOWN"),
    "nobody takes it up": (
        replace(ALL, recovery=SILENT),
        "ACTIVE",
        "the agent of h1 reported it up; Neutron still says DOWN; the recovery process does not answer",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_not_active_for_one_reason(case: str) -> None:
    facts, gap, why = CASES[case]
    diagnosis = diagnose(facts)
    assert (diagnosis.verdict, diagnosis.why) == ("not ACTIVE", why)
    names = [step.name for step in diagnosis.steps]
    before, at = diagnosis.steps[: names.index(gap)], diagnosis.steps[names.index(gap)]
    assert {step.state for step in before} <= {"done"}
    assert at.state in ("not done", "unknown")


@pytest.mark.parametrize("case", CASES)
def test_what_comes_behind_the_first_gap_is_no_fault_of_its_own(case: str) -> None:
    facts, gap, _ = CASES[case]
    steps = diagnose(facts).steps
    behind = steps[[step.name for step in steps].index(gap) + 1 :]
    assert "not done" not in {step.state for step in behind}


def test_silent_store_and_agent_are_passed_when_the_report_proves_it() -> None:
    diagnosis = diagnose(replace(ALL, agent=SILENT))
    assert diagnosis.why == "the agent of h1 reported it up; Neutron still says DOWN"
    assert states(diagnosis)["switch"] == "done"
    assert "as the report shows" in diagnosis.steps[3].note


def test_silent_store_is_passed_when_neutron_remembers_that_it_took_the_version() -> None:
    diagnosis = diagnose(
        replace(ALL, store=SILENT, report=SILENT, agent=replace(AGENT, version=None, in_sync=False, confirmed=0))
    )
    assert states(diagnosis)["store"] == "done"
    assert diagnosis.why == "the agent of h1 is not in sync with the store"


def test_silent_store_is_passed_when_the_agent_has_the_version() -> None:
    diagnosis = diagnose(replace(ALL, neutron=WAITING, store=SILENT, report=SILENT))
    assert states(diagnosis)["store"] == "done"


def test_active_in_neutron_names_what_no_longer_holds() -> None:
    diagnosis = diagnose(replace(ALL, neutron=NEUTRON, agent=replace(AGENT, ofport=None)))
    assert diagnosis.verdict == "ACTIVE"
    assert diagnosis.why == "ACTIVE in Neutron, but no interface with external_ids:iface-id=1b2c on h1"


def test_active_in_neutron_stays_active_when_nothing_else_answers() -> None:
    diagnosis = diagnose(Facts(ID, NEUTRON, SILENT, SILENT, SILENT, SILENT, SILENT))
    assert (diagnosis.verdict, diagnosis.why) == ("ACTIVE", "ACTIVE")


def test_silent_neutron_leaves_it_open_whether_a_port_that_is_up_is_active() -> None:
    diagnosis = diagnose(replace(ALL, neutron=SILENT))
    assert diagnosis.verdict == "unknown"
    assert diagnosis.why == "reported up, but Neutron cannot be asked: does not exist"


def test_silent_neutron_does_not_hide_a_gap() -> None:
    diagnosis = diagnose(replace(ALL, neutron=SILENT, agent=replace(AGENT, ofport=None), report=None))
    assert diagnosis.verdict == "not ACTIVE"
    assert diagnosis.why.startswith("no interface with")


@pytest.mark.parametrize(
    ("neutron", "store", "why"),
    [
        (None, None, "Neutron has no port 1b2c"),
        (None, STORE, "Neutron has no port 1b2c; the store still holds version 3"),
        (None, SILENT, "Neutron has no port 1b2c"),
        (
            replace(DOWN, version=4, deleted=True),
            STORE,
            "deleted in Neutron at version 4; the store still holds version 3",
        ),
        (replace(DOWN, version=4, deleted=True), replace(STORE, deleted=True), "deleted in Neutron at version 4"),
        (SILENT, None, "the store has no port 1b2c; Neutron: does not exist"),
        (SILENT, replace(STORE, deleted=True), "the store holds a tombstone of it, version 3"),
    ],
)
def test_no_such_port(neutron: InNeutron | Unknown | None, store: InStore | Unknown | None, why: str) -> None:
    diagnosis = diagnose(replace(ALL, neutron=neutron, store=store))
    assert (diagnosis.verdict, diagnosis.why, diagnosis.steps) == ("no such port", why, ())


def test_nobody_who_could_know_it_answers() -> None:
    diagnosis = diagnose(replace(ALL, neutron=SILENT, store=Unknown("timed out")))
    assert (diagnosis.verdict, diagnosis.why) == ("unknown", "Neutron: does not exist; the store: timed out")


versions = st.integers(1, 3)
everything = st.builds(
    Facts,
    id=st.just(ID),
    neutron=st.one_of(
        st.none(),
        st.just(SILENT),
        st.builds(
            InNeutron,
            version=versions,
            synced_version=versions,
            status=st.sampled_from(["ACTIVE", "DOWN", "BUILD"]),
            host=st.sampled_from(["", "h1"]),
            vif_type=st.sampled_from(["ovs", "unbound", "binding_failed"]),
            undone_seconds=st.none() | st.just(4.0),
        ),
    ),
    store=st.one_of(
        st.none(), st.just(SILENT), st.builds(InStore, versions, st.sampled_from(["", "h1"]), st.booleans())
    ),
    chassis=st.sampled_from([True, False, SILENT]),
    agent=st.just(SILENT)
    | st.builds(
        AtAgent,
        in_sync=st.booleans(),
        version=st.none() | versions,
        confirmed=st.integers(0, 3),
        ofport=st.none() | st.just(5),
        connected=st.booleans(),
        refused=st.sampled_from([(), ("f: e",)]),
    ),
    report=st.one_of(st.none(), st.just(SILENT), st.builds(Reported, versions, st.booleans())),
    recovery=st.sampled_from([None, SILENT]),
)


@given(everything)
def test_whatever_is_known_there_is_one_sentence_and_neutron_decides_the_verdict(facts: Facts) -> None:
    diagnosis = diagnose(facts)
    assert diagnosis.why
    assert "\n" not in diagnosis.why
    if isinstance(facts.neutron, InNeutron) and not facts.neutron.deleted:
        assert diagnosis.verdict == ("ACTIVE" if facts.neutron.status == "ACTIVE" else "not ACTIVE")
    else:
        assert diagnosis.verdict != "ACTIVE"
    first = next((step for step in diagnosis.steps if step.state != "done"), None)
    if diagnosis.verdict == "not ACTIVE":
        assert first is not None
        assert first.note in diagnosis.why
