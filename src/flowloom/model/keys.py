"""Where a record lives: `/<deployment>/<project>/<scope>/<kind>/<id>`, in the store and on the bus.

The project is the owner of the scope (a port of project B on a network of project A lies under A).
Node-owned records have no project: theirs is `-`.  Parts are percent-encoded where they hold `/` or `%`.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote, unquote

from flowloom.kernel.errors import Rejected

NO_PROJECT = "-"


class Key(NamedTuple):
    """A parsed key."""

    deployment: str
    project: str
    scope: str
    kind: str
    id: str

    def __str__(self) -> str:
        return "/" + "/".join(quote(part, safe=":@+,=") for part in self)


def key_of(deployment: str, project: str, scope: str, kind: str, id: str) -> str:
    """The key as text; empty projects become `-`."""
    return str(Key(deployment, project or NO_PROJECT, scope, kind, id))


def parse_key(text: str) -> Key:
    """The parts of `text`; Rejected when it is not a key."""
    parts = text.split("/")
    if len(parts) != 6 or parts[0] or not all(parts[1:]):
        raise Rejected(text, "not of the form /deployment/project/scope/kind/id")
    if "%" not in text:
        return Key._make(parts[1:])
    return Key._make(unquote(part) for part in parts[1:])


def deployment_prefix(deployment: str) -> str:
    """Prefix of everything of one deployment."""
    return f"/{quote(deployment, safe=':@+,=')}/"


def project_prefix(deployment: str, project: str) -> str:
    """Prefix of everything that is distributed with one project."""
    return deployment_prefix(deployment) + f"{quote(project or NO_PROJECT, safe=':@+,=')}/"


def scope_prefix(deployment: str, project: str, scope: str) -> str:
    """Prefix of one scope (a network with its subnets and ports, a chassis with its port statuses)."""
    return project_prefix(deployment, project) + f"{quote(scope, safe=':@+,=')}/"
