"""Section `[flowloom]` of neutron.conf, read once into a frozen value."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from importlib.metadata import entry_points
from urllib.parse import urlsplit

from oslo_config import cfg

from flowloom.consistency.lease import LEASE_SECONDS, LEASE_SECONDS_MAX
from flowloom.consistency.options import Options
from flowloom.kernel.errors import Misconfigured
from flowloom.metrics import Address, address

NETWORK_TYPES = ("geneve",)
"""Provider network types whose ports this release wires."""

_OPTIONS = (
    cfg.StrOpt("deployment", default="flowloom", help="Name of this cloud; the first part of every key in the store."),
    cfg.StrOpt("store", default="", help="URL of the northbound store, such as sqlite:////var/lib/flowloom/nb.sqlite."),
    cfg.StrOpt("bus", default="", help="URL of the bus, such as zmq+ipc:///run/flowloom/bus; empty: none."),
    cfg.StrOpt("control", default="", help="Unix socket on which the recovery process answers; empty: none."),
    cfg.FloatOpt("status_pass_seconds", default=5.0, help="How often recovery compares the status of every port."),
    cfg.StrOpt(
        "metrics",
        default="",
        help="Loopback address and port for Prometheus, such as 127.0.0.1:9740; empty: none. Recovery serves there, "
        "the n-th API worker of uwsgi n ports above. Recovery processes of one machine each need their own.",
    ),
    cfg.FloatOpt("lease_seconds", default=LEASE_SECONDS, help="How long a lock outlives a holder that died."),
    cfg.FloatOpt(
        "dirty_seconds", default=Options.dirty_seconds, help="Age at which recovery drains a change nobody drained."
    ),
    cfg.IntOpt("drain_batch", default=Options.drain_batch, help="How many objects go to the store in one call."),
    cfg.FloatOpt(
        "compare_seconds", default=Options.compare_seconds, help="How often recovery compares Neutron with the store."
    ),
    cfg.FloatOpt(
        "repairs_per_second", default=Options.repairs_per_second, help="How many objects recovery repairs a second."
    ),
    cfg.FloatOpt(
        "guard_share",
        default=Options.guard_share,
        help="A repair of more than this share of all objects (0 to 1), and more than guard_objects, is held and asks.",
    ),
    cfg.IntOpt("guard_objects", default=Options.guard_objects, help="A repair of no more objects is never held."),
    cfg.FloatOpt(
        "reread_per_second",
        default=Options.reread_per_second,
        help="How many objects recovery reads again each second without a suspicion, in the store and in Neutron.",
    ),
    cfg.FloatOpt(
        "versions_seconds", default=Options.versions_seconds, help="How often recovery lists all versions of the store."
    ),
    cfg.FloatOpt(
        "adopt_seconds", default=Options.adopt_seconds, help="How often recovery looks for objects without a sync row."
    ),
    cfg.FloatOpt(
        "chassis_dead_seconds",
        default=Options.chassis_dead_seconds,
        help="A chassis without bound ports that was silent for so long is removed.",
    ),
    cfg.IntOpt("audit_keep", default=Options.audit_keep, help="How many entries the audit of repairs keeps."),
    cfg.BoolOpt(
        "announce_unwired",
        default=False,
        help="Announce API extensions whose objects reach the store though no node wires them yet"
        " (routers, security groups, QoS, trunks), and load their plug-ins. For tests and for what comes next.",
    ),
    cfg.BoolOpt(
        "strict_capture",
        default=False,
        help="Refuse bulk SQL statements on captured tables, instead of counting and logging them. For tests.",
    ),
)

_POSITIVE = (
    "status_pass_seconds",
    "lease_seconds",
    "dirty_seconds",
    "drain_batch",
    "compare_seconds",
    "repairs_per_second",
    "reread_per_second",
    "versions_seconds",
    "adopt_seconds",
    "chassis_dead_seconds",
    "audit_keep",
)

WORKERS_MAX = 200
"""API workers whose metrics have a port: ports above `metrics` that must exist."""


@dataclass(frozen=True)
class Settings:
    """The options of section `[flowloom]`; see their help texts in `_OPTIONS`."""

    deployment: str
    store: str
    bus: str
    control: str
    status_pass_seconds: float
    metrics: str
    lease_seconds: float
    dirty_seconds: float
    drain_batch: int
    compare_seconds: float
    repairs_per_second: float
    guard_share: float
    guard_objects: int
    reread_per_second: float
    versions_seconds: float
    adopt_seconds: float
    chassis_dead_seconds: float
    audit_keep: int
    strict_capture: bool
    announce_unwired: bool = False

    @property
    def recovery(self) -> Options:
        """What of it concerns a recovery service."""
        return Options(**{each.name: getattr(self, each.name) for each in fields(Options) if hasattr(self, each.name)})

    def metrics_address(self, number: int = 0) -> Address | None:
        """Where the process of this number serves its metrics: 0 is recovery, n the n-th API worker; None: nowhere."""
        first = address("[flowloom] metrics", self.metrics, above=WORKERS_MAX)
        return None if first is None else first.plus(number)


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
    for name in _POSITIVE:
        if getattr(found, name) <= 0:
            raise Misconfigured(f"[flowloom] {name}", "must be greater than 0")
    if found.lease_seconds > LEASE_SECONDS_MAX:
        raise Misconfigured("[flowloom] lease_seconds", f"must be at most {LEASE_SECONDS_MAX:g}")
    if not 0 <= found.guard_share <= 1:
        raise Misconfigured("[flowloom] guard_share", "must be a share from 0 to 1")
    if found.guard_objects < 0:
        raise Misconfigured("[flowloom] guard_objects", "must be 0 or greater")
    found.metrics_address()
    return found


def _known(setting: str, group: str, url: str) -> None:
    schemes = sorted(point.name for point in entry_points(group=group))
    if urlsplit(url).scheme not in schemes:
        raise Misconfigured(setting, f"no driver for {url!r}; known schemes: {', '.join(schemes)}")
