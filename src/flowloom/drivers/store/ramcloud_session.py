"""The thread that a RAMCloud client lives on: jobs with deadlines, and a new client where the old one went wrong.

A call into the library cannot be ended from outside and waits for ever while the cluster is away.  So a caller waits for
its job no longer than its deadline and then leaves it behind: the one call that is under way goes on until the cluster
is back, what would have followed it is not done, and until then every other job is Unavailable too.  The thread is busy
all that time: that is how RAMCloud waits.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from ctypes import CDLL
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

from flowloom.drivers.store.ramcloud_library import Client, RamcloudError, Status
from flowloom.kernel.backoff import Backoff
from flowloom.kernel.errors import FlowloomError, Unavailable

T = TypeVar("T")

_BACKLOG_MAX = 1000
_CLOSE_SECONDS = 0.5

_LEFT_BEHIND: dict[str, threading.Thread] = {}
"""Of this process: threads that could not be ended, by locator."""

_NOT_REPEATED = frozenset(
    {
        Status.NO_TABLE_SPACE,
        Status.UNIMPLEMENTED_REQUEST,
        Status.REQUEST_FORMAT_ERROR,
        Status.RESPONSE_FORMAT_ERROR,
        Status.REQUEST_TOO_LARGE,
        Status.INVALID_PARAMETER,
        Status.INVALID_OBJECT,
    }
)
"""What the same call would meet again."""


@dataclass(frozen=True)
class Settings:
    """shown: for errors.  locator: of the coordinator, RAMCloud's form.  timeout_seconds: for each job."""

    shown: str
    locator: str
    cluster: str
    timeout_seconds: float


class Late(Exception):
    """The job's time is out: nobody waits for it."""


class Calls:
    """What a job calls RAMCloud with."""

    def __init__(self, client: Client, deadline: float) -> None:
        self._client = client
        self.deadline = deadline

    @property
    def client(self) -> Client:
        """The client, for one call.  Late: no further call is to be made."""
        self.check()
        return self._client

    def check(self) -> None:
        """Raise Late when no further call is to be made."""
        if time.monotonic() > self.deadline:
            raise Late


class _Ticket:
    """A job under way.  deadline: infinite where nobody waits for it."""

    def __init__(self, job: Callable[[Calls], Any], deadline: float, repeat: bool) -> None:
        self.job = job
        self.deadline = deadline
        self.repeat = repeat
        self.done: Future[Any] = Future()


class Session:
    """Any thread may use it; jobs are run one after the other on one thread.  Not to be used after a fork."""

    def __init__(self, library: CDLL, settings: Settings, random: Random) -> None:
        self.settings = settings
        self.where = settings.shown
        self._library = library
        self._random = random
        self._pid = os.getpid()
        self._wake = threading.Condition()  # Guards what follows.
        self._tickets: deque[_Ticket] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="ramcloud", daemon=True)
        self._await_left_behind()
        self._thread.start()

    def run(self, job: Callable[[Calls], T], repeat: bool = True) -> T:
        """What the job returns or raises.  Unavailable: it did not end in time, or the cluster refused it.

        repeat: the job may be begun anew, with another client, after an error that may pass.
        """
        self.check_open()
        ticket = _Ticket(job, time.monotonic() + self.settings.timeout_seconds, repeat)
        self._put(ticket)
        try:
            result: T = ticket.done.result(self.settings.timeout_seconds)
        except TimeoutError as error:
            with self._wake:
                begun = ticket not in self._tickets
                if not begun:
                    self._tickets.remove(ticket)
            why = "what was begun may still be done" if begun else "an earlier call still waits, nothing was done"
            raise Unavailable(
                f"{self.where}: RAMCloud does not answer in {self.settings.timeout_seconds:g} s ({why});"
                " its coordinator, or a server that holds the data, is away"
            ) from error
        return result

    def later(self, job: Callable[[Calls], object]) -> None:
        """Run a job that nobody waits for, when there is time; none of its errors are shown."""
        with suppress(Unavailable):
            self._put(_Ticket(job, float("inf"), False))

    def check_open(self) -> None:
        """Raise Unavailable after `close`, and RuntimeError in a child of the process that opened."""
        if self._pid != os.getpid():
            raise RuntimeError(f"{self.where} was opened before a fork; open the store in the child")
        if self._closed:
            raise Unavailable(f"{self.where}: this handle of the store is closed")

    def close(self) -> None:
        """Let the thread release the client and end, when it can; repeating it does nothing."""
        with self._wake:
            self._closed = True
            refused = list(self._tickets)
            self._tickets.clear()
            self._wake.notify_all()
        for ticket in refused:
            ticket.done.set_exception(Unavailable(f"{self.where}: this handle of the store is closed"))
        if self._pid == os.getpid():
            self._thread.join(_CLOSE_SECONDS)
            if self._thread.is_alive():
                _LEFT_BEHIND[self.settings.locator] = self._thread

    def _await_left_behind(self) -> None:
        """Raise Unavailable while the thread of a closed session still waits for this cluster.

        Who opens a store again and again until it is there would otherwise leave a busy thread behind each time.
        """
        thread = _LEFT_BEHIND.get(self.settings.locator)
        if thread is not None:
            thread.join(self.settings.timeout_seconds)
            if thread.is_alive():
                raise Unavailable(
                    f"{self.where}: RAMCloud does not answer: its coordinator, or a server that holds the data, is away"
                )
            _LEFT_BEHIND.pop(self.settings.locator, None)

    def _put(self, ticket: _Ticket) -> None:
        with self._wake:
            if len(self._tickets) >= _BACKLOG_MAX:
                raise Unavailable(f"{self.where}: {_BACKLOG_MAX} calls wait for RAMCloud already")
            self._tickets.append(ticket)
            self._wake.notify_all()

    # --- on the thread ---

    def _work(self) -> None:
        client: Client | None = None
        while True:
            with self._wake:
                self._wake.wait_for(lambda: bool(self._tickets) or self._closed)
                if not self._tickets:
                    break
                ticket = self._tickets.popleft()
            client = self._do(ticket, client)
        if client is not None:
            client.disconnect()

    def _do(self, ticket: _Ticket, client: Client | None) -> Client | None:
        """Run one job to its end; the client to go on with."""
        backoff = Backoff(self._random, first_seconds=0.02, cap_seconds=0.5)
        while True:
            try:
                if client is None:
                    client = Client(self._library, self.settings.locator, self.settings.cluster)
                ticket.done.set_result(ticket.job(Calls(client, ticket.deadline)))
                return client
            except Late:
                ticket.done.set_exception(Unavailable(f"{self.where}: RAMCloud was too slow"))
                return client
            except RamcloudError as error:
                if client is not None:  # A lease that expired, a session that broke: a new client has neither.
                    client.disconnect()
                    client = None
                delay = backoff.next_delay()
                if (
                    not ticket.repeat
                    or error.status in _NOT_REPEATED
                    or time.monotonic() + delay > ticket.deadline
                    or self._closed
                ):
                    failure = Unavailable(f"{self.where}: {sentence(error)}")
                    failure.__cause__ = error
                    ticket.done.set_exception(failure)
                    return None
                time.sleep(delay)
            except FlowloomError as error:
                ticket.done.set_exception(error)
                return client
            except BaseException as error:  # noqa: BLE001  It is the caller's, who waits for it.
                ticket.done.set_exception(error)
                return client


def sentence(error: RamcloudError) -> str:
    """What an error means, in one line."""
    match error.status:
        case Status.INTERNAL_ERROR if str(error).startswith("rc_connect"):
            return f"the client library cannot use this coordinator's address; its log says why ({error})"
        case Status.NO_TABLE_SPACE:
            return f"the cluster has no room for another table ({error})"
        case Status.REQUEST_TOO_LARGE:
            return f"RAMCloud refuses what is too large for one request ({error})"
        case Status.TABLE_DOESNT_EXIST:
            return f"the tables were dropped meanwhile ({error})"
        case status if status in _NOT_REPEATED:
            return f"not done: client library and servers are not of the same version ({error})"
        case _:
            return f"it is not known whether this was done ({error})"
