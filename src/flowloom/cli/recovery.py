"""Asking the recovery processes: of several, the first that answers."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from typing import TypeVar

from flowloom.cli.ask import ask
from flowloom.cli.deployment import Deployment
from flowloom.kernel.errors import Misconfigured, Unavailable

ANSWER_SECONDS = 10.0

A = TypeVar("A")


def put(
    deployment: Deployment, question: Mapping[str, object], answer: type[A], timeout_seconds: float = ANSWER_SECONDS
) -> tuple[A, str]:
    """The answer of the first recovery process that gives one, and the path at which it was given.

    Unavailable when none does.  Misconfigured when the deployment names none.
    """
    failure: Unavailable | None = None
    for path in sockets(deployment):
        try:
            return ask(path, question, answer, timeout_seconds), path
        except Unavailable as error:
            failure = failure or error
    assert failure is not None
    raise failure


def sockets(deployment: Deployment) -> tuple[str, ...]:
    """Where recovery processes answer.  Misconfigured when the deployment names no place."""
    if not deployment.neutron.recoveries:
        raise Misconfigured("neutron.recovery", f"{deployment.file} names no control socket of `flowloom recovery`")
    return deployment.neutron.recoveries


def myself() -> str:
    """Who asks, for the audit: user and machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A user id without a name.
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
