from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robolearn.core.errors import UserError
from robolearn.data.codecs import codec_of, frame_codec, with_checksum, without_checksum


def scene(rows=20, height=48, width=64) -> np.ndarray:
    """A moving block on a gradient, what a camera might see."""
    y, x = np.mgrid[0:height, 0:width]
    frames = np.repeat(np.stack([2 * x, 3 * y, x + y], -1)[None].astype(np.uint8), rows, 0)
    for t in range(rows):
        frames[t, 10 : 10 + 8, t : t + 8] = (200, 60, 30)
    return frames


def through(name: str, frames: np.ndarray) -> np.ndarray:
    codec, out = frame_codec(name), np.empty_like(frames)
    for i in range(0, len(frames), codec.rows):
        codec.decode([codec.encode(frames[i : i + codec.rows])], out[i : i + codec.rows])
    return out


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    seed=st.integers(0, 9),
    name=st.sampled_from(["zstd", "zstd:9", "jpegxl", "jpegxl:0"]),
)
def test_lossless_means_every_bit(height, width, seed, name):
    frames = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    assert frame_codec(name).lossless
    np.testing.assert_array_equal(through(name, frames), frames)


@pytest.mark.parametrize(("name", "least_db"), [("jpeg", 35), ("jpeg:50", 28), ("jpegxl:1", 35), ("h264", 35), ("h264:35", 25)])
def test_lossy_ones_come_close(name, least_db):
    frames = scene()
    assert not frame_codec(name).lossless
    error = (through(name, frames).astype(float) - frames) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > least_db
    assert error.mean(axis=(1, 2, 3)).max() < 20 * error.mean()  # no frame is another one's


def test_a_short_clip_and_odd_sizes():
    frames = scene(rows=5, height=33, width=47)
    codec, out = frame_codec("h264"), np.full((16, 33, 47, 3), 7, np.uint8)
    codec.decode([codec.encode(frames)], out)
    assert np.abs(out[:5].astype(int) - frames).mean() < 5
    assert not out[5:].any()


def test_what_zarr_json_says_finds_the_codec_again():
    for name in ("zstd:7", "jpeg:80", "jpegxl:0", "jpegxl:1.5", "h264:28"):
        found = codec_of(frame_codec(name).metadata)
        assert (found.name, found.lossless, found.rows) == (name, frame_codec(name).lossless, frame_codec(name).rows)
    with pytest.raises(ValueError, match=r"codecs \['blosc'\] are not read here"):
        codec_of([{"name": "blosc"}])


@pytest.mark.parametrize("name", ["png", "zstd:99", "jpeg:x", "jpeg:0", "h264:1.5", ""])
def test_unknown_names_list_the_valid_ones(name):
    with pytest.raises(UserError, match=r"compression: .*valid: zstd\[:level"):
        frame_codec(name)


@pytest.mark.parametrize("name", ["zstd", "jpegxl", "jpeg", "h264"])
def test_damage_is_a_value_error(name):
    codec, frames = frame_codec(name), scene(rows=16)
    data = codec.encode(frames[: codec.rows])
    out = np.empty((codec.rows, *frames.shape[1:]), np.uint8)
    for broken in (b"", data[:20], b"\0" * len(data)):
        with pytest.raises(ValueError):
            codec.decode([broken], out)
    with pytest.raises(ValueError):
        codec.decode([data], np.empty((codec.rows, 8, 8, 3), np.uint8))


def test_a_checksum_finds_a_flipped_bit():
    data = bytearray(with_checksum(b"some data"))
    assert bytes(without_checksum(bytes(data))) == b"some data"
    data[3] ^= 1
    with pytest.raises(ValueError, match="checksum"):
        without_checksum(bytes(data))
    assert len(without_checksum(bytes(data), verify=False)) == 9
    with pytest.raises(ValueError, match="cut short"):
        without_checksum(b"abc")
