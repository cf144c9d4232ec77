"""How the frames of one camera are compressed: chosen by a short name, spelled out in zarr.json (docs/dataset-format.md).

A chunk is one frame, or CLIP frames in a row for h264. Every codec is a pair of pure functions on whole chunks.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import google_crc32c
import numpy as np
import zstandard

from robolearn.core.errors import UserError

VALID = (
    "zstd[:level -7..19] (lossless), jpegxl[:distance 0..15] (0: lossless), jpeg[:quality 1..100], h264[:crf 0..51] (clips of 16 frames)"
)
CLIP = 16  # frames of one h264 chunk
_PREFIX = "robolearn."  # of codecs that the Zarr specification does not know
_LIMITS = {"zstd": (-7, 19, -1), "jpegxl": (0, 15, 0), "jpeg": (1, 100, 95), "h264": (0, 51, 20)}  # lowest, highest, default
_SETTING = {"zstd": "level", "jpegxl": "distance", "jpeg": "quality", "h264": "crf"}

_own = threading.local()  # zstd contexts serve one thread at a time


@dataclass(frozen=True)
class FrameCodec:
    """`encode` takes uint8 (rows, H, W, 3); `decode(chunks, out)` fills such arrays end to end. ValueError: the bytes are damaged."""

    name: str  # as chosen: "zstd", "jpeg:95", ...
    lossless: bool
    rows: int  # frames of one chunk
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[Sequence[bytes | memoryview], np.ndarray], None]
    metadata: list[dict[str, Any]]  # the codecs of the inner chunk in zarr.json, but for the checksum
    quick: bool = False  # a small frame decodes in a few microseconds: handing it to another thread costs more


@functools.cache
def frame_codec(chosen: str) -> FrameCodec:
    """The codec of a name such as "zstd", "zstd:9", "jpeg:90". UserError lists the valid ones."""
    kind, _, text = chosen.partition(":")
    try:
        low, high, usual = _LIMITS[kind]
        value = float(text) if text else usual
        if not low <= value <= high or (kind != "jpegxl" and value != int(value)):
            raise ValueError(value)
    except (KeyError, ValueError) as error:
        raise UserError(f"compression: {chosen!r}; valid: {VALID}") from error
    value = value if kind == "jpegxl" else int(value)
    configuration: dict[str, Any] = {_SETTING[kind]: value}
    if kind == "zstd":
        return FrameCodec(
            chosen, True, 1, lambda x: zstd_compress(x.tobytes(), int(value)), _zstd_frames, zstd_metadata(int(value)), value < 0
        )
    encode, decode = {"jpegxl": (_to_jxl, _from_jxl), "jpeg": (_to_jpeg, _from_jpeg), "h264": (_to_h264, _from_h264)}[kind]
    metadata = [{"name": _PREFIX + kind, "configuration": configuration}]
    lossless = kind == "jpegxl" and value == 0
    rows = CLIP if kind == "h264" else 1
    return FrameCodec(chosen, lossless, rows, functools.partial(encode, value), functools.partial(_one_by_one, decode, rows), metadata)


def codec_of(metadata: list[dict[str, Any]]) -> FrameCodec:
    """The codec that zarr.json describes (without its checksum). ValueError: one that is not read here."""
    names = [codec.get("name") for codec in metadata]
    if names == ["bytes", "zstd"]:
        low, high, _ = _LIMITS["zstd"]  # other levels, which others may have chosen, read the same
        return frame_codec(f"zstd:{min(max(int(metadata[1]['configuration']['level']), low), high)}")
    kind = str(names[0]).removeprefix(_PREFIX)
    if len(names) != 1 or kind not in _SETTING or kind == "zstd":
        raise ValueError(f"codecs {names} are not read here")
    return frame_codec(f"{kind}:{metadata[0]['configuration'][_SETTING[kind]]:g}")


def zstd_metadata(level: int) -> list[dict[str, Any]]:
    return [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": level, "checksum": False}}]


def zstd_compress(data: bytes | memoryview, level: int) -> bytes:
    compressors = _own.__dict__.setdefault("compressors", {})
    if level not in compressors:
        compressors[level] = zstandard.ZstdCompressor(level=level, write_content_size=True)
    return compressors[level].compress(data)


def zstd_decompress(data: bytes | memoryview, size: int) -> bytes:
    """Exactly `size` bytes. ValueError: damaged, or of another size."""
    try:
        _require_size(data, size)
        content = _decompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from error
    if len(content) != size:
        raise ValueError(f"zstd: holds {len(content)} bytes; expected {size}")
    return content


def _decompressor() -> zstandard.ZstdDecompressor:
    if (decompressor := getattr(_own, "decompressor", None)) is None:
        decompressor = _own.decompressor = zstandard.ZstdDecompressor()
    return decompressor


def _require_size(data: bytes | memoryview, size: int) -> None:
    """The decompressor believes a frame's header: `max_output_size` is for frames that do not say their size."""
    if (claimed := zstandard.frame_content_size(data)) not in (-1, size):
        raise ValueError(f"zstd: holds {claimed} bytes; expected {size}")


def with_checksum(data: bytes) -> bytes:
    """Zarr's crc32c codec: the data and, little-endian, its CRC-32C."""
    return data + google_crc32c.value(data).to_bytes(4, "little")


def without_checksum(data: bytes | memoryview, verify: bool = True) -> memoryview:
    """The data before its CRC-32C. ValueError: too short, or (verify) it does not match."""
    if len(data) < 4:
        raise ValueError("cut short")
    content = memoryview(data)[:-4]
    if verify and google_crc32c.value(bytes(content)) != int.from_bytes(data[-4:], "little"):
        raise ValueError("its checksum does not match")
    return content


def _zstd_frames(chunks: Sequence[bytes | memoryview], out: np.ndarray) -> None:
    """The hot path of training: as little Python as can be between two decompressions."""
    decompress, place = _decompressor().decompress, out.reshape(-1).data
    size = out[0].nbytes
    try:
        for number, chunk in enumerate(chunks):
            _require_size(chunk, size)
            place[number * size : (number + 1) * size] = decompress(chunk, max_output_size=size)
    except zstandard.ZstdError as error:
        raise ValueError(f"zstd: {error}") from error


def _one_by_one(
    decode: Callable[[bytes | memoryview, np.ndarray], None], rows: int, chunks: Sequence[bytes | memoryview], out: np.ndarray
) -> None:
    for number, chunk in enumerate(chunks):
        decode(chunk, out[number * rows : (number + 1) * rows])


def _to_jxl(distance: float, frames: np.ndarray) -> bytes:
    import imagecodecs

    if distance == 0:
        return bytes(imagecodecs.jpegxl_encode(frames[0], lossless=True, effort=1))
    return bytes(imagecodecs.jpegxl_encode(frames[0], distance=distance, effort=3))


def _from_jxl(data: bytes | memoryview, out: np.ndarray) -> None:
    import imagecodecs

    _decode_image(imagecodecs.jpegxl_decode, data, out)


def _to_jpeg(quality: float, frames: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.jpeg8_encode(frames[0], level=int(quality)))


def _from_jpeg(data: bytes | memoryview, out: np.ndarray) -> None:
    import imagecodecs

    _decode_image(imagecodecs.jpeg8_decode, data, out)


def _decode_image(decode: Callable, data: bytes | memoryview, out: np.ndarray) -> None:
    try:
        image = decode(bytes(data))
    except RuntimeError as error:  # every codec of imagecodecs has its own subclass
        raise ValueError(str(error)) from error
    if image.shape != out.shape[1:] or image.dtype != np.uint8:
        raise ValueError(f"the picture is {image.dtype} {image.shape}; expected uint8 {out.shape[1:]}")
    out[0] = image


def _to_h264(crf: float, frames: np.ndarray) -> bytes:
    """An H.264 Annex B stream of a clip that needs no other: one key frame, no B frames."""
    import av

    _, height, width, _ = frames.shape
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height = width + width % 2, height + height % 2  # 4:4:4 needs no even sizes, some decoders do
    context.pix_fmt, context.time_base = "yuv444p", Fraction(1, 30)
    context.options = {"crf": str(crf), "preset": "veryfast", "g": str(CLIP), "bf": "0", "tune": "fastdecode"}
    context.thread_count = 1
    data = bytearray()
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    for image in padded:
        for packet in context.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
            data += bytes(packet)
    for packet in context.encode(None):
        data += bytes(packet)
    return bytes(data)


def _from_h264(data: bytes | memoryview, out: np.ndarray) -> None:
    import av
    from av.error import FFmpegError

    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    done, (height, width) = 0, out.shape[1:3]
    try:
        packets = [*context.parse(bytes(data)), *context.parse(None)]
        for packet in [*packets, None]:
            for frame in context.decode(packet):
                picture = frame.to_ndarray(format="rgb24")
                if picture.shape[:2] != (height + height % 2, width + width % 2):
                    raise ValueError(f"h264: a picture of {picture.shape[:2]} [px]; expected {(height, width)}")
                out[done] = picture[:height, :width]
                done += 1
    except (FFmpegError, IndexError) as error:
        raise ValueError(f"h264: {error}") from error
    if done == 0 or out.shape[0] < done:
        raise ValueError(f"h264: {done} pictures; expected 1 to {out.shape[0]}")
    out[done:] = 0  # an episode's last clip may be short
