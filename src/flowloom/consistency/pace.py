"""So much a second, over all calls: what keeps a repair from being a storm."""

from __future__ import annotations

from flowloom.kernel.clock import Clock


class Pace:
    """At most `per_second` (> 0) on the average, at most one second's worth at once."""

    def __init__(self, clock: Clock, per_second: float) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = max(1.0, per_second)
        self._allowed = self._burst
        self._at = clock.monotonic()

    def take(self, wanted: int) -> int:
        """How many of `wanted` may be done now."""
        self._refill()
        allowed = min(wanted, int(self._allowed))
        self._allowed -= allowed
        return allowed

    def wait(self, wanted: int) -> float:
        """Seconds until it is worth to ask again for `wanted`: a tenth of a second's worth, or all of them."""
        self._refill()
        enough = min(float(wanted), max(1.0, self._burst / 10))
        return max(0.0, (enough - self._allowed) / self._per_second)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._allowed = min(self._burst, self._allowed + (now - self._at) * self._per_second)
        self._at = now
