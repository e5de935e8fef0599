"""Flowloom's own tables in Neutron's database: sync rows, leases, audit, guards, which store is in force, moves.

The sync table says of each Neutron object that has a northbound record how far the store has followed.
`version > synced_version` is what "dirty" means.  A row is never removed: after a delete it is the
tombstone's version, and an object re-created under the same id goes on counting from there.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from neutron_lib.db import model_base
from sqlalchemy.dialects import mysql

from flowloom.consistency.marks import shard_of

ERROR_CHARACTERS_MAX = 500
_Integer64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def exact(length: int) -> sa.types.TypeEngine[str]:
    """Text that is compared character by character: MySQL's own default takes "A" for "a"."""
    return sa.String(length).with_variant(mysql.VARCHAR(length, binary=True), "mysql", "mariadb")


def _shard(context: Any) -> int:
    """Of the row that is being inserted, whoever inserts it."""
    row = context.get_current_parameters()
    return shard_of(row["kind"], row["object_id"])


class Sync(model_base.BASEV2):  # type: ignore[misc]
    """One row an object, written in the transaction that changes the object.

    key: what flows carry instead of the id; allotted with the row, never changed or used again.
    kind, object_id: the record's.
    project_id, scope: where the record lies in the store, known from the object's first change on.
    version: + 1 in each transaction that changes the record; never goes back.
    synced_version: the version that the store has acknowledged.
    mark: `marks.mark` of what it acknowledged; 0 exactly where synced_version is 0.
    shard: `marks.shard_of` the object; filled in by SQLAlchemy.  -1: a release that did not know of it made the row.
    confirmed_version: the version with which the port's host last made it ACTIVE; 0: it did not, or took it back.
    deleted: the object is gone, and the record is to become a tombstone.
    dirty_since: database time (seconds since 1970) of the oldest change that the store lacks; 0: it
        lacks none.  Indexed, so that looking for work costs what there is to do, not what there is.
    attempts, last_error: of the drain since the store last acknowledged a version of this object.

    The index over (shard, key, mark) answers a comparison alone: sums without the table, pages in key order.
    """

    __tablename__ = "flowloom_sync"
    __table_args__ = (
        sa.UniqueConstraint("kind", "object_id", name="uniq_flowloom_sync0kind0object_id"),
        sa.Index("ix_flowloom_sync_dirty_since", "dirty_since"),
        sa.Index("ix_flowloom_sync_project_dirty", "project_id", "dirty_since"),
        sa.Index("ix_flowloom_sync_shard", "shard", "key", "mark"),
        {"sqlite_autoincrement": True, **model_base.BASEV2.__table_args__},
    )

    key = sa.Column(_Integer64, primary_key=True, autoincrement=True)
    kind = sa.Column(sa.String(32), nullable=False)
    object_id = sa.Column(sa.String(64), nullable=False)
    project_id = sa.Column(sa.String(255), nullable=False, server_default="")
    scope = sa.Column(sa.String(64), nullable=False, server_default="")
    version = sa.Column(sa.BigInteger, nullable=False)
    synced_version = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    mark = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    shard = sa.Column(sa.SmallInteger, nullable=False, default=_shard, server_default="-1")
    confirmed_version = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    deleted = sa.Column(sa.Boolean, nullable=False, server_default=sa.sql.false())
    dirty_since = sa.Column(sa.Float(53), nullable=False, server_default="0")
    attempts = sa.Column(sa.Integer, nullable=False, server_default="0")
    last_error = sa.Column(sa.String(ERROR_CHARACTERS_MAX), nullable=False, server_default="")


class LeaseRow(model_base.BASEV2):  # type: ignore[misc]
    """One row a name that was ever leased; it stays, because its fence must not start again.

    owner: "" when it is free.  fence: + 1 with every holder.  asked: how many wanted it while it was held.
    expires_at: by the database's clock, seconds since 1970.
    fenced: counts the transactions that compared the fence, so that such a transaction changes this row:
        that is what makes it and a take-over at another Galera node exclude each other.
    """

    __tablename__ = "flowloom_lease"

    name = sa.Column(exact(300), primary_key=True)
    owner = sa.Column(exact(255), nullable=False, server_default="")
    fence = sa.Column(sa.BigInteger, nullable=False)
    asked = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    expires_at = sa.Column(sa.Float(53), nullable=False, server_default="0")
    fenced = sa.Column(sa.BigInteger, nullable=False, server_default="0")


class AuditRow(model_base.BASEV2):  # type: ignore[misc]
    """One `consistency.table.AuditEntry`."""

    __tablename__ = "flowloom_audit"
    __table_args__ = ({"sqlite_autoincrement": True, **model_base.BASEV2.__table_args__},)

    id = sa.Column(_Integer64, primary_key=True, autoincrement=True)
    at = sa.Column(sa.Float(53), nullable=False)
    kind = sa.Column(sa.String(32), nullable=False)
    object_kind = sa.Column(sa.String(32), nullable=False)
    object_id = sa.Column(sa.String(255), nullable=False)
    project_id = sa.Column(sa.String(255), nullable=False)
    comparison = sa.Column(sa.String(64), nullable=False)
    neutron_version = sa.Column(sa.BigInteger, nullable=False)
    store_version = sa.Column(sa.BigInteger, nullable=False)
    version = sa.Column(sa.BigInteger, nullable=False)
    done = sa.Column(sa.String(255), nullable=False)
    verified = sa.Column(sa.String(255), nullable=False)
    by_whom = sa.Column(sa.String(255), nullable=False)
    guard = sa.Column(sa.String(64), nullable=False)


class GuardRow(model_base.BASEV2):  # type: ignore[misc]
    """One `consistency.table.GuardEntry`; found and sample are JSON."""

    __tablename__ = "flowloom_guard"

    id = sa.Column(exact(64), primary_key=True)
    at = sa.Column(sa.Float(53), nullable=False)
    by_whom = sa.Column(sa.String(255), nullable=False)
    found = sa.Column(sa.Text, nullable=False)
    of_objects = sa.Column(sa.BigInteger, nullable=False)
    sample = sa.Column(sa.Text, nullable=False)
    approved_by = sa.Column(sa.String(255), nullable=False, server_default="")


class StoreRow(model_base.BASEV2):  # type: ignore[misc]
    """`consistency.place.Place`: one row, written once a move and read with a shared lock by every acknowledgement.

    Hence nothing else is in it: how far a move is changes every second, and is in `MoveRow`.
    """

    __tablename__ = "flowloom_store"

    id = sa.Column(sa.SmallInteger, primary_key=True, autoincrement=False)
    generation = sa.Column(sa.BigInteger, nullable=False)
    url = sa.Column(sa.Text, nullable=False)
    cloud = sa.Column(sa.String(32), nullable=False)


class MoveRow(model_base.BASEV2):  # type: ignore[misc]
    """One `consistency.place.Move`.  began_at: by the database's clock, seconds since 1970; `what` to `why`: progress."""

    __tablename__ = "flowloom_move"

    number = sa.Column(_Integer64, primary_key=True, autoincrement=False)
    step = sa.Column(sa.String(16), nullable=False)
    source = sa.Column(sa.Text, nullable=False)
    target = sa.Column(sa.Text, nullable=False)
    by_whom = sa.Column(sa.String(255), nullable=False)
    began_at = sa.Column(sa.Float(53), nullable=False)
    what = sa.Column(sa.String(64), nullable=False, server_default="")
    done = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    total = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    seconds_left = sa.Column(sa.Float(53), nullable=False, server_default="-1")
    why = sa.Column(sa.String(ERROR_CHARACTERS_MAX), nullable=False, server_default="")


SYNC: sa.Table = Sync.__table__
LEASE: sa.Table = LeaseRow.__table__
AUDIT: sa.Table = AuditRow.__table__
GUARD: sa.Table = GuardRow.__table__
STORE: sa.Table = StoreRow.__table__
MOVE: sa.Table = MoveRow.__table__
TABLES = (SYNC, LEASE, AUDIT, GUARD, STORE, MOVE)
