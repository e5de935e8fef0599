"""Faults put into the capture on purpose, to see the audit find each.  `own.child --break NAME` puts one in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flowloom.neutron import capture
from flowloom.neutron.bump import Touch


def _without(unwanted: Callable[[Touch], bool]) -> None:
    """Let the capture lose these touches, as if it had not heard of them."""
    original = capture.bump

    def bump(connection: Any, touches: Iterable[Touch]) -> None:
        original(connection, [touch for touch in touches if not unwanted(touch)])

    capture.bump = bump


def lost_update() -> None:
    """A change of a port is not captured."""
    _without(lambda touch: touch.ref.kind == "port" and touch.deleted is None)


def lost_create() -> None:
    """A new subnet is not captured."""
    _without(lambda touch: touch.ref.kind == "subnet" and touch.deleted is False)


def lost_delete() -> None:
    """A deleted network is not captured."""
    _without(lambda touch: touch.ref.kind == "network" and touch.deleted is True)


def sleeping_worker() -> None:
    """What was captured is told to nobody after the commit."""
    original = capture.Capture.__init__

    def init(this: Any, _committed: Callable[..., None], strict: bool = False) -> None:
        original(this, lambda _refs: None, strict)

    capture.Capture.__init__ = init


def past_the_capture() -> None:
    """A bulk statement that nothing is known about, in every create of a port."""
    import sqlalchemy as sa
    from neutron.db import models_v2
    from neutron.plugins.ml2 import plugin
    from neutron_lib.db import api as db_api

    original = plugin.Ml2Plugin.create_port

    def create_port(this: Any, context: Any, port: Any) -> Any:
        made = original(this, context, port)
        with db_api.CONTEXT_WRITER.using(context) as session:
            renamed = sa.case((models_v2.Port.name == "", "renamed"), else_=models_v2.Port.name)
            session.execute(sa.insert(models_v2.Port).from_select(["id"], sa.select(renamed).where(sa.false())))
        return made

    plugin.Ml2Plugin.create_port = create_port


def dies() -> None:
    """The process ends at the first new subnet."""
    import os

    from neutron.plugins.ml2 import plugin

    plugin.Ml2Plugin.create_subnet = lambda *_arguments, **_keywords: os._exit(70)
