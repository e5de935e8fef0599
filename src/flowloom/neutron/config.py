"""Section `[flowloom]` of neutron.conf, read once into a frozen value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from oslo_config import cfg

from flowloom.kernel.errors import Misconfigured

NETWORK_TYPES = ("geneve",)
"""Provider network types whose ports this release wires."""

_OPTIONS = (
    cfg.StrOpt("deployment", default="flowloom", help="Name of this cloud; the first part of every key in the store."),
    cfg.StrOpt("store", default="", help="URL of the northbound store, such as sqlite:////var/lib/flowloom/nb.sqlite."),
    cfg.StrOpt("bus", default="", help="URL of the bus, such as zmq+ipc:///run/flowloom/bus; empty: none."),
    cfg.StrOpt("control", default="", help="Unix socket on which the recovery process answers; empty: none."),
    cfg.FloatOpt("status_pass_seconds", default=5.0, help="How often recovery compares the status of every port."),
    cfg.FloatOpt("dirty_seconds", default=1.0, help="Age at which recovery drains a change that nobody drained."),
    cfg.IntOpt("drain_batch", default=200, help="How many objects go to the store in one call."),
    cfg.BoolOpt(
        "strict_capture",
        default=False,
        help="Refuse bulk SQL statements on captured tables, instead of counting and logging them. For tests.",
    ),
)


@dataclass(frozen=True)
class Settings:
    """The options of section `[flowloom]`; see their help texts in `_OPTIONS`."""

    deployment: str
    store: str
    bus: str
    control: str
    status_pass_seconds: float
    dirty_seconds: float
    drain_batch: int
    strict_capture: bool


def register() -> None:
    """Make the options known to oslo.config; repeating it does nothing."""
    cfg.CONF.register_opts(_OPTIONS, "flowloom")


def settings() -> Settings:
    """The options as they stand in the configuration files.  Misconfigured names the wrong one."""
    register()
    section = cfg.CONF.flowloom
    found = Settings(**{option.dest: getattr(section, option.dest) for option in _OPTIONS})
    if not re.fullmatch(r"[A-Za-z0-9._-]+", found.deployment):
        raise Misconfigured("[flowloom] deployment", f"{found.deployment!r}: use letters, digits, '.', '_' and '-'")
    if not found.store:
        raise Misconfigured("[flowloom] store", "set the URL of the northbound store in neutron.conf")
    _known("[flowloom] store", "flowloom.stores", found.store)
    if found.bus:
        _known("[flowloom] bus", "flowloom.buses", found.bus)
    for name in ("status_pass_seconds", "dirty_seconds", "drain_batch"):
        if getattr(found, name) <= 0:
            raise Misconfigured(f"[flowloom] {name}", "must be greater than 0")
    return found


def _known(setting: str, group: str, url: str) -> None:
    schemes = sorted(point.name for point in entry_points(group=group))
    if urlsplit(url).scheme not in schemes:
        raise Misconfigured(setting, f"no driver for {url!r}; known schemes: {', '.join(schemes)}")
