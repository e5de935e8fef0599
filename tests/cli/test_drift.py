"""`flowloom drift`: every layer, a real embedded store, and processes that answer as agents and recovery do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from answering import answering
from one_host import key_for, network, port, subnet

from flowloom.cli.answers import Check, NeutronDrift, Unequal
from flowloom.cli.answers import Difference as FlowDifference
from flowloom.cli.deployment import load
from flowloom.cli.drift import Difference, Layer, Report, code_of, gather, of_neutron, of_switch, show, verdict
from flowloom.cli.replicas import RELEASE
from flowloom.consistency.marks import mark
from flowloom.model.codec import encode
from flowloom.northbound.plugins import open_store
from flowloom.northbound.store import Store, Write

WORLD = (network(), subnet(), port(1), port(2))
EQUAL = {"complete": True, "objects": 4, "dirty": 0, "counts": {}, "differences": [], "seconds": 0.1}


class World:
    """Everything is equal until a test changes what one of them says."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.file = directory / "flowloom.toml"
        self.neutron: object = EQUAL
        self.check: object = {"equal": True, "flows": 40}
        self.records = {key_for(record): (record.version, encode(record)) for record in WORLD}

    def agent(self, question: Mapping[str, Any]) -> object:
        if question["ask"] == "check":
            return self.check
        keys = sorted(question.get("keys", self.records))
        held = [(key, self.records[key]) for key in keys if key in self.records]
        return {
            "entries": [(key, version, mark(key, version, value)) for key, (version, value) in held],
            "prefixes": ["/lab/"], "chassis": "h1", "in_sync": True, "release": RELEASE,
        }  # fmt: skip

    def report(self, limit: int = 20) -> Report:
        return gather(load(self.file, "--config"), limit, sleep=lambda seconds: None)

    def states(self) -> dict[str, str]:
        return {layer.layer: layer.state for layer in self.report().layers}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        url = f"sqlite:///{tmp_path}/nb.sqlite"
        store = open_store(url)
        stack.callback(store.close)
        store.apply([Write(key_for(record), record.version, encode(record)) for record in WORLD])
        made = World(store, tmp_path)
        made.file.write_text(
            f'deployment = "lab"\nstore = "{url}"\n[neutron]\nrecovery = "{tmp_path}/r.sock"\n[agents]\nh1 = "{tmp_path}/a.sock"\n'
        )
        stack.enter_context(answering(tmp_path / "r.sock", lambda question: made.neutron))
        stack.enter_context(answering(tmp_path / "a.sock", made.agent))
        yield made


def drift(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flowloom", "--config", str(world.file), "drift", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ), check=False)


def test_everything_equal_is_0_and_says_so(world: World) -> None:
    ended = drift(world)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert lines[:4] == [
        "LAYER                STATE  COMPARED  DIFFERENT  NOTE",
        "neutron <-> store    equal         4          0  -",
        "store <-> agent h1   equal         4          0  -",
        "agent h1 <-> switch  equal        40          0  -",
    ]
    assert lines[-1].startswith("equal (")


def test_difference_of_each_layer_is_1_with_its_reason(world: World) -> None:
    world.neutron = EQUAL | {
        "counts": {"stale": 1, "missing": 2},
        "differences": [{"kind": "missing", "object": ["port", "p9"], "project": "p", "key": "k", "neutron_version": 3,
                         "store_version": -1, "comparison": "digest of shard 4"}],
    }  # fmt: skip
    del world.records[key_for(port(2))]
    world.check = {"equal": False, "flows": 41, "differences": [{"flow": "LOOKUP any", "oracle": "drop"}]}
    ended = drift(world)
    assert ended.returncode == 1
    for line in (
        "neutron <-> store    different         4          3  2 missing; 1 stale",
        "    missing: port p9: Neutron holds version 3, the store nothing (project p); found by digest of shard 4",
        "    ... and 2 more (--limit)",
        f"    missing: {key_for(port(2))}: the agent holds nothing, the store version 1",
        "    flow: LOOKUP any: full recompute: drop, agent: not there, switch: not there",
    ):
        assert line in ended.stdout.splitlines(), ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("DIFFERENT: 5 differences in 3 layers (")


def test_json_has_verdict_layers_and_differences(world: World) -> None:
    del world.records[key_for(port(2))]
    said = json.loads(drift(world, "--json").stdout)
    assert said["verdict"] == "DIFFERENT: 1 difference in 1 layer"
    (layer,) = [layer for layer in said["layers"] if layer["state"] == "different"]
    assert layer["layer"] == "store <-> agent h1"
    assert layer["differences"][0]["object"] == key_for(port(2))


def test_dirty_rows_are_1(world: World) -> None:
    world.neutron = EQUAL | {"dirty": 2}
    ended = drift(world)
    assert ended.returncode == 1
    assert ended.stdout.splitlines()[-1].startswith("NOT YET EQUAL: changes are on their way; ask again (")


@pytest.mark.parametrize(
    ("broken", "layer"),
    [
        ({"neutron": {"error": "the store does not answer"}}, "neutron <-> store"),
        ({"neutron": EQUAL | {"complete": False, "why": "the listing broke off"}}, "neutron <-> store"),
        ({"check": {"error": "the switch is not connected"}}, "agent h1 <-> switch"),
    ],
)
def test_layer_that_does_not_answer_is_3(world: World, broken: dict[str, object], layer: str) -> None:
    for name, value in broken.items():
        setattr(world, name, value)
    ended = drift(world)
    assert ended.returncode == 3
    assert ended.stdout.splitlines()[-1].startswith("UNKNOWN: 1 layer could not be compared (")
    assert world.states()[layer] == "unknown"


def test_known_difference_weighs_more_than_silence(world: World) -> None:
    world.neutron = b""
    del world.records[key_for(port(1))]
    ended = drift(world)
    assert ended.returncode == 1
    assert "DIFFERENT: 1 difference in 1 layer; 1 layer could not be compared (" in ended.stdout


def test_store_that_is_away_leaves_its_layers_unknown_and_the_switch_compared(world: World, tmp_path: Path) -> None:
    text = world.file.read_text().replace("nb.sqlite", "none/nb.sqlite")
    world.file.write_text(text)
    assert world.states() == {
        "neutron <-> store": "equal",
        "store <-> agent h1": "unknown",
        "agent h1 <-> switch": "equal",
    }


def test_flow_that_was_under_way_is_looked_at_again(world: World) -> None:
    said = iter([{"equal": False, "flows": 40, "backlog": 3}, {"equal": True, "flows": 41}])
    answer = world.agent
    world.agent = lambda question: next(said) if question["ask"] == "check" else answer(question)  # type: ignore[method-assign]
    with answering(world.file.parent / "b.sock", world.agent):
        world.file.write_text(world.file.read_text().replace("a.sock", "b.sock"))
        assert set(world.states().values()) == {"equal"}


def test_as_many_differences_as_asked_for_are_listed(world: World) -> None:
    for n in (1, 2):
        del world.records[key_for(port(n))]
    layer = world.report(limit=1).layers[1]
    assert (layer.different, len(layer.differences)) == (2, 1)


def test_deployment_without_recovery_and_agents_compares_nothing(tmp_path: Path) -> None:
    (tmp_path / "f.toml").write_text(f'deployment = "lab"\nstore = "sqlite:///{tmp_path}/nb.sqlite"\n')
    report = gather(load(tmp_path / "f.toml", "--config"), 5)
    assert [layer.state for layer in report.layers] == ["none"]


def test_objects_by_the_thousand_take_seconds(world: World) -> None:
    more = [port(n, host="h2") for n in range(100, 10_100)]
    for start in range(0, len(more), 1000):
        world.store.apply([Write(key_for(one), 1, encode(one)) for one in more[start : start + 1000]])
    world.records |= {key_for(one): (1, encode(one)) for one in more}
    began = time.monotonic()
    layer = world.report().layers[1]
    assert (layer.state, layer.compared) == ("equal", 10_004)
    assert time.monotonic() - began < 20


LAYERS = {
    "equal": Layer("a", "equal", 1, 0),
    "different": Layer("b", "different", 1, 2),
    "dirty": Layer("c", "dirty", 1, 0),
    "unknown": Layer("d", "unknown"),
    "none": Layer("e", "none"),
}


@pytest.mark.parametrize(
    ("states", "code", "said"),
    [
        (["equal", "none"], 0, "equal"),
        (["equal", "dirty"], 1, "NOT YET EQUAL: changes are on their way; ask again"),
        (["equal", "unknown"], 3, "UNKNOWN: 1 layer could not be compared"),
        (["different", "dirty", "unknown"], 1,
         "DIFFERENT: 2 differences in 1 layer; changes are on their way; 1 layer could not be compared"),
        (["dirty", "unknown"], 1,
         "NOT YET EQUAL: changes are on their way; ask again; 1 layer could not be compared"),
    ],
)  # fmt: skip
def test_verdict_and_exit_code(states: list[str], code: int, said: str) -> None:
    layers = [LAYERS[state] for state in states]
    assert (code_of(layers), verdict(layers)) == (code, said)


def test_kind_that_this_release_does_not_know_is_shown_with_its_versions() -> None:
    one = Unequal(kind="crooked", object=("port", "p1"), neutron_version=3, store_version=2)
    layer = of_neutron("n", NeutronDrift(True, "", 9, 0, {"crooked": 1}, (one,)), 5)
    assert layer.differences == (Difference("n", "crooked", "port p1", "Neutron: version 3, store: version 2"),)


def test_rules_that_are_still_to_run_are_dirty_not_different() -> None:
    assert of_switch("s", Check(equal=False, flows=3, backlog=2), 5) == Layer("s", "dirty", 3, 0, "2 rules to run")


def test_names_of_others_do_not_reach_the_terminal_as_they_are() -> None:
    layer = of_switch("s", Check(flows=1, differences=(FlowDifference("\x1b[2J", "\x07"),)), 5)
    shown = show(Report("v", 0.1, (layer,)))
    assert "\x1b" not in shown and "\x07" not in shown
