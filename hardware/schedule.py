"""Commands for times to come: a policy's chunk, row by row, each at its own time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from hardware.types import Command


class Schedule:
    """A later chunk replaces what an earlier one said of its time and after; rows whose time has passed are dropped, not caught up with."""

    def __init__(self, period_s: float) -> None:
        """period_s: between two rows; a row is late once the next one's time has come."""
        self.period_s, self.late = period_s, 0
        self._taken = -math.inf  # the newest time handed out: each is flown once
        self._rows: deque[Command] = deque()

    def replace(self, rows: Sequence[Command], now: float) -> int:
        """Take a chunk in; returns how many of its rows came too late. Rows whose times do not grow, or were flown, are dropped."""
        fresh, newest = [], max(now - self.period_s, self._taken)
        for row in rows:
            if row.time > newest:  # False for NaN, too
                fresh.append(row)
                newest = row.time
        if fresh:
            self._rows = deque([row for row in self._rows if row.time < fresh[0].time] + fresh)
        dropped = len(rows) - len(fresh)
        self.late += dropped
        return dropped

    def due(self, now: float) -> Command | None:
        """The newest row whose time has come, once; older ones that nobody asked for in time are dropped."""
        found = None
        while self._rows and self._rows[0].time <= now:
            self.late += found is not None
            found = self._rows.popleft()
            self._taken = found.time
        return found

    def clear(self) -> None:
        self._rows.clear()

    def __len__(self) -> int:
        return len(self._rows)
