"""The ML2 mechanism driver: what Neutron loads."""

from __future__ import annotations

from neutron_lib.plugins.ml2 import api

from flowloom.neutron import engine

engine.prepare_sessions()


class FlowloomDriver(api.MechanismDriver):  # type: ignore[misc]
    def initialize(self) -> None: ...
