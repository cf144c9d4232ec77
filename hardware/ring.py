"""Rows of numbers in shared memory, the newest always at hand: one process writes, any number read, nobody waits."""

from __future__ import annotations

from multiprocessing import shared_memory

import numpy as np

from hardware.types import HardwareError

_ATTEMPTS = 100


class Ring:
    """`put` costs microseconds. A reader that was overtaken while it copied copies again: each row carries its number at both ends."""

    def __init__(self, width: int, rows: int = 4096, name: str | None = None) -> None:
        """width: numbers per row. name: of an existing ring."""
        self.width, self.rows, self._created = width, rows, name is None
        self._memory = shared_memory.SharedMemory(name=name, create=name is None, size=8 * (1 + rows * (width + 2)))
        values = np.ndarray(1 + rows * (width + 2), dtype=np.float64, buffer=self._memory.buf)
        if name is None:
            values[:] = -1.0
            values[0] = 0.0
        self._count, self._table = values[:1], values[1:].reshape(rows, width + 2)

    @property
    def name(self) -> str:
        return self._memory.name

    @property
    def count(self) -> int:
        """Rows written so far."""
        return int(self._count[0])

    def put(self, row: np.ndarray) -> None:
        """row (width,)."""
        number = self.count
        slot = self._table[number % self.rows]
        slot[0] = number
        slot[1:-1] = row
        slot[-1] = number
        self._count[0] = number + 1

    def newest(self, count: int = 1) -> np.ndarray:
        """The last rows (N, width), oldest first; fewer where fewer were written."""
        for _ in range(_ATTEMPTS):
            end = self.count
            numbers = np.arange(max(0, end - min(count, self.rows - 1)), end)
            copied = self._table[numbers % self.rows]
            if (copied[:, 0] == numbers).all() and (copied[:, -1] == numbers).all():
                return copied[:, 1:-1]
        raise HardwareError(f"ring {self.name}: overtaken by its writer {_ATTEMPTS} times; ask for fewer rows than {count}")

    def hide(self) -> None:
        """Nobody can find it by its name any more, and nothing is left of it once its last user is gone, however they went."""
        if self._created:
            self._memory.unlink()
            self._created = False

    def close(self) -> None:
        self.hide()
        self._count = self._table = np.zeros((1, 1))
        self._memory.close()
