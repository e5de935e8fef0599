"""What `flowloom port show` prints, and how it exits."""

from __future__ import annotations

from dataclasses import replace

from flowloom.cli.diagnosis import AtAgent, Facts, InNeutron, InStore, Reported, Unknown, diagnose
from flowloom.cli.port import show

UP = Facts(
    id="1b2c",
    neutron=InNeutron(version=3, synced_version=3, status="ACTIVE", host="h1", vif_type="ovs"),
    store=InStore(version=3, host="h1"),
    chassis=True,
    agent=AtAgent(version=3, confirmed=3, ofport=5),
    report=Reported(port_version=3, up=True),
)
CUT_OFF = Facts(
    id="1b2c",
    neutron=InNeutron(version=1, synced_version=0, host="h1", vif_type="ovs", undone_seconds=12.0),
    store=Unknown("timed out"),
    chassis=Unknown("timed out"),
    agent=AtAgent(),
    report=Unknown("timed out"),
)


def test_active_port() -> None:
    assert show(diagnose(UP)) == (
        "port 1b2c\n"
        "ACTIVE\n"
        "\n"
        "STEP       STATE  VERSION  NOTE\n"
        "accepted   done         3  committed in Neutron\n"
        "bound      done         -  to host h1\n"
        "store      done         3  holds it\n"
        "agent      done         3  has the record\n"
        "interface  done         -  OpenFlow port 5\n"
        "switch     done         3  confirmed its flows\n"
        "report     done         3  up\n"
        "ACTIVE     done         -  status in Neutron\n"
    )


def test_port_that_waits_for_the_store() -> None:
    assert show(diagnose(CUT_OFF)) == (
        "port 1b2c\n"
        "not ACTIVE: committed in Neutron at version 1; not yet in the store: the store does not answer (since 12 s)\n"
        "\n"
        "STEP       STATE    VERSION  NOTE\n"
        "accepted   done           1  committed in Neutron\n"
        "bound      done           -  to host h1\n"
        "store      unknown        -  not yet in the store: the store does not answer (since 12 s)\n"
        "agent      waits          -  -\n"
        "interface  waits          -  no interface with external_ids:iface-id=1b2c on h1\n"
        "switch     waits          0  -\n"
        "report     unknown        -  the store does not answer: timed out\n"
        "ACTIVE     waits          -  -\n"
    )


def test_active_port_with_something_lost_since_says_so_on_one_line() -> None:
    text = show(diagnose(replace(UP, agent=replace(AtAgent(version=3, confirmed=3), ofport=None))))
    assert text.splitlines()[1] == "ACTIVE in Neutron, but no interface with external_ids:iface-id=1b2c on h1"


def test_port_that_does_not_exist() -> None:
    assert show(diagnose(replace(UP, neutron=None, store=None))) == (
        "port 1b2c\nno such port: Neutron has no port 1b2c\n"
    )
