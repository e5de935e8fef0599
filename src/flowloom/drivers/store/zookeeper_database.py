"""One path of a ZooKeeper ensemble as a database of its own: identity, and the log of what changed.

- `P/database`       `flowloom northbound store`, schema and epoch; every write checks its node's version
- `P/objects/...`    what each key holds (`zookeeper_nodes`)
- `P/log/<epoch>/l<number>`  the keys of one transaction, created by that transaction; numbers have no gaps

A cursor's position is the number of log entries before it.  ZooKeeper numbers them itself, with 31 bits: well before
they are used up the database goes on under another epoch, with a new log.

An ensemble that was restored from a copy goes on numbering where the copy ended.  Every handle remembers the newest
entry that it knows and looks at it again whenever it has connected anew: when that is gone, or is another one, the
handle gives the database another epoch, and everybody starts over.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from kazoo import exceptions
from kazoo.protocol.states import ZnodeStat

from flowloom.drivers.store.zookeeper_session import Requests, Session
from flowloom.kernel.errors import Misconfigured, StartOver
from flowloom.northbound.store import Cursor

T = TypeVar("T")

PROGRAM = "flowloom northbound store"
SCHEMA = 1
NUMBERS_MAX = 2_000_000_000
"""Entries of one log; ZooKeeper counts up to 2**31 - 1."""

_TRIM_EVERY = 64


class Identity(NamedTuple):
    """version: of the node that says so."""

    epoch: str
    version: int


class Known(NamedTuple):
    """The newest log entry that this handle knows.  created: its transaction and when that was; None: not known.

    The time because one server that was restored from a copy may come to the same transaction number again.
    """

    epoch: str
    position: int
    created: tuple[int, int] | None


class LogPage(NamedTuple):
    """Log entries one after the other, the keys and the transaction of each; the end of the log when they were read."""

    entries: Sequence[tuple[Sequence[str], int]]
    newest: int


class Database:
    """Any thread may use it."""

    def __init__(self, session: Session, path: str, log_max: int) -> None:
        self.session = session
        self.where = session.where
        self.node = f"{path}/database"
        self.objects = f"{path}/objects"
        self._path = path
        self._log_max = log_max
        self._lock = threading.Lock()  # Guards what follows.
        self._known: Known | None = None
        self._believed: Identity | None = None
        self._looked_at = -1  # The connection on which `_known` was looked at.

    def attempt(self, work: Callable[[Requests], T], hint: str = "") -> T:
        """As `Session.attempt`; after another connection was made, it is first seen whether this is still our history."""

        def checked(requests: Requests) -> T:
            connection = self.session.connections
            if connection != self._looked_at:
                requests.sync()
                self._look(requests)
                self._looked_at = connection
            return work(requests)

        return self.session.attempt(checked, hint)

    def identity(self, requests: Requests) -> Identity:
        """Which database this is; made anew where there is none.  Misconfigured when the path holds something else."""
        while True:
            found = requests.get(self.node)
            if found is not None:
                return self._read(*found)
            self._make(requests)

    def believed(self, requests: Requests) -> Identity:
        """As `identity`, perhaps from memory: for transactions, which check it."""
        found = self._believed or self.identity(requests)
        self._believed = found
        return found

    def doubt(self) -> None:
        """A transaction failed: read the identity anew before the next."""
        self._believed = None

    def log(self, epoch: str) -> str:
        """The node under which entries are."""
        return f"{self._path}/log/{epoch}"

    def entry(self, epoch: str, number: int) -> str:
        """The node of one entry."""
        return f"{self.log(epoch)}/l{number:010d}"

    def newest(self, requests: Requests, epoch: str) -> int:
        """The position at the log's end."""
        found = requests.exists(self.log(epoch))
        # ZooKeeper reports creations and deletions together: twice the creations less the children that are there.
        return 0 if found is None else (found.cversion + found.numChildren) // 2

    def page(self, requests: Requests, cursor: Cursor, size: int) -> LogPage:
        """At most `size` log entries after `cursor`.  StartOver when they are not to be had."""
        epoch = self.identity(requests).epoch
        if epoch != cursor.epoch:
            raise StartOver(f"{self.where}: epoch {epoch}, the cursor is of {cursor.epoch}")
        newest = self.newest(requests, epoch)
        if newest < cursor.position:  # The member in use may be behind the one that the cursor is from.
            requests.sync()
            newest = self.newest(requests, epoch)
        upto = min(newest, cursor.position + size)
        found = requests.get_many(self.entry(epoch, number) for number in range(cursor.position, upto))
        if newest < cursor.position or not all(found):
            raise StartOver(f"{self.where}: position {cursor.position} is no longer in the log")
        if found and found[-1]:
            self.know(epoch, upto, found[-1][1])
        entries = [(each[0].decode(errors="replace").split("\n"), each[1].czxid) for each in found if each]
        return LogPage(entries, newest)

    def know(self, epoch: str, position: int, last: ZnodeStat | None = None) -> None:
        """Remember that the log of `epoch` reaches `position`, and which transaction made its last entry."""
        with self._lock:
            if self._known is None or self._known.epoch != epoch or self._known.position < position:
                self._known = Known(epoch, position, _created(last) if last else None)

    def written(self, requests: Requests, identity: Identity, number: int) -> None:
        """Entry `number` was written by this handle: now and then it removes old ones, or begins another log."""
        self.know(identity.epoch, number + 1)
        if number % _TRIM_EVERY == 0 and number > self._log_max:
            # Twice as many as are new, so that what one writer did not come to remove the next one does.
            end = number - self._log_max
            numbers = range(max(0, end - 2 * _TRIM_EVERY), end)
            requests.delete(self.entry(identity.epoch, each) for each in numbers)
        if number >= NUMBERS_MAX:
            self.renew(requests, identity)

    def renew(self, requests: Requests, identity: Identity) -> None:
        """Go on under another epoch, unless somebody else was first."""
        epoch = secrets.token_hex(8)
        transaction = requests.transaction()
        transaction.set_data(self.node, _describe(epoch), identity.version)
        transaction.create(self.log(epoch), b"")
        try:
            requests.commit(transaction)
        except (exceptions.BadVersionError, exceptions.NoNodeError):
            return
        old = self.log(identity.epoch)
        requests.delete(f"{old}/{name}" for name in requests.children(old))
        requests.delete([old])

    def _look(self, requests: Requests) -> None:
        known = self._known
        if known is None or known.position == 0:
            return
        identity = self.identity(requests)
        if identity.epoch != known.epoch:
            return
        newest = self.newest(requests, known.epoch)
        last = requests.exists(self.entry(known.epoch, known.position - 1))
        if newest < known.position or (last is not None and known.created not in (None, _created(last))):
            self.renew(requests, identity)

    def _read(self, data: bytes, stat: ZnodeStat) -> Identity:
        said = data.decode(errors="replace").split("\n")
        if said[0] != PROGRAM or len(said) < 3:
            raise self._foreign(self.node)
        if said[1] != f"schema {SCHEMA}":
            raise Misconfigured("store", f"{self.where}: {said[1]}, this release knows {SCHEMA}; upgrade this node")
        return Identity(said[2].removeprefix("epoch "), stat.version)

    def _make(self, requests: Requests) -> None:
        parts = self._path[1:].split("/")
        requests.make("/" + "/".join(parts[: depth + 1]) for depth in range(len(parts)))
        found = requests.get(self._path)
        children = [] if found is None else requests.children(self._path)
        if (found and found[0]) or (children and "database" not in children):
            raise self._foreign(f"{self._path}/{children[0]}" if children else self._path)
        epoch = secrets.token_hex(8)
        transaction = requests.transaction()
        transaction.create(self.node, _describe(epoch))
        for path in (self.objects, f"{self._path}/log", self.log(epoch)):
            transaction.create(path, b"")
        try:
            requests.commit(transaction)
        except (exceptions.NodeExistsError, exceptions.NoNodeError):
            return  # Somebody else was first, or took it away again: look once more.

    def _foreign(self, path: str) -> Misconfigured:
        return Misconfigured("store", f"{self.where}: the node {path} is another program's; choose another path")


def _created(stat: ZnodeStat) -> tuple[int, int]:
    return stat.czxid, stat.ctime


def _describe(epoch: str) -> bytes:
    return f"{PROGRAM}\nschema {SCHEMA}\nepoch {epoch}\n".encode()
