"""What Neutron's database says of the way to the store, by plain SQL: no process has to be up for it.

Loads nothing of Neutron, and only reads.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy import exc

from flowloom.kernel.errors import Misconfigured, Unavailable
from flowloom.neutron.database_time import database_now
from flowloom.neutron.sqlite_dialect import reader_url

_SYNC = sa.table(
    "flowloom_sync",
    *(sa.column(name) for name in ("key", "kind", "object_id", "project_id", "scope", "last_error")),
    sa.column("version", sa.BigInteger),
    sa.column("synced_version", sa.BigInteger),
    sa.column("confirmed_version", sa.BigInteger),
    sa.column("attempts", sa.Integer),
    sa.column("deleted", sa.Boolean),
    sa.column("dirty_since", sa.Float(53)),
)
_PORTS = sa.table("ports", sa.column("id"), sa.column("status"), sa.column("admin_state_up", sa.Boolean))
_BINDINGS = sa.table(
    "ml2_port_bindings", *(sa.column(name) for name in ("port_id", "host", "vif_type", "vnic_type", "status"))
)
_DIRTY = sa.and_(_SYNC.c.dirty_since > 0, _SYNC.c.version > _SYNC.c.synced_version)


@dataclass(frozen=True)
class Whereabouts:
    """A port as SQL has it.

    status: Neutron's ("" when the port is gone and only its sync row is left: `deleted`).
    project_id, scope: where its record lies in the store.
    undone_seconds: how long its newest change has been waiting for the store; None: it is there.
    last_error, attempts: of the attempts to write it since the store last took it.
    confirmed_version: the version with which its host last made it ACTIVE; 0: none.
    """

    port_id: str
    project_id: str
    scope: str
    version: int
    synced_version: int
    confirmed_version: int
    deleted: bool
    status: str
    admin_state_up: bool
    host: str
    vif_type: str
    undone_seconds: float | None
    attempts: int
    last_error: str


@dataclass(frozen=True)
class Backlog:
    """Changes that the store lacks: how many rows, the age of the oldest, and the error that the oldest met."""

    rows: int
    oldest_seconds: float | None
    last_error: str


def where_is(database_url: str, port_id: str) -> Whereabouts | None:
    """Where a port stands; None when Neutron never had it.  Unavailable when the database does not answer."""
    with _connected(database_url) as connection:
        return read_where_is(connection, port_id)


def read_where_is(connection: sa.Connection, port_id: str) -> Whereabouts | None:
    """As `where_is`, over a connection that there already is."""
    bound = _BINDINGS.c.port_id == _SYNC.c.object_id
    joined = _SYNC.outerjoin(_PORTS, _PORTS.c.id == _SYNC.c.object_id).outerjoin(
        _BINDINGS, sa.and_(bound, _BINDINGS.c.status == "ACTIVE")
    )
    waiting = sa.case((_DIRTY, database_now() - _SYNC.c.dirty_since), else_=None).label("waiting")
    statement = (
        sa.select(
            _SYNC,
            _PORTS.c.status,
            _PORTS.c.admin_state_up,
            _BINDINGS.c.host,
            _BINDINGS.c.vif_type,
            _PORTS.c.id,
            waiting,
        )
        .select_from(joined)
        .where(_SYNC.c.kind == "port", _SYNC.c.object_id == port_id)
    )
    row = connection.execute(statement).first()
    if row is None:
        return None
    return Whereabouts(
        port_id=port_id,
        project_id=row.project_id,
        scope=row.scope,
        version=row.version,
        synced_version=row.synced_version,
        confirmed_version=row.confirmed_version,
        deleted=row.id is None,
        status=row.status or "",
        admin_state_up=bool(row.admin_state_up),
        host=row.host or "",
        vif_type=row.vif_type or "unbound",
        undone_seconds=None if row.waiting is None else max(0.0, float(row.waiting)),
        attempts=row.attempts,
        last_error=row.last_error,
    )


def backlog(database_url: str) -> Backlog:
    """What the store lacks.  Unavailable when the database does not answer."""
    with _connected(database_url) as connection:
        return read_backlog(connection)


def read_backlog(connection: sa.Connection) -> Backlog:
    """As `backlog`, over a connection that there already is."""
    rows: int = connection.scalar(sa.select(sa.func.count()).select_from(_SYNC).where(_DIRTY)) or 0
    oldest = connection.execute(
        sa.select((database_now() - _SYNC.c.dirty_since).label("waiting"), _SYNC.c.last_error)
        .where(_DIRTY)
        .order_by(_SYNC.c.dirty_since)
        .limit(1)
    ).first()
    if oldest is None:
        return Backlog(0, None, "")
    return Backlog(rows, max(0.0, float(oldest.waiting)), oldest.last_error)


@contextmanager
def _connected(url: str) -> Iterator[sa.Connection]:
    try:
        parsed = sa.make_url(url)
        engine = sa.create_engine(reader_url(url), poolclass=sa.NullPool)
    except (exc.ArgumentError, ImportError) as error:
        raise Misconfigured("neutron.database", f"{url!r}: {error}") from error
    if parsed.get_backend_name() == "sqlite" and not os.path.exists(parsed.database or ""):
        raise Unavailable(f"Neutron's database {parsed.database} does not exist")
    try:
        with engine.connect() as connection:
            yield connection
    except exc.DBAPIError as error:
        raise Unavailable(f"Neutron's database: {error.orig}") from error
    finally:
        engine.dispose()
