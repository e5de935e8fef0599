"""The northbound store in Redis: one server, Sentinels, or a Cluster.

- `redis://[user:password@]host[:6379][,host...][/database]` one server, or the primary among those named
- `redis+sentinel://[user:password@]host[:26379],host,host/NAME[/database]` the primary that they watch as NAME
- `redis+cluster://[user:password@]host[:6379],host,host` a Cluster; any member that answers is enough
- `rediss://`, `rediss+sentinel://`, `rediss+cluster://` the same over TLS, to Redis and Sentinels alike

Options: `prefix=flowloom` (several databases side by side), `timeout_seconds=3` for each request, its repetitions
included, `log_max=100000` changes remembered, `wait=0` replicas that must have a write before it is acknowledged;
`password_file=/path` instead of a password; `sentinel_user`, `sentinel_password_file` where Sentinels want some;
with TLS `tls_ca=/path` and, where clients need a certificate, `tls_cert=/path&tls_key=/path` (PEM files).

**What an acknowledged write is worth.** Redis replicates after it has answered.  When a primary dies, writes that it
acknowledged and had not yet sent on are gone; an isolated old primary may acknowledge writes that nobody will ever see.
`wait=1` withholds the acknowledgement until a replica has the write: what is acknowledged then survives the death of
the primary as long as such a replica is the one promoted, which Sentinel and Cluster prefer but do not promise.  On
the server, `min-replicas-to-write 1` bounds for how long an isolated primary goes on.  Whatever was lost is not lost
silently: after every fail-over or restart the database has another epoch, so that watches start over and the recovery
process compares everything with Neutron and writes again what is missing.  `capabilities.durable` is declared for one
server with `appendonly yes` and `appendfsync always`, and for several with `wait` of at least 1.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import SystemRandom

from redis.crc import key_slot

from flowloom.drivers.store import redis_scripts as scripts
from flowloom.drivers.store.redis_primary import (
    Access,
    Cluster,
    Hosts,
    Locator,
    Primary,
    Reply,
    Sentinels,
    opening,
    parse_info,
)
from flowloom.drivers.store.urls import StoreUrl, parse
from flowloom.kernel.errors import Misconfigured, StartOver, Unavailable
from flowloom.northbound.limits import newest_of_each_key, outcomes
from flowloom.northbound.store import Capabilities, Changes, Cursor, Entry, Listing, Outcome, Versions, Write

VALUE_BYTES_MAX = 1 << 20
LOG_MAX = 100_000
TIMEOUT_SECONDS = 3.0
OLDEST = (7, 0)
"""Of the servers that this driver was tested with; older ones hide the error codes of scripts."""

_PAGE_KEYS = 1000
_PAGE_BYTES = 4 << 20
_WAIT_SECONDS = 5.0
_LISTING_TRIES = 5


@dataclass(frozen=True)
class _Settings:
    log_max: int
    wait: int
    replicated: bool


def open_store(url: str) -> RedisStore:
    """The store at `url`.  Misconfigured, or Unavailable while nobody answers there."""
    parsed = parse(url, default_port=26379 if "sentinel" in url.partition(":")[0] else 6379)
    options = parsed.options
    scheme, extra = parsed.scheme.partition("+")[::2]
    tls = options.tls(scheme == "rediss")
    prefix = options.text("prefix", "flowloom")
    if not prefix or set("{}") & set(prefix):
        raise options.wrong("prefix", "is a text without braces, not empty")
    settings = _Settings(
        log_max=options.number("log_max", LOG_MAX, 1, 10**9),
        wait=options.number("wait", 0, 0, 100),
        replicated=bool(extra),
    )
    timeout = options.seconds("timeout_seconds", TIMEOUT_SECONDS, 0.1, 600)
    sentinel = Access(options.text("sentinel_user"), options.secret("sentinel_password_file"), 0, tls)
    options.end()
    name, database = _path(parsed, extra)
    access = Access(parsed.user, parsed.password, database, tls)
    locator: Locator
    if extra == "sentinel":
        locator = Sentinels(parsed.endpoints, name, sentinel, access)
    elif extra == "cluster":
        locator = Cluster(parsed.endpoints, key_slot(f"{{{prefix}}}".encode()), access)
    else:
        locator = Hosts(parsed.endpoints, access)
    primary = Primary(f"{parsed.shown} (prefix {prefix})", locator, access, timeout, SystemRandom())
    try:
        durable = _inspect(primary, settings)
        store = RedisStore(primary, prefix, settings, durable)
        store.ensure()
    except Unavailable as error:
        primary.close()
        raise opening(primary, error) from error
    except BaseException:
        primary.close()
        raise
    return store


def _path(parsed: StoreUrl, extra: str) -> tuple[str, int]:
    """The name that Sentinels know, and the number of the database."""
    name, database = "", parsed.path
    if extra == "sentinel":
        name, _, database = parsed.path.partition("/")
        if not name:
            raise Misconfigured("store", f"{parsed.shown} does not say which primary: redis+sentinel://hosts/NAME")
    if database and not database.isdecimal():
        raise Misconfigured("store", f"{parsed.shown}: {database!r} is not the number of a database")
    if extra == "cluster" and database not in ("", "0"):
        raise Misconfigured("store", f"{parsed.shown}: a Cluster has database 0 only; use the option prefix")
    return name, int(database or 0)


def _inspect(primary: Primary, settings: _Settings) -> bool:
    """Refuse a server that would not do; whether what it acknowledges is durable."""
    said = parse_info(primary.command("INFO", "server", "memory", "persistence", "cluster"))
    version = said.get("redis_version", "0")
    if tuple(int(each) for each in version.split(".")[:2]) < OLDEST:
        raise Misconfigured("store", f"{primary.where}: Redis {version} is too old, 7.0 is needed")
    if said.get("maxmemory_policy", "noeviction").startswith("allkeys"):
        policy = said["maxmemory_policy"]
        raise Misconfigured(
            "store", f"{primary.where}: maxmemory-policy {policy} throws data away; set it to noeviction"
        )
    if said.get("cluster_enabled") == "1" and not settings.replicated:
        raise Misconfigured("store", f"{primary.where}: this is a member of a Cluster; use redis+cluster://")
    if settings.replicated:
        return settings.wait > 0
    if said.get("aof_enabled") != "1":
        return False
    try:
        reply: list[bytes] = primary.command("CONFIG", "GET", "appendfsync")
    except Unavailable:  # The user may not ask, so nothing is promised.
        return False
    return reply[1:2] == [b"always"]


class RedisStore:
    """Implements `northbound.store.Store`.  Any thread may call; open it after forking."""

    def __init__(self, primary: Primary, prefix: str, settings: _Settings, durable: bool) -> None:
        self.capabilities = Capabilities(
            atomic_batch=True, watch=True, consistent_read=True, durable=durable, value_bytes_max=VALUE_BYTES_MAX
        )
        self.primary = primary
        self.log = f"{{{prefix}}}:log"
        self._keys = [f"{{{prefix}}}:{part}" for part in scripts.PARTS]
        self._settings = settings

    def apply(self, writes: Sequence[Write]) -> list[Outcome]:
        chosen = newest_of_each_key(writes, VALUE_BYTES_MAX)
        if not chosen:
            self.primary.check_open()
            return []
        arguments: list[str | bytes | int] = [secrets.token_hex(6), self._settings.log_max]
        for write in chosen.values():
            arguments += (write.key, write.version, b"" if write.value is None else b"=" + write.value)
        said = self.run(scripts.APPLY, arguments, self._settings.wait)
        decided = {
            write.key: (not held, write.version if not held else int(held))
            for write, held in zip(chosen.values(), said, strict=True)
        }
        return outcomes(writes, chosen, decided)

    def get(self, keys: Sequence[str]) -> list[Entry | None]:
        found: dict[str, Entry | None] = {}
        self.primary.check_open()
        wanted = list(dict.fromkeys(keys))
        while wanted:
            said = self.run(scripts.GET, ["", _PAGE_BYTES, "values", *wanted[:_PAGE_KEYS]])
            for key, version, value in _triples(said):
                found[key] = _entry(key, version, value) if version else None
            del wanted[: len(said) // 3]
        return [found[key] for key in keys]

    def read(self, prefix: str) -> Listing:
        found, cursor = self._listing(prefix, "values")
        return Listing([_entry(key, *found[key]) for key in sorted(found)], cursor)

    def versions(self, prefix: str) -> Versions:
        found, cursor = self._listing(prefix, "")
        return Versions({key: (_number(version), _gone(version)) for key, (version, _) in found.items()}, cursor)

    def watch(self, prefix: str, cursor: Cursor) -> RedisWatch:
        self.primary.check_open()
        return RedisWatch(self, prefix, cursor)

    def close(self) -> None:
        self.primary.close()

    def ensure(self) -> None:
        """Make the database where there is none; Misconfigured when the prefix holds something else."""
        reply = self.primary.run(scripts.ENSURE, self._keys, [secrets.token_hex(8)])
        if reply[0] != b"ok":
            self._refuse(reply)

    def run(self, script: scripts.Script, arguments: Sequence[str | bytes | int], wait: int = 0) -> list[Reply]:
        """The script's answer; a database that is gone is made anew before, under another epoch."""
        for _ in range(_LISTING_TRIES):
            reply = self.primary.run(script, self._keys, [secrets.token_hex(8), *arguments], wait)
            if reply[0] == b"ok":
                return reply[1:]  # type: ignore[no-any-return]
            if reply[0] != b"absent":
                self._refuse(reply)
            self.ensure()
        raise Unavailable(f"{self.primary.where}: the database disappears as often as it is made")

    def changes(self, prefix: str, cursor: Cursor, content: str) -> tuple[list[Reply], Cursor, bool]:
        """Keys, versions and values of the next changes, where they end, and whether there are more.

        StartOver when the cursor is of another history, or its place is no longer in the log.
        """
        arguments: list[str | bytes | int] = ["", _PAGE_BYTES, content, prefix, cursor.position, _PAGE_KEYS]
        epoch, newest, reached, *said = self.run(scripts.CHANGES, arguments)
        if epoch.decode() != cursor.epoch:
            raise StartOver(f"{self.primary.where}: epoch {epoch.decode()}, the cursor is of {cursor.epoch}")
        if not reached:
            raise StartOver(f"{self.primary.where}: position {cursor.position} is no longer in the log")
        return said, Cursor(cursor.epoch, int(reached)), int(reached) < int(newest)

    def _listing(self, prefix: str, content: str) -> tuple[dict[str, tuple[bytes, bytes | None]], Cursor]:
        """What is under `prefix` at one point: read in pages, then what changed meanwhile.

        Each page is of its own moment.  The log names every key that changed after the first page, and each is read
        again, until the end of the log is reached: that moment is the cursor's.
        """
        for _ in range(_LISTING_TRIES):
            try:
                return self._listing_once(prefix, content)
            except StartOver:  # Another history began, or the log is too short for this listing.
                continue
        raise Unavailable(f"{self.primary.where}: the log is trimmed faster than {prefix} is read; raise log_max")

    def _listing_once(self, prefix: str, content: str) -> tuple[dict[str, tuple[bytes, bytes | None]], Cursor]:
        found: dict[str, tuple[bytes, bytes | None]] = {}
        cursor: Cursor | None = None
        lower, upper = (f"[{prefix}", b"(" + prefix.encode() + b"\xff") if prefix else ("-", b"+")
        more = True
        while more:
            epoch, position, rest, *said = self.run(scripts.PAGE, ["", _PAGE_BYTES, content, lower, upper, _PAGE_KEYS])
            cursor = cursor or Cursor(epoch.decode(), int(position))
            for key, version, value in _triples(said):
                found[key] = version, value
                lower = f"({key}"
            more = bool(rest)
        assert cursor is not None
        more = True
        while more:
            said, cursor, more = self.changes(prefix, cursor, content)
            for key, version, value in _triples(said):
                found[key] = version, value
        return found, cursor

    def _refuse(self, reply: Reply) -> None:
        if reply[0] == b"schema":
            raise Misconfigured(
                "store",
                f"{self.primary.where}: schema {reply[1].decode()}, this release knows {scripts.SCHEMA}; upgrade this node",
            )
        raise Misconfigured(
            "store", f"{self.primary.where}: the key {reply[1].decode()} is another program's; choose another prefix"
        )


class RedisWatch:
    """Implements `northbound.store.Watch`: reads the log; between two looks a blocking XREAD wakes it."""

    def __init__(self, store: RedisStore, prefix: str, cursor: Cursor) -> None:
        self._store = store
        self._prefix = prefix
        self._cursor = cursor
        self._closed = threading.Event()

    def next(self, timeout_seconds: float) -> Changes:
        deadline = time.monotonic() + timeout_seconds
        while True:
            if self._closed.is_set():
                raise Unavailable("this watch is closed")
            said, self._cursor, more = self._store.changes(self._prefix, self._cursor, "values")
            left = deadline - time.monotonic()
            if said or (left <= 0 and not more):
                return Changes([_entry(*each) for each in _triples(said)], self._cursor)
            if not more:
                seconds = min(left, _WAIT_SECONDS)
                milliseconds = max(1, int(seconds * 1000))
                after = f"{self._cursor.position}-0"
                self._store.primary.wait(
                    ("XREAD", "COUNT", 1, "BLOCK", milliseconds, "STREAMS", self._store.log, after), seconds
                )

    def close(self) -> None:
        self._closed.set()


def _triples(said: Sequence[Reply]) -> Iterator[tuple[str, bytes, bytes | None]]:
    for at in range(0, len(said), 3):
        yield said[at].decode(), said[at + 1], said[at + 2]


def _number(version: bytes) -> int:
    # A hand with redis-cli may have left anything there.
    digits = version.split(b" ", 1)[0]
    return int(digits) if digits.isdigit() else 0


def _gone(version: bytes) -> bool:
    return b" gone " in version or not version


def _entry(key: str, version: bytes, value: bytes | None) -> Entry:
    return Entry(key, _number(version), None if _gone(version) else value)
