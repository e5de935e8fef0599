"""The sync table: for each Neutron object that has a northbound record, how far the store has followed.

`version > synced_version` is what "dirty" means.  A row is never removed: after a delete it is the
tombstone's version, and an object re-created under the same id goes on counting from there.
"""

from __future__ import annotations

import sqlalchemy as sa
from neutron_lib.db import model_base

ERROR_CHARACTERS_MAX = 500
_Integer64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


class Sync(model_base.BASEV2):  # type: ignore[misc]
    """One row an object, written in the transaction that changes the object.

    key: what flows carry instead of the id; allotted with the row, never changed or used again.
    kind, object_id: the record's.
    project_id, scope: where the record lies in the store, known from the object's first change on.
    version: + 1 in each transaction that changes the record; never goes back.
    synced_version: the version that the store has acknowledged.
    confirmed_version: the version with which the port's host last made it ACTIVE; 0: it did not, or took it back.
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
    confirmed_version = sa.Column(sa.BigInteger, nullable=False, server_default="0")
    deleted = sa.Column(sa.Boolean, nullable=False, server_default=sa.sql.false())
    dirty_since = sa.Column(sa.Float(53), nullable=False, server_default="0")
    digest = sa.Column(sa.String(64), nullable=True)
    attempts = sa.Column(sa.Integer, nullable=False, server_default="0")
    last_error = sa.Column(sa.String(ERROR_CHARACTERS_MAX), nullable=False, server_default="")


SYNC: sa.Table = Sync.__table__
