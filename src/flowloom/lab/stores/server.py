"""One server program of a store, as a value."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

# What a member's directory holds beside its data and configuration: whoever runs the process writes it.
_NOT_DATA = ("*.pid", "*.log")


class Server(Protocol):
    """A member of a store.  dir: its own directory, which may be absent."""

    @property
    def dir(self) -> Path: ...

    @property
    def argv(self) -> tuple[str, ...]:
        """The command line, of one process that stays in the foreground."""

    def prepare(self) -> None:
        """Make the directory and the configuration; what the server rewrote in its own configuration stays."""

    def serves(self) -> bool:
        """Whether it answers and can be worked with; False when nobody answers."""

    def leads(self) -> bool:
        """Whether writes go through it; False when nobody answers."""


@dataclass(frozen=True)
class Member:
    """A server and its name in the store: `store@1`, or `sentinel@1` for what only watches."""

    name: str
    server: Server


@dataclass(frozen=True)
class Members:
    """The servers that make up one store.

    url: for `open_store`.  ports: of 127.0.0.1, to which clients connect.  quorum: so many of the members must run for
    any of them to serve.  join: makes one store of members that all serve; repeating it changes nothing.  whole:
    whether they are one, and nothing is on its way between them any more.  watchers: what watches the members, to be
    started when they are whole; watched: whether all watchers know all.
    """

    url: str
    members: tuple[Member, ...]
    ports: tuple[int, ...]
    quorum: int = 1
    join: Callable[[], None] = lambda: None
    whole: Callable[[], bool] = lambda: True
    watchers: tuple[Member, ...] = ()
    watched: Callable[[], bool] = lambda: True

    @property
    def all(self) -> tuple[Member, ...]:
        return self.members + self.watchers


def forget(server: Server) -> None:
    """Remove data and configuration of a server that does not run; its log stays."""
    if not server.dir.exists():
        return
    for entry in server.dir.iterdir():
        if any(entry.match(pattern) for pattern in _NOT_DATA):
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def save(server: Server, copy: Path) -> None:
    """Copy data and configuration of a server that does not run to `copy`, which must not exist."""
    shutil.copytree(server.dir, copy, ignore=shutil.ignore_patterns(*_NOT_DATA))


def restore(server: Server, copy: Path) -> None:
    """Give a server that does not run what `save` copied, in place of what it has."""
    forget(server)
    shutil.copytree(copy, server.dir, dirs_exist_ok=True)


def missing(packages: tuple[str, ...], *programs: str) -> str:
    """What has to be installed for these programs, as a sentence; "" when all are there."""
    absent = [program for program in programs if shutil.which(program) is None]
    return f"no {', '.join(absent)}: apt-get install --no-install-recommends {' '.join(packages)}" if absent else ""
