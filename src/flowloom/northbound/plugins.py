"""Find the driver that a URL names, built-in ones included, through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Protocol
from urllib.parse import urlsplit

from flowloom.kernel.errors import Misconfigured
from flowloom.northbound.bus import Bus
from flowloom.northbound.store import Store

_EXTRAS = {"zmq": "zeromq", "rediss": "redis"}
"""Of schemes whose client is installed by an extra of another name."""


class _OpensStore(Protocol):
    def __call__(self, url: str) -> Store: ...


class _OpensBus(Protocol):
    def __call__(self, url: str) -> Bus: ...


def _load(group: str, setting: str, url: str) -> object:
    scheme = urlsplit(url).scheme
    found = {point.name: point for point in entry_points(group=group)}
    if scheme not in found:
        raise Misconfigured(setting, f"no driver for {scheme or url!r}; known schemes: {', '.join(sorted(found))}")
    try:
        return found[scheme].load()
    except ImportError as error:
        extra = scheme.partition("+")[0]
        extra = _EXTRAS.get(extra, extra)
        raise Misconfigured(setting, f"{error}; install the client with pip install 'flowloom[{extra}]'") from error


def open_store(url: str, setting: str = "store") -> Store:
    """The store that `url` names.  Misconfigured, naming `setting`, when there is no such driver or URL."""
    opener: _OpensStore = _load("flowloom.stores", setting, url)  # type: ignore[assignment]
    return opener(url)


def open_bus(url: str, setting: str = "bus") -> Bus:
    """The bus that `url` names.  Misconfigured, naming `setting`, when there is no such driver or URL."""
    opener: _OpensBus = _load("flowloom.buses", setting, url)  # type: ignore[assignment]
    return opener(url)
