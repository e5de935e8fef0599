"""Where both branches begin."""

revision = "f10000000000"
down_revision = None


def upgrade() -> None:
    pass
