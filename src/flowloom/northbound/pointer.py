"""Where the deployment's store is, as a store says it: a pointer that leads from a former store to the one in force.

A move (`consistency.move`) writes it into both: into the new store, which then points at itself, and into the former
one as its last word.  Whoever opens a store, or follows one, goes where the pointer of the greatest generation
leads.  An older one leads nobody: after A to B to A, what B was once told of is not believed in A.

The URL in it is read by everybody who can read the store, so there is no secret in it: `public`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import msgspec

from flowloom.kernel.errors import Misconfigured, Rejected
from flowloom.model.keys import deployment_prefix
from flowloom.northbound.store import Entry, Store, Write

SCHEMA = 1
_SECRET = re.compile(r"(password|secret|token|credentials?)$", re.IGNORECASE)
_PLACE_OPTIONS = ("prefix",)
"""Options that say where in a database a store is, and not how it is used."""


class Pointer(msgspec.Struct, frozen=True):
    """generation: of the store at `url`, as SQL counts them.  cloud: which Neutron database says so."""

    generation: int
    url: str
    cloud: str
    schema: int = SCHEMA


class Found(NamedTuple):
    """The store in force, open.  generation: that led to it; 0: no pointer was met."""

    store: Store
    url: str
    generation: int


def pointer_key(deployment: str) -> str:
    """Where a store holds its pointer: among what followers of the deployment follow, but no record's key."""
    return f"{deployment_prefix(deployment)}!store/pointer/in-force"


def write_of(deployment: str, pointer: Pointer) -> Write:
    """The pointer as a write: generations are its versions, so that an older one never replaces a newer one."""
    return Write(pointer_key(deployment), pointer.generation, msgspec.json.encode(pointer))


def pointer_of(entry: Entry | None) -> Pointer | None:
    """What the entry at `pointer_key` says; None: nothing.  Rejected when it is no pointer that is known here."""
    if entry is None or entry.value is None:
        return None
    try:
        found = msgspec.json.decode(entry.value, type=Pointer)
    except msgspec.DecodeError as error:
        raise Rejected(entry.key, f"this is no pointer to a store: {error}") from error
    if found.schema > SCHEMA:
        raise Rejected(
            entry.key, f"the pointer has schema {found.schema}, this release knows {SCHEMA}; upgrade this node"
        )
    if found.generation != entry.version:
        raise Rejected(entry.key, f"the pointer says generation {found.generation}, its version is {entry.version}")
    return found


def open_in_force(
    configured: str,
    deployment: str,
    opener: Callable[[str], Store],
    url: str = "",
    generation: int = 0,
) -> Found:
    """Open the store to which the pointers lead, beginning at `url` (by default the configured one).

    generation: of what led to `url`.  Errors: the opener's, and Unavailable of any store on the way.
    """
    url = url or configured
    while True:
        store = opener(as_configured(url, configured))
        try:
            pointer = pointer_of(store.get([pointer_key(deployment)])[0])
        except BaseException:
            store.close()
            raise
        if pointer is None or pointer.generation <= generation:
            return Found(store, url, generation)
        if same_place(pointer.url, url):
            return Found(store, url, pointer.generation)
        store.close()
        url, generation = pointer.url, pointer.generation


def same_place(one: str, other: str) -> bool:
    """Whether two URLs name the same store, as far as can be seen without asking it."""
    return _place(one) == _place(other)


def as_configured(url: str, configured: str) -> str:
    """The configured URL where it names the same store: it may hold a password, and options of this node's own."""
    return configured if same_place(url, configured) else url


def public(url: str) -> str:
    """`url` without a password."""
    netloc = urlsplit(url).netloc
    credentials, at, hosts = netloc.rpartition("@")
    # Not put together anew from its parts: that would take slashes away from a URL without a host.
    return url.replace(netloc, f"{credentials.partition(':')[0]}{at}{hosts}", 1) if at else url


def check_public(setting: str, url: str) -> None:
    """Misconfigured, naming `setting`, when there is a secret in `url`: every node and every reader would see it."""
    secret = "a password" if public(url) != url else ""
    for name, _ in parse_qsl(urlsplit(url).query, keep_blank_values=True):
        if _SECRET.search(name):
            secret = f"the option {name}"
    if secret:
        raise Misconfigured(
            setting,
            f"the URL holds {secret}, and it is written where everybody can read it who reads a store; "
            "put the password into a file at the same path on every node, and name it with password_file=",
        )


def _place(url: str) -> tuple[str, tuple[str, ...], str, tuple[tuple[str, str], ...]]:
    parts = urlsplit(url)
    hosts = tuple(sorted(parts.netloc.rpartition("@")[2].split(",")))
    options = tuple(pair for pair in sorted(parse_qsl(parts.query)) if pair[0] in _PLACE_OPTIONS)
    return parts.scheme, hosts, parts.path.rstrip("/"), options
