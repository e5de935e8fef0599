"""Loaded by Python's `site` into API workers of the fault tests: dies where a file says so.

FLOWLOOM_DIE_AT names a file; while it holds the name of a point, the first process that comes there removes the
file and kills itself with -9, as the kernel would: no handler, no `finally`.  The product knows nothing of this.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

WHERE = os.environ.get("FLOWLOOM_DIE_AT", "")
DRAIN = "flowloom.consistency.drain"


def die_at(point: str) -> None:
    try:
        with open(WHERE) as file:
            wanted = file.read()
    except OSError:
        return
    if wanted != point:
        return
    try:
        os.unlink(WHERE)
    except FileNotFoundError:
        return  # Another one died here.
    os.kill(os.getpid(), signal.SIGKILL)


def around(owner: Any, name: str, before: str = "", after: str = "") -> None:
    inner: Callable[..., Any] = getattr(owner, name)

    def outer(*arguments: Any, **more: Any) -> Any:
        if before:
            die_at(before)
        result = inner(*arguments, **more)
        if after:
            die_at(after)
        return result

    setattr(owner, name, outer)


def wrap(module: Any) -> None:
    around(module, "hold", before="after commit, before the lock", after="lock held, nothing read")
    around(module.Drain, "_apply", before="read, not stored", after="stored, not published")
    around(module.Drain, "_publish", after="published, not acknowledged")

    write = module.Drain._write

    def outer(*arguments: Any, **more: Any) -> Any:
        result = write(*arguments, **more)
        die_at("acknowledged, lock not given back")
        return result

    module.Drain._write = outer


class Finder(importlib.abc.MetaPathFinder):
    """Finds the drain as everybody else would, and wraps it when it has been loaded."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != DRAIN:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                wrap(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if WHERE:
    sys.meta_path.insert(0, Finder())
