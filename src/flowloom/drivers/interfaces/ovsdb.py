"""Open vSwitch's configuration database: the agent's bridge and tunnel ports, and what is plugged where.

The client is ovsdbapp (its connection thread, transactions and commands).  The replica is limited to the
columns in `_SCHEMA`, so that statistics, which change all the time, are never sent.  After each change the
plugged interfaces are read as a whole and compared with what was last reported: level, not edge.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from ovs.db import idl
from ovsdbapp import exceptions
from ovsdbapp.backend.ovs_idl import connection, transaction
from ovsdbapp.schema.open_vswitch import impl_idl

from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.southbound.interfaces import BridgeSetup, InterfaceEvent, Lost, Plugged, Snapshot, TunnelPort

SETTING = "openvswitch.ovsdb"
OWNER = {"flowloom": "tunnel"}
"""external_ids of the tunnel ports that the agent created; ports without it are never changed."""

_RECONNECT_MS_MAX = 1000
_PROTOCOLS_DEFAULT = ("OpenFlow10", "OpenFlow13", "OpenFlow14", "OpenFlow15")
_BRIDGE_CONFIG = {"disable-in-band": "true"}
_TUNNEL_OPTIONS = {"remote_ip": "flow", "key": "flow"}

_STRINGS = {"key": "string", "min": 0, "max": "unlimited"}
_MAP = {"key": "string", "value": "string", "min": 0, "max": "unlimited"}
_OPTIONAL_STRING = {"key": "string", "min": 0, "max": 1}
_OPTIONAL_INTEGER = {"key": "integer", "min": 0, "max": 1}


def _refs(table: str) -> dict[str, Any]:
    return {"key": {"type": "uuid", "refTable": table}, "min": 0, "max": "unlimited"}


def _table(**columns: object) -> dict[str, Any]:
    return {"columns": {name: {"type": kind} for name, kind in columns.items()}}


_SCHEMA = {
    "name": "Open_vSwitch",
    "version": "8.0.0",
    "tables": {
        "Open_vSwitch": _table(
            bridges=_refs("Bridge"),
            next_cfg="integer",
            cur_cfg="integer",
            ovs_version=_OPTIONAL_STRING,
            system_type=_OPTIONAL_STRING,
            system_version=_OPTIONAL_STRING,
            external_ids=_MAP,
        ),
        "Bridge": _table(
            name="string",
            datapath_type="string",
            fail_mode=_OPTIONAL_STRING,
            protocols=_STRINGS,
            other_config=_MAP,
            ports=_refs("Port"),
        )
        | {"indexes": [["name"]]},
        "Port": _table(name="string", interfaces=_refs("Interface")) | {"indexes": [["name"]]},
        "Interface": _table(
            name="string",
            type="string",
            options=_MAP,
            ofport=_OPTIONAL_INTEGER,
            ofport_request=_OPTIONAL_INTEGER,
            external_ids=_MAP,
            error=_OPTIONAL_STRING,
        )
        | {"indexes": [["name"]]},
    },
}
"""The part of ovs-vswitchd.conf.db(5) that is replicated: column types as in the vendor's schema."""


class _Replica(connection.OvsdbIdl):  # type: ignore[misc]
    """The replicated rows; `changed` is called, in the connection's thread, after each change or lost connection."""

    def __init__(self, address: str, changed: Callable[[bool], None]) -> None:
        helper = idl.SchemaHelper(schema_json=_SCHEMA)
        helper.register_all()
        super().__init__(address, helper, leader_only=False)
        self._session.reconnect.set_backoff(_RECONNECT_MS_MAX, _RECONNECT_MS_MAX)
        self._changed = changed
        self._was_connected = False

    @property
    def synchronised(self) -> bool:
        """Connected, and the whole replica has been received on this connection."""
        return bool(self._session.is_connected()) and self.state == self.IDL_S_MONITORING

    def run(self) -> bool:
        before = self.change_seqno
        result = bool(super().run())
        synchronised = self.synchronised
        if synchronised and (self.change_seqno != before or not self._was_connected):
            self._was_connected = True
            self._changed(True)
        elif self._was_connected and not self._session.is_connected():
            self._was_connected = False
            self._changed(False)
        return result


class _Api(impl_idl.OvsdbIdl):  # type: ignore[misc]
    """ovsdbapp keeps one connection per class; an object of its own is wanted here."""

    def __init__(self, own: connection.Connection) -> None:
        self._own = own
        super().__init__(own, start=False)

    @property
    def ovsdb_connection(self) -> connection.Connection:
        return self._own

    @ovsdb_connection.setter
    def ovsdb_connection(self, _: connection.Connection) -> None:
        """Set once, in the constructor."""


class _Counted(transaction.Transaction):  # type: ignore[misc]
    """A transaction that tells ovs-vswitchd to reconfigure, and does not wait for it."""

    def pre_commit(self, txn: Any) -> None:
        self.api._ovs.increment("next_cfg")
        txn.expected_ifaces = set()


class OvsdbInterfaces:
    """`southbound.interfaces.Interfaces` on one ovsdb-server; every call ends within `timeout_seconds`."""

    def __init__(self, address: str, timeout_seconds: float = 10.0) -> None:
        """Connect.  Misconfigured when the address cannot be right, Unavailable when the server does not answer."""
        _probe(address)
        logging.getLogger("ovsdbapp").setLevel(logging.CRITICAL + 1)  # What it logs, it also raises.
        self._timeout = timeout_seconds
        self._address = address
        self._bridge = ""
        self._deliver: Callable[[InterfaceEvent], None] | None = None
        self._reported: dict[str, Plugged] = {}
        self._lost = False
        self._progress = threading.Condition()
        self._replica = _Replica(address, self._on_change)
        self._connection = connection.Connection(self._replica, timeout=timeout_seconds)
        self._api = _Api(self._connection)
        try:
            self._connection.start()
        except exceptions.TimeoutException as error:
            self._replica.close()
            raise Unavailable(f"{SETTING}: {address} accepted the connection and did not answer") from error

    def ensure(self, setup: BridgeSetup) -> None:
        """See `Interfaces.ensure`.  Returns when ovs-vswitchd has given each tunnel port its OpenFlow port number."""
        with self._connection.lock:
            if not self._replica.synchronised:
                raise Unavailable(f"{SETTING}: no connection to {self._address}")
            commands = [*self._bridge_commands(setup), *self._tunnel_commands(setup)]
        if commands:
            self._commit(commands)
        self._await_ofports(setup)

    def follow(self, bridge: str, deliver: Callable[[InterfaceEvent], None]) -> None:
        """See `Interfaces.follow`; the first `Snapshot` is delivered before this returns, if connected."""
        with self._connection.lock:
            self._bridge, self._deliver = bridge, deliver
            self._lost = True
            if self._replica.synchronised:
                self._report()

    def facts(self) -> dict[str, str]:
        """`ovs_version`, `system_type`, `system_version`, `hostname`, `system-id`: those that are set."""
        with self._connection.lock:
            for row in self._replica.tables["Open_vSwitch"].rows.values():
                named = {name: getattr(row, name) for name in ("ovs_version", "system_type", "system_version")}
                ids = {name: [row.external_ids[name]] for name in ("hostname", "system-id") if name in row.external_ids}
                return {name: value[0] for name, value in (named | ids).items() if value}
        return {}

    def close(self) -> None:
        """Stop the thread; nothing is delivered afterwards; repeating it does nothing."""
        with self._connection.lock:
            self._deliver = None
        self._connection.stop(self._timeout)

    # What should be, as commands that make it so; none when it is.

    def _bridge_commands(self, setup: BridgeSetup) -> Iterator[Any]:
        bridge = self._row("Bridge", setup.name)
        if bridge is None:
            owner = self._row("Port", setup.name)
            if owner is not None:
                raise Misconfigured("openvswitch.bridge", f"{setup.name} is already a port; choose another name")
            yield self._api.add_br(setup.name, datapath_type=setup.datapath_type)
        wanted: dict[str, Any] = {"datapath_type": setup.datapath_type, "fail_mode": ["secure"]}
        spoken = [] if bridge is None else bridge.protocols
        wanted["protocols"] = sorted({*(spoken or _PROTOCOLS_DEFAULT), "OpenFlow15"})
        wanted["other_config"] = _BRIDGE_CONFIG
        if changes := _differences(bridge, wanted):
            yield self._api.db_set("Bridge", setup.name, *changes)

    def _tunnel_commands(self, setup: BridgeSetup) -> Iterator[Any]:
        bridge = self._row("Bridge", setup.name)
        here = {port.name for port in bridge.ports} if bridge is not None else set()
        for tunnel in setup.tunnels:
            wanted = _tunnel_columns(tunnel)
            interface = self._row("Interface", tunnel.name)
            if interface is None:
                yield self._api.add_port(setup.name, tunnel.name, may_exist=False, **wanted)
            elif tunnel.name not in here or not interface.external_ids.items() >= OWNER.items():
                raise Misconfigured(
                    "tunnel.types",
                    f"port {tunnel.name} exists and is not this agent's; remove it: ovs-vsctl del-port {tunnel.name}",
                )
            elif changes := _differences(interface, wanted):
                yield self._api.db_set("Interface", tunnel.name, *changes)
        names = {tunnel.name for tunnel in setup.tunnels}
        for interface in self._interfaces(setup.name):
            if interface.name not in names and interface.external_ids.items() >= OWNER.items():
                yield self._api.del_port(interface.name, bridge=setup.name)

    def _commit(self, commands: list[Any]) -> None:
        change = _Counted(self._api, self._connection, self._timeout, check_error=True, log_errors=False)
        for command in commands:
            change.add(command)
        try:
            change.commit()
        except exceptions.TimeoutException as error:
            raise Unavailable(f"{SETTING}: {self._address} did not answer within {self._timeout} s") from error
        except RuntimeError as error:  # What ovsdbapp raises for an error that the server returns.
            raise Misconfigured(SETTING, f"the server refuses the change: {error}") from error

    def _await_ofports(self, setup: BridgeSetup) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            with self._connection.lock:
                missing = self._unsettled(setup)
            if missing is None:
                return
            with self._progress:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Unavailable(
                        f"ovs-vswitchd did not bring up {missing} within {self._timeout} s; is it running?"
                    )
                self._progress.wait(min(left, 0.2))

    def _unsettled(self, setup: BridgeSetup) -> str | None:
        for tunnel in setup.tunnels:
            row = self._row("Interface", tunnel.name)
            if row is None or not row.ofport:
                return f"port {tunnel.name}"
            if row.error or row.ofport[0] != tunnel.ofport:
                why = row.error[0] if row.error else f"OpenFlow port {tunnel.ofport} is taken by another port"
                if row.error or self._taken(setup.name, tunnel):
                    raise Misconfigured("tunnel.types", f"port {tunnel.name} is not usable: {why}")
                return f"port {tunnel.name} as OpenFlow port {tunnel.ofport}"
        return None

    def _taken(self, bridge: str, tunnel: TunnelPort) -> bool:
        return any(row.ofport == [tunnel.ofport] for row in self._interfaces(bridge) if row.name != tunnel.name)

    # What is, and what of it was reported.

    def _row(self, table: str, name: str) -> Any:
        return next((row for row in self._replica.tables[table].rows.values() if row.name == name), None)

    def _interfaces(self, bridge: str) -> Iterator[Any]:
        row = self._row("Bridge", bridge)
        for port in row.ports if row is not None else ():
            yield from port.interfaces

    def _on_change(self, connected: bool) -> None:
        with self._progress:
            self._progress.notify_all()
        if self._deliver is None:
            return
        if connected:
            self._report()
        elif not self._lost:
            self._lost = True
            self._deliver(Lost(f"connection to {self._address} lost"))

    def _report(self) -> None:
        assert self._deliver is not None
        now = {plugged.name: plugged for plugged in map(_plugged, self._interfaces(self._bridge)) if plugged.port_id}
        before, self._reported = self._reported, now
        if self._lost:
            self._lost = False
            self._deliver(Snapshot(tuple(now.values())))
            return
        for name, old in before.items():
            if name not in now or now[name].port_id != old.port_id:
                self._deliver(Plugged(old.port_id, name, None))
        for name, new in now.items():
            if before.get(name) != new:
                self._deliver(new)


def open_interfaces(address: str) -> OvsdbInterfaces:
    """The configuration database at `address` (`unix:PATH` or `tcp:HOST:PORT`)."""
    return OvsdbInterfaces(address)


def _plugged(row: Any) -> Plugged:
    usable = row.ofport[0] if row.ofport and row.ofport[0] > 0 else None
    return Plugged(row.external_ids.get("iface-id", ""), row.name, usable, row.error[0] if row.error else "")


def _tunnel_columns(tunnel: TunnelPort) -> dict[str, Any]:
    return {
        "type": tunnel.type,
        "ofport_request": [tunnel.ofport],
        "options": _TUNNEL_OPTIONS,
        "external_ids": OWNER,
    }


def _differences(row: Any, wanted: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The columns of `wanted` that `row` (None: not there yet) does not hold; of a map only the keys in `wanted`."""

    def holds(column: str, value: Any) -> bool:
        held = getattr(row, column)
        if isinstance(value, dict):
            return bool(held.items() >= value.items())
        return bool(sorted(held) == value if isinstance(value, list) else held == value)

    return [(column, value) for column, value in wanted.items() if row is None or not holds(column, value)]


def _probe(address: str) -> None:
    """Try a unix socket once: its error number says who must act, which the client library does not tell."""
    scheme, _, rest = address.partition(":")
    if scheme not in ("unix", "tcp", "ssl") or not rest:
        raise Misconfigured(SETTING, f"{address!r} is not unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT")
    if scheme != "unix":
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(rest)
        except PermissionError as error:
            raise Misconfigured(SETTING, f"no permission on {rest}; run as root or as a member of its group") from error
        except FileNotFoundError as error:
            raise Misconfigured(
                SETTING, f"{rest} does not exist; start openvswitch-switch or correct the path"
            ) from error
        except ConnectionRefusedError as error:
            raise Unavailable(f"{SETTING}: nobody listens at {rest}; is ovsdb-server running?") from error
        except OSError as error:
            with suppress(IndexError):
                raise Misconfigured(SETTING, f"{rest}: {os.strerror(error.errno or errno.EIO)}") from error
