"""Run by alembic through neutron-db-manage; keeps Flowloom's revisions in a version table of their own."""

from alembic import context
from neutron.db.migration.connection import DBConnection
from neutron_lib.db import model_base

from flowloom.neutron import models

VERSION_TABLE = "alembic_version_flowloom"
OURS = {table.name for table in models.TABLES}


def _only_our_tables(_object: object, name: str | None, kind: str, _reflected: bool, _compared: object) -> bool:
    return kind != "table" or name in OURS


config = context.config
with DBConnection(config.neutron_config.database.connection, config.attributes.get("connection")) as connection:
    context.configure(
        connection=connection,
        target_metadata=model_base.BASEV2.metadata,
        version_table=VERSION_TABLE,
        include_object=_only_our_tables,
    )
    with context.begin_transaction():
        context.run_migrations()
