"""The interfaces contract: the local switch's configuration database, as far as an agent needs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol


@dataclass(frozen=True)
class TunnelPort:
    """A flow-based tunnel port (remote_ip=flow, key=flow) that the agent owns."""

    name: str
    type: str
    ofport: int


@dataclass(frozen=True)
class BridgeSetup:
    """What the agent wants of its bridge; foreign ports and settings on it stay as they are."""

    name: str
    datapath_type: str
    tunnels: Sequence[TunnelPort]


class Plugged(NamedTuple):
    """Interface `name` carries port `port_id` (external_ids:iface-id) at `ofport`; ofport None: gone or not usable.

    error: the switch's own words when it could not be brought up.
    """

    port_id: str
    name: str
    ofport: int | None
    error: str = ""


class Snapshot(NamedTuple):
    """Every plugged interface, sent first and after each reconnect: what is not in it is gone."""

    plugged: Sequence[Plugged]


class Lost(NamedTuple):
    """The connection to the database is gone; what was plugged stays plugged as far as is known."""

    why: str


InterfaceEvent = Plugged | Snapshot | Lost


class Interfaces(Protocol):
    """The configuration database of one switch.  Errors: Unavailable, Misconfigured."""

    def ensure(self, setup: BridgeSetup) -> None:
        """Create or correct the bridge and its tunnel ports; repeating it changes nothing."""
        ...

    def follow(self, bridge: str, deliver: Callable[[InterfaceEvent], None]) -> None:
        """Start a thread that delivers a `Snapshot`, then every change; it reconnects by itself."""
        ...

    def facts(self) -> dict[str, str]:
        """What the switch says of itself: `ovs_version`, `hostname` and the like."""
        ...

    def close(self) -> None:
        """Stop; repeating it does nothing."""
        ...
