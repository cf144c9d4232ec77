"""What a camera's frames tell about the camera: whether it sees, whether it lives, how much moves before it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PIXELS = 64  # along the shorter side; every n-th pixel is enough to judge a frame by
BLACK = 16  # grey level that 99 % of a black frame stay below: video's own black
PLAIN = 2.0  # grey levels that a frame of one colour varies by, standard deviation: less than any lit scene, more than JPEG's noise


@dataclass(frozen=True)
class Footage:
    """T frames of one camera, in numbers."""

    change: np.ndarray  # float32 (T - 1,) mean change of the grey levels (0 to 255) from frame to frame
    same: np.ndarray  # bool (T - 1,) equal to the frame before, bit for bit
    blank: np.ndarray  # bool (T,) shows nothing: black, or of one colour


def watch(frames: np.ndarray) -> Footage:
    """frames: uint8 (T, H, W, 3). Each is looked at once; nothing of their size is allocated."""
    step = max(1, min(frames.shape[1:3]) // PIXELS)
    count = len(frames)
    change, same, blank = np.zeros(max(count - 1, 0), np.float32), np.zeros(max(count - 1, 0), bool), np.zeros(count, bool)
    before = np.zeros((0, 0), np.float32)
    for t in range(count):
        grey = frames[t, ::step, ::step].mean(axis=-1, dtype=np.float32)
        blank[t] = (grey >= BLACK).mean() < 0.01 or grey.std() < PLAIN
        if t:
            change[t - 1] = np.abs(grey - before).mean()
            same[t - 1] = change[t - 1] == 0 and np.array_equal(frames[t], frames[t - 1])
        before = grey
    return Footage(change, same, blank)


def longest_run(mask: np.ndarray) -> int:
    """The most neighbours in mask (N,) that are all true."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return int((ends[1::2] - ends[::2]).max(initial=0))
