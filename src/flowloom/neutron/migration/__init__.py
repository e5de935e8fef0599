"""Alembic branch of Flowloom's own tables: `neutron-db-manage --subproject flowloom upgrade heads`."""
