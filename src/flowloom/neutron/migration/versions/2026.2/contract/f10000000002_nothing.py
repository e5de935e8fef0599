"""Nothing to take away yet."""

from neutron.db.migration import cli

revision = "f10000000002"
down_revision = "f10000000000"
branch_labels = (cli.CONTRACT_BRANCH,)


def upgrade() -> None:
    pass
