"""Why local ports cannot work although the switch took everything it was sent: refused flows, failed rules."""

from __future__ import annotations

from collections.abc import Iterable

from flowloom.agent.ports import LocalPorts
from flowloom.compiler.compiler import Compiler
from flowloom.model.records import Interface, Network, Port, Subnet


class Faults:
    """Refused flows are traced back to records only when the set of them has changed: that walk is linear."""

    def __init__(self, compiler: Compiler, ports: LocalPorts) -> None:
        self._compiler = compiler
        self._ports = ports
        self._refused: dict[bytes, str] = {}
        self._of_refused: dict[str, str] = {}

    def now(self) -> dict[str, str]:
        """Local port id -> reason, in one sentence; ports without fault are not in it."""
        compiler = self._compiler
        if compiler.ledger.refused != self._refused:
            self._refused = dict(compiler.ledger.refused)
            self._of_refused = self._trace()
        if not self._of_refused and not compiler.failures:
            return {}
        faults = dict(self._of_refused)
        for failure in compiler.failures.values():
            for port_id in self._concerned(failure.kind, failure.id):
                faults[port_id] = f"flows not computed: {failure.app} {failure.rule}: {failure.error}"
        return faults

    def refusal(self, key: bytes, error: str) -> str:
        """One refused fact, with the records behind it, for people."""
        from flowloom.pipeline.describe import describe  # for people only: not loaded at start

        value = self._compiler.ledger.desired.get(key)
        causes = ", ".join(f"{cause.kind} {cause.id}" for cause in self._compiler.why(key)) or "no record"
        return f"{error}: {describe(key, value) if value is not None else key.hex()} (of {causes})"

    def _trace(self) -> dict[str, str]:
        from flowloom.pipeline.describe import describe  # for people only: not loaded at start

        faults: dict[str, str] = {}
        owners = self._compiler.owners() if self._refused else {}
        for key, error in self._refused.items():
            value = self._compiler.ledger.desired.get(key)
            if value is None:
                continue
            for n, id in owners.get(key, ()):
                for port_id in self._concerned(self._compiler.cause(n, id).kind, id):
                    faults[port_id] = f"flow refused: {error}: {describe(key, value)}"
        return faults

    def _concerned(self, kind: str, id: str) -> Iterable[str]:
        """The local ports that do not work without the facts of one record."""
        if kind in (Port.kind, Interface.kind):
            return (id,) if self._ports.is_local(id) else ()
        if kind == Network.kind:
            return self._ports.of_network(id)
        if kind == Subnet.kind:
            subnet = self._compiler.get(Subnet, id)
            return self._ports.of_network(subnet.network_id) if subnet is not None else ()
        return ()  # A chassis: the way to one other node; it stands in the agent's status.
