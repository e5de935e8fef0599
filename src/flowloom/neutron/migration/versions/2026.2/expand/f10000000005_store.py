"""Which store is in force, and moves from one to another."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "f10000000005"
down_revision = "f10000000003"

_integer64 = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    store = op.create_table(
        "flowloom_store",
        sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("url", sa.Text, nullable=False),
        sa.Column("cloud", sa.String(32), nullable=False),
        mysql_engine="InnoDB",
    )
    op.create_table(
        "flowloom_move",
        sa.Column("number", _integer64, primary_key=True, autoincrement=False),
        sa.Column("step", sa.String(16), nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("by_whom", sa.String(255), nullable=False),
        sa.Column("began_at", sa.Float(53), nullable=False),
        sa.Column("what", sa.String(64), nullable=False, server_default=""),
        sa.Column("done", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("total", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("seconds_left", sa.Float(53), nullable=False, server_default="-1"),
        sa.Column("why", sa.String(500), nullable=False, server_default=""),
        mysql_engine="InnoDB",
    )
    # There from the beginning, so that an acknowledgement has a row to lock.
    op.bulk_insert(store, [{"id": 1, "generation": 0, "url": "", "cloud": secrets.token_hex(8)}])
