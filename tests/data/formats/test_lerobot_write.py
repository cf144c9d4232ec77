"""Writing LeRobot v2.1 and v3.0: what comes back, what the files say, and what an error leaves. LeRobot's own word: test_lerobot_peer."""

from __future__ import annotations

import gc
import json
import os
import weakref
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, check_episode
from robolearn.data.formats import Options, read, recognise, write
from robolearn.data.formats._video import size_and_rate
from tests.data.formats.lerobot_files import SIZE, numbered, numbers

os.environ.setdefault("SVT_LOG", "1")
VERSIONS = {"lerobot_v2": "v2.1", "lerobot_v3": "v3.0"}


SPEC = RobotSpec(
    name="arm",
    cameras={"front": SIZE, "wrist": (7, 9)},
    state={
        "joint_pos": ArraySpec(("j1", "j2"), ("rad", "rad"), (-3.0, -2.0), (3.0, np.inf)),
        "gripper": ArraySpec(("open",), ("1",), (0.0,), (1.0,)),
        "environment_state": ArraySpec(("x", "y"), ("m", "m"), (-np.inf,) * 2, (np.inf,) * 2),
    },
    action=ArraySpec(("j1", "j2", "open"), ("rad", "rad", "1"), (-3.0, -2.0, 0.0), (3.0, 2.0, 1.0)),
    action_mode="joint_pos",
    rate_hz=20.0,
)


class Memory:
    """A Dataset that makes each episode when it is asked for."""

    spec = SPEC

    def __init__(self, lengths=(6, 9, 4)) -> None:
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Episode:
        if index >= len(self):
            raise IndexError(index)
        rng, n = np.random.default_rng(index), self.lengths[index]
        action = rng.normal(size=(n, 3)).astype(np.float32)
        return Episode(
            time=np.arange(n) / 20 + rng.uniform(0, 0.02, n) + 5.0,  # measured, and not from zero
            images={"front": numbered(100 * index + np.arange(n)), "wrist": np.full((n, 7, 9, 3), 40 + index, np.uint8)},
            state={name: rng.normal(size=(n, part.dim)).astype(np.float32) for name, part in SPEC.state.items()},
            action=action,
            requested_action=action + np.float32(0.5),
            reward=rng.normal(size=n).astype(np.float32),
            terminal=np.arange(n) == (n - 1 if index == 1 else -1),
            source=np.where(np.arange(n) < 2, Source.HUMAN, Source.POLICY).astype(np.uint8),
            meta={"task": "lift", "instruction": f"lift {index % 2}", "success": (True, False, None)[index % 3], "origin": {"seed": index}},
        )


def assert_same(read_back: Episode, written: Episode, origin: dict) -> None:
    for name in ("time", "action", "requested_action", "reward", "terminal", "source"):
        np.testing.assert_array_equal(getattr(read_back, name), getattr(written, name), err_msg=name)
    for name, values in written.state.items():
        np.testing.assert_array_equal(read_back.state[name], values, err_msg=name)
    assert numbers(read_back.images["front"]) == numbers(written.images["front"])
    assert np.abs(read_back.images["wrist"].astype(int) - written.images["wrist"]).max() <= 3  # [grey levels]
    assert read_back.meta == {**written.meta, "origin": origin | {"before": written.meta["origin"]}}


@pytest.mark.parametrize("format", VERSIONS)
def test_what_is_written_comes_back(tmp_path, format):
    write(tmp_path / "out", Memory(), format)
    assert recognise(tmp_path / "out") == format
    reader = read(tmp_path / "out")
    assert reader.spec == SPEC and tuple(reader.notes) == ()
    for index in (1, 2, 0):
        check_episode(reader[index], SPEC)
        assert_same(reader[index], Memory()[index], {"file": "out", "episode": index, "codebase_version": VERSIONS[format]})
    reader.close()


@pytest.mark.parametrize("format", VERSIONS)
def test_the_info_says_what_lerobot_expects(tmp_path, format):
    write(tmp_path / "out", Memory(), format)
    info = json.loads((tmp_path / "out/meta/info.json").read_text())
    expected = {
        "codebase_version": VERSIONS[format],
        "robot_type": "arm",
        "fps": 20,
        "total_episodes": 3,
        "total_frames": 19,
        "total_tasks": 2,
    }
    expected |= {"splits": {"train": "0:3"}, "chunks_size": 1000}
    expected |= (
        {"total_videos": 6, "total_chunks": 1} if format == "lerobot_v2" else {"data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
    )
    assert {key: info[key] for key in expected} == expected
    features = info["features"]
    assert features["observation.state"]["names"] == ["joint_pos.j1", "joint_pos.j2", "gripper.open"]
    assert features["observation.environment_state"]["names"] == ["x", "y"] and features["action"]["names"] == ["j1", "j2", "open"]
    assert features["observation.images.wrist"]["shape"] == [7, 9, 3] and features["observation.images.wrist"]["dtype"] == "video"
    assert features["observation.images.front"]["info"]["video.fps"] == 20
    assert [features[key]["dtype"] for key in ("next.reward", "next.done", "timestamp", "task_index")] == [
        "float32",
        "bool",
        "float32",
        "int64",
    ]
    assert not [key for key in features if "/" in key]


def test_v21_has_a_file_for_each_episode(tmp_path):
    write(tmp_path / "out", Memory(), "lerobot_v2")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == sorted(
        ["meta/info.json", "meta/tasks.jsonl", "meta/episodes.jsonl", "meta/episodes_stats.jsonl"]
        + [f"data/chunk-000/episode_{i:06d}.parquet" for i in range(3)]
        + [f"videos/chunk-000/observation.images.{camera}/episode_{i:06d}.mp4" for camera in ("front", "wrist") for i in range(3)]
    )
    table = pq.read_table(tmp_path / "out/data/chunk-000/episode_000001.parquet")
    np.testing.assert_array_equal(table["timestamp"], (np.arange(9) / 20).astype(np.float32))
    assert table["index"].to_pylist() == list(range(6, 15)) and set(table["task_index"].to_pylist()) == {1}
    stats = [json.loads(line) for line in (tmp_path / "out/meta/episodes_stats.jsonl").read_text().splitlines()]
    check_statistics(stats[1]["stats"]["action"], Memory()[1].action)
    np.testing.assert_allclose(stats[1]["stats"]["observation.images.wrist"]["mean"], np.full((3, 1, 1), 41 / 255))


def check_statistics(stats: dict, values: np.ndarray) -> None:
    values = values.astype(np.float64)
    assert stats["count"] == [len(values)]
    for name, expected in (("min", values.min(0)), ("max", values.max(0)), ("mean", values.mean(0)), ("std", values.std(0))):
        np.testing.assert_allclose(stats[name], expected, rtol=1e-6)
    assert all(np.shape(stats[q]) == values.shape[1:] for q in ("q01", "q10", "q50", "q90", "q99"))


def test_v30_has_many_episodes_in_a_file(tmp_path):
    write(tmp_path / "out", Memory(), "lerobot_v3")
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()) == sorted(
        ["meta/info.json", "meta/tasks.parquet", "meta/stats.json", "meta/episodes/chunk-000/file-000.parquet"]
        + ["data/chunk-000/file-000.parquet"]
        + [f"videos/observation.images.{camera}/chunk-000/file-000.mp4" for camera in ("front", "wrist")]
    )
    assert pq.ParquetFile(tmp_path / "out/data/chunk-000/file-000.parquet").num_row_groups == 3
    listed = pq.read_table(tmp_path / "out/meta/episodes").to_pylist()
    assert [line["dataset_from_index"] for line in listed] == [0, 6, 15] and [line["dataset_to_index"] for line in listed] == [6, 15, 19]
    key = "videos/observation.images.front"
    np.testing.assert_allclose([line[f"{key}/from_timestamp"] for line in listed], [0, 6 / 20, 15 / 20])
    np.testing.assert_allclose([line[f"{key}/to_timestamp"] for line in listed], [6 / 20, 15 / 20, 19 / 20])
    check_statistics({k.split("/")[2]: v for k, v in listed[1].items() if k.startswith("stats/action/")}, Memory()[1].action)
    stats = json.loads((tmp_path / "out/meta/stats.json").read_text())
    check_statistics(stats["action"], np.concatenate([Memory()[i].action for i in range(3)]))
    check_statistics(stats["next.reward"], np.concatenate([Memory()[i].reward for i in range(3)])[:, None])
    assert np.shape(stats["observation.images.front"]["mean"]) == (3, 1, 1)


def test_full_files_are_followed_by_others(tmp_path, monkeypatch):
    monkeypatch.setattr("robolearn.data.formats.lerobot_v3._DATA_MB", 0)
    monkeypatch.setattr("robolearn.data.formats.lerobot_v3._EPISODES_AT_ONCE", 2)
    monkeypatch.setattr("robolearn.data.formats.lerobot_v3.CHUNK", 2)
    write(tmp_path / "out", Memory(), "lerobot_v3")
    assert sorted(p.relative_to(tmp_path / "out/data").as_posix() for p in (tmp_path / "out/data").rglob("*.parquet")) == [
        "chunk-000/file-000.parquet",
        "chunk-000/file-001.parquet",
        "chunk-001/file-000.parquet",
    ]
    reader = read(tmp_path / "out")
    for index in range(3):
        assert_same(reader[index], Memory()[index], {"file": "out", "episode": index, "codebase_version": "v3.0"})


def test_full_videos_are_followed_by_others(tmp_path, monkeypatch):
    monkeypatch.setattr("robolearn.data.formats.lerobot_v3._VIDEO_MB", 0)
    lengths = (150, 150, 60)  # an encoder keeps some frames back before it writes the first
    write(tmp_path / "out", Memory(lengths), "lerobot_v3")
    files = sorted((tmp_path / "out/videos/observation.images.front/chunk-000").iterdir())
    assert len(files) == 3 and size_and_rate(files[2]) == (SIZE, 20.0)
    reader = read(tmp_path / "out")
    for index, length in enumerate(lengths):
        assert numbers(reader[index].images["front"]) == [100 * index + t for t in range(length)]


@pytest.mark.parametrize("format", VERSIONS)
def test_episodes_come_one_at_a_time(tmp_path, format):
    """Nothing keeps an episode once the next is asked for: memory does not grow with the dataset."""
    seen: list[weakref.ref] = []

    class Watched(Memory):
        most = 0

        def __getitem__(self, index):
            episode = super().__getitem__(index)
            seen.append(weakref.ref(episode.images["front"]))
            gc.collect()
            Watched.most = max(Watched.most, sum(one() is not None for one in seen))
            return episode

    write(tmp_path / "out", Watched((5,) * 8), format)
    assert len(read(tmp_path / "out", options=Options(cameras=()))) == 8
    assert Watched.most <= 2  # this one, and the one before while its successor is made


@pytest.mark.parametrize("format", VERSIONS)
@pytest.mark.parametrize("rate_hz", [10.0, 12.5, 29.97])
def test_any_rate(tmp_path, format, rate_hz):
    dataset = Memory()
    dataset.spec = replace(SPEC, rate_hz=rate_hz)
    write(tmp_path / "out", dataset, format)
    reader = read(tmp_path / "out")
    assert reader.spec.rate_hz == rate_hz
    assert_same(reader[2], Memory()[2], {"file": "out", "episode": 2, "codebase_version": VERSIONS[format]})


@pytest.mark.parametrize("format", VERSIONS)
def test_without_cameras_and_without_state(tmp_path, format):
    class Blind(Memory):
        spec = replace(SPEC, cameras={}, state={})

        def __getitem__(self, index):
            return replace(super().__getitem__(index), images={}, state={})

    write(tmp_path / "out", Blind(), format)
    reader = read(tmp_path / "out")
    assert reader.spec == Blind.spec and json.loads((tmp_path / "out/meta/info.json").read_text())["video_path"] is None
    np.testing.assert_array_equal(reader[1].action, Memory()[1].action)
    assert not (tmp_path / "out/videos").exists()


@pytest.mark.parametrize("format", VERSIONS)
def test_a_request_that_is_no_number_becomes_the_action(tmp_path, format):
    class Refused(Memory):
        def __getitem__(self, index):
            episode = super().__getitem__(index)
            episode.requested_action[1] = [np.nan, np.inf, 0.25]
            return episode

    write(tmp_path / "out", Refused(), format)
    episode = read(tmp_path / "out")[0]
    np.testing.assert_array_equal(episode.requested_action[1], [*episode.action[1, :2], 0.25])


@pytest.mark.parametrize("format", VERSIONS)
def test_an_error_leaves_nothing(tmp_path, format):
    class Broken(Memory):
        def __getitem__(self, index):
            episode = super().__getitem__(index)
            return episode if index < 2 else replace(episode, action=episode.action * np.nan)

    slashed = Memory()
    slashed.spec = replace(SPEC, cameras={"../front": SIZE})
    for dataset, message in (
        (Broken(), "episode 2: action is not finite at row 0"),
        (Memory(()), "holds no episode"),
        (slashed, "cameras: '../front' cannot be a feature"),
    ):
        with pytest.raises(UserError, match=message):
            write(tmp_path / "out", dataset, format)
        assert list(tmp_path.iterdir()) == []
    write(tmp_path / "out", Memory(), format)
    with pytest.raises(UserError, match="exists already"):
        write(tmp_path / "out", Memory(), format)
