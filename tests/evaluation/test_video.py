"""Films are decoded again: what a browser would show."""

import av
import numpy as np
import pytest

from robolearn.data.episode import Episode
from robolearn.evaluation.video import BAR_PX, GREEN, MIN_HEIGHT_PX, RED, film, write_video


def episode(length=12, success=True, cameras=("front", "wrist"), notes=None):
    rows = np.arange(length, dtype=np.float64) / 10
    shade = (np.arange(length) * 20).astype(np.uint8)[:, None, None, None]
    return Episode(
        time=rows,
        images={name: np.broadcast_to(shade, (length, 84, 85, 3)).copy() for name in cameras},
        state={},
        action=np.zeros((length, 2), np.float32),
        requested_action=np.zeros((length, 2), np.float32),
        reward=np.zeros(length, np.float32),
        terminal=np.zeros(length, bool),
        source=np.zeros(length, np.uint8),
        meta={"success": success, "success_step": length - 3 if success else None},
        notes=notes or {},
    )


def test_a_browser_can_play_it(tmp_path):
    path = tmp_path / "videos" / "trial.mp4"
    write_video(episode(), path, rate_hz=10.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate) == pytest.approx(10.0)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "plays before it is loaded whole"
    assert len(frames) == 12 + 8, "the ending stays for a while"
    assert frames[0].shape == (MIN_HEIGHT_PX + BAR_PX, 4 * 85, 3)
    for row in (0, 6, 11):
        assert abs(int(frames[row][80, 200].mean()) - 20 * row) < 12


def test_the_bar_turns_green_from_the_moment_of_success_and_red_at_a_failed_end():
    won, lost = (list(film(episode(success=s), 10.0)) for s in (True, False))

    def bar(frame):
        return tuple(frame[-3, 2])

    assert [bar(f) == GREEN for f in won] == [False] * 9 + [True] * 11
    assert [bar(f) == RED for f in lost] == [False] * 11 + [True] * 9


def test_the_planners_doubt_fills_its_gauge():
    doubt = np.linspace(0, 2, 12).astype(np.float32)
    doubt[4] = np.nan
    frames = list(film(episode(notes={"uncertainty": doubt}), 10.0))

    def filled(frame):
        return int((frame[-BAR_PX // 2, :, 0] > 200).sum())

    assert filled(frames[2]) < filled(frames[8]) < filled(frames[11])


def test_a_failed_encoding_leaves_no_file(tmp_path):
    broken = episode()
    broken.images["front"][...] = 0
    with pytest.raises(KeyError):
        write_video(
            Episode(**{**vars(broken), "meta": {"success": True, "success_step": 0}, "images": _Vanishing(broken.images)}),
            tmp_path / "a.mp4",
            10.0,
        )
    assert list(tmp_path.iterdir()) == []


class _Vanishing(dict):
    def values(self):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls > 5:
            raise KeyError("gone")
        return super().values()
