"""Exponential back-off with full jitter, so that a thousand agents do not return at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random


@dataclass
class Backoff:
    """Delays between retries: uniform in (0, min(cap, first * 2**attempt)]."""

    random: Random
    first_seconds: float = 0.1
    cap_seconds: float = 10.0
    attempts: int = field(default=0, init=False)

    def next_delay(self) -> float:
        """Seconds to wait before the next attempt; each call counts one failed attempt."""
        top = min(self.cap_seconds, self.first_seconds * 2 ** min(self.attempts, 32))
        self.attempts += 1
        return self.random.uniform(top / 10, top)

    def succeeded(self) -> None:
        """Forget the failures."""
        self.attempts = 0
