"""Minari's datasets, made here as Minari 0.5.4's HDF5Storage lays them out (checked once against a dataset it wrote itself)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.testing import ReaderContract

HIGH = [1.0, 1.0, 2.0]


def box(shape: tuple[int, ...], dtype: str = "float64", low: float = -np.inf, high: float = np.inf) -> dict[str, Any]:
    return {"type": "Box", "dtype": dtype, "shape": list(shape), "low": np.full(shape, low).tolist(), "high": np.full(shape, high).tolist()}


def jpeg(frame: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, format="JPEG")
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def put(group: h5py.Group, key: str, value: Any, encode: bool) -> None:
    """As _add_episode_to_group: dicts and tuples become groups, pictures JPEG, text variable-length strings."""
    if isinstance(value, dict):
        for name, part in value.items():
            put(group.require_group(key), name, part, encode)
    elif isinstance(value, tuple):
        put(group, key, {f"_index_{i}": part for i, part in enumerate(value)}, encode)
    elif isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim in (3, 4) and min(value.shape[1:3]) >= 32 and encode:
        coded = [jpeg(frame) for frame in value]
        if len({len(c) for c in coded}) == 1:
            group.create_dataset(key, data=coded, chunks=True)
        else:
            dataset = group.create_dataset(key, (len(coded),), h5py.vlen_dtype(np.uint8), chunks=True)
            for i, c in enumerate(coded):
                dataset[i] = c
    elif isinstance(value, list):
        group.create_dataset(key, data=value, dtype=h5py.string_dtype(encoding="utf-8"), chunks=True, maxshape=(None,))
    elif value is not None:
        group.create_dataset(key, data=value, chunks=True, maxshape=(None, *value.shape[1:]))


def frames(rows: int, alike: bool = False) -> np.ndarray:
    y, x = np.mgrid[:32, :40]
    pictures = np.stack([np.stack([180 + 0 * x, 60 + y, 2 * x + (0 if alike else t * (y % 3))], -1) for t in range(rows)])
    return np.clip(pictures, 0, 255).astype(np.uint8)


def make(path: Path, lengths=(5, 3), observations=None, actions=None, encode=True, metadata=None, action_space=None, **columns) -> Path:
    """observations, actions: rows -> the buffer of one episode."""
    (path / "data").mkdir(parents=True)
    with h5py.File(path / "data" / "main_data.hdf5", "w", track_order=True) as file:
        for number, rows in enumerate(lengths):
            rng = np.random.default_rng(number)
            group = file.create_group(f"episode_{number}")
            group.attrs.update({"id": number, "seed": 123, "total_steps": rows})
            ended = np.zeros(rows, bool)
            ended[-1] = True
            buffer = {
                "observations": observations(rows + 1) if observations else rng.normal(size=(rows + 1, 6)),
                "actions": actions(rows) if actions else rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
                "rewards": rng.random(rows),
                "terminations": ended & (number == 0),
                "truncations": ended & (number == 1),
                "infos": {"success": np.append(ended, ended[-1]) & (number == 0), "qpos": rng.normal(size=(rows + 1, 8))},
            } | columns
            for key, value in buffer.items():
                put(group, key, value, encode)
    written = {
        "total_episodes": len(lengths),
        "total_steps": sum(lengths),
        "data_format": "hdf5",
        "observation_space": json.dumps(box((6,))),
        "action_space": json.dumps(action_space or {**box((3,), "float32", -1.0), "high": HIGH}),
        "dataset_id": "D4RL/door/human-v2",
        "algorithm_name": "",
        "minari_version": "0.5.4",
    }
    if metadata is not None:
        written = metadata if isinstance(metadata, str | list) else written | metadata
    (path / "data" / "metadata.json").write_text(written if isinstance(written, str) else json.dumps(written))
    return path


class TestMinari(ReaderContract):
    format, episodes = "minari_hdf5", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        return make(tmp_path / "in" / "human-v2")


class TestPictures(ReaderContract):
    format, episodes = "minari_hdf5", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        return make(tmp_path / "in" / "pixels-v0", observations=lambda rows: {"pixels": frames(rows), "agent": np.zeros((rows, 2))})


def test_rows_come_out_as_recorded(tmp_path):
    path = make(tmp_path / "human-v2")
    reader = read(path)
    spec = reader.spec
    assert (spec.name, spec.rate_hz) == ("minari:D4RL/door/human-v2", 100.0)
    assert list(spec.state) == ["observation"] and spec.action.low == (-1.0,) * 3 and spec.action.high == tuple(HIGH)
    with h5py.File(path / "data" / "main_data.hdf5") as raw:
        for index, rows in enumerate((5, 3)):
            episode, group = reader[index], raw[f"episode_{index}"]
            check_episode(episode, spec)
            assert len(episode) == rows  # the observation after the last action has no action
            np.testing.assert_array_equal(episode.state["observation"], group["observations"][:-1].astype(np.float32))
            np.testing.assert_array_equal(episode.action, group["actions"][:])
            np.testing.assert_array_equal(episode.reward, group["rewards"][:].astype(np.float32))
            np.testing.assert_allclose(episode.time, np.arange(rows) / 100)
            assert (episode.source == Source.HUMAN).all()
    first, second = reader[0], reader[1]
    assert first.terminal.tolist() == [False] * 4 + [True] and not second.terminal.any()  # the second was truncated
    assert first.meta["success"] is True and second.meta["success"] is False
    assert first.meta["task"] == "D4RL/door" and first.meta["operator"] == "human"
    assert first.meta["origin"]["episode"] == "episode_0" and first.meta["origin"]["seed"] == 123
    assert any("100 Hz as Gymnasium" in note for note in reader.notes)


def test_dicts_and_tuples_are_taken_apart(tmp_path):
    def observations(rows: int) -> dict[str, Any]:
        return {
            "achieved_goal": np.full((rows, 3), 1.0),
            "arm": (np.full((rows, 2), 2.0), {"grip": np.arange(rows)}),
            "cell": np.zeros((rows, 7, 7, 3), np.uint8),  # Minigrid: too small for a picture
            "mission": ["go"] * rows,
        }

    reader = read(make(tmp_path / "a", observations=observations, actions=lambda rows: (np.ones((rows, 2)), np.arange(rows))))
    widths = {name: part.dim for name, part in reader.spec.state.items()}
    assert widths == {"arm.0": 2, "arm.1.grip": 1, "cell": 147, "achieved_goal": 3}
    assert reader.spec.action.names == ("0_0", "0_1", "1_0")
    episode = reader[0]
    check_episode(episode, reader.spec)
    np.testing.assert_array_equal(episode.state["arm.1.grip"][:, 0], np.arange(5))
    np.testing.assert_array_equal(episode.action, np.stack([np.ones(5), np.ones(5), np.arange(5)], 1))
    assert any("left out, neither colour images nor vectors: mission" in note for note in reader.notes)


@pytest.mark.parametrize(("alike", "encode"), [(False, True), (True, True), (False, False)])
def test_pictures_are_jpeg_of_any_length_padded_or_raw(tmp_path, alike, encode):
    """With frames alike all JPEGs have one length, and Minari's h5py makes a plain array of them."""
    path = make(tmp_path / "a", observations=lambda rows: {"pixels": frames(rows, alike)}, encode=encode)
    with h5py.File(path / "data" / "main_data.hdf5") as raw:
        assert raw["episode_0/observations/pixels"].ndim == (4 if not encode else 2 if alike else 1)
    reader = read(path)
    assert dict(reader.spec.cameras) == {"pixels": (32, 40)} and dict(reader.spec.state) == {}
    episode = reader[0]
    check_episode(episode, reader.spec)
    assert np.abs(episode.images["pixels"].astype(int) - frames(6, alike)[:-1]).mean() < (3 if encode else 1e-9)


def test_a_space_that_is_one_picture(tmp_path):
    reader = read(make(tmp_path / "a", observations=frames), options=Options(cameras=("observation",)))
    assert dict(reader.spec.cameras) == {"observation": (32, 40)}


def test_the_name_tells_who_acted_and_how_often(tmp_path):
    named = {"dataset_id": "mujoco/hopper/expert-v0", "algorithm_name": "SB3/SAC"}
    reader = read(make(tmp_path / "a", metadata=named))
    assert reader.spec.rate_hz == 20.0 and any("20 Hz assumed" in note for note in reader.notes)
    assert (reader[0].source == Source.POLICY).all() and reader[0].meta["origin"]["algorithm"] == "SB3/SAC"
    assert read(make(tmp_path / "b"), options=Options(rate_hz=5.0))[0].time[1] == 0.2


def test_discrete_actions_are_one_column(tmp_path):
    space = {"type": "Discrete", "dtype": "int64", "start": 0, "n": 4}
    reader = read(make(tmp_path / "a", actions=lambda rows: np.arange(rows) % 4, action_space=space))
    assert reader.spec.action.names == ("action_0",) and reader.spec.action.high == (np.inf,)
    assert reader[0].action[:, 0].tolist() == [0, 1, 2, 3, 0]


def test_the_folder_above_will_do(tmp_path):
    path = make(tmp_path / "root" / "human-v2")
    assert locate(tmp_path / "root") == (path, "minari_hdf5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"data_format": "arrow"}}, "data_format: 'arrow' is not read here; valid: hdf5"),
        ({"metadata": {"total_episodes": 9}}, "metadata.json counts 9 episodes, main_data.hdf5 holds 2"),
        ({"observations": lambda rows: np.zeros((rows - 1, 6))}, "episode_0: observations has 5 rows; expected 6, one more than actions"),
        ({"rewards": np.zeros(2)}, "episode 0: .*reshape|episode 0: rows differ"),
        ({"rewards": None}, "/episode_0/rewards: missing; /episode_0 holds infos, actions"),
        ({"actions": lambda rows: (np.zeros((rows, 2)), np.zeros(rows - 1))}, r"episode_0: actions differ in rows: \[5, 4\]"),
        ({"actions": lambda rows: ["left"] * rows}, "actions: is object .*; actions must be numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, change, message):
    path = make(tmp_path / "a", **change)
    with pytest.raises(UserError, match=message) as caught:
        _ = read(path)[0]
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("metadata", ["", "{", "[]", "[" * 100_000, '{"total_episodes": 2}'])
def test_damaged_metadata_is_not_taken_for_minaris(tmp_path, metadata):
    make(tmp_path / "a", metadata=metadata)
    with pytest.raises(UserError, match="not in a format that is read here"):
        read(tmp_path / "a")
