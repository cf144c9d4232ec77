"""ACT's and ALOHA's episode files.

Made here as ACT's record_sim_episodes.py and Mobile ALOHA's record_episodes.py write them (float32 vectors, one chunk for each frame),
and as act-plus-plus's compress_data.py compresses them: OpenCV's JPEG, padded, with compress_len. Frames are smaller than 480x640.
"""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.testing import ReaderContract

SIZE = (24, 32)


def frames(rows: int, seed: int) -> np.ndarray:
    """Smooth and colourful: JPEG keeps it, and swapped channels would show."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pictures = [np.stack([200 - t - x, 40 + 2 * y + seed, 10 * t + x + y], -1) for t in range(rows)]
    return np.clip(pictures, 0, 255).astype(np.uint8)


def opencv_jpeg(frame: np.ndarray) -> np.ndarray:
    """What cv2.imencode makes of an RGB frame: it takes the first channel for blue."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(frame[..., ::-1])).save(buffer, "JPEG", quality=95)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def make(
    path: Path, rows: int = 5, seed: int = 0, sim: bool = False, compress: bool = False, mobile: bool = False, width: int = 14, **more
):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        file.attrs["sim"] = sim
        if compress:
            file.attrs["compress"] = True
        observations = file.create_group("observations")
        pictures = observations.create_group("images")
        lengths = []
        for number, camera in enumerate(("cam_high", "cam_left_wrist")):
            raw = frames(rows, seed + number)
            if compress:
                coded = [opencv_jpeg(frame) for frame in raw]
                lengths.append([len(c) for c in coded])
                longest = max(lengths[-1])
                pictures[camera] = np.stack([np.pad(c, (0, longest - len(c))) for c in coded])
            else:
                pictures.create_dataset(camera, data=raw, chunks=(1, *SIZE, 3))
        if compress:
            file["compress_len"] = np.array(lengths, np.float32)
        for name in ("qpos", "qvel", *(["effort"] if mobile else [])):
            observations.create_dataset(name, data=rng.normal(size=(rows, width)), dtype="f4")
        file.create_dataset("action", data=rng.normal(size=(rows, width)), dtype="f4")
        if mobile:
            file.create_dataset("base_action", data=rng.normal(size=(rows, 2)), dtype="f4")
        for name, value in more.items():
            if name in file:
                del file[name]
            if value is not None:
                file[name] = value
    return path


class TestAct(ReaderContract):
    format, episodes = "act_hdf5", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        folder = tmp_path / "in" / "sim_transfer_cube_scripted"
        for number in range(2):
            make(folder / f"episode_{number}.hdf5", rows=4 + number, seed=number, sim=True)
        return folder


class TestCompressed(ReaderContract):
    format, episodes = "act_hdf5", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        for number in range(2):
            make(tmp_path / "in" / "aloha_wipe" / f"episode_{number}.hdf5", seed=number, compress=True, mobile=True)
        return tmp_path / "in" / "aloha_wipe"


def test_rows_come_out_as_recorded(tmp_path):
    for number in (0, 2, 10):  # episode_10 after episode_2
        make(tmp_path / "aloha_cup" / f"episode_{number}.hdf5", rows=3 + number, seed=number)
    reader = read(tmp_path / "aloha_cup")
    spec = reader.spec
    assert [len(reader[i]) for i in range(3)] == [3, 5, 13]
    assert (spec.name, spec.action_mode, spec.rate_hz) == ("aloha", "joint_pos", 50.0)
    assert dict(spec.cameras) == {"cam_high": SIZE, "cam_left_wrist": SIZE}
    assert list(spec.state) == ["qpos", "qvel"]
    assert spec.action.names[0] == "left_waist" and spec.action.names[13] == "right_gripper"
    assert spec.action.units == (*("rad",) * 6, "1") * 2 and spec.state["qvel"].units[6] == "1/s"
    episode = reader[1]
    check_episode(episode, spec)
    with h5py.File(tmp_path / "aloha_cup" / "episode_2.hdf5") as raw:
        np.testing.assert_array_equal(episode.action, raw["action"][:])
        np.testing.assert_array_equal(episode.state["qpos"], raw["observations/qpos"][:])
        np.testing.assert_array_equal(episode.images["cam_high"], raw["observations/images/cam_high"][:])
    np.testing.assert_allclose(episode.time, np.arange(5) / 50)
    assert not episode.terminal.any() and not episode.reward.any() and (episode.source == Source.HUMAN).all()
    assert episode.meta["task"] == "aloha_cup" and episode.meta["success"] is None and episode.meta["operator"] == "human"
    assert episode.meta["origin"] == {"file": "episode_2.hdf5"} and episode.meta["simulated"] is False
    assert any("50 Hz, as ALOHA records" in note for note in reader.notes)


def test_a_single_file_is_a_dataset_too(tmp_path):
    path = make(tmp_path / "aloha_cup" / "episode_7.hdf5")
    assert locate(path) == (path, "act_hdf5")
    reader = read(path, options=Options(rate_hz=30.0))
    assert len(reader) == 1 and reader[0].meta["task"] == "aloha_cup"
    np.testing.assert_allclose(reader[0].time, np.arange(5) / 30)


def test_compressed_frames_have_the_recorded_colours(tmp_path):
    make(tmp_path / "raw" / "episode_0.hdf5")
    make(tmp_path / "jpeg" / "episode_0.hdf5", compress=True)
    raw, jpeg = read(tmp_path / "raw")[0], read(tmp_path / "jpeg")[0]
    for camera in ("cam_high", "cam_left_wrist"):
        difference = np.abs(raw.images[camera].astype(int) - jpeg.images[camera])
        assert difference.mean() < 2, "red and blue would differ by 100"
        assert jpeg.images[camera].flags["C_CONTIGUOUS"]
    assert any("cam_high, cam_left_wrist" in note and "swapped" in note for note in read(tmp_path / "jpeg").notes)


def test_opencv_agrees_about_the_colours(tmp_path):
    cv2 = pytest.importorskip("cv2")
    frame = frames(1, 0)[0]
    _, coded = cv2.imencode(".jpg", frame, [int(cv2.IMWRITE_JPEG_QUALITY), 95])  # as compress_data.py does
    path = make(tmp_path / "a" / "episode_0.hdf5", rows=1, compress=True, **{"observations/images/cam_high": coded.reshape(1, -1)})
    np.testing.assert_allclose(read(path)[0].images["cam_high"][0].astype(int), cv2.imdecode(coded, 1).astype(int), atol=3)


def test_a_mobile_base_is_part_of_the_action(tmp_path):
    path = make(tmp_path / "aloha_mobile" / "episode_0.hdf5", mobile=True)
    reader = read(path)
    assert reader.spec.action.names[14:] == ("base_linear", "base_angular") and reader.spec.action.units[14:] == ("m/s", "rad/s")
    assert list(reader.spec.state) == ["qpos", "qvel", "effort"]
    check_episode(reader[0], reader.spec)
    with h5py.File(path) as raw:
        np.testing.assert_array_equal(reader[0].action[:, 14:], raw["base_action"][:])


def test_who_acted_is_told_by_folder_and_sim(tmp_path):
    expected = {
        ("sim_insertion_scripted", True): ("scripted", Source.SCRIPTED),
        ("sim_insertion_human", True): ("human", Source.HUMAN),
        ("cups", True): ("unknown", Source.HUMAN),
        ("cups_real", False): ("human", Source.HUMAN),
    }
    for (folder, sim), (operator, source) in expected.items():
        reader = read(make(tmp_path / folder / "episode_0.hdf5", sim=sim))
        assert reader[0].meta["operator"] == operator and (reader[0].source == source).all()
        assert any("operator unknown" in note for note in reader.notes) == (operator == "unknown")


def test_depth_is_left_out_and_other_arms_have_plain_columns(tmp_path):
    more = {"observations/images/cam_high_depth": np.zeros((5, *SIZE), np.uint16)}
    reader = read(make(tmp_path / "arm" / "episode_0.hdf5", width=7, **more))
    assert reader.spec.action.names[:2] == ("qpos_0", "qpos_1") and reader.spec.action.units == ("",) * 7
    assert "cam_high_depth" not in reader.spec.cameras and any("cam_high_depth" in note for note in reader.notes)
    assert not any("taken as ALOHA's" in note for note in reader.notes)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"action": np.zeros((4, 14))}, r"episode 1: rows differ .*action 4, state.qpos 5"),
        ({"action": np.zeros((5, 2, 7))}, r"episode 1: /action: has shape \(5, 2, 7\); expected 2 dimensions"),
        ({"observations/qvel": None}, "episode 1: /observations/qvel: missing; /observations holds qpos, images"),
        ({"observations/images/cam_high": None}, "/observations/images/cam_high: missing; .* holds cam_left_wrist"),
        (
            {"observations/images/cam_high": np.zeros((5, 9, 32, 3), np.uint8)},
            r"cam_high: is uint8 \(5, 9, 32, 3\); expected uint8 \(T, 24",
        ),
        ({"observations/images/cam_high": np.zeros((5, 600), np.uint8)}, "cam_high 0 is not a JPEG or PNG image"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, more, message):
    make(tmp_path / "a" / "episode_0.hdf5")
    make(tmp_path / "a" / "episode_1.hdf5", **more)
    reader = read(tmp_path / "a")
    with pytest.raises(UserError, match=message) as caught:
        _ = reader[1]
    assert str(caught.value).startswith(str(tmp_path / "a")) and "\n" not in str(caught.value)


def test_base_rows_must_fit(tmp_path):
    path = make(tmp_path / "a" / "episode_0.hdf5", mobile=True, base_action=np.zeros((3, 2)))
    with pytest.raises(UserError, match="episode_0.hdf5: action has 5 rows, base_action 3"):
        _ = read(path)[0]


def test_another_size_of_jpeg_is_one_line(tmp_path):
    coded = opencv_jpeg(np.zeros((8, 8, 3), np.uint8))
    make(tmp_path / "a" / "episode_0.hdf5", compress=True)
    make(tmp_path / "a" / "episode_1.hdf5", compress=True, **{"observations/images/cam_high": np.stack([coded] * 5)})
    with pytest.raises(UserError, match="cam_high 0 is 8x8 px"):
        _ = read(tmp_path / "a")[1]
