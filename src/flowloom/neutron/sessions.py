"""Neutron's own database as the drain and recovery use it: its engines, without its sessions.

A session of Neutron's costs several times what a small transaction does (an admin context reads the policy files,
SQLAlchemy's ORM keeps track of objects that there are none of).
"""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager

import sqlalchemy as sa
from neutron_lib.db import api as db_api

from flowloom.neutron.database import SqlDatabase


class NeutronDatabase:
    """The database of this Neutron process; satisfies `database.Database`.  May be used from any thread.

    Found at its first use in a process: connections must not be used across a fork.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process = 0
        self._found: SqlDatabase | None = None

    def reader(self) -> AbstractContextManager[sa.Connection]:
        return self._here().reader()

    def writer(self) -> AbstractContextManager[sa.Connection]:
        return self._here().writer()

    def _here(self) -> SqlDatabase:
        with self._lock:
            if self._found is None or self._process != os.getpid():
                self._found, self._process = _database(), os.getpid()
            return self._found


def _database() -> SqlDatabase:
    manager = db_api.get_context_manager()
    writing: sa.Engine = manager.writer.get_engine()
    if writing.dialect.name == "sqlite" and writing.url.database not in (None, "", ":memory:"):
        # oslo.db opens a file anew for every transaction, which costs more than the transaction.
        return SqlDatabase.at(writing.url.render_as_string(hide_password=False))
    return SqlDatabase(writing, manager.reader.get_engine())
