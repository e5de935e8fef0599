"""What no app wires is announced only where an operator asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from neutron_lib.db import api as db_api
from oslo_config import cfg

from flowloom.kernel.errors import Misconfigured
from flowloom.neutron import config
from flowloom.neutron.driver import NO_GROUPS, NO_HARDWARE, UNSUPPORTED_EXTENSIONS, UNWIRED_EXTENSIONS, FlowloomDriver
from flowloom.neutron.l3 import FlowloomPortForwarding, refuse_unwired
from flowloom.neutron.plugged import QosDriver, TrunkDriver


@pytest.fixture
def conf() -> Iterator[cfg.ConfigOpts]:
    config.register()
    cfg.CONF.set_override("store", "sqlite:////x/nb.sqlite", "flowloom")
    yield cfg.CONF
    for name in ("store", "announce_unwired"):
        cfg.CONF.clear_override(name, "flowloom")


def test_a_plug_in_with_nothing_behind_it_is_refused_by_name(conf: cfg.ConfigOpts) -> None:
    with pytest.raises(Misconfigured, match="flowloom-l3"):
        refuse_unwired("flowloom-l3")
    conf.set_override("announce_unwired", True, "flowloom")
    refuse_unwired("flowloom-l3")


def test_port_forwardings_do_not_load_the_router_plug_in_of_agents() -> None:
    assert FlowloomPortForwarding.required_service_plugins == ("flowloom-l3",)


@pytest.mark.parametrize("announced", [False, True])
def test_trunk_and_qos_drivers_count_only_where_they_are_announced(announced: bool) -> None:
    assert TrunkDriver(announced).is_loaded is announced
    assert QosDriver(announced).is_loaded is announced


@pytest.mark.parametrize("announced", [False, True])
def test_extensions_are_announced_as_far_as_an_operator_asks(conf: cfg.ConfigOpts, announced: bool) -> None:
    conf.set_override("announce_unwired", announced, "flowloom")
    driver = FlowloomDriver()
    try:
        driver.initialize()
        left = driver.supported_extensions({"port-security", *UNSUPPORTED_EXTENSIONS})
    finally:
        db_api.sqla_remove_all()
    assert left == {"port-security"} | (UNWIRED_EXTENSIONS if announced else set())
    assert NO_GROUPS <= UNWIRED_EXTENSIONS
    assert not NO_HARDWARE & UNWIRED_EXTENSIONS
