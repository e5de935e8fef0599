"""Wait for a condition, with a deadline: what a test does instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(what: Callable[[], T], seconds: float = 15.0, every_seconds: float = 0.01) -> T:
    """The first true value of `what`, asked every `every_seconds`; TimeoutError after `seconds` without one."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what.__qualname__} in vain")
        time.sleep(every_seconds)
    return value
