"""The database's own clock as a SQL function: what several machines can agree on."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction


class database_now(GenericFunction[float]):
    """The database's own clock, in seconds since 1970-01-01 UTC, finer than a second."""

    type = sa.Float(53)
    inherit_cache = True


@compiles(database_now, "sqlite")
def _sqlite_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(database_now, "mysql")
@compiles(database_now, "mariadb")
def _mysql_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    # From UTC: the hour that local time repeats in autumn must not count twice.
    return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(6)) / 1000000.0)"


@compiles(database_now, "postgresql")
def _postgresql_now(_element: Any, _compiler: Any, **_options: Any) -> str:
    return "EXTRACT(EPOCH FROM clock_timestamp())"
