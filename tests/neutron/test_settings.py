"""Wrong settings are named, in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from oslo_config import cfg

from flowloom.kernel.errors import Misconfigured
from flowloom.neutron import config
from flowloom.neutron.deploy import write_config


@pytest.fixture
def conf() -> Iterator[cfg.ConfigOpts]:
    config.register()
    cfg.CONF.set_override("store", "sqlite:////x/nb.sqlite", "flowloom")
    yield cfg.CONF
    for name in ("deployment", "store", "bus", "drain_batch"):
        cfg.CONF.clear_override(name, "flowloom")


def test_the_settings_are_read_into_one_frozen_value(conf: cfg.ConfigOpts) -> None:
    conf.set_override("deployment", "cloud-1", "flowloom")
    found = config.settings()
    assert (found.deployment, found.store, found.bus) == ("cloud-1", "sqlite:////x/nb.sqlite", "")


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("deployment", "a/b", "letters"),
        ("store", "", "set the URL"),
        ("store", "quux://x", "known schemes: .*sqlite"),
        ("bus", "quux://x", "known schemes: .*zmq"),
        ("drain_batch", 0, "greater than 0"),
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
