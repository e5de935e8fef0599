"""RethinkDB's query language, as far as the driver uses it, on tables in memory.

It takes what the client library would send and answers as the documentation says and as a real server was seen to
answer; a document is written atomically, a query is not.  It shows that the driver's queries mean what they should; how
a cluster behaves when servers die only a cluster shows.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from rethinkdb import errors
from rethinkdb.ast import ReQLEncoder
from rethinkdb.ql2_pb2 import Term

NAMES = {number: name for name, number in vars(Term.TermType).items() if isinstance(number, int)}


class Missing(errors.ReqlNonExistenceError):
    """What `default` catches."""

    def __init__(self, text: str) -> None:
        super().__init__(text)


class Rows(list[Any]):
    """A sequence of documents that remembers its table."""

    table: str = ""


class Server:
    """The databases of a cluster.  available False: every query fails as on a dead connection."""

    def __init__(self) -> None:
        self.databases: dict[str, dict[str, dict[Any, Any]]] = {"rethinkdb": {}}
        self.indexes: set[str] = set()
        self.servers = 1
        self.available = True
        self.lost_answers = 0
        self.refuses: errors.ReqlError | None = None
        self.changed = threading.Condition()

    def dial(self, settings: Any, endpoint: Any, seconds: float) -> Connection:
        if not self.available:
            raise errors.ReqlDriverError(f"Could not connect to {endpoint}. Error: [Errno 111] Connection refused")
        return Connection(self, settings.database)


class Connection:
    """What `run` is given."""

    def __init__(self, server: Server, database: str) -> None:
        self.server = server
        self.database = database
        self.open = True

    def close(self, noreply_wait: bool = True) -> None:
        self.open = False

    def _start(self, term: Any, **options: Any) -> Any:
        if not (self.open and self.server.available):
            self.open = False
            raise errors.ReqlDriverError("Connection is closed.")
        if self.server.refuses is not None:
            raise self.server.refuses
        found = Evaluation(self).value(json.loads(ReQLEncoder().encode(term)), {})
        if self.server.lost_answers:
            self.server.lost_answers -= 1
            self.open = False
            raise errors.ReqlDriverError("Connection is closed.")
        return found


class Feed:
    """A changefeed: anything written to the log rings."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.seen = self._size()

    def next(self, wait: float) -> Any:
        deadline = time.monotonic() + wait
        server = self.connection.server
        with server.changed:
            while self._size() == self.seen:
                if not server.available:
                    raise errors.ReqlDriverError("Connection is closed.")
                left = deadline - time.monotonic()
                if left <= 0:
                    raise errors.ReqlTimeoutError()
                server.changed.wait(min(left, 0.05))
            self.seen = self._size()
            return {}

    def _size(self) -> int:
        tables = self.connection.server.databases.get(self.connection.database, {})
        return max(tables.get("log", {0: 0}), default=0)


MINVAL, MAXVAL = object(), object()


class Evaluation:
    """One query."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.server = connection.server
        self.now = time.time()

    @property
    def tables(self) -> dict[str, dict[Any, Any]]:
        if self.connection.database not in self.server.databases:
            raise errors.ReqlOpFailedError(f"Database `{self.connection.database}` does not exist.")
        return self.server.databases[self.connection.database]

    def value(self, term: Any, scope: dict[int, Any]) -> Any:
        if isinstance(term, dict):
            if term.get("$reql_type$") == "BINARY":
                return base64.b64decode(term["data"])
            return {name: self.value(each, scope) for name, each in term.items()}
        if not isinstance(term, list):
            return term
        name = NAMES[term[0]]
        arguments = term[1] if len(term) > 1 and isinstance(term[1], list) else []
        options = term[2] if len(term) > 2 else (term[1] if len(term) > 1 and isinstance(term[1], dict) else {})
        special: Callable[..., Any] | None = getattr(self, f"special_{name.lower()}", None)
        if special:
            return special(arguments, options, scope)
        method = getattr(self, f"on_{name.lower()}")
        return method(
            *[self.value(each, scope) for each in arguments],
            **{key: self.value(each, scope) for key, each in options.items()},
        )

    # --- functions and control ---

    def special_func(self, arguments: Any, options: Any, scope: dict[int, Any]) -> Callable[..., Any]:
        names = self.value(arguments[0], scope)
        return lambda *given: self.value(arguments[1], {**scope, **dict(zip(names, given, strict=True))})

    def special_var(self, arguments: Any, options: Any, scope: dict[int, Any]) -> Any:
        return scope[arguments[0]]

    def special_branch(self, arguments: Any, options: Any, scope: dict[int, Any]) -> Any:
        chosen = arguments[1] if self.value(arguments[0], scope) else arguments[2]
        return self.value(chosen, scope)

    def special_default(self, arguments: Any, options: Any, scope: dict[int, Any]) -> Any:
        try:
            found = self.value(arguments[0], scope)
        except Missing:
            found = None
        return self.value(arguments[1], scope) if found is None else found

    def on_make_array(self, *items: Any) -> Any:
        return list(items)

    def on_funcall(self, function: Callable[..., Any], *given: Any) -> Any:
        return function(*given)

    # --- values ---

    def on_bracket(self, held: Any, name: Any) -> Any:
        if held is None or name not in held:
            raise Missing(f"No attribute `{name}` in object")
        return held[name]

    def on_eq(self, *given: Any) -> bool:
        return all(each == given[0] for each in given)

    def on_lt(self, left: Any, right: Any) -> bool:
        return bool(left < right)

    def on_gt(self, left: Any, right: Any) -> bool:
        return bool(left > right)

    def on_add(self, left: Any, right: Any) -> Any:
        return left + right

    def on_sub(self, left: Any, right: Any) -> Any:
        return left - right

    def on_and(self, *given: Any) -> bool:
        return all(given)

    def on_merge(self, left: Any, right: Any) -> Any:
        return {**left, **right}

    def on_pluck(self, held: Any, *names: Any) -> Any:
        if isinstance(held, list):
            return Rows(self.on_pluck(each, *names) for each in held)
        return {name: held[name] for name in names if name in held}

    def on_without(self, held: Any, *names: Any) -> Any:
        return {name: each for name, each in held.items() if name not in names}

    def on_map(self, held: Any, function: Callable[..., Any]) -> Any:
        return [function(each) for each in held]

    def on_limit(self, held: Any, count: int) -> Any:
        return held[:count]

    def on_is_empty(self, held: Any) -> bool:
        return not held

    def on_coerce_to(self, held: Any, kind: str) -> Any:
        assert kind == "array"
        return [dict(each) for each in held]

    def on_now(self) -> float:
        return self.now

    def on_to_epoch_time(self, held: float) -> float:
        return held

    def on_minval(self) -> Any:
        return MINVAL

    def on_maxval(self) -> Any:
        return MAXVAL

    # --- administration ---

    def on_db_list(self) -> Any:
        return list(self.server.databases)

    def on_db_create(self, name: str) -> Any:
        if name in self.server.databases:
            raise errors.ReqlOpFailedError(f"Database `{name}` already exists.")
        self.server.databases[name] = {}

    def on_table_list(self) -> Any:
        return list(self.tables)

    def on_table_create(self, name: str, replicas: int) -> Any:
        if name in self.tables:
            raise errors.ReqlOpFailedError(f"Table `{name}` already exists.")
        if replicas > self.server.servers:
            raise errors.ReqlOpFailedError(f"Can't put {replicas} replicas on {self.server.servers} servers.")
        self.tables[name] = {}

    def on_wait(self, table: Any, timeout: float) -> Any:
        return {"ready": 1}

    def on_index_list(self, table: Rows) -> Any:
        return list(self.server.indexes)

    def on_index_create(self, table: Rows, name: str) -> Any:
        self.server.indexes.add(name)

    def on_index_wait(self, table: Rows, *names: str) -> Any:
        return []

    # --- tables ---

    def on_table(self, name: str, read_mode: str = "single") -> Rows:
        if name not in self.tables:
            raise errors.ReqlOpFailedError(f"Table `{self.connection.database}.{name}` does not exist.")
        with self.server.changed:
            found = Rows(self.tables[name].values())
        found.table = name
        return found

    def on_get(self, table: Rows, key: Any) -> Any:
        return self.tables[table.table].get(key)

    def on_get_all(self, table: Rows, *keys: Any) -> Rows:
        return self._rows(table, [each for each in table if each["id"] in keys])

    def on_between(
        self, table: Rows, low: Any, high: Any, index: str = "id", left_bound: str = "closed", right_bound: str = "open"
    ) -> Rows:
        def inside(found: Any) -> bool:
            above = low is MINVAL or found > low or (found == low and left_bound == "closed")
            return above and (high is MAXVAL or found < high or (found == high and right_bound == "closed"))

        return self._rows(table, [each for each in table if index in each and inside(each[index])])

    def on_order_by(self, rows: Rows, index: str) -> Rows:
        return self._rows(rows, sorted(rows, key=lambda row: row[index]))

    def on_max(self, rows: Rows, index: str) -> Any:
        if not rows:
            raise Missing("Cannot take the max of an empty stream.")
        return max(rows, key=lambda row: row[index])

    def on_changes(self, rows: Rows) -> Feed:
        return Feed(self.connection)

    def on_insert(
        self,
        table: Rows,
        documents: Any,
        conflict: Any = "error",
        return_changes: Any = False,
        durability: str = "hard",
    ) -> Any:
        done = _counters()
        for new in documents if isinstance(documents, list) else [documents]:
            with self.server.changed:
                held = self.tables[table.table]
                old = held.get(new["id"])
                if old is not None and conflict == "error":
                    done["errors"] += 1
                    done["first_error"] = "Duplicate primary key `id`"
                    continue
                now = new if old is None else conflict(new["id"], old, new)
                held[new["id"]] = now
                done["inserted" if old is None else "replaced" if now != old else "unchanged"] += 1
                if return_changes:
                    done.setdefault("changes", []).append({"old_val": old, "new_val": now})
                self.server.changed.notify_all()
        return done

    def on_replace(self, rows: Rows, function: Callable[..., Any]) -> Any:
        done = _counters()
        for row in rows:
            with self.server.changed:
                held = self.tables[rows.table]
                if row["id"] in held:
                    held[row["id"]] = function(held[row["id"]])
                    done["replaced"] += 1
        return done

    def on_delete(self, rows: Rows, durability: str = "hard") -> Any:
        with self.server.changed:
            for row in rows:
                self.tables[rows.table].pop(row["id"], None)
        return _counters()

    @staticmethod
    def _rows(table: Rows, found: list[Any]) -> Rows:
        rows = Rows(found)
        rows.table = table.table
        return rows


def _counters() -> dict[str, Any]:
    return dict.fromkeys(("deleted", "errors", "inserted", "replaced", "skipped", "unchanged"), 0)
