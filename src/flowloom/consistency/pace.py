"""So much a second, over all calls: what keeps a repair from being a storm."""

from __future__ import annotations

from flowloom.kernel.clock import Clock


class Pace:
    """At most `per_second` (> 0) on the average, at most `burst_seconds` of it at once."""

    def __init__(self, clock: Clock, per_second: float, burst_seconds: float = 1.0) -> None:
        self._clock = clock
        self._per_second = per_second
        self._burst = max(1.0, per_second * burst_seconds)
        self._allowed = self._burst
        self._at = clock.monotonic()

    def take(self, wanted: int) -> int:
        """How many of `wanted` may be done now."""
        self._refill()
        allowed = min(wanted, int(self._allowed))
        self._allowed -= allowed
        return allowed

    def take_full(self, most: int) -> int:
        """Nothing, or a whole portion of at most `most`: for what is cheaper in large portions."""
        self._refill()
        portion = min(most, int(self._burst))
        return self.take(portion) if self._allowed >= portion else 0

    def wait(self, wanted: int) -> float:
        """Seconds until it is worth to ask again for `wanted`: a tenth of a second's worth, or all of them."""
        self._refill()
        enough = min(float(wanted), max(1.0, self._burst / 10))
        return max(0.0, (enough - self._allowed) / self._per_second)

    def _refill(self) -> None:
        now = self._clock.monotonic()
        self._allowed = min(self._burst, self._allowed + (now - self._at) * self._per_second)
        self._at = now
