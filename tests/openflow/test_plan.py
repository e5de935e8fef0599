"""The order of members inside a bundle, and which keys they stand for."""

from __future__ import annotations

from flowloom.drivers.switch.plan import Group, Plan, plan, read_groups, settle
from flowloom.openflow import actions, facts, messages
from flowloom.openflow.match import match
from flowloom.southbound.switch import Batch

GROUP = facts.GROUPS_FIRST
COMMANDS = {
    (messages.FLOW_MOD, messages.FLOW_ADD): "add flow",
    (messages.FLOW_MOD, messages.FLOW_DELETE_STRICT): "delete flow",
    (messages.GROUP_MOD, messages.GROUP_ADD): "add group",
    (messages.GROUP_MOD, messages.GROUP_MODIFY): "modify group",
    (messages.GROUP_MOD, messages.GROUP_DELETE): "delete group",
    (messages.GROUP_MOD, messages.GROUP_INSERT_BUCKET): "insert bucket",
    (messages.GROUP_MOD, messages.GROUP_REMOVE_BUCKET): "remove bucket",
}


def said(made: Plan) -> list[str]:
    """What the members do."""
    done = []
    for member in made.members:
        kind = member[17]
        command = member[16 + 25] if kind == messages.FLOW_MOD else int.from_bytes(member[24:26], "big")
        done.append(COMMANDS[kind, command])
    return done


def flow(number: int) -> bytes:
    return facts.flow_key(1, number, match(()))


def bucket(number: int, group: int = GROUP) -> bytes:
    return facts.bucket_key(group, number)


VALUE = facts.flow_value(1, b"")
OUT = actions.output(1)


def test_groups_come_before_flows_and_go_after_them_and_deletes_come_before_adds() -> None:
    held = {GROUP: Group(0, {1: OUT, 2: OUT}), GROUP + 1: Group(0, {})}
    batch = Batch(
        [facts.group_key(GROUP + 1), bucket(1), flow(1)],
        [(flow(2), VALUE), (bucket(3), OUT), (facts.group_key(GROUP + 2), b"\0"), (bucket(1, GROUP + 2), OUT)],
    )
    made = plan(batch, held, one_key_each=False)
    assert sorted(said(made)[:2]) == ["add group", "insert bucket"]
    assert said(made)[2:4] == ["delete flow", "add flow"]
    assert sorted(said(made)[4:]) == ["delete group", "remove bucket"]


def test_a_new_group_and_its_buckets_are_one_message() -> None:
    puts = [(bucket(number), OUT) for number in range(3)] + [(facts.group_key(GROUP), b"\0")]
    made = plan(Batch([], puts), {}, one_key_each=False)
    assert said(made) == ["add group"]
    assert set(made.keys[0]) == {key for key, _ in puts}


def test_with_one_key_each_every_member_stands_for_one_key() -> None:
    puts = [(bucket(number), OUT) for number in range(3)] + [(facts.group_key(GROUP), b"\0")]
    made = plan(Batch([], puts), {}, one_key_each=True)
    assert said(made) == ["add group", "insert bucket", "insert bucket", "insert bucket"]
    assert sorted(made.keys) == sorted((key,) for key, _ in puts)


def test_a_replaced_bucket_is_removed_and_inserted_and_an_equal_one_is_left_alone() -> None:
    held = {GROUP: Group(0, {1: OUT, 2: OUT})}
    puts = [(bucket(1), actions.output(9)), (bucket(2), OUT)]
    assert said(plan(Batch([], puts), held, one_key_each=False)) == ["remove bucket", "insert bucket"]


def test_a_group_that_is_there_is_not_added_again_and_one_of_another_type_is_modified_whole() -> None:
    held = {GROUP: Group(0, {1: OUT})}
    assert said(plan(Batch([], [(facts.group_key(GROUP), b"\0")]), held, one_key_each=False)) == []
    assert said(plan(Batch([], [(facts.group_key(GROUP), b"\1")]), held, one_key_each=False)) == ["modify group"]


def test_what_is_gone_already_is_not_deleted_again() -> None:
    made = plan(Batch([facts.group_key(GROUP), bucket(1, GROUP + 1), bucket(7)], []), {}, one_key_each=False)
    assert said(made) == []


def test_buckets_of_a_deleted_group_need_no_message() -> None:
    held = {GROUP: Group(0, {1: OUT, 2: OUT})}
    made = plan(Batch([bucket(1), bucket(2), facts.group_key(GROUP)], []), held, one_key_each=False)
    assert said(made) == ["delete group"]


def test_no_member_is_longer_than_a_message_can_be() -> None:
    puts = [(facts.group_key(GROUP), b"\0"), *((bucket(number), OUT * 3) for number in range(5_000))]
    made = plan(Batch([], puts), {}, one_key_each=False)
    assert max(map(len, made.members)) <= messages.MESSAGE_MAX_BYTES
    assert {key for keys in made.keys for key in keys} == {key for key, _ in puts}


def test_settling_leaves_the_groups_that_the_switch_holds_then() -> None:
    held = {GROUP: Group(0, {1: OUT, 2: OUT}), GROUP + 1: Group(0, {})}
    batch = Batch(
        [bucket(1), facts.group_key(GROUP + 1)],
        [(facts.group_key(GROUP), b"\1"), (facts.group_key(GROUP + 2), b"\0"), (bucket(5, GROUP + 2), OUT)],
    )
    settle(held, plan(batch, held, one_key_each=False))
    assert held == {GROUP: Group(1, {2: OUT}), GROUP + 2: Group(0, {5: OUT})}


def test_the_groups_of_a_read_are_found_among_the_facts() -> None:
    held = {facts.group_key(GROUP): b"\1", bucket(4): OUT, flow(1): VALUE}
    assert read_groups(held) == {GROUP: Group(1, {4: OUT})}
