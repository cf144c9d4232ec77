"""An address as a picture in the terminal, for a phone's camera."""

from __future__ import annotations

import numpy as np

_BLOCKS = np.array([[" ", "▄"], ["▀", "█"]])  # upper half, lower half: dark or not


def qr(text: str) -> str:
    """Dark on white, two modules per line; "" where no OpenCV is installed that makes them."""
    try:
        from cv2 import QRCodeEncoder
    except ImportError:
        return ""
    dark = np.pad(QRCodeEncoder.create().encode(text) == 0, 2).astype(int)
    dark = np.pad(dark, ((0, len(dark) % 2), (0, 0)))
    return "\n".join(f"\x1b[30;107m{''.join(line)}\x1b[0m" for line in _BLOCKS[dark[::2], dark[1::2]])
