"""Wrong settings are named, in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from oslo_config import cfg

from flowloom.consistency.options import Options
from flowloom.kernel.errors import Misconfigured
from flowloom.neutron import config
from flowloom.neutron.deploy import write_config


@pytest.fixture
def conf() -> Iterator[cfg.ConfigOpts]:
    config.register()
    cfg.CONF.set_override("store", "sqlite:////x/nb.sqlite", "flowloom")
    yield cfg.CONF
    for name in [field.name for field in fields(config.Settings)]:
        cfg.CONF.clear_override(name, "flowloom")


def test_the_settings_are_read_into_one_frozen_value(conf: cfg.ConfigOpts) -> None:
    conf.set_override("deployment", "cloud-1", "flowloom")
    found = config.settings()
    assert (found.deployment, found.store, found.bus) == ("cloud-1", "sqlite:////x/nb.sqlite", "")


def test_what_concerns_recovery_is_handed_on_to_it(conf: cfg.ConfigOpts) -> None:
    assert config.settings().recovery == Options("flowloom")
    conf.set_override("guard_objects", 7, "flowloom")
    conf.set_override("repairs_per_second", 5.0, "flowloom")
    found = config.settings().recovery
    assert (found.guard_objects, found.repairs_per_second) == (7, 5.0)


def test_each_process_has_its_own_port_for_metrics(conf: cfg.ConfigOpts) -> None:
    assert config.settings().metrics_address() is None
    conf.set_override("metrics", "127.0.0.1:9740", "flowloom")
    assert str(config.settings().metrics_address()) == "127.0.0.1:9740"
    assert str(config.settings().metrics_address(3)) == "127.0.0.1:9743"


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("deployment", "a/b", "letters"),
        ("store", "", "set the URL"),
        ("store", "quux://x", "known schemes: .*sqlite"),
        ("bus", "quux://x", "known schemes: .*zmq"),
        ("drain_batch", 0, "greater than 0"),
        ("compare_seconds", -1, "greater than 0"),
        ("lease_seconds", 121, "at most 120"),
        ("guard_share", 1.5, "from 0 to 1"),
        ("guard_objects", -1, "0 or greater"),
        ("metrics", "0.0.0.0:9740", "no loopback address"),
        ("metrics", "127.0.0.1:65500", "not a port"),
    ],
)
def test_a_wrong_setting_is_named(conf: cfg.ConfigOpts, name: str, value: object, why: str) -> None:
    conf.set_override(name, value, "flowloom")
    with pytest.raises(Misconfigured, match=why) as error:
        config.settings()
    assert error.value.setting == f"[flowloom] {name}"


def test_a_deployment_is_written_with_what_its_processes_need(tmp_path: Path) -> None:
    made = write_config(
        tmp_path / "neutron", database="sqlite+immediate:////d", store="s://x", bus="b://y", api_port=1234, name="lab"
    )
    text = made.neutron_conf.read_text()
    for line in ("connection = sqlite+immediate:////d", "store = s://x", "bus = b://y", "deployment = lab"):
        assert line in text.splitlines()
    assert made.api_url == "http://127.0.0.1:1234"
    assert made.control == tmp_path / "neutron" / "recovery.sock"
    assert str(made.neutron_conf) in made.recovery_argv


@pytest.mark.parametrize(
    ("database", "store", "said"),
    [
        (None, "quux://x", "[flowloom] store: no driver for 'quux://x'"),
        (None, "sqlite:///{tmp}/nowhere/nb.sqlite", "store: the directory"),
        ("sqlite+immediate:///{tmp}/nowhere/n.sqlite", "sqlite:///{tmp}/nb.sqlite", "[database] connection: "),
    ],
    ids=["scheme", "directory", "database"],
)
def test_recovery_with_a_wrong_setting_says_one_sentence_and_exits_with_2(
    tmp_path: Path, schema_template: Path, database: str | None, store: str, said: str
) -> None:
    made = write_config(
        tmp_path / "neutron",
        database=(database or f"sqlite+immediate:///{schema_template}").format(tmp=tmp_path),
        store=store.format(tmp=tmp_path),
        bus="",
        api_port=1,
        name="lab",
    )
    done = subprocess.run(made.recovery_argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"flowloom: {said}")
    assert "Traceback" not in done.stdout + done.stderr


def test_recovery_without_its_configuration_file_says_so(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "flowloom", "recovery", "--config-file", str(tmp_path / "none.conf")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "none.conf" in done.stderr.strip().splitlines()[-1]
