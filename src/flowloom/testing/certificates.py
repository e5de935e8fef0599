"""Certificates for servers and clients on the loopback, valid for an hour, made with the openssl program.

authority = new_authority(directory)           # directory/ca.pem
authority.certify("server")                    # directory/server.pem, directory/server.key, for 127.0.0.1
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from flowloom.testing.conformance import Skip


class Pair(NamedTuple):
    """A certificate and its key, PEM files."""

    cert: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates.  All is in one directory."""

    directory: Path

    @property
    def cert(self) -> Path:
        return self.directory / "ca.pem"

    def certify(self, name: str, alternative: str = "IP:127.0.0.1,DNS:localhost") -> Pair:
        """A certificate for servers and clients whose common name is `name`."""
        pair = Pair(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        request, extensions = self.directory / f"{name}.csr", self.directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={alternative}\nextendedKeyUsage=serverAuth,clientAuth\n")
        _openssl("req", *_NEW_KEY, "-keyout", str(pair.key), "-out", str(request), "-subj", f"/CN={name}")
        signed = ("-CA", str(self.cert), "-CAkey", str(self.directory / "ca.key"), "-CAcreateserial")
        _openssl("x509", "-req", "-in", str(request), *signed, "-out", str(pair.cert), "-extfile", str(extensions))
        return pair


_NEW_KEY: Sequence[str] = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def new_authority(directory: Path) -> Authority:
    """An authority in `directory`, which is made.  Skip when openssl is missing."""
    if shutil.which("openssl") is None:
        raise Skip("no openssl: apt-get install --no-install-recommends openssl")
    directory.mkdir(parents=True)
    authority = Authority(directory)
    key = directory / "ca.key"
    _openssl("req", "-x509", *_NEW_KEY, "-keyout", str(key), "-out", str(authority.cert), "-subj", "/CN=test authority")
    return authority


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"openssl {words[0]}: {done.stderr}")
