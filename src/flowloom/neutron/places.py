"""Which store is in force, and moves: the port of `consistency.place` on a SQL database."""

from __future__ import annotations

import secrets
from typing import Any

import sqlalchemy as sa

from flowloom.consistency.place import NO_PROGRESS, UNDER_WAY, Move, Place, Progress, Step
from flowloom.neutron.database_time import database_now
from flowloom.neutron.models import ERROR_CHARACTERS_MAX, MOVE, STORE
from flowloom.neutron.tables import Patient, storable

_ROW = 1
_STORE = sa.select(STORE).where(STORE.c.id == _ROW)
_NEWEST = sa.select(MOVE, (database_now() - MOVE.c.began_at).label("seconds")).order_by(MOVE.c.number.desc()).limit(1)


class SqlPlaceTable(Patient):
    """`place.PlaceTable`.  Any thread may use it."""

    def place(self) -> Place:
        def read(connection: sa.Connection) -> Place:
            row, newest = connection.execute(_STORE).first(), connection.execute(_NEWEST).first()
            move = None if newest is None else _move(newest)
            return Place(move=move) if row is None else Place(row.generation, row.url, row.cloud, move)

        return self._reading(read)

    def begin(self, source: str, target: str, by: str) -> Move | None:
        def write(connection: sa.Connection) -> Move | None:
            newest = connection.execute(_NEWEST).first()
            if newest is not None and Step(newest.step) in UNDER_WAY:
                return None
            if connection.execute(_STORE).first() is None:
                row = {"id": _ROW, "generation": 0, "url": "", "cloud": secrets.token_hex(8)}
                connection.execute(sa.insert(STORE).values(row))
            # Two who begin at once give the same number; the second one's is a duplicate, and he looks again.
            begun: dict[str, Any] = {
                "number": 1 if newest is None else newest.number + 1,
                "step": Step.COPYING.value,
                "source": source,
                "target": target,
                "by_whom": storable(by, 255),
            }
            connection.execute(sa.insert(MOVE).values(**begun, began_at=database_now()))
            return _move(connection.execute(_NEWEST).one())

        return self._writing(write)

    def advance(self, number: int, before: Step, after: Step, progress: Progress = NO_PROGRESS) -> bool:
        step = sa.update(MOVE).where(MOVE.c.number == number, MOVE.c.step == before.value)
        target = sa.select(MOVE.c.target).where(MOVE.c.number == number).scalar_subquery()
        in_force = sa.update(STORE).where(STORE.c.id == _ROW).values(generation=number, url=target)

        def write(connection: sa.Connection) -> bool:
            if not connection.execute(step.values(step=after.value, **_columns(progress))).rowcount:
                return False
            if after is Step.CUT_OVER:
                connection.execute(in_force)
            return True

        return self._writing(write)

    def report(self, number: int, progress: Progress) -> None:
        under_way = MOVE.c.step.in_(sorted(step.value for step in UNDER_WAY))
        statement = sa.update(MOVE).where(MOVE.c.number == number, under_way).values(**_columns(progress))
        self._writing(lambda connection: connection.execute(statement))


def _columns(progress: Progress) -> dict[str, Any]:
    texts = {"what": storable(progress.what, 64), "why": storable(progress.why, ERROR_CHARACTERS_MAX)}
    return progress._asdict() | texts


def _move(row: Any) -> Move:
    return Move(
        number=row.number,
        step=Step(row.step),
        source=row.source,
        target=row.target,
        by=row.by_whom,
        seconds=max(0.0, float(row.seconds)),
        progress=Progress(row.what, row.done, row.total, row.seconds_left, row.why),
    )
