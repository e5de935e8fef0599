"""The sync table: for each Neutron object that has a northbound record, how far the store has followed.

`version > synced_version` is what "dirty" means.  A row is never removed: after a delete it is the
tombstone's version, and an object re-created under the same id goes on counting from there.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from neutron_lib.db import model_base
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

ERROR_CHARACTERS_MAX = 500
_Integer64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class Sync(model_base.BASEV2):  # type: ignore[misc]
    """One row an object, written in the transaction that changes the object.

    key: what flows carry instead of the id; allotted with the row, never changed or used again.
    kind, object_id: the record's.
    project_id, scope: where the record lies in the store, known from the object's first change on.
    version: + 1 in each transaction that changes the record; never goes back.
    synced_version: the version that the store has acknowledged.
    deleted: the object is gone, and the record is to become a tombstone.
    dirty_since: database time (seconds since 1970) of the oldest change that the store lacks; 0: it
        lacks none.  Indexed, so that looking for work costs what there is to do, not what there is.
    digest: of the record's content as last written.
    attempts, last_error: of the drain since the store last acknowledged a version of this object.
    """

    __tablename__ = "flowloom_sync"
    __table_args__ = (
        sa.UniqueConstraint("kind", "object_id", name="uniq_flowloom_sync0kind0object_id"),
        sa.Index("ix_flowloom_sync_dirty_since", "dirty_since"),
        {"sqlite_autoincrement": True, **model_base.BASEV2.__table_args__},
    )

    key = sa.Column(_Integer64, primary_key=True, autoincrement=True)
    kind = sa.Column(sa.String(32), nullable=False)
    object_id = sa.Column(sa.String(64), nullable=False)
    project_id = sa.Column(sa.String(255), nullable=False, server_default="")
    scope = sa.Column(sa.String(64), nullable=False, server_default="")
    version = sa.Column(sa.BigInteger, nullable=False)
    synced_version = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    deleted = sa.Column(sa.Boolean, nullable=False, server_default=sa.sql.false())
    dirty_since = sa.Column(sa.Float(53), nullable=False, server_default="0")
    digest = sa.Column(sa.String(64), nullable=True)
    attempts = sa.Column(sa.Integer, nullable=False, server_default="0")
    last_error = sa.Column(sa.String(ERROR_CHARACTERS_MAX), nullable=False, server_default="")


SYNC: sa.Table = Sync.__table__


class database_now(GenericFunction[float]):  # noqa: N801
    """The database's own clock, in seconds since 1970-01-01 UTC, finer than a second."""

    type = sa.Float(53)
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "mysql")
@compiles(database_now, "mariadb")
def _mysql_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "UNIX_TIMESTAMP(NOW(6))"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())"
