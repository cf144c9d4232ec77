"""A store's pictures inside a page: contact sheets and short films, small enough to be sent by mail."""

from __future__ import annotations

import base64
import io
import math
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robolearn.data.episode import Episode
from robolearn.evaluation.video import write_frames

THUMB_PX = 96  # height of a picture on a contact sheet
SIZES = ((240, 240), (168, 150), (120, 80))  # films: height [px] and frames, tried from the best to the smallest
LEAST_HZ = 8.0  # a film is shown faster than it was rather than in fewer frames a second
CLOCK_PX = 20


def thumbnail(frame: np.ndarray, height: int = THUMB_PX) -> np.ndarray:
    """uint8 (H, W, 3) -> (height, w, 3), the shape kept. Small ones are enlarged without smoothing: their pixels are the data."""
    width = max(1, round(frame.shape[1] * height / frame.shape[0]))
    how = Image.Resampling.NEAREST if height >= 2 * frame.shape[0] else Image.Resampling.BOX if height < frame.shape[0] else None
    return np.asarray(Image.fromarray(frame).resize((width, height), how))


def strip(frames: np.ndarray, rows: Sequence[int]) -> np.ndarray:
    """These rows of uint8 (T, H, W, 3) side by side, as thumbnails."""
    return np.concatenate([thumbnail(frames[row]) for row in rows], axis=1)


def sheet(pictures: Mapping[str, np.ndarray], alt: str) -> str:
    """Captioned thumbnails that flow into rows."""
    shown = "".join(
        f"<figure>{picture(image, f'{alt}, {name}')}<figcaption>{escape(name)}</figcaption></figure>" for name, image in pictures.items()
    )
    return f'<div class="sheet">{shown}</div>' if pictures else ""


def picture(image: np.ndarray, alt: str) -> str:
    """An image inside the page itself, WebP: a third of the size of PNG, and every browser since 2020 shows it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", quality=80, method=4)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{escape(alt)}" loading="lazy" src="data:image/webp;base64,{data}">'


def clip(episode: Episode, rate_hz: float, limit_bytes: int) -> str:
    """A film of all cameras, H.264 in mp4, its time on it; "" without cameras, or where even a small one is beyond `limit_bytes`."""
    if not episode.images:
        return ""
    for height, most in SIZES:
        every = math.ceil(len(episode) / most)
        shown_hz = max(rate_hz / every, min(LEAST_HZ, rate_hz))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "clip.mp4"
            write_frames((_frame(episode, row, height) for row in range(0, len(episode), every)), path, shown_hz, "veryfast")
            data = path.read_bytes()
        if len(data) <= limit_bytes:
            speed = shown_hz * every / rate_hz
            caption = ", ".join(episode.images) + (f"; {speed:.1f} times as fast as it was" if speed > 1.05 else "; as fast as it was")
            source = f"data:video/mp4;base64,{base64.b64encode(data).decode()}"
            player = f'<video controls autoplay muted loop playsinline src="{source}"></video>'
            wide = sum(round(images.shape[2] * height / images.shape[1]) for images in episode.images.values())
            return f'<figure class="clip" style="max-width:{max(wide, 240)}px">{player}<figcaption>{escape(caption)}</figcaption></figure>'
    return ""


def _frame(episode: Episode, row: int, height: int) -> np.ndarray:
    """All cameras at one height, side by side, above the time [s] and the row."""
    cameras = np.concatenate([thumbnail(images[row], height) for images in episode.images.values()], axis=1)
    clock = Image.new("RGB", (cameras.shape[1], CLOCK_PX), (32, 34, 38))
    words = f"{episode.time[row] - episode.time[0]:.2f} s   row {row}"
    ImageDraw.Draw(clock).text((6, CLOCK_PX // 2), words, fill=(235, 235, 235), font=ImageFont.load_default(12), anchor="lm")
    return np.concatenate([cameras, np.asarray(clock)])
