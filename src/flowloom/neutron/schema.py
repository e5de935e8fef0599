"""Neutron's database schema together with ours, on SQLite.

Neutron's own migrations cannot run from zero on SQLite (they alter constraints).  There the schema is
made from the models, and alembic is told that it is up to date.  On every other database an operator
runs `neutron-db-manage upgrade heads`, which includes Flowloom's branch.
"""

from __future__ import annotations

import subprocess
import sys

import sqlalchemy as sa

from flowloom.kernel.errors import Misconfigured, Rejected


def create_schema(url: str) -> None:
    """Create every table in the SQLite database at `url` and mark all migrations as done.

    Repeating it does nothing.  Works in a process of its own (a few seconds), because Neutron's models
    and its migration tool leave their marks on the process that loads them.
    Misconfigured when `url` is not a SQLite URL; Rejected, with the last lines said, when it failed.
    """
    if sa.make_url(url).get_backend_name() != "sqlite":
        raise Misconfigured("database", f"{url}: run neutron-db-manage upgrade heads; only SQLite is made this way")
    done = subprocess.run(
        [sys.executable, "-m", __name__, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise Rejected(url, "creating the schema failed: " + " / ".join(done.stdout.splitlines()[-3:]))


def main(url: str) -> None:
    """Make tables and stamps in this process."""
    from neutron.db.migration import cli
    from neutron.db.migration.models import head

    from flowloom.neutron.models import SYNC

    database = sa.create_engine(url, poolclass=sa.NullPool)
    with database.begin() as connection:
        metadata = head.get_metadata()
        assert SYNC.metadata is metadata, "our tables belong to Neutron's metadata"
        metadata.create_all(connection)
    sys.argv[1:] = ["--database-connection", url, "stamp", "heads"]
    cli.main()


if __name__ == "__main__":
    main(sys.argv[1])
