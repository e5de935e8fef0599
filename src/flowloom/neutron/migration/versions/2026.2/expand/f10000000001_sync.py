"""The sync table."""

import sqlalchemy as sa
from alembic import op
from neutron.db.migration import cli

revision = "f10000000001"
down_revision = "f10000000000"
branch_labels = (cli.EXPAND_BRANCH,)

_integer64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "flowloom_sync",
        sa.Column("key", _integer64, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("object_id", sa.String(64), nullable=False),
        sa.Column("project_id", sa.String(255), nullable=False, server_default=""),
        sa.Column("scope", sa.String(64), nullable=False, server_default=""),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("synced_version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("confirmed_version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("deleted", sa.Boolean, nullable=False, server_default=sa.sql.false()),
        sa.Column("dirty_since", sa.Float(53), nullable=False, server_default="0"),
        sa.Column("digest", sa.String(64), nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("last_error", sa.String(500), nullable=False, server_default=""),
        sa.UniqueConstraint("kind", "object_id", name="uniq_flowloom_sync0kind0object_id"),
        sqlite_autoincrement=True,
        mysql_engine="InnoDB",
    )
    op.create_index("ix_flowloom_sync_dirty_since", "flowloom_sync", ["dirty_since"])
