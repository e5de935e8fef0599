"""Shards and marks on the sync table; leases, audit, guards.

What the store has acknowledged so far has no mark, so every row becomes dirty once: the drain finds each
record already there and writes its mark.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from flowloom.consistency.marks import shard_of
from flowloom.neutron.database_time import database_now

revision = "f10000000003"
down_revision = "f10000000001"

ROWS_PER_UPDATE = 1000

_integer64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_sync = sa.table(
    "flowloom_sync",
    *(sa.column(name) for name in ("key", "kind", "object_id", "shard", "version", "synced_version", "dirty_since")),
)


def _exact(length: int) -> sa.types.TypeEngine[str]:
    return sa.String(length).with_variant(mysql.VARCHAR(length, binary=True), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column("flowloom_sync", sa.Column("mark", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("flowloom_sync", sa.Column("shard", sa.SmallInteger, nullable=False, server_default="-1"))
    op.create_index("ix_flowloom_sync_project_dirty", "flowloom_sync", ["project_id", "dirty_since"])
    op.create_index("ix_flowloom_sync_shard", "flowloom_sync", ["shard", "key", "mark"])
    _fill(op.get_bind())
    op.create_table(
        "flowloom_lease",
        sa.Column("name", _exact(300), primary_key=True),
        sa.Column("owner", _exact(255), nullable=False, server_default=""),
        sa.Column("fence", sa.BigInteger, nullable=False),
        sa.Column("asked", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("expires_at", sa.Float(53), nullable=False, server_default="0"),
        sa.Column("fenced", sa.BigInteger, nullable=False, server_default="0"),
        mysql_engine="InnoDB",
    )
    op.create_table(
        "flowloom_audit",
        sa.Column("id", _integer64, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("object_kind", sa.String(32), nullable=False),
        sa.Column("object_id", sa.String(255), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False),
        sa.Column("comparison", sa.String(64), nullable=False),
        sa.Column("neutron_version", sa.BigInteger, nullable=False),
        sa.Column("store_version", sa.BigInteger, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("done", sa.String(255), nullable=False),
        sa.Column("verified", sa.String(255), nullable=False),
        sa.Column("by_whom", sa.String(255), nullable=False),
        sa.Column("guard", sa.String(64), nullable=False),
        sqlite_autoincrement=True,
        mysql_engine="InnoDB",
    )
    op.create_table(
        "flowloom_guard",
        sa.Column("id", _exact(64), primary_key=True),
        sa.Column("at", sa.Float(53), nullable=False),
        sa.Column("by_whom", sa.String(255), nullable=False),
        sa.Column("found", sa.Text, nullable=False),
        sa.Column("of_objects", sa.BigInteger, nullable=False),
        sa.Column("sample", sa.Text, nullable=False),
        sa.Column("approved_by", sa.String(255), nullable=False, server_default=""),
        mysql_engine="InnoDB",
    )


def _fill(connection: sa.Connection) -> None:
    """Shards of the rows that there are, and work for the drain."""
    key, wanted = (sa.bindparam(name, type_=sa.BigInteger()) for name in ("row_key", "row_shard"))
    place = sa.update(_sync).where(_sync.c.key == key).values(shard=wanted)
    after = 0
    while True:
        page = sa.select(_sync.c.key, _sync.c.kind, _sync.c.object_id).where(_sync.c.key > after)
        rows = connection.execute(page.order_by(_sync.c.key).limit(ROWS_PER_UPDATE)).all()
        if not rows:
            break
        connection.execute(place, [{"row_key": r.key, "row_shard": shard_of(r.kind, r.object_id)} for r in rows])
        after = rows[-1].key
    since = sa.case((_sync.c.dirty_since > 0, _sync.c.dirty_since), else_=database_now())
    connection.execute(sa.update(_sync).values(synced_version=0, dirty_since=since))
