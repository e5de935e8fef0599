"""The stores that a lab can bring along, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from flowloom.kernel.errors import Misconfigured
from flowloom.lab.stores import etcd, redis, zookeeper
from flowloom.lab.stores.server import Members

EMBEDDED = "sqlite"
"""The form without a server."""


@dataclass(frozen=True)
class Form:
    """lacks: what has to be installed, a sentence or "".  ports: how many in a row.  members: of a directory and port."""

    about: str
    ports: int
    lacks: Callable[[], str]
    members: Callable[[Path, int], Members]


FORMS = {
    "etcd": Form("etcd, one member", etcd.PORTS, etcd.lacks, partial(etcd.members, count=1)),
    "etcd3": Form("etcd, three members", 3 * etcd.PORTS, etcd.lacks, partial(etcd.members, count=3)),
    "redis": Form("Redis, one server", 1, redis.lacks, redis.single),
    "redis-sentinel": Form(
        "Redis, a primary, two replicas, three Sentinels", redis.SENTINEL_PORTS, redis.lacks, redis.sentinels
    ),
    "redis-cluster": Form(
        "Redis Cluster, three primaries and replicas", redis.CLUSTER_PORTS, redis.lacks, redis.cluster
    ),
    "zookeeper": Form("ZooKeeper, one server", zookeeper.PORTS, zookeeper.lacks, partial(zookeeper.members, count=1)),
    "zookeeper3": Form(
        "ZooKeeper, three servers", 3 * zookeeper.PORTS, zookeeper.lacks, partial(zookeeper.members, count=3)
    ),
}


def check(name: str, setting: str) -> None:
    """Misconfigured, naming `setting`, when there is no such form, or its servers are not installed."""
    if name not in FORMS:
        known = ", ".join((EMBEDDED, *FORMS))
        raise Misconfigured(setting, f"{name!r} is neither a store that the lab brings along ({known}) nor a URL")
    if lacking := FORMS[name].lacks():
        raise Misconfigured(setting, f"{name}: {lacking}")
