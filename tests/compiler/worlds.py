"""Shared steps of the compiler's tests: run a history, and hold every equality that must hold after it."""

from __future__ import annotations

from random import Random

from flowloom.apps.release import AppSettings, apps
from flowloom.apps.switching import TunnelPorts
from flowloom.compiler.compiler import Compiler
from flowloom.pipeline.check import check
from flowloom.southbound.switch import Refusal
from flowloom.testing.histories import SITE, history

SETTINGS = AppSettings(SITE, TunnelPorts(geneve=900, vxlan=901))


def compiler(kind: type[Compiler] = Compiler) -> Compiler:
    return kind(apps(SETTINGS), SITE)


def fresh(world: dict, random: Random) -> Compiler:
    """A compiler that sees the same records for the first time, in another order."""
    records = list(world.values())
    random.shuffle(records)
    made = compiler()
    made.load(records)
    made.work()
    return made


def play(seed: int, batches: int, kind: type[Compiler] = Compiler) -> int:
    """One random history against an incremental compiler and a pretended switch; how many steps held.

    Bundles are lost or refused at random, and work is cut into slices that other changes come between.
    """
    random = Random(seed)
    made, world, switch = compiler(kind), {}, {}
    made.ledger.installed(switch)
    steps = 0
    for batch in history(random, batches):
        for k, i, record in batch:
            if record is None:
                world.pop((k, i), None)
            else:
                world[k, i] = record
        made.merge(batch)
        if random.random() < 0.3:
            made.work(lambda: True)
            continue  # The next batch comes while work is undone.
        made.work()
        assert made.backlog == 0
        wanted = made.oracle()
        assert made.ledger.desired == wanted, seed
        send(made, switch, random)
        steps += 1
    made.work()
    again = fresh(world, random)
    assert made.ledger.desired == made.oracle() == again.ledger.desired == again.oracle(), seed
    assert made.noted() == made.questions() == again.noted(), seed
    while send(made, switch, Random(1), lossless=True):
        pass
    assert switch == made.ledger.desired, seed
    for key, value in switch.items():
        assert not check(key, value), seed
    return steps


def send(made: Compiler, switch: dict, random: Random, *, lossless: bool = False) -> bool:
    """Cut one batch and let the pretended switch do it, refuse a part of it, or go away in the middle."""
    cut = made.ledger.batch(random.choice((3, 1000)), hold_deletes=random.random() < 0.3 and not lossless)
    if cut is None:
        return False
    batch, ticket = cut
    refused = set()
    if not lossless and random.random() < 0.1:
        refused = {key for key, _ in batch.puts if random.random() < 0.3}
    for key in batch.deletes:
        switch.pop(key, None)
    for key, value in batch.puts:
        if key not in refused:
            switch[key] = value
    if not lossless and random.random() < 0.1:
        made.ledger.lost()
        made.ledger.installed(switch)
    else:
        made.ledger.confirmed(ticket, [Refusal(key, "OFPBMC_BAD_VALUE") for key in refused])
        if refused:  # What is refused is not sent again until it changes, or the switch is read afresh.
            again = made.ledger.batch(10_000, hold_deletes=False)
            assert again is None or not refused & again[1].sent.keys()
            made.ledger.lost()
            made.ledger.installed(switch)
    return True
