"""Video files: every frame carries its own number in its pixels, so that a frame read one too early or too late is seen."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.formats._video import VideoWriter, frames_between, read_frames, read_frames_at, size_and_rate

os.environ.setdefault("SVT_LOG", "1")  # the encoder reads it once
BITS = 10
SIZE = (32, 16 * BITS)  # height, width [px]: one 16 px block for each bit, so that no codec blurs it away
CODECS = [  # codec, container, GOP and reordering: what cameras, LeRobot and other people's tools write
    ("libsvtav1", "mp4", {"g": "2", "preset": "12", "crf": "40"}),
    ("libsvtav1", "mp4", {"g": "40", "preset": "12", "crf": "40"}),
    ("libx264", "mp4", {"g": "2"}),
    ("libx264", "mp4", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    ("libx264", "mkv", {"g": "250", "bf": "3"}),
    ("libx265", "mp4", {"x265-params": "keyint=12:bframes=4:open-gop=1:log-level=none"}),
    ("mpeg4", "avi", {"g": "12"}),
]


def numbered(numbers) -> np.ndarray:
    """uint8 (N, H, W, 3): white and black blocks spell each number in binary."""
    bits = np.asarray(numbers)[:, None] >> np.arange(BITS) & 1
    return np.ascontiguousarray(
        np.broadcast_to(np.repeat(bits, 16, axis=1)[:, None, :, None] * 255, (len(bits), *SIZE, 3)).astype(np.uint8)
    )


def numbers(frames: np.ndarray) -> list[int]:
    bits = frames[:, 8:24].reshape(len(frames), 16, BITS, 16, 3).mean((1, 3, 4)) > 127
    return (bits << np.arange(BITS)).sum(1).tolist()


def encode(path: Path, codec: str, options: dict[str, str], count: int, rate=30) -> Path:
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV cannot write {codec}")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for image in numbered(range(count)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("codec", "suffix", "options"), CODECS, ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else value
)
def test_every_seek_lands_on_its_frame(tmp_path, codec, suffix, options):
    path = encode(tmp_path / f"video.{suffix}", codec, options, 90)
    assert size_and_rate(path) == (SIZE, 30.0)
    assert numbers(read_frames(path, 90)) == list(range(90))
    for start in [*range(1, 90, 7), 11, 12, 13, 88, 89]:
        assert numbers(read_frames(path, 1, start / 30)) == [start]
    assert numbers(read_frames(path, 20, 37 / 30 + 0.008)) == list(range(37, 57))  # the frame shown, not the next
    assert numbers(read_frames(path, 20, 37 / 30 - 0.008)) == list(range(37, 57))


@pytest.mark.parametrize(("rate", "count"), [(30, 700), (12.5, 40), (29.97, 300), (10, 40)])
def test_what_is_written_is_read_back_frame_by_frame(tmp_path, rate, count):
    with VideoWriter(tmp_path / "video.mp4", SIZE, rate) as video:
        video.add(numbered(range(25)))
        video.add(numbered(range(25, count)))
    (size, read_rate) = size_and_rate(video_path := tmp_path / "video.mp4")
    assert size == SIZE and read_rate == pytest.approx(rate, rel=1e-6)
    assert frames_between(video_path) == count
    assert frames_between(video_path, 10 / rate, 30 / rate) == 20
    for start in (0, 1, 24, 25, count - 15):
        assert numbers(read_frames(video_path, 15, start / rate)) == list(range(start, start + 15))


def test_it_is_av1_with_keyframes_close_together(tmp_path):
    with VideoWriter(tmp_path / "video.mp4", SIZE, 30) as video:
        video.add(numbered(range(20)))
    assert video.codec == ("av1" if "libsvtav1" in av.codecs_available else "h264")
    with av.open(str(tmp_path / "video.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.codec.canonical_name == video.codec and stream.pix_fmt == video.pix_fmt
        keyframes = [p.is_keyframe for p in container.demux(stream) if p.pts is not None]
    assert keyframes == [True, False] * 10


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (7, 9), (63, 65), (96, 96)])
def test_any_size_can_be_written(tmp_path, size):
    shown = np.full((6, *size, 3), (200, 90, 30), np.uint8)
    with VideoWriter(tmp_path / "video.mp4", size, 10) as video:
        video.add(shown)
    assert np.abs(read_frames(tmp_path / "video.mp4", 6).astype(int) - shown).max() <= 6  # [grey levels]


def test_h264_where_there_is_no_av1(tmp_path, monkeypatch):
    monkeypatch.setattr("robolearn.data.formats._video._ENCODERS", (("libsvtav2", 1, {}), ("libx264", 1, {})))
    with VideoWriter(tmp_path / "video.mp4", SIZE, 30) as video:
        video.add(numbered(range(50)))
    assert video.codec == "h264"
    assert numbers(read_frames(tmp_path / "video.mp4", 3, 41 / 30)) == [41, 42, 43]
    monkeypatch.setattr("robolearn.data.formats._video._ENCODERS", ())
    with pytest.raises(UserError, match="can write neither AV1 nor H.264 at 32x160 px"):
        VideoWriter(tmp_path / "other.mp4", SIZE, 30)


def test_frames_by_time(tmp_path):
    """A slower clock than the video's takes some frames, and one may stand for two rows."""
    path = encode(tmp_path / "video.mp4", "libx264", {"g": "12", "bf": "3"}, 60)
    assert numbers(read_frames_at(path, np.arange(20) * 0.1)) == list(range(0, 60, 3))
    assert numbers(read_frames_at(path, [0.3, 0.301, 0.34, 59 / 30])) == [9, 9, 10, 59]
    with pytest.raises(UserError, match=r"video.mp4: holds no frame at 2.0000 s \(row 2\); the nearest is at 1.9667 s"):
        read_frames_at(path, [0.0, 1.0, 2.0])
    with pytest.raises(UserError, match="no frame at -1.0000 s"):
        read_frames_at(path, [-1.0, 0.0])


def test_a_gap_between_frames_is_no_frame(tmp_path):
    path = tmp_path / "video.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 30)
        for number, image in enumerate(numbered(range(40))):
            if not 10 <= number < 20:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert numbers(read_frames_at(path, np.array([9, 20]) / 30)) == [9, 20]
    with pytest.raises(UserError, match="holds no frame at 0.5000 s"):
        read_frames_at(path, np.array([9, 15]) / 30)


def test_too_few_frames_say_how_many(tmp_path):
    path = encode(tmp_path / "video.mp4", "libx264", {}, 20)
    assert read_frames(path, 0).shape == (0, *SIZE, 3)
    with pytest.raises(UserError, match="video.mp4: holds 10 frames from 0.333333 s on; 11 are needed"):
        read_frames(path, 11, 10 / 30)
    with pytest.raises(UserError, match="holds 0 frames from 100 s on"):
        read_frames(path, 1, 100.0)
    with pytest.raises(UserError, match=r"video.mp4 has shape \(1000000000, 32, 160, 3\), 14305.1 GiB; an episode may have"):
        read_frames(path, 10**9)


def test_a_file_that_is_no_video_opens_nothing_else(tmp_path):
    """FFmpeg follows playlists to other files and to the network; data that somebody hands us may not."""
    encode(tmp_path / "other.mp4", "libx264", {}, 5)
    lists = {
        "concat": f"ffconcat version 1.0\nfile '{tmp_path / 'other.mp4'}'\n",
        "relative": "ffconcat version 1.0\nfile other.mp4\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{tmp_path / 'other.mp4'}\n#EXT-X-ENDLIST\n",
        "text": "no video",
        "empty": "",
    }
    for name, text in lists.items():
        (tmp_path / f"{name}.mp4").write_text(text)
        with pytest.raises(UserError, match=f"{name}.mp4: not a video that can be read") as error:
            read_frames(tmp_path / f"{name}.mp4", 1)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="nowhere.mp4: no such video"):
        read_frames(tmp_path / "nowhere.mp4", 1)


def test_frames_larger_than_any_camera_are_not_decoded(tmp_path, monkeypatch):
    path = encode(tmp_path / "video.mp4", "libx264", {}, 5)
    monkeypatch.setattr("robolearn.data.formats._video._MAX_PIXELS", SIZE[0] * SIZE[1] - 1)
    with pytest.raises(UserError, match=r"video.mp4"):
        read_frames(path, 5)
    monkeypatch.setattr("robolearn.data.formats._video._MAX_PIXELS", 200 * 100)  # FFmpeg counts the padding of a plane too
    assert numbers(read_frames(path, 5)) == list(range(5))


def test_frames_that_do_not_fit_are_refused(tmp_path):
    with VideoWriter(tmp_path / "video.mp4", SIZE, 30) as video:
        with pytest.raises(ValueError, match=r"frames are uint8 \(1, 8, 8, 3\); expected uint8 \(N, 32, 160, 3\)"):
            video.add(np.zeros((1, 8, 8, 3), np.uint8))
        video.add(numbered([1]))


def test_an_encoder_leaves_the_priority_of_every_thread_alone(tmp_path):
    """SVT-AV1 run by root takes the highest real-time priority for its caller: one test of an export starved a whole machine."""
    policies = lambda: {os.sched_getscheduler(int(task)) for task in os.listdir("/proc/self/task")}  # noqa: E731
    before = policies()
    with VideoWriter(tmp_path / "video.mp4", (64, 64), 10.0) as writer:
        writer.add(np.zeros((3, 64, 64, 3), np.uint8))
        assert policies() == before
    assert policies() == before
