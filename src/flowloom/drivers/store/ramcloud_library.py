"""RAMCloud's C client library, `libramcloud.so`, by ctypes: the calls of its header `CRamCloud.h` that are used here.

A client is not for two threads at once.  Every call waits, busily, until the cluster answers, for ever if need be:
the library repeats by itself what gets no answer, so that only a thread that can be left behind may call.
What it answers instead of success is a `Status`; those that are ordinary answers are returned, others are raised.

Facts of the library that are not in its header, and what is made of them:

- `rc_write` is done once, however often it is sent.  `rc_multiWrite` may be done twice: a condition may then be refused
  because of the call itself.  Callers read and look.
- `rc_multi…` swallow exceptions and leave a status of 0, or one beyond the last, with version 0, which no object has.
- Enumeration shows each object that is there all the time once, others once or not; also what is not yet on any backup.
- Pointers that `rc_enumerateTableNext` gives are good until the next call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ctypes import POINTER, byref, c_char_p, c_int, c_uint16, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from typing import NamedTuple

from flowloom.kernel.errors import Misconfigured

OBJECT_BYTES_MAX = 1 << 20
"""Largest object: an eighth of a segment."""
KEY_BYTES_MAX = (1 << 16) - 1
VALUE_BYTES_FIRST = 8 << 10
"""Room for each object of a multi-read; a larger one is read again, alone."""

_STRIDE = 16  # Objects of C++ that are made in memory of ours are aligned so.


class Status(IntEnum):
    """`Status.h`."""

    OK = 0
    UNKNOWN_TABLET = 1
    TABLE_DOESNT_EXIST = 2
    OBJECT_DOESNT_EXIST = 3
    OBJECT_EXISTS = 4
    WRONG_VERSION = 5
    NO_TABLE_SPACE = 6
    MESSAGE_TOO_SHORT = 7
    UNIMPLEMENTED_REQUEST = 8
    REQUEST_FORMAT_ERROR = 9
    RESPONSE_FORMAT_ERROR = 10
    COULDNT_CONNECT = 11
    BACKUP_BAD_SEGMENT_ID = 12
    BACKUP_OPEN_REJECTED = 13
    BACKUP_SEGMENT_OVERFLOW = 14
    BACKUP_MALFORMED_SEGMENT = 15
    SEGMENT_RECOVERY_FAILED = 16
    RETRY = 17
    SERVICE_NOT_AVAILABLE = 18
    TIMEOUT = 19
    SERVER_NOT_UP = 20
    INTERNAL_ERROR = 21
    INVALID_OBJECT = 22
    TABLET_DOESNT_EXIST = 23
    PARTITION_BEFORE_READ = 24
    WRONG_SERVER = 25
    CALLER_NOT_IN_CLUSTER = 26
    REQUEST_TOO_LARGE = 27
    UNKNOWN_INDEXLET = 28
    INDEX_DOESNT_EXIST = 29
    INVALID_PARAMETER = 30
    STALE_RPC = 31
    EXPIRED_LEASE = 32
    TX_OP_AFTER_COMMIT = 33


class MultiOp(IntEnum):
    """`MultiOp` of the header since it has increments; before that, READ was 0."""

    INCREMENT = 0
    READ = 1
    WRITE = 2
    REMOVE = 3


class RejectRules(ctypes.Structure):
    """`RejectRules.h`: packed, 12 bytes.  An operation is refused if one of the conditions that are set holds."""

    _pack_ = 1
    _fields_ = (
        ("givenVersion", ctypes.c_uint64),
        ("doesntExist", ctypes.c_uint8),
        ("exists", ctypes.c_uint8),
        ("versionLeGiven", ctypes.c_uint8),
        ("versionNeGiven", ctypes.c_uint8),
    )


def unless_held(version: int) -> RejectRules:
    """Refuse unless the object is at RAMCloud's `version`; 0: unless it is absent."""
    if version == 0:
        return RejectRules(exists=1)
    return RejectRules(givenVersion=version, doesntExist=1, versionNeGiven=1)


_RULES = POINTER(RejectRules)
_CALLS: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "rc_connect": (c_int, (c_char_p, c_char_p, POINTER(c_void_p))),
    "rc_disconnect": (None, (c_void_p,)),
    "rc_createTable": (c_int, (c_void_p, c_char_p, c_uint32)),
    "rc_getTableId": (c_int, (c_void_p, c_char_p, POINTER(c_uint64))),
    "rc_read": (
        c_int,
        (
            c_void_p,
            c_uint64,
            c_char_p,
            c_uint16,
            _RULES,
            POINTER(c_uint64),
            c_void_p,
            c_uint32,
            POINTER(c_uint32),
        ),
    ),
    "rc_write": (
        c_int,
        (c_void_p, c_uint64, c_char_p, c_uint16, c_char_p, c_uint32, _RULES, POINTER(c_uint64)),
    ),
    "rc_enumerateTablePrepare": (None, (c_void_p, c_uint64, c_int, POINTER(c_void_p))),
    "rc_enumerateTableNext": (
        c_int,
        (c_void_p, c_void_p, POINTER(c_uint32), POINTER(c_void_p), POINTER(c_uint32), POINTER(c_void_p)),
    ),
    "rc_enumerateTableFinalize": (None, (c_void_p,)),
    # Not called: a library that has it has the numbers of MultiOp above.
    "rc_multiIncrement": (None, (c_void_p, POINTER(c_void_p), c_uint32)),
    "rc_multiReadCreate": (
        None,
        (c_uint64, c_char_p, c_uint16, c_void_p, c_uint32, c_void_p, c_void_p),
    ),
    "rc_multiWriteCreate": (None, (c_uint64, c_char_p, c_uint16, c_char_p, c_uint32, _RULES, c_void_p)),
    "rc_multiRemoveCreate": (None, (c_uint64, c_char_p, c_uint16, _RULES, c_void_p)),
    "rc_multiRead": (None, (c_void_p, POINTER(c_void_p), c_uint32)),
    "rc_multiWrite": (None, (c_void_p, POINTER(c_void_p), c_uint32)),
    "rc_multiRemove": (None, (c_void_p, POINTER(c_void_p), c_uint32)),
    "rc_multiOpSizeOf": (c_uint16, (c_int,)),
    "rc_multiOpStatus": (c_int, (c_void_p, c_int)),
    "rc_multiOpVersion": (c_uint64, (c_void_p, c_int)),
    "rc_multiOpDestroy": (None, (c_void_p, c_int)),
}


class RamcloudError(Exception):
    """A call did not do what was asked.  status: the library's number; `UNANSWERED` where it says nothing."""

    def __init__(self, call: str, status: int) -> None:
        name = Status(status).name if status in Status._value2member_map_ else str(status)
        super().__init__(f"{call}: {name}")
        self.status = status


UNANSWERED = len(Status)


def load(path: str, log_file: str = "") -> ctypes.CDLL:
    """The library.  Misconfigured: it is not there, cannot be loaded, or is none of RAMCloud's.

    log_file: where the library's log goes, for all of the process; "" leaves it on standard error.
    """
    try:
        library = ctypes.CDLL(path)
    except OSError as error:
        # The loader's message names the file that is missing: the library itself, or one that it needs.
        if f"{path}: cannot open shared object file: No such file" in str(error):
            raise Misconfigured(
                "store",
                f"RAMCloud's client library {path} is not there; install it, or name it with library=/path/libramcloud.so",
            ) from error
        raise Misconfigured("store", f"RAMCloud's client library cannot be loaded: {error}") from error
    for name, (result, arguments) in _CALLS.items():
        function = _function(library, path, name)
        function.restype = result
        function.argtypes = arguments
    if log_file:
        _function(library, path, "rc_set_log_file").argtypes = (c_char_p,)
        library.rc_set_log_file.restype = None
        library.rc_set_log_file(log_file.encode())
    return library


def _function(library: ctypes.CDLL, path: str, name: str) -> ctypes._NamedFuncPointer:
    try:
        function: ctypes._NamedFuncPointer = getattr(library, name)
    except AttributeError as error:
        raise Misconfigured(
            "store", f"{path} has no {name}: it is not RAMCloud's client library, or an old one; build the last version"
        ) from error
    return function


class Found(NamedTuple):
    """An object.  version: RAMCloud's own."""

    version: int
    value: bytes


class Put(NamedTuple):
    """A value for a key of a table, unless the key holds another one than RAMCloud's `version` (0: unless it is absent)."""

    table: int
    key: bytes
    value: bytes
    version: int


class Client:
    """A connection to a cluster.  One thread at a time."""

    def __init__(self, library: ctypes.CDLL, locator: str, cluster: str) -> None:
        """Returns before anything was asked.  locator: of the coordinator, in RAMCloud's own form."""
        self._library = library
        self._client = c_void_p()
        self._enumerations: set[Enumeration] = set()
        status = library.rc_connect(locator.encode(), cluster.encode(), byref(self._client))
        if status != Status.OK:
            raise RamcloudError("rc_connect", status)

    def disconnect(self) -> None:
        """Release it; nothing may be called afterwards but this."""
        for enumeration in list(self._enumerations):
            enumeration.close()
        if self._client:
            self._library.rc_disconnect(self._client)
            self._client = c_void_p()

    def table(self, name: str) -> int | None:
        """The table's number; None: there is none of that name."""
        number = c_uint64()
        status = self._library.rc_getTableId(self._client, name.encode(), byref(number))
        if status == Status.TABLE_DOESNT_EXIST:
            return None
        _check("rc_getTableId", status)
        return number.value

    def create_table(self, name: str, span: int) -> None:
        """Make it on `span` servers, unless it is there."""
        _check("rc_createTable", self._library.rc_createTable(self._client, name.encode(), span))

    def read(self, table: int, key: bytes) -> Found | None:
        """What a key holds.  None: it is absent."""
        version, size, room = c_uint64(), c_uint32(), OBJECT_BYTES_MAX
        while True:
            buffer = ctypes.create_string_buffer(room)
            status = self._library.rc_read(
                self._client, table, key, len(key), None, byref(version), buffer, room, byref(size)
            )
            if status == Status.OBJECT_DOESNT_EXIST:
                return None
            _check("rc_read", status)
            if size.value <= room:
                return Found(version.value, buffer.raw[: size.value])
            room = size.value

    def write(self, put: Put) -> int | None:
        """RAMCloud's version of what was written; None: refused by the condition."""
        version = c_uint64()
        table, key, value, held = put
        status = self._library.rc_write(
            self._client, table, key, len(key), value, len(value), byref(unless_held(held)), byref(version)
        )
        return version.value if _is_done("rc_write", status) else None

    def read_many(self, keys: Sequence[tuple[int, bytes]]) -> list[Found | None]:
        """What keys of tables hold, in their order; not of one moment."""
        room = VALUE_BYTES_FIRST
        buffer = ctypes.create_string_buffer(room * len(keys) or 1)
        sizes = (c_uint32 * len(keys))()
        begin, sizes_begin = ctypes.addressof(buffer), ctypes.addressof(sizes)
        with self._requests(MultiOp.READ, len(keys)) as requests:
            for number, (table, key) in enumerate(keys):
                self._library.rc_multiReadCreate(
                    table,
                    key,
                    len(key),
                    begin + number * room,
                    room,
                    sizes_begin + number * ctypes.sizeof(c_uint32),
                    requests.make(),
                )
            self._library.rc_multiRead(self._client, requests.pointers, len(keys))
            answers = [requests.answer("rc_multiRead", number) for number in range(len(keys))]
        found: list[Found | None] = []
        for number, ((table, key), (status, version)) in enumerate(zip(keys, answers, strict=True)):
            if status == Status.OBJECT_DOESNT_EXIST:
                found.append(None)
            elif sizes[number] > room:
                found.append(self.read(table, key))
            else:
                found.append(Found(version, ctypes.string_at(begin + number * room, sizes[number])))
        return found

    def write_many(self, puts: Sequence[Put]) -> list[int | None]:
        """RAMCloud's version of each; None: refused by the condition, perhaps because of this very call."""
        if len(puts) == 1:
            return [self.write(puts[0])]
        rules = [unless_held(put.version) for put in puts]
        with self._requests(MultiOp.WRITE, len(puts)) as requests:
            for put, rule in zip(puts, rules, strict=True):
                self._library.rc_multiWriteCreate(
                    put.table, put.key, len(put.key), put.value, len(put.value), byref(rule), requests.make()
                )
            self._library.rc_multiWrite(self._client, requests.pointers, len(puts))
            answers = [requests.answer("rc_multiWrite", number) for number in range(len(puts))]
        return [version if _is_done("rc_multiWrite", status) else None for status, version in answers]

    def remove_many(self, table: int, keys: Sequence[bytes]) -> None:
        """Remove objects; one that is absent is none the worse."""
        with self._requests(MultiOp.REMOVE, len(keys)) as requests:
            for key in keys:
                self._library.rc_multiRemoveCreate(table, key, len(key), None, requests.make())
            self._library.rc_multiRemove(self._client, requests.pointers, len(keys))

    def enumerate(self, table: int) -> Enumeration:
        """Begin to walk through a table; close it."""
        state = c_void_p()
        self._library.rc_enumerateTablePrepare(self._client, table, 0, byref(state))
        enumeration = Enumeration(self._library, self._client, state, self._enumerations)
        self._enumerations.add(enumeration)
        return enumeration

    @contextmanager
    def _requests(self, kind: MultiOp, count: int) -> Iterator[_Requests]:
        requests = _Requests(self._library, kind, count)
        try:
            yield requests
        finally:
            requests.destroy()


class _Requests:
    """The objects of C++ that one multi-operation is made of, in memory of ours."""

    def __init__(self, library: ctypes.CDLL, kind: MultiOp, count: int) -> None:
        self._library = library
        self._kind = kind
        self._size = -(-library.rc_multiOpSizeOf(kind) // _STRIDE) * _STRIDE
        self._memory = ctypes.create_string_buffer(self._size * count + _STRIDE)
        begin = -(-ctypes.addressof(self._memory) // _STRIDE) * _STRIDE
        self.pointers = (c_void_p * count)(*(begin + number * self._size for number in range(count)))
        self._made = 0

    def make(self) -> int:
        """Where the next one is to be made."""
        self._made += 1
        return int(self.pointers[self._made - 1] or 0)

    def answer(self, call: str, number: int) -> tuple[int, int]:
        """Status and RAMCloud's version of one; RamcloudError for what is no ordinary answer."""
        status = self._library.rc_multiOpStatus(self.pointers[number], self._kind)
        version = self._library.rc_multiOpVersion(self.pointers[number], self._kind)
        if status == Status.OK and version == 0:
            raise RamcloudError(call, UNANSWERED)
        if status not in (Status.OK, Status.OBJECT_DOESNT_EXIST, Status.OBJECT_EXISTS, Status.WRONG_VERSION):
            raise RamcloudError(call, status)
        return status, version

    def destroy(self) -> None:
        """Run the destructors."""
        for number in range(self._made):
            self._library.rc_multiOpDestroy(self.pointers[number], self._kind)
        self._made = 0


class Enumeration:
    """A walk through a table, on its client's thread."""

    def __init__(self, library: ctypes.CDLL, client: c_void_p, state: c_void_p, siblings: set[Enumeration]) -> None:
        self._library = library
        self._client = client
        self._state = state
        self._siblings = siblings

    def next(self) -> tuple[bytes, bytes] | None:
        """The next object's key and value; None at the end.  Order: RAMCloud's own."""
        if not self._state:
            raise RamcloudError("rc_enumerateTableNext", UNANSWERED)
        key_size, key, size, value = c_uint32(), c_void_p(), c_uint32(), c_void_p()
        status = self._library.rc_enumerateTableNext(
            self._client, self._state, byref(key_size), byref(key), byref(size), byref(value)
        )
        _check("rc_enumerateTableNext", status)
        if not key:
            return None
        held = ctypes.string_at(value, size.value) if value else b""
        return ctypes.string_at(key, key_size.value), held

    def close(self) -> None:
        """Release it; repeating it does nothing."""
        if self._state:
            self._library.rc_enumerateTableFinalize(self._state)
            self._state = c_void_p()
            self._siblings.discard(self)


def _check(call: str, status: int) -> None:
    if status != Status.OK:
        raise RamcloudError(call, status)


def _is_done(call: str, status: int) -> bool:
    if status in (Status.OBJECT_DOESNT_EXIST, Status.OBJECT_EXISTS, Status.WRONG_VERSION):
        return False
    _check(call, status)
    return True
