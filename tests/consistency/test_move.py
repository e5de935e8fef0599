"""The move from one store to another: nothing is lost whoever writes, dies or goes away at whatever moment."""

from __future__ import annotations

import contextlib
from random import Random

import pytest
from move_world import DEPLOYMENT, A, Agent, B, C, Killed, MoveWorld, settings
from recovery_world import OPTIONS, World

from flowloom.consistency.lease import LEASE_SECONDS
from flowloom.consistency.operations import Operations
from flowloom.consistency.place import Step
from flowloom.consistency.recovery import RecoveryCore
from flowloom.consistency.table import Ref
from flowloom.kernel.errors import Misconfigured, Rejected, Unavailable
from flowloom.model.keys import key_of
from flowloom.neutron.link import NorthboundLink
from flowloom.northbound.keys import claim_key, claims_prefix
from flowloom.northbound.pointer import Pointer, pointer_key, pointer_of, write_of
from flowloom.northbound.store import Entry, Write


@pytest.fixture
def world() -> MoveWorld:
    return filled(MoveWorld())


def filled(world: MoveWorld, objects: int = 40) -> MoveWorld:
    world.fill(objects)
    for agent in world.agents:
        agent.turn()
    return world


def pointer(world: MoveWorld, url: str) -> Pointer | None:
    return pointer_of(world.databases[url].open().get([pointer_key(DEPLOYMENT)])[0])


def test_a_move_leaves_everything_in_the_target_and_everybody_there(world: MoveWorld) -> None:
    claim_key(world.open(A), DEPLOYMENT, "chassis", "a host that is switched off")
    before, claims = world.marks(A), world.databases[A].entries(claims_prefix(DEPLOYMENT))
    mover = world.begin(B)
    told = mover.ask({"ask": "move status"})
    assert (told["step"], told["generation"], told["in_force"], told["by"]) == ("copying", 0, A, "anna")
    move = world.finish(mover, world.settle)
    assert move.step is Step.DONE and move.progress.why == "40 objects equal; 2 of 2 chassis write there"
    assert world.in_force == B and world.marks(B) == before
    assert world.databases[B].entries(claims_prefix(DEPLOYMENT)) == claims
    assert pointer(world, A) == pointer(world, B) == Pointer(1, B, world.places.place().cloud)
    world.change("o0001", "written afterwards")
    world.settle()
    assert world.wrong() == [] and world.marks(A) == before


def test_a_writer_that_is_left_behind_cannot_acknowledge_and_writes_again_into_the_target(world: MoveWorld) -> None:
    behind = world.workers[0]
    behind.drain()
    world.change("o0001", "written into the former store")
    held: list[Entry | None] = []

    def everything_moves() -> None:
        agents = [agent.turn for agent in world.agents]
        assert world.finish(world.begin(B), lambda: [turn() for turn in agents] and None).step is Step.DONE  # type: ignore[func-returns-value]
        held.append(world.databases[B].open().get([world.key(Ref("port", "o0001"))])[0])

    behind.between = everything_moves
    assert behind.drain()
    row = world.sql.table("sync")[Ref("port", "o0001")]
    assert row.version == row.synced_version
    now = world.databases[B].open().get([world.key(Ref("port", "o0001"))])[0]
    assert now is not None and now.version == row.version and behind.link.generation == 1
    world.settle()
    assert world.wrong() == []


def test_a_writer_that_wrote_after_the_last_copy_is_drained_anew(world: MoveWorld) -> None:
    """It writes into the source when nobody looks there any more."""
    mover, late = world.begin(B), world.workers[1]
    late.drain()
    while world.places.place().generation == 0:
        world.step(mover)
    world.change("o0002", "too late for the copy")
    late.between = lambda: world.finish(mover) and None  # type: ignore[func-returns-value]
    late.drain()
    world.settle()
    assert world.wrong() == []


def test_a_reopening_of_the_former_generation_is_refused(world: MoveWorld) -> None:
    lease = world.tables.take("project:p1", "left behind", 15.0)
    assert lease is not None
    world.finish(world.begin(B))
    assert not world.tables.reopen(lease, [], 0) and world.tables.reopen(lease, [], 1)


def test_a_chain_of_moves_and_back_leads_everybody_to_the_one_in_force(world: MoveWorld) -> None:
    for number, target in enumerate((B, C, A, B, A), 1):
        world.change(f"o{number:04}", f"before move {number}")
        move = world.finish(world.begin(target), world.settle)
        assert move.step is Step.DONE and move.number == number and world.in_force == target, move
        world.settle()
        assert world.wrong() == []
    assert pointer(world, A) == pointer(world, B) == Pointer(5, A, world.places.place().cloud)
    for configured in (A, B, C):
        world.agents.append(Agent(world, f"starts-with-{configured[9]}", configured))
    world.settle()
    assert world.wrong() == []


def test_a_pointer_that_a_restored_store_brings_back_sends_nobody_away(world: MoveWorld) -> None:
    world.finish(world.begin(B), world.settle)
    old = world.databases[A].copy()
    world.finish(world.begin(A), world.settle)
    world.databases[A].restore(old)
    late = Agent(world, "host9")
    assert late.turn() and late.late._url == A


def test_what_the_source_holds_from_hands_is_left_behind_or_brought(world: MoveWorld) -> None:
    world.put(Entry(f"/{DEPLOYMENT}/p1/net/port/by hand\n", 3, b"x"))
    world.put(Entry(key_of(DEPLOYMENT, "p1", "net", "hologram", "h"), 3, b"x"))
    assert world.finish(world.begin(B), world.settle).step is Step.DONE
    keys = {entry.key for entry in world.databases[B].entries()}
    assert key_of(DEPLOYMENT, "p1", "net", "hologram", "h") in keys and not any("by hand" in key for key in keys)


def test_stores_without_a_change_feed_are_moved_by_comparing(world: MoveWorld) -> None:
    world.unwatched = {A, B}
    number = 0

    def write() -> None:
        nonlocal number
        number += 1
        world.change(f"new{number}", "x", f"p{number % 3}")
        world.workers[number % 2].drain()

    for target in (B, A):
        assert world.finish(world.begin(target), write).step is Step.DONE
        world.settle()
        assert world.wrong() == [] and number > 5


def test_a_history_that_is_trimmed_while_it_is_followed_loses_nothing(world: MoveWorld) -> None:
    mover, number = world.begin(B), 0

    def write_and_trim() -> None:
        nonlocal number
        number += 1
        world.change(f"new{number}", "x")
        world.workers[number % 2].drain()
        world.databases[A].trim()

    assert world.finish(mover, write_and_trim).step is Step.DONE
    world.settle()
    assert world.wrong() == []


# What is refused --------------------------------------------------------------------------------------


def fails(world: MoveWorld) -> str:
    before = world.databases[A].entries()
    move = world.finish(world.begin(B))
    assert move.step is Step.FAILED and world.places.place().generation == 0
    assert world.databases[A].entries() == before
    world.settle()
    assert world.wrong() == []
    return move.progress.why


def test_a_target_that_holds_something_else_is_refused(world: MoveWorld) -> None:
    world.databases[B].open().apply([Write("/flowloom-check-1/a", 1, b"x"), Write("/other/gone", 2, None)])
    world.databases[B].open().apply([Write("/other/p/n/port/x", 1, b"x")])
    assert fails(world) == "--to: it holds 1 keys of something else, such as /other/p/n/port/x: name an empty one"


def test_a_target_that_holds_another_deployment_of_the_same_name_is_refused(world: MoveWorld) -> None:
    key = key_of(DEPLOYMENT, "p", "n", "port", "x")
    world.databases[B].open().apply([Write(key, 1, b"x")])
    assert "of a deployment of this name that is not this one" in fails(world)
    world.databases[B].open().apply([write_of(DEPLOYMENT, Pointer(1, B, "another cloud"))])
    assert "of a deployment of this name that is not this one" in fails(world)


def test_the_same_database_by_another_name_is_refused(world: MoveWorld) -> None:
    world.databases[B] = world.databases[A]
    assert fails(world) == "--to: it is the same database as --from, by another name"


def test_a_former_store_in_which_hands_were_is_refused(world: MoveWorld) -> None:
    world.finish(world.begin(B), world.settle)
    key = world.key(Ref("port", "o0001"))
    world.databases[A].tamper(key, Entry(key, 77, b"{}"), seen=True)
    move = world.finish(world.begin(A))
    assert move.step is Step.FAILED and "holds 1 records that the source does not, or otherwise" in move.progress.why
    assert key in move.progress.why and world.in_force == B


def test_a_value_that_the_target_cannot_hold_ends_the_move_by_name(world: MoveWorld) -> None:
    world.databases[B].value_bytes_max = 100
    assert "the store's limit is 100" in fails(world)


def test_wrong_questions_are_answered_in_a_sentence(world: MoveWorld) -> None:
    mover = world.mover()
    ask = {"ask": "move", "by": "anna"}
    with pytest.raises(Rejected, match="--from: the store in force is memory://a/"):
        mover.ask({**ask, "from": B, "to": C})
    with pytest.raises(Rejected, match="--to: memory://a/ is in force already"):
        mover.ask({**ask, "from": A, "to": "memory://a"})
    with pytest.raises(Misconfigured, match="no driver for memory://nowhere"):
        mover.ask({**ask, "from": A, "to": "memory://nowhere"})
    for secret in ("memory://user:secret@b/", "memory://b/?password=secret"):
        with pytest.raises(Misconfigured, match="password_file=") as refused:
            mover.ask({**ask, "from": A, "to": secret})
        assert "secret" not in str(refused.value)
    with pytest.raises(Rejected, match="no move is under way"):
        mover.ask({"ask": "move abort"})
    assert world.places.place().move is None
    world.begin(B, mover=mover)
    assert mover.ask({**ask, "from": A, "to": B})["number"] == 1, "asked for again"
    with pytest.raises(Rejected, match="one from memory://a/ to memory://b/ is under way"):
        mover.ask({**ask, "from": A, "to": C})


def test_a_password_in_the_configured_url_is_in_no_record(world: MoveWorld) -> None:
    configured = "memory://user:hidden@a/"
    world.databases[configured] = world.databases[A]
    mover = world.mover(configured)
    mover.ask({"ask": "move", "from": configured, "to": B, "by": "anna"})
    assert world.finish(mover).step is Step.DONE
    mover = world.begin("memory://user@a/", B, world.mover(configured))
    assert world.finish(mover).step is Step.DONE
    assert world.in_force == "memory://user@a/"
    told = [
        *world.databases[A].entries(),
        *world.databases[B].entries(),
        world.places.place(),
        mover.ask({"ask": "move status"}),
    ]
    assert "hidden" not in repr(told)


# Interrupted ------------------------------------------------------------------------------------------


def write(world: MoveWorld, number: int) -> None:
    """Somebody changes something, and drains it at once, or with a link that was left behind."""
    world.change(f"o{number % 50:04}", None if number % 7 == 3 else f"text {number}", f"p{number % 3}")
    world.workers[number % 2].drain()
    world.agents[number % 2].turn()


def killed_at(world: MoveWorld, event: int) -> bool:
    """Whether the mover died at its so manieth event."""
    mover = world.begin(B)
    world.die_at, world.events = event, 0
    number = 0

    def meanwhile() -> None:
        nonlocal number
        number += 1
        write(world, number)

    try:
        world.finish(mover, meanwhile)
    except Killed:
        return True
    finally:
        world.die_at = 0
    return False


def test_a_move_that_is_killed_at_any_moment_is_finished_by_the_next_service() -> None:
    event, steps = 0, set()
    while True:
        event += 1
        world = filled(MoveWorld(event), 12)
        died = killed_at(world, event)
        move = world.places.place().move
        assert move is not None
        steps.add(move.step)
        if died:
            world.clock.advance(LEASE_SECONDS)
            move = world.finish(world.mover(), lambda world=world: write(world, 99))  # type: ignore[misc]
        assert move.step is Step.DONE and world.in_force == B, (event, move)
        world.settle()
        assert world.wrong() == [], event
        if not died:
            break
    assert steps == {Step.COPYING, Step.CUT_OVER, Step.SETTLING, Step.DONE} and event > 50


def test_a_move_that_is_killed_at_any_moment_goes_back_or_on() -> None:
    event, aborted, finished = 0, 0, 0
    while True:
        event += 1
        world = filled(MoveWorld(event), 12)
        if not killed_at(world, event):
            break
        world.clock.advance(LEASE_SECONDS)
        heir = world.mover()
        move = world.places.place().move
        assert move is not None
        if move.step is Step.COPYING:
            told = heir.ask({"ask": "move abort", "by": "bert"})
            assert (told["step"], told["why"], told["generation"]) == ("aborted", "aborted by bert", 0)
            aborted += 1
        else:
            with pytest.raises(Rejected, match="is in force already" if move.under_way else "no move is under way"):
                heir.ask({"ask": "move abort", "by": "bert"})
            if move.under_way:
                assert world.finish(heir).step is Step.DONE
            finished += 1
        world.settle()
        assert world.wrong() == [], event
        # What was left behind in the target is no obstacle.
        target = A if world.in_force == B else B
        assert world.finish(world.begin(target), world.settle).step is Step.DONE
        world.settle()
        assert world.wrong() == [], event
    assert aborted > 20 and finished > 10


def test_two_services_do_not_do_the_same_work_and_the_second_takes_over(world: MoveWorld) -> None:
    first, second = world.begin(B), world.mover()
    for _ in range(3):
        assert world.step(first) == 0.0 and world.step(second) > 0.0
    world.clock.advance(LEASE_SECONDS)
    world.step(second)
    assert world.step(first) > 0.0, "its lease is another's"
    assert world.finish(second).step is Step.DONE
    first.stop()


def test_a_long_call_keeps_its_lease(world: MoveWorld) -> None:
    first, second = world.begin(B), world.mover()
    world.step(first)
    for _ in range(4):
        world.clock.advance(LEASE_SECONDS / 3)
        first.keep()
    assert world.step(second) > 0.0 and world.step(first) == 0.0


def test_stores_that_go_away_are_waited_for_and_the_reason_is_told(world: MoveWorld) -> None:
    mover = world.begin(B)
    for url in (B, A):
        world.databases[url].available = False
        for _ in range(3):
            world.step(mover)
        assert "does not answer" in mover.ask({"ask": "move status"})["why"]
        world.databases[url].available = True
    assert world.finish(mover, world.settle).step is Step.DONE
    world.settle()
    assert world.wrong() == []


def test_a_source_that_dies_after_the_cut_over_is_given_up_and_nothing_of_neutron_is_lost(world: MoveWorld) -> None:
    world.change("o0002", "before")
    assert world.workers[0].drain()
    mover = world.begin(B)
    while world.places.place().generation == 0:
        world.step(mover)
    world.databases[A].available = False
    world.change("o0001", "meanwhile")
    assert world.workers[0].drain() or world.workers[0].drain(), "who fails looks where the store is"
    move = world.finish(mover)
    assert move.step is Step.DONE and "memory://a/ does not answer and has no pointer" in move.progress.why
    world.agents = []
    world.settle()
    assert world.wrong() == []


def test_a_store_that_is_lost_is_left_for_an_empty_one_that_a_rebuild_fills(world: MoveWorld) -> None:
    ask = {"ask": "move", "from": A, "to": B, "by": "anna", "lost": True}
    with pytest.raises(Rejected, match="--lost: memory://a/ answers: move without"):
        world.mover().ask(ask)
    world.workers[0].drain()
    world.databases[A].available = False
    world.databases[B].open().apply([Write("/other/p/n/port/x", 1, b"x")])
    with pytest.raises(Rejected, match="keys of something else"):
        world.mover().ask(ask)
    assert world.places.place().move is None
    world.databases[B].wipe()
    mover = world.mover()
    assert mover.ask(ask)["in_force"] == B
    world.change("o0001", "meanwhile")
    world.workers[0].drain()
    move = world.finish(mover)
    assert move.step is Step.DONE and "memory://a/ is lost: restart" in move.progress.why
    assert "of 40 objects differ" in move.progress.why and move.progress.done < move.progress.total
    link = NorthboundLink(settings(), "recovery", world.places, lambda url, _setting: world.open(url))
    tables = world.places
    operations = Operations(tables, tables, tables, link, world.clock, Random(1), "asked", OPTIONS)
    assert World.finish(world, operations, operations.ask({"ask": "rebuild"})["job"])["state"] == "done"  # type: ignore[arg-type]
    world.agents = [Agent(world, "host0", B)]
    world.settle()
    assert world.wrong() == []


def test_recovery_follows_and_repairs_nothing_that_is_right(world: MoveWorld) -> None:
    tables = world.places
    link = NorthboundLink(settings(), "recovery", tables, lambda url, _setting: world.open(url))
    core = RecoveryCore(tables, tables, tables, link, world.clock, Random(1), "core", OPTIONS)

    def meanwhile() -> None:
        world.settle()
        world.run(1, core)

    for target in (B, A):
        assert world.finish(world.begin(target), meanwhile).step is Step.DONE
        world.run(2, core)
        assert core.complete and core._index.cursor is not None
        assert core._index.cursor.epoch == world.open(target).versions("/").cursor.epoch
        world.run(30, core)
        assert world.audit() == [] and link.generation == world.places.place().generation
        world.settle()
        assert world.wrong() == []
        key = world.key(Ref("port", "o0001"))
        world.databases[target].tamper(key, None, seen=False)
        world.run(30, core)
        assert world.wrong() == [] and len(world.audit()) == 1, "it looks after the one in force"
        world.sql.state.tables["audit"].clear()


# Whatever happens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(120))
def test_whatever_happens_in_whatever_order_everything_ends_in_the_store_in_force(seed: int) -> None:
    random = Random(seed)
    world = filled(MoveWorld(seed), 10)
    world.unwatched = {url for url in (A, B, C) if random.random() < 0.2}
    movers = [world.mover(), world.mover()]

    def change() -> None:
        number = random.randrange(15)
        world.change(f"o{number:04}", None if random.random() < 0.2 else f"{random.random()}", f"p{number % 3}")

    def drain() -> None:
        worker = random.choice(world.workers)
        if random.random() < 0.5:
            worker.between = something
        worker.drain()

    def move_on() -> None:
        for _ in range(random.randrange(1, 6)):
            world.step(random.choice(movers))

    def kill() -> None:
        number = random.randrange(2)
        world.events, world.die_at = 0, random.randrange(1, 12)
        try:
            world.step(movers[number])
        except Killed:
            movers[number] = world.mover()
            world.clock.advance(random.choice((0.0, LEASE_SECONDS)))
        finally:
            world.die_at = 0

    def ask() -> None:
        with contextlib.suppress(Rejected, Unavailable):
            world.begin(random.choice((A, B, C)), mover=random.choice(movers))

    def abort() -> None:
        if random.random() < 0.3:
            with contextlib.suppress(Rejected):
                random.choice(movers).ask({"ask": "move abort"})

    def outage() -> None:
        database = random.choice(list(world.databases.values()))
        database.available = not database.available or random.random() < 0.7

    def trim() -> None:
        random.choice(list(world.databases.values())).trim()

    def agent() -> None:
        random.choice(world.agents).turn()

    def later() -> None:
        world.clock.advance(random.choice((0.5, 5.0, LEASE_SECONDS)))

    def something() -> None:
        for _ in range(random.randrange(4)):
            random.choice((change, move_on, move_on, kill, ask, agent))()

    happenings = (
        change,
        change,
        drain,
        drain,
        move_on,
        move_on,
        move_on,
        kill,
        ask,
        ask,
        abort,
        outage,
        trim,
        agent,
        later,
    )
    for _ in range(150):
        random.choice(happenings)()
        change()
        random.choice(world.workers).drain()
    for database in world.databases.values():
        database.available = True
    world.clock.advance(LEASE_SECONDS)
    last = world.places.place().move
    if last is not None and last.under_way:
        for mover in movers[1:]:
            mover.stop()
        assert not world.finish(movers[0], world.settle).under_way
    world.settle()
    assert world.wrong() == []
