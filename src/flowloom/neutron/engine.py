"""Make Neutron's database sessions use the two SQLite dialects, when the URL asks for them.

`[database] connection = sqlite+immediate:////path` is all that an operator sets: writers get that
URL, readers the same file through `sqlite+deferred`.  With any other URL nothing here has an effect.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from neutron_lib.db import api as db_api
from oslo_config import cfg
from oslo_db import exception as db_exception
from oslo_db import options
from oslo_db.sqlalchemy import exc_filters
from sqlalchemy import exc

from flowloom.neutron.sqlite_dialect import IMMEDIATE, reader_url


def prepare_sessions() -> None:
    """Call before Neutron's first database session; repeating it does nothing."""
    cfg.CONF.register_opts(options.database_opts, "database")
    url = cfg.CONF.database.connection or ""
    manager = db_api.get_context_manager()
    if not url.startswith(IMMEDIATE) or manager.is_started:
        return
    manager.configure(slave_connection=reader_url(url), synchronous_reader=False)
    exc_filters.filters("sqlite", exc.OperationalError, r".*")(_locked_is_a_deadlock)


def _locked_is_a_deadlock(error: Any, _match: Any, _engine: Any, _disconnected: Any) -> None:
    """SQLITE_BUSY is to Neutron what a deadlock is: it tries the whole operation again."""
    if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
        raise db_exception.DBDeadlock(error)
    return None
