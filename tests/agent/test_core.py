"""The agent's core: when flows move, what is said of ports, and what faults do not do."""

from __future__ import annotations

from random import Random

from one_host import WORLD, Host, key_for, network, port, running, subnet

from flowloom.agent.events import FollowStore, OpenSwitch, ReadSwitch, SendBatch
from flowloom.agent.ports import ADMIN_DOWN, NO_INTERFACE, NO_NETWORK, NO_SWITCH, WAITING
from flowloom.model.codec import encode
from flowloom.model.records import PortStatus, Record, node_version
from flowloom.northbound.bus import Gone
from flowloom.northbound.pointer import Pointer, pointer_key, write_of
from flowloom.northbound.requests import ReadPrefix
from flowloom.northbound.store import Write
from flowloom.openflow import facts
from flowloom.openflow.match import match
from flowloom.southbound.interfaces import Lost, Plugged, Snapshot
from flowloom.testing.fake_store import MemoryDatabase

FOREIGN = (facts.flow_key(0, 7, match([])), bytes(8))
STATUS = "/lab/-/h1/port_status/p1"


def test_nothing_is_sent_before_records_and_interfaces_are_known() -> None:
    former = running()
    held = dict(former.switch.facts)
    assert held
    host = Host(epoch=2000, switch=former.switch, database=former.database)
    host.wait(10)
    assert host.follower.in_sync
    assert host.switch.facts == held and not host.batches, "the interfaces are not known yet"
    host.snapshot(Plugged("p1", "vif-p1", 5))
    assert host.switch.facts == held and host.exact()
    assert not host.batches, "nothing differs, so nothing is sent"


def test_with_the_store_away_at_the_start_the_switch_is_left_as_it_is() -> None:
    former = running()
    held = dict(former.switch.facts)
    host = Host(epoch=2000, switch=former.switch, hold={ReadPrefix})
    host.snapshot(Plugged("p1", "vif-p1", 5))
    host.tell(network(), port(1))
    host.wait(50)
    assert host.switch.facts == held and not host.batches


def test_another_store_with_the_same_records_moves_no_flow_and_gets_the_own_records() -> None:
    host = running()
    host.wait(5)
    held, former = dict(host.switch.facts), host.status("p1")
    assert former is not None
    host.batches.clear()
    pointer = Pointer(1, "etcd://there", "cloud")
    host.store.apply([write_of("lab", pointer)])
    host.event(Gone("a notice was missed"))
    host.wait(5)
    assert host.followed == [FollowStore(pointer)] and not host.core.inlet.bad
    there = MemoryDatabase(Random(77))
    there.open().apply([Write(*entry) for entry in host.database.entries()])
    host.database, host.store = there, there.open()
    host.event(Gone("the deployment moved"))
    host.wait(5)
    now = host.status("p1")
    assert now is not None and now.version > former.version and now.port_version == former.port_version
    host.tell(port(3))
    host.wait(5)
    assert len(host.batches) == 1, "for the new port alone"
    assert {key: host.switch.facts[key] for key in held} == held


def test_a_pointer_that_cannot_be_read_is_named() -> None:
    host = running()
    host.store.apply([Write(pointer_key("lab"), 3, b"{")])
    host.event(Gone("a notice was missed"))
    host.wait(5)
    assert host.followed == [] and "this is no pointer" in host.core.inlet.bad[pointer_key("lab")]


def test_nothing_is_sent_before_all_is_compiled_once() -> None:
    host = Host()
    host.tell(network(), subnet(), *(port(n) for n in range(1, 50)))
    host.event(Snapshot([Plugged("p1", "vif-p1", 5)]))
    host.perform(host.core.work(lambda: True, host.now))
    assert host.core.busy and not host.batches
    host.work()
    assert host.exact()


def test_flows_are_installed_once_all_is_known() -> None:
    host = running()
    assert host.exact() and len(host.switch.facts) > 5


def test_what_a_former_life_left_behind_goes_and_foreign_facts_stay() -> None:
    former = running()
    former.tell(port(3, host="h1"))
    former.plug("p3", 6)
    former.switch.hold([FOREIGN])
    host = Host(epoch=2000, switch=former.switch)
    host.tell(*WORLD)
    host.snapshot(Plugged("p1", "vif-p1", 5))
    assert host.switch.facts == host.core.compiler.oracle() | dict([FOREIGN])


def test_deletes_wait_until_nothing_is_undone() -> None:
    host = running()
    host.say(*(a_write(port(n, host="h2")) for n in range(10, 200)), Write(key_for(port(2)), 2, None))
    host.perform(host.core.work(lambda: True, host.now))
    assert host.core.busy and host.core.compiler.ledger.gap, "the removed port has been compiled, others not"
    assert not any(sent.batch.deletes for sent in host.batches)
    host.work()
    assert host.exact() and any(sent.batch.deletes for sent in host.batches)


def test_a_port_is_not_confirmed_by_a_batch_that_was_cut_before_it_was_compiled() -> None:
    host = running()
    host.plug("p3", 6)
    host.say(a_write(port(3)), *(a_write(port(n, host="h2")) for n in range(10, 200)))
    while host.core.busy:
        host.perform(host.core.work(lambda: True, host.now))
        if host.core.busy:
            assert host.status("p3") is None
    host.work()
    assert host.status("p3") is not None


def test_at_most_one_batch_is_under_way() -> None:
    host = running()
    host.hold.add(SendBatch)
    host.tell(port(3, host="h2"))
    host.tell(port(4, host="h2"))
    assert len(host.held) == 1
    host.release()
    assert host.exact()


def test_a_port_is_up_when_plugged_and_confirmed() -> None:
    host = running()
    said = host.status("p1")
    assert said is not None and said.up and said.port_version == 1 and said.reason == "" and said.chassis == "h1"
    assert host.status("p2") is None, "another chassis speaks of it"


def test_a_port_is_not_up_before_the_switch_confirmed() -> None:
    host = running()
    host.hold.add(SendBatch)
    host.tell(port(3))
    host.plug("p3", 6)
    host.wait(1)
    assert host.status("p3") is None
    host.wait(5)
    said = host.status("p3")
    assert said is not None and not said.up and said.reason == WAITING and said.port_version == 0
    host.release()
    said = host.status("p3")
    assert said is not None and said.up and said.port_version == 1


def test_a_new_version_is_reported_when_confirmed_and_the_port_does_not_flap() -> None:
    host = running()
    before = host.writes
    host.tell(port(1, version=9, name="renamed"))
    said = host.status("p1")
    assert said is not None and said.up and said.port_version == 9
    assert host.writes == before + 1


def test_reasons_are_in_plain_words() -> None:
    host = running()
    reason = lambda: (host.status("p1") or PortStatus(id="", version=0, chassis="")).reason  # noqa: E731
    host.tell(port(1, version=2, admin_state_up=False))
    assert reason() == ADMIN_DOWN
    host.tell(port(1, version=3))
    host.plug("p1", None)
    assert reason() == NO_INTERFACE
    host.plug("p1", None, error="could not open network device vif1 (No such device)")
    assert reason() == "interface vif-p1: could not open network device vif1 (No such device)"
    host.plug("p1", 5)
    assert reason() == ""
    host.untell(network(), version=4)
    assert reason() == NO_NETWORK
    host.tell(network(version=5))
    assert reason() == ""


def test_a_refused_flow_keeps_its_port_down_and_everything_else_is_installed() -> None:
    host = running()
    wanted = dict(host.switch.facts)
    ours = next(
        key for key in wanted if "p1" in str(host.core.compiler.why(key)) and key[0] == facts.FLOW and key[1] == 0
    )
    host.switch.refuse[ours] = "OFPFMFC_TABLE_FULL"
    host.switch.restart()
    host.wait(3)
    assert host.switch.facts == {key: value for key, value in wanted.items() if key != ours}
    said = host.status("p1")
    assert said is not None and not said.up and said.reason.startswith("flow refused: OFPFMFC_TABLE_FULL: CLASSIFY")
    assert any("OFPFMFC_TABLE_FULL" in line and "port p1" in line for line in host.logs)
    writes, batches = host.writes, len(host.batches)
    host.wait(200)
    assert len(host.batches) > batches and host.writes == writes, "audits try again, and the port does not flap"
    del host.switch.refuse[ours]
    host.wait(100)
    said = host.status("p1")
    assert said is not None and said.up and host.exact()


def test_a_port_that_goes_elsewhere_leaves_a_tombstone() -> None:
    host = running()
    host.tell(port(1, version=2, host="h2"))
    entries = host.database.entries(STATUS)
    assert len(entries) == 1 and entries[0].value is None
    host.tell(port(1, version=3, host="h1"))
    said = host.status("p1")
    assert said is not None and said.up and said.port_version == 3


def test_a_restart_does_not_flap_a_port_and_clears_what_is_no_longer_here() -> None:
    former = running()
    former.tell(port(3))
    found = former.status("p1"), former.status("p3")
    assert all(found)
    former.switch.answers = False
    former.untell(port(3), version=2)
    former.database.open().apply([a_write(found[1])])  # As if it had been killed before it took that back.
    host = Host(epoch=2000, switch=former.switch, database=former.database)
    host.snapshot(Plugged("p1", "vif-p1", 5))
    assert host.status("p1") == found[0], "nothing is known better yet"
    host.switch.answers = True
    host.wait(2)
    assert host.status("p1") == found[0], "not written again: it is as it was"
    assert host.status("p3") is None


def test_a_status_is_written_again_until_the_store_has_it() -> None:
    host = running()
    host.database.available = False
    host.tell(port(1, version=2))
    host.wait(30)
    attempts = host.writes
    assert 5 < attempts < 60, "with back-off"
    host.tell(port(1, version=3))
    host.database.available = True
    host.wait(15)
    said = host.status("p1")
    assert said is not None and said.port_version == 3, "the newest only"


def test_a_status_goes_above_a_newer_version_of_a_former_life() -> None:
    ahead = running(epoch=5000)
    host = Host(epoch=1000, switch=ahead.switch, database=ahead.database)
    host.tell(port(1, version=2))
    host.snapshot(Plugged("p1", "vif-p1", 5))
    host.wait(1)
    said = host.status("p1")
    assert said is not None and said.port_version == 2 and said.version > node_version(5000, 0)


def test_a_restarted_switch_gets_its_flows_back_without_help() -> None:
    host = running()
    host.switch.restart()
    host.wait(3)
    assert host.exact() and len(host.switch.facts) > 5


def test_a_batch_whose_outcome_was_lost_is_settled_by_reading() -> None:
    for after in (False, True):
        host = running()
        host.switch.lose_in_apply = after
        host.tell(port(3))
        host.wait(3)
        assert host.exact()


def test_a_switch_that_stays_away_is_reported_and_its_return_too() -> None:
    host = running()
    host.hold.add(OpenSwitch)
    host.switch.lose("gone")
    host.wait(1)
    said = host.status("p1")
    assert said is not None and said.up, "a moment's absence is not reported"
    host.wait(5)
    said = host.status("p1")
    assert said is not None and said.reason == NO_SWITCH
    host.release()
    said = host.status("p1")
    assert said is not None and said.up


def test_a_lost_database_changes_nothing() -> None:
    host = running()
    held = dict(host.switch.facts)
    host.event(Lost("ovsdb-server went away"))
    host.wait(5)
    assert host.switch.facts == held
    host.tell(port(2, version=2, host="h2", mac_address="fa:16:3e:00:00:99"))
    assert host.exact() and host.switch.facts != held
    host.snapshot()
    said = host.status("p1")
    assert said is not None and said.reason == NO_INTERFACE


def test_an_audit_repairs_and_counts_what_was_changed_behind_our_back() -> None:
    host = running()
    wanted = dict(host.switch.facts)
    victim = next(key for key in wanted if key[0] == facts.FLOW)
    host.switch.hold([FOREIGN, (facts.flow_key(1, 9, match([])), b"\xf1\x00" + bytes(6))])
    host.switch._remove_flow(victim)
    host.wait(100)
    assert host.switch.facts == wanted | dict([FOREIGN])
    assert host.core.installing.drift_repaired == 2


def test_a_check_changes_nothing() -> None:
    host = running()
    victim = next(key for key in host.switch.facts if key[0] == facts.FLOW)
    host.switch._remove_flow(victim)
    seen = []
    host.core.check(seen.append)
    host.wait(1)
    assert len(seen) == 1 and victim not in seen[0]
    assert victim not in host.switch.facts


def test_a_batch_is_not_sent_while_the_switch_is_read() -> None:
    host = running()
    host.hold.add(ReadSwitch)
    host.wait(100)
    assert len(host.held) == 1
    before = len(host.batches)
    host.tell(port(3))
    assert len(host.batches) == before
    host.release()
    assert host.exact()


def test_one_of_two_interfaces_of_a_port_serves_it() -> None:
    host = running()
    host.event(Plugged("p1", "vif-0", 9))
    host.work()
    assert host.core.ports.interface("p1") is not None
    interface = host.core.ports.interface("p1")
    assert interface is not None and interface.ofport == 9
    host.event(Plugged("p1", "vif-0", None))
    host.work()
    interface = host.core.ports.interface("p1")
    assert interface is not None and interface.ofport == 5 and host.exact()


def test_a_lost_store_changes_nothing() -> None:
    host = running()
    held = dict(host.switch.facts)
    host.database.available = False
    host.event(Gone("connection reset"))
    host.wait(100)
    assert host.switch.facts == held and host.core.store_why
    host.database.available = True
    host.wait(20)
    assert not host.core.store_why and host.exact()


def test_an_unreadable_record_is_named_and_everything_else_goes_on() -> None:
    host = running()
    key = key_for(port(3))
    host.say(Write(key, 1, b'{"schema":99,"kind":"port"}'), Write(key_for(port(4)), 1, b"\xff"), a_write(port(5)))
    host.plug("p5", 9)
    said = host.status("p5")
    assert said is not None and said.up and host.exact()
    assert host.core.inlet.bad[key] == "schema 99 is newer than this release's 1; upgrade this node"
    assert host.core.inlet.bad_count == 2
    host.tell(port(3, version=2))
    assert list(host.core.inlet.bad) == [key_for(port(4))]


def test_statuses_of_other_chassis_are_passed_over_unread() -> None:
    host = running()
    host.say(Write("/lab/-/h2/port_status/p1", 1, b"not a record"))
    host.work()
    assert not host.core.inlet.bad


def test_a_status_deleted_by_somebody_else_is_written_again() -> None:
    host = running()
    version = host.database.entries(STATUS)[0].version
    host.say(Write(STATUS, version + 5, None))
    host.work()
    said = host.status("p1")
    assert said is not None and said.up and said.version > version + 5


def a_write(record: Record) -> Write:
    return Write(key_for(record), record.version, encode(record))


def test_own_records_return_soon_after_the_store_was_wiped_and_flows_stay() -> None:
    host = running()
    host.wait(1)
    flows = dict(host.switch.facts)
    assert flows and host.status("p1") is not None
    host.database.wipe()
    host.wait(46)
    assert host.status("p1") is not None and host.database.entries("/lab/-/h1/chassis/")
    assert host.switch.facts == flows, "Neutron's records are for Neutron's side to bring back; nothing is deleted"
    assert any("the store is another one" in line for line in host.logs)
    writes = host.writes
    host.wait(400)
    assert host.writes == writes
    assert host.switch.facts == flows, "not after the grace time either: the store holds nothing but nodes' own words"


def test_own_records_of_an_old_copy_of_the_store_are_written_over() -> None:
    host = running()
    host.wait(1)
    copy = host.database.copy()
    host.untell(WORLD[3], 2)
    host.wait(1)
    assert host.status("p1") is None
    host.database.restore(copy)
    assert host.status("p1") is not None
    host.wait(46)
    assert host.status("p1") is None
