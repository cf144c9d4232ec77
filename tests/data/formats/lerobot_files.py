"""What the LeRobot tests share: frames that spell their number, and files that hold them."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
from PIL import Image

SIZE = (32, 160)  # height, width [px]


def numbered(numbers, size: tuple[int, int] = SIZE) -> np.ndarray:
    """uint8 (N, H, W, 3): black and white blocks of 16 px spell each number in binary."""
    bits = np.asarray(numbers)[:, None] >> np.arange(10) & 1
    return np.ascontiguousarray(
        np.broadcast_to(np.repeat(bits, 16, axis=1)[:, None, :, None] * 255, (len(bits), *size, 3)).astype(np.uint8)
    )


def numbers(frames: np.ndarray) -> list[int]:
    """What they spell."""
    bits = frames[:, 8:24].reshape(len(frames), 16, 10, 16, 3).mean((1, 3, 4)) > 127
    return (bits << np.arange(10)).sum(1).tolist()


def encode(path: Path, frames: np.ndarray, codec: str = "libsvtav1", **options: str) -> None:
    """A video as LeRobot writes it, unless `options` say otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options or {"g": "2", "crf": "30", "preset": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def png(value: int, name: str = "frame_{:06d}.png") -> dict:
    """An image inside parquet."""
    data = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), value, np.uint8)).save(data, "PNG")
    return {"bytes": data.getvalue(), "path": name.format(value)}
