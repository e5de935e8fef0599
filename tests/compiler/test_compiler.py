"""Incremental equals full recompute, whatever happened in whatever order; and the tests would notice."""

from __future__ import annotations

import itertools
from random import Random

import pytest
from worlds import SETTINGS, compiler, fresh, play

from flowloom.apps.release import apps
from flowloom.compiler.compiler import Compiler
from flowloom.compiler.unit import App, Rule
from flowloom.model.records import Chassis, FixedIP, Interface, Network, Port, Subnet
from flowloom.testing.histories import SITE, history

HISTORIES = 10_000
SHARDS = 8


@pytest.mark.parametrize("shard", range(SHARDS))
def test_incremental_equals_full_recompute_over_random_histories(shard: int) -> None:
    steps = sum(play(seed, batches=8) for seed in range(shard, HISTORIES, SHARDS))
    assert steps > HISTORIES // SHARDS


def test_long_histories_leave_no_note_and_no_flow_behind() -> None:
    for seed in range(20):
        play(100_000 + seed, batches=150)


def test_every_permutation_of_the_same_facts_gives_the_same_flows() -> None:
    facts = [
        Network(id="n0", version=1, key=1, segmentation_id=10),
        Subnet(id="s0", version=1, network_id="n0", cidr="10.0.0.0/24", gateway_ip="10.0.0.1"),
        Chassis(id="h1", version=1, key=101, tunnel_ip="192.168.50.2"),
        Port(id="p0", version=1, key=1, network_id="n0", mac_address="fa:16:3e:00:00:01",
             fixed_ips=(FixedIP("s0", "10.0.0.5"),), host=SITE),
        Port(id="p1", version=1, key=2, network_id="n0", mac_address="fa:16:3e:00:00:01",
             fixed_ips=(FixedIP("s0", "10.0.0.5"),), host="h1"),
        Interface(id="p0", ofport=1),
    ]  # fmt: skip
    results = []
    for order in itertools.permutations(facts):
        made = compiler()
        for record in order:
            made.merge([(type(record), record.id, record)])
            made.work()
        results.append(made.ledger.desired)
    assert results[0]
    assert all(result == results[0] for result in results)


class ForgetsOldReaders(Compiler):
    """Never strikes a unit out of a question it no longer asks... and of all the others too."""

    def _forget(self, unit, reads):  # type: ignore[no-untyped-def]
        for readers in unit.reads:
            readers.discard(unit)


class KeepsDeadReaders(Compiler):
    def _forget(self, unit, reads):  # type: ignore[no-untyped-def]
        pass


class KeepsOrphans(Compiler):
    """Facts of a record that is gone stay."""

    def _run(self, n, id):  # type: ignore[no-untyped-def]
        if id in self._shelves[self._rules[n].kind].rows:
            super()._run(n, id)


class ForgetsNewReaders(Compiler):
    """A unit that runs again is not noted under the questions it newly asks."""

    def _run(self, n, id):  # type: ignore[no-untyped-def]
        unit = self._units[n].get(id)
        before = unit.reads if unit else None
        super()._run(n, id)
        unit = self._units[n].get(id)
        if before is not None and unit is not None:
            for readers in unit.reads:
                if not any(readers is old for old in before):
                    readers.discard(unit)


class IgnoresScopes(Compiler):
    def _scope_moved(self, site, value):  # type: ignore[no-untyped-def]
        pass


@pytest.mark.parametrize(
    "mutant", [ForgetsOldReaders, KeepsDeadReaders, KeepsOrphans, ForgetsNewReaders, IgnoresScopes]
)
def test_a_broken_compiler_is_caught(mutant: type[Compiler]) -> None:
    with pytest.raises(AssertionError):
        sum(play(seed, batches=12, kind=mutant) for seed in range(300))


def test_failing_open_is_caught() -> None:
    """A rule that lets a port of an unknown network talk differs from the release's own, and is noticed."""
    from flowloom.pipeline.layout import CLASSIFY, GUARD, IN_KEY, IN_PORT, Priority

    def local_port(port, view):  # type: ignore[no-untyped-def]
        ofport = view.pick(Interface, port.id, "ofport")
        if ofport is not None:
            yield CLASSIFY.flow(IN_PORT.eq(ofport), then=(IN_KEY.load(port.key), GUARD.goto), priority=Priority.PORT)

    release = apps(SETTINGS)
    open_rule = Rule(10, Port, local_port, release[0].rules[0].scope)
    opened = (App("switching", (open_rule, *release[0].rules[1:])), *release[1:])
    port = Port(id="p0", version=1, key=1, network_id="nowhere", mac_address="fa:16:3e:00:00:01", host=SITE)
    for which, may_enter in ((release, False), (opened, True)):
        made = Compiler(which, SITE)
        made.load([port, Interface(id="p0", ofport=5)])
        made.work()
        enters = [key for key in made.ledger.desired if key[:2] == bytes((0, CLASSIFY.number))]
        assert bool(enters) == may_enter


def cloud(ports: int) -> tuple[Compiler, Port]:
    """`ports` ports in networks of 100, 20 a host at random; and one to add elsewhere in a local network."""
    random = Random(1)
    hosts = [f"h{n // 20}" for n in range(ports)]
    random.shuffle(hosts)
    made = compiler()
    records: list = [
        Chassis(id=f"h{n}", version=1, key=n + 1, tunnel_ip=f"10.{n >> 8}.{n & 255}.1") for n in range(ports // 20)
    ]
    for n in range(ports):
        network = f"n{n // 100}"
        if n % 100 == 0:
            records.append(Network(id=network, version=1, key=n // 100 + 1, segmentation_id=n // 100 + 1))
            records.append(Subnet(id=f"s{n // 100}", version=1, network_id=network, cidr="10.0.0.0/24"))
        records.append(
            Port(id=f"p{n}", version=1, key=n + 1, network_id=network, mac_address=f"fa:16:3e:00:{n >> 8:02x}:{n & 255:02x}",
                 fixed_ips=(FixedIP(f"s{n // 100}", f"10.0.0.{n % 100 + 10}"),), host=hosts[n])
        )  # fmt: skip
        if hosts[n] == SITE:
            records.append(Interface(id=f"p{n}", ofport=n + 1))
    made.load(records)
    made.work()
    local = next(p for p in made.records(Port) if p.host == SITE)
    added = Port(id="new", version=1, key=99_999, network_id=local.network_id, mac_address="fa:16:3e:ff:00:01",
                 fixed_ips=(FixedIP("s0", "10.0.0.250"),), host="h1")  # fmt: skip
    return made, added


def test_the_work_of_one_change_does_not_grow_with_the_cloud() -> None:
    runs = {}
    for ports in (1_000, 5_000):
        made, port = cloud(ports)
        before = made.runs
        made.merge([(Port, port.id, port)])
        made.work()
        runs[ports] = made.runs - before
        made.merge([(Port, port.id, None)])
        made.work()
        assert made.ledger.desired == made.oracle()
    assert runs[1_000] == runs[5_000] <= 12


def test_a_change_in_a_network_without_local_ports_touches_no_flow() -> None:
    made, _ = cloud(1_000)
    here = {p.network_id for p in made.records(Port) if p.host == SITE}
    far = Port(id="far", version=1, key=99_998, network_id="nowhere-local", mac_address="fa:16:3e:ff:00:02", host="h1")
    assert far.network_id not in here
    before = dict(made.ledger.desired)
    made.merge([(Port, far.id, far)])
    made.work()
    assert made.ledger.desired == before


def test_why_names_app_records_and_versions() -> None:
    made = compiler()
    made.load([
        Network(id="n0", version=7, key=1, segmentation_id=10),
        Chassis(id="h1", version=9, key=101, tunnel_ip="192.168.50.2"),
        Port(id="p0", version=3, key=1, network_id="n0", mac_address="fa:16:3e:00:00:01", host=SITE),
        Port(id="p1", version=4, key=2, network_id="n0", mac_address="fa:16:3e:00:00:02", host="h1"),
    ])  # fmt: skip
    made.work()
    causes = [cause for key in made.ledger.desired for cause in made.why(key) if cause.rule == "unicast"]
    remote = next(cause for cause in causes if cause.id == "p1")
    assert remote.app == "switching"
    assert remote.version == 4
    assert set(remote.reads) == {("port", "p1", 4), ("network", "n0", 7), ("chassis", "h1", 9)}


def test_a_rule_that_fails_is_named_and_the_rest_is_compiled() -> None:
    made = compiler()
    made.load([
        Network(id="n0", version=1, key=1, segmentation_id=10),
        Port(id="bad", version=1, key=1, network_id="n0", mac_address="not a mac", host=SITE),
        Port(id="good", version=1, key=2, network_id="n0", mac_address="fa:16:3e:00:00:02", host=SITE),
    ])  # fmt: skip
    made.work()
    assert {failure.id for failure in made.failures.values()} == {"bad"}
    assert any(cause.id == "good" for key in made.ledger.desired for cause in made.why(key))
    assert made.ledger.desired == made.oracle()
    mended = Port(id="bad", version=2, key=1, network_id="n0", mac_address="fa:16:3e:00:00:01", host=SITE)
    made.merge([(Port, "bad", mended)])
    made.work()
    assert not made.failures
    assert made.ledger.desired == made.oracle() == fresh({0: mended, **{
        r.id: r for k in (Network, Port) for r in made.records(k) if r.id != "bad"}}, Random(1)).ledger.desired  # fmt: skip


def test_sweep_forgets_questions_about_things_that_are_gone() -> None:
    made = compiler()
    for batch in history(Random(5), 200):
        made.merge(batch)
        made.work()
    made.merge([(kind, record.id, None) for kind in (Port, Network, Subnet, Chassis, Interface)
                for record in list(made.records(kind))])  # fmt: skip
    made.work()
    assert made.ledger.desired == {}
    made.sweep()
    assert made.questions() == made.noted() == 0
    assert made.sweep() == 0
