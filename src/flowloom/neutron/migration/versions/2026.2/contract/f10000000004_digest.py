"""The digest that nobody wrote; marks are in its place."""

from alembic import op

revision = "f10000000004"
down_revision = "f10000000002"
depends_on = ("f10000000003",)


def upgrade() -> None:
    op.drop_column("flowloom_sync", "digest")
