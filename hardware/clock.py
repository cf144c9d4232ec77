"""Where time comes from: the wall, or a simulator whose physics runs while one sleeps. Seconds, monotonic."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep


class WallClock:
    """CLOCK_MONOTONIC: somebody setting the date changes nothing."""

    def now(self) -> float:
        return monotonic()

    def sleep_until(self, time: float) -> None:
        sleep(max(0.0, time - monotonic()))


class SimClock:
    """Simulated time that never goes back: sleeping advances the physics, thinking takes no time.

    advance(dt) runs the physics for dt seconds. The time kept here survives a reset of the simulator's own clock.
    """

    def __init__(self, advance: Callable[[float], None], now: float = 0.0) -> None:
        self._advance, self._now = advance, now

    def now(self) -> float:
        return self._now

    def sleep_until(self, time: float) -> None:
        if time > self._now:
            self._advance(time - self._now)
            self._now = time
