"""Where each port of this chassis stands, and what to say of it: pure bookkeeping.

A port's version is confirmed when everything merged up to it, and up to its interface's last change, was
compiled and is known to be on the switch.  Merges are numbered; the switch side says which number it reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from flowloom.model.records import Interface, Network, Port, PortStatus
from flowloom.southbound.interfaces import Plugged

NO_INTERFACE: Final = "no interface with external_ids:iface-id on this host"
ADMIN_DOWN: Final = "admin state is down"
NO_NETWORK: Final = "its network is not known here yet"
WAITING: Final = "waiting for the switch"
NO_SWITCH: Final = "the switch does not answer"


class _Local:
    """One port bound here.  mark: merge that changed it last; since: when; confirmed: version on the switch."""

    __slots__ = ("confirmed", "mark", "port", "since")

    def __init__(self, port: Port, mark: int, since: float) -> None:
        self.port = port
        self.mark = mark
        self.since = since
        self.confirmed = 0


class LocalPorts:
    """The ports bound to `chassis` and the interfaces plugged here.

    grace_seconds: how long a port that waits for the switch is not yet reported as waiting.
    """

    def __init__(self, chassis: str, grace_seconds: float) -> None:
        self._chassis = chassis
        self._grace_seconds = grace_seconds
        self._local: dict[str, _Local] = {}
        self._waiting: dict[str, None] = {}
        self._plugged: dict[str, Plugged] = {}
        self._names: dict[str, set[str]] = {}
        self._faults: dict[str, str] = {}

    # Facts in -------------------------------------------------------------------------------------

    def plug(self, event: Plugged) -> Iterator[str]:
        """An interface changed; yields the ids of the ports concerned."""
        old = self._plugged.get(event.name)
        if old is not None and old.port_id != event.port_id:
            if event.ofport is None and not event.error:
                return  # The end of what another port id already replaced.
            self._unplug(event.name)
            yield old.port_id
        if event.ofport is None and not event.error:
            self._unplug(event.name)
        else:
            self._plugged[event.name] = event
            self._names.setdefault(event.port_id, set()).add(event.name)
        yield event.port_id

    def snapshot(self, plugged: Iterable[Plugged]) -> set[str]:
        """All interfaces there are; the ids of the ports concerned."""
        now = {event.name: event for event in plugged}
        concerned: set[str] = set()
        for name, old in list(self._plugged.items()):
            if name not in now or now[name].port_id != old.port_id:
                self._unplug(name)
                concerned.add(old.port_id)
        for event in now.values():
            if self._plugged.get(event.name) != event:
                concerned.update(self.plug(event))
        return concerned

    def _unplug(self, name: str) -> None:
        old = self._plugged.pop(name, None)
        if old is not None:
            names = self._names[old.port_id]
            names.discard(name)
            if not names:
                del self._names[old.port_id]

    def interface(self, port_id: str) -> Interface | None:
        """The usable interface of a port: of several the first by name, so that the choice is stable."""
        usable = [self._plugged[name] for name in sorted(self._names.get(port_id, ()))]
        for event in usable:
            if event.ofport is not None:
                return Interface(id=port_id, ofport=event.ofport)
        return None

    def interface_error(self, port_id: str) -> str:
        """The switch's words on an interface of the port that could not be brought up; "" for none."""
        for name in sorted(self._names.get(port_id, ())):
            if self._plugged[name].error:
                return f"interface {name}: {self._plugged[name].error}"
        return ""

    def changed(self, port_id: str, port: Port | None, mark: int, now: float) -> bool:
        """The port's record was merged; whether the port is, or was, bound here."""
        here = port is not None and port.host == self._chassis
        if not here:
            self._waiting.pop(port_id, None)
            return self._local.pop(port_id, None) is not None
        assert port is not None
        local = self._local.get(port_id)
        if local is None:
            self._local[port_id] = _Local(port, mark, now)
        else:
            local.port, local.mark, local.since = port, mark, now
        self._waiting[port_id] = None
        return True

    def touch(self, port_id: str, mark: int, now: float) -> None:
        """Something else that the port's flows depend on was merged: it is confirmed anew."""
        local = self._local.get(port_id)
        if local is not None:
            local.mark, local.since = mark, now
            self._waiting[port_id] = None

    def of_network(self, network_id: str) -> list[str]:
        """Ids of the local ports of a network."""
        return [id for id, local in self._local.items() if local.port.network_id == network_id]

    def confirm(self, mark: int) -> list[str]:
        """The switch has everything up to `mark`; the ports whose version is confirmed by that."""
        done = [id for id in self._waiting if self._local[id].mark <= mark]
        for id in done:
            del self._waiting[id]
            self._local[id].confirmed = self._local[id].port.version
        return done

    def fault(self, faults: Mapping[str, str]) -> set[str]:
        """Why ports cannot work although everything is confirmed (id -> reason); the ids whose reason changed."""
        moved = {id for id in faults.keys() | self._faults.keys() if faults.get(id) != self._faults.get(id)}
        self._faults = dict(faults)
        return moved

    # Answers --------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Ids of the ports bound here."""
        return list(self._local)

    def is_local(self, port_id: str) -> bool:
        """Whether the port is bound here."""
        return port_id in self._local

    def network_id(self, port_id: str) -> str:
        """Id of the network of a local port."""
        return self._local[port_id].port.network_id

    def confirmed(self, port_id: str) -> int:
        """Version of the port that the switch has confirmed; 0: none."""
        local = self._local.get(port_id)
        return 0 if local is None else local.confirmed

    def late(self, now: float) -> list[str]:
        """Ports that have waited for the switch longer than the grace."""
        return [id for id in self._waiting if now - self._local[id].since >= self._grace_seconds]

    @property
    def waiting(self) -> int:
        """How many ports wait for the switch."""
        return len(self._waiting)

    def status(self, port_id: str, network: Network | None, lost_at: float | None, now: float) -> PortStatus | None:
        """What to say of a local port; None: nothing new yet, for it is about to be confirmed.

        lost_at: since when the switch is not connected.
        """
        local = self._local[port_id]
        port = local.port
        if port_id in self._waiting and now - local.since < self._grace_seconds:
            return None
        why = self._why_not(local, network, lost_at is not None and now - lost_at >= self._grace_seconds)
        return PortStatus(
            id=port_id,
            version=0,
            project_id=port.project_id,
            chassis=self._chassis,
            port_version=local.confirmed,
            up=not why,
            reason=why,
        )

    def _why_not(self, local: _Local, network: Network | None, switch_lost: bool) -> str:
        port = local.port
        if not port.admin_state_up:
            return ADMIN_DOWN
        if self.interface(port.id) is None:
            return self.interface_error(port.id) or NO_INTERFACE
        if network is None:
            return NO_NETWORK
        if port.id in self._faults:
            return self._faults[port.id]
        if switch_lost:
            return NO_SWITCH
        return WAITING if port.id in self._waiting else ""
