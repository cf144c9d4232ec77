"""D4RL's flat files, made here with the keys that its own generation scripts and get_dataset() name (d4rl/offline_env.py)."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, read
from robolearn.data.testing import ReaderContract


def make(path: Path, rows: int = 12, ends=(3,), limits: tuple[int, ...] | None = (7, 11), **columns) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    ended = np.zeros(rows, bool)
    ended[list(ends)] = True
    written = {
        "observations": rng.normal(size=(rows, 6)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (rows, 3)).astype(np.float32),
        "rewards": rng.random(rows).astype(np.float32),
        "terminals": ended,
        "next_observations": rng.normal(size=(rows, 6)).astype(np.float32),
        "infos/qpos": rng.normal(size=(rows, 8)),
        "infos/qvel": rng.normal(size=(rows, 8)),
        "metadata/algorithm": np.bytes_("SAC"),
        "metadata/iteration": np.int64(500),
        "metadata/policy/fc0/weight": np.zeros((4, 4)),
    }
    if limits is not None:
        written["timeouts"] = np.isin(np.arange(rows), limits)
    with h5py.File(path, "w") as file:
        for name, value in (written | columns).items():
            if value is not None:
                file.create_dataset(name, data=value, compression="gzip" if np.ndim(value) else None)
    return path


class TestD4RL(ReaderContract):
    format, episodes = "d4rl_hdf5", 3

    @pytest.fixture
    def dataset(self, tmp_path):
        return make(tmp_path / "in" / "hopper_medium-v2.hdf5")


def test_episodes_end_at_terminals_and_timeouts(tmp_path):
    path = make(tmp_path / "hopper_medium-v2.hdf5")
    reader = read(path)
    spec = reader.spec
    assert (spec.name, spec.rate_hz, spec.action.dim) == ("d4rl:hopper_medium-v2", 125.0, 3)
    assert list(spec.state) == ["observation"] and spec.state["observation"].dim == 6 and spec.action.units == ("",) * 3
    with h5py.File(path) as raw:
        for index, (start, stop) in enumerate(((0, 4), (4, 8), (8, 12))):
            episode = reader[index]
            check_episode(episode, spec)
            np.testing.assert_array_equal(episode.state["observation"], raw["observations"][start:stop])
            np.testing.assert_array_equal(episode.action, raw["actions"][start:stop])
            np.testing.assert_array_equal(episode.reward, raw["rewards"][start:stop])
            np.testing.assert_allclose(episode.time, np.arange(4) / 125)
            assert episode.terminal.tolist() == [False] * 3 + [index == 0]  # a time limit is never terminal
            assert episode.meta["origin"] == {"file": "hopper_medium-v2.hdf5", "rows": [start, stop]}
            assert episode.meta["metadata"] == {"algorithm": "SAC", "iteration": 500}
            assert (episode.source == Source.POLICY).all() and episode.meta["operator"] == "policy"
    assert any("infos/qpos, infos/qvel" in note for note in reader.notes)
    assert any("125 Hz as Gymnasium" in note for note in reader.notes)


def test_without_timeouts_a_known_environment_is_cut_at_its_limit(tmp_path):
    reader = read(make(tmp_path / "pen-v0_demos_clipped.hdf5", rows=350, ends=(29,), limits=None))
    assert [len(reader[i]) for i in range(len(reader))] == [30, 100, 100, 100, 20]
    assert any("no timeouts: cut after 100 steps, as D4RL registers" in note for note in reader.notes)
    assert any("last episode has no recorded end" in note for note in reader.notes)
    assert (reader[0].source == Source.HUMAN).all() and reader.spec.rate_hz == 100.0


def test_without_timeouts_an_unknown_one_is_cut_at_a_thousand(tmp_path):
    reader = read(make(tmp_path / "mine.hdf5", rows=2100, ends=(), limits=None))
    assert [len(reader[i]) for i in range(len(reader))] == [1000, 1000, 100]
    assert any("cut after 1000 steps, assumed" in note for note in reader.notes)
    assert any("20 Hz assumed" in note for note in reader.notes)


def test_a_pendulum_is_no_pen(tmp_path):
    reader = read(make(tmp_path / "pendulum.hdf5", rows=300, ends=(), limits=None))
    assert len(reader) == 1 and reader.spec.rate_hz == 20.0


def test_the_rate_is_an_option(tmp_path):
    reader = read(make(tmp_path / "mine.hdf5"), options=Options(rate_hz=40.0))
    assert reader.spec.rate_hz == 40.0 and not any("Hz" in note for note in reader.notes)


def test_columns_with_a_dimension_too_many_are_read(tmp_path):
    """get_dataset() squeezes rewards and terminals of shape (N, 1); so do we."""
    rng = np.random.default_rng(1)
    columns = {"rewards": rng.random((12, 1)), "terminals": np.isin(np.arange(12), (5, 11))[:, None], "timeouts": np.zeros((12, 1))}
    reader = read(make(tmp_path / "a.hdf5", **columns))
    assert len(reader) == 2 and reader[0].terminal[-1]
    np.testing.assert_array_equal(reader[1].reward, columns["rewards"][6:, 0].astype(np.float32))


def test_pictures_are_pictures(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (12, 48, 40, 3), np.uint8)
    reader = read(make(tmp_path / "carla.hdf5", observations=pictures))
    assert dict(reader.spec.cameras) == {"observations": (48, 40)} and dict(reader.spec.state) == {}
    check_episode(reader[1], reader.spec)
    np.testing.assert_array_equal(reader[1].images["observations"], pictures[4:8])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"actions": np.zeros((9, 3))}, r"rows differ or there are none: observations \(12, 6\), actions \(9, 3\)"),
        ({"timeouts": np.zeros(5, bool)}, "rows differ: terminals 12, timeouts 5"),
        (dict.fromkeys(("observations", "actions", "rewards", "terminals"), np.zeros((0, 3))), "there are none"),
        ({"observations": np.array([b"x"] * 12)}, r"episode 0: /observations: is \|S1; expected numbers"),
        ({"terminals": np.array([b"x"] * 12)}, r"/terminals: is \|S1; expected numbers"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, columns, message):
    path = make(tmp_path / "a.hdf5", **columns)
    with pytest.raises(UserError, match=message) as caught:
        _ = read(path)[0]
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)
