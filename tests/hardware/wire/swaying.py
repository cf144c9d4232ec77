"""To and fro: chunks of actions, here or from a process of their own."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import numpy as np

HORIZON = 8
SWAY_S = 0.6


class Swing:
    """ends (2, A): two actions, the first of them first."""

    def __init__(self, ends: np.ndarray) -> None:
        self.ends, self.began = ends, time.monotonic()

    def rows(self) -> np.ndarray:
        """(HORIZON, A): to the end that is due."""
        return np.repeat(self.ends[int((time.monotonic() - self.began) / SWAY_S) % 2][None], HORIZON, axis=0)


def think(pipe: Connection, ends: np.ndarray) -> None:
    """A process: True begins anew, and each word is answered with a chunk."""
    swing = Swing(ends)
    while True:
        if pipe.recv():
            swing = Swing(ends)
        pipe.send(swing.rows())
