"""Neutron's own database sessions as the drain and recovery use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from neutron_lib import context as neutron_context
from neutron_lib.db import api as db_api

from flowloom.neutron.database import begin_snapshot, translated_errors


class NeutronSessions:
    """The database of this Neutron process; satisfies `database.Database`.  May be used from any thread."""

    @contextmanager
    def reader(self) -> Iterator[sa.Connection]:
        with translated_errors(), db_api.CONTEXT_READER.using(neutron_context.get_admin_context()) as session:
            connection = session.connection()
            begin_snapshot(connection)
            yield connection

    @contextmanager
    def writer(self) -> Iterator[sa.Connection]:
        with translated_errors(), db_api.CONTEXT_WRITER.using(neutron_context.get_admin_context()) as session:
            yield session.connection()
