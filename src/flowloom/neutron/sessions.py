"""Neutron's database sessions as the drain and recovery use them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import sqlalchemy as sa
from neutron_lib import context as neutron_context
from neutron_lib.db import api as db_api


class NeutronSessions:
    """The database of this Neutron process; satisfies `drain.Database`.  May be used from any thread."""

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        """A transaction that reads one snapshot."""
        with db_api.CONTEXT_READER.using(neutron_context.get_admin_context()) as session:
            yield session.connection()

    def write(self, statement: sa.Executable, parameters: Sequence[Mapping[str, object]] = ()) -> int:
        """Execute one statement in a transaction of its own, again after a deadlock; how many rows it matched."""
        return int(_write(statement, parameters))


@db_api.retry_db_errors  # type: ignore[untyped-decorator]
def _write(statement: sa.Executable, parameters: Sequence[Mapping[str, object]]) -> int:
    with db_api.CONTEXT_WRITER.using(neutron_context.get_admin_context()) as session:
        found: int = session.connection().execute(statement, list(parameters) or None).rowcount
        return found
