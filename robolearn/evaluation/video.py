"""Episodes as films any browser plays: the cameras side by side above a bar that says what happened."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from robolearn.data.episode import Episode

MIN_HEIGHT_PX = 168  # small camera frames are enlarged to this
BAR_PX = 24
HOLD_S = 0.8  # the last frame stays, so that the ending can be read before the film starts again
GREEN, RED, GREY, AMBER = (62, 142, 92), (176, 74, 66), (58, 62, 68), (214, 158, 60)


def write_video(episode: Episode, path: Path, rate_hz: float, label: str = "") -> None:
    """Write H.264 in mp4, yuv420p. label: drawn on the left of the bar, beside success or failure and time [s]."""
    write_frames(film(episode, rate_hz, label), path, rate_hz)


def film(episode: Episode, rate_hz: float, label: str = "") -> Iterator[np.ndarray]:
    """Frames of an episode, uint8 (H, W, 3). The bar's right half shows the planner's uncertainty where it was noted."""
    doubt = episode.notes.get("uncertainty")
    ceiling = float(np.nanmax(doubt)) if doubt is not None and np.isfinite(doubt).any() else 0.0
    won = episode.meta.get("success_step") if episode.success else None
    for row in range(len(episode)):
        frames = [_enlarge(images[row]) for images in episode.images.values()] or [np.zeros((MIN_HEIGHT_PX, MIN_HEIGHT_PX, 3), np.uint8)]
        height = max(f.shape[0] for f in frames)
        picture = np.hstack([np.pad(f, ((0, height - f.shape[0]), (0, 0), (0, 0))) for f in frames])
        if row == len(episode) - 1 or (won is not None and row >= won):
            colour, word = (GREEN, "success") if won is not None else (RED, "failure")
        else:
            colour, word = GREY, ""
        text = "  ".join(part for part in (label, f"{row / rate_hz:4.1f} s", word) if part)
        share = float(doubt[row]) / ceiling if doubt is not None and ceiling > 0 and np.isfinite(doubt[row]) else None
        frame = np.vstack([picture, _bar(picture.shape[1], colour, text, share)])
        for _ in range(1 + round(HOLD_S * rate_hz) if row == len(episode) - 1 else 1):
            yield frame


def write_frames(frames: Iterable[np.ndarray], path: Path, rate_hz: float, preset: str = "medium") -> None:
    """Encode uint8 (H, W, 3) frames; odd sizes lose their last row or column, as yuv420p demands even ones. preset: x264's."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            stream = None
            for frame in frames:
                height, width = frame.shape[0] // 2 * 2, frame.shape[1] // 2 * 2
                if stream is None:
                    rate, options = Fraction(rate_hz).limit_denominator(1000), {"crf": "26", "preset": preset}
                    stream = container.add_stream("libx264", rate=rate, options=options)
                    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame[:height, :width]), format="rgb24")
                container.mux(stream.encode(picture))
            if stream is not None:
                container.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def aspect(path: Path) -> float:
    """Width over height of a film."""
    import av

    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream.width / stream.height


def _enlarge(image: np.ndarray) -> np.ndarray:
    factor = -(-MIN_HEIGHT_PX // image.shape[0])
    return image.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else image


def _bar(width: int, colour: tuple[int, int, int], text: str, doubt: float | None) -> np.ndarray:
    bar = Image.new("RGB", (width, BAR_PX), colour)
    draw = ImageDraw.Draw(bar)
    draw.text((6, BAR_PX // 2), text, fill=(255, 255, 255), font=ImageFont.load_default(12), anchor="lm")
    if doubt is not None:
        left, right = int(width * 0.55), width - 8
        draw.text((left - 4, BAR_PX // 2), "doubt", fill=(255, 255, 255), font=ImageFont.load_default(12), anchor="rm")
        draw.rectangle((left, 8, right, BAR_PX - 8), fill=(40, 42, 46))
        draw.rectangle((left, 8, left + int((right - left) * min(doubt, 1.0)), BAR_PX - 8), fill=AMBER)
    return np.asarray(bar)
