"""Single images, JPEG or PNG, as files and datasets hold them."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from robolearn.core.errors import UserError
from robolearn.data.formats._reader import require_memory

_DAMAGE = (OSError, SyntaxError, ValueError, LookupError, TypeError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
_COLOURS = ("RGB", "RGBA", "L", "P")


def image_size(source: Path | bytes | memoryview, what: str) -> tuple[int, int]:
    """(height, width) [px] from the header; nothing is decoded. UserError: not JPEG or PNG."""
    with _open(source, what) as image:
        return image.height, image.width


def decode_images(sources: Sequence[Path | bytes | memoryview], size: tuple[int, int], what: str) -> np.ndarray:
    """uint8 (N, height, width, 3) RGB. UserError: damaged, another size than `size` [px], not a colour image of 8 bits."""
    require_memory(what, (len(sources), *size, 3))
    frames = np.empty((len(sources), *size, 3), np.uint8)
    for index, source in enumerate(sources):
        label = f"{what} {source.name}" if isinstance(source, Path) else f"{what} {index}"
        with _open(source, label) as image:
            if (image.height, image.width) != size:
                raise UserError(f"{label} is {image.height}x{image.width} px; expected {size[0]}x{size[1]}")
            if image.mode not in _COLOURS:
                raise UserError(f"{label} has the colours {image.mode}; expected one of {', '.join(_COLOURS)}")
            try:
                frames[index] = np.asarray(image.convert("RGB"))
            except _DAMAGE as error:
                raise UserError(f"{label} is damaged ({' '.join(str(error).split())[:120]})") from error
    return frames


def _open(source: Path | bytes | memoryview, what: str) -> Image.Image:
    if isinstance(source, Path) and not source.is_file():
        raise UserError(f"{what}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes are compared with what the spec says before anything is decoded
            return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=("JPEG", "PNG"))
    except _DAMAGE as error:
        raise UserError(f"{what} is not a JPEG or PNG image") from error
