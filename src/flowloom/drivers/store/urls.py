"""What the URLs of networked stores have in common: several endpoints, credentials, a path, checked options.

`scheme://user:password@host:port,host:port/path?option=value`.  What cannot be understood is Misconfigured, naming
the option; passwords appear in no error and no repr.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from flowloom.kernel.errors import Misconfigured

_ENDPOINT = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.%]+)\]|(?P<host>[^:@\[\]\s]+))(?::(?P<port>\d+))?")


class Endpoint(NamedTuple):
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files.  ca: whom servers' certificates are verified with; cert, key: "" for no client certificate."""

    ca: str
    cert: str
    key: str


@dataclass(frozen=True)
class StoreUrl:
    """A URL taken apart.  shown: what errors and logs may say of it.  path: without its first slash."""

    shown: str
    scheme: str
    endpoints: tuple[Endpoint, ...]
    user: str
    password: str = field(repr=False)
    path: str
    options: Options = field(repr=False)


class Options:
    """The options of one URL: each is taken once; `end` refuses what nobody took."""

    def __init__(self, shown: str, pairs: dict[str, str]) -> None:
        self._shown = shown
        self._pairs = pairs

    def wrong(self, name: str, why: str) -> Misconfigured:
        """The error to raise of an option."""
        return Misconfigured("store", f"{self._shown}: {name} {why}")

    def text(self, name: str, default: str = "") -> str:
        """As it stands."""
        return self._pairs.pop(name, default)

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number in least..most."""
        text = self.text(name, str(default))
        if not text.isdecimal() or not least <= int(text) <= most:
            raise self.wrong(name, f"is a whole number, {least} to {most}")
        return int(text)

    def seconds(self, name: str, default: float, least: float, most: float) -> float:
        """A number of seconds in least..most."""
        text = self.text(name, str(default))
        try:
            found = float(text)
        except ValueError:
            found = -1.0
        if not least <= found <= most:
            raise self.wrong(name, f"is a number of seconds, {least:g} to {most:g}")
        return found

    def file(self, name: str) -> str:
        """The path of a file that can be read; "" when it is not given."""
        path = self.text(name)
        if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):
            raise self.wrong(name, f"names {path}, which is no file that user {os.getuid()} can read")
        return path

    def tls(self, on: bool) -> TlsFiles | None:
        """`tls_ca`, `tls_cert`, `tls_key`; None when TLS is not on, and then they are refused."""
        if not on:
            return None
        found = TlsFiles(ca=self.file("tls_ca"), cert=self.file("tls_cert"), key=self.file("tls_key"))
        if not found.ca:
            raise self.wrong("tls_ca", "is missing: TLS needs the PEM file of the authorities")
        if bool(found.cert) != bool(found.key):
            raise self.wrong("tls_cert", "and tls_key come together or not at all")
        return found

    def secret(self, name: str, otherwise: str = "") -> str:
        """The first line of the file that the option names, or `otherwise`."""
        path = self.file(name)
        if not path:
            return otherwise
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")

    def end(self) -> None:
        """Refuse what is left."""
        if self._pairs:
            raise self.wrong(next(iter(self._pairs)), "is no option of this store")


def parse(url: str, default_port: int) -> StoreUrl:
    """Take `url` apart; a percent-encoded user, password or path is decoded."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise Misconfigured("store", f"the URL cannot be read: {error}") from error
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    shown = f"{parts.scheme}://{hosts}{parts.path}"
    options = Options(shown, dict(parse_qsl(parts.query, keep_blank_values=True)))
    return StoreUrl(
        shown=shown,
        scheme=parts.scheme,
        endpoints=tuple(_endpoint(shown, text, default_port) for text in hosts.split(",")),
        user=unquote(user),
        password=options.secret("password_file", unquote(password)),
        path=unquote(parts.path.removeprefix("/")),
        options=options,
    )


def _endpoint(shown: str, text: str, default_port: int) -> Endpoint:
    found = _ENDPOINT.fullmatch(text)
    port = int(found["port"] or default_port) if found else 0
    if not found or not 1 <= port <= 65535:
        raise Misconfigured("store", f"{shown}: {text!r} is not host or host:port")
    return Endpoint(found["six"] or found["host"], port)
