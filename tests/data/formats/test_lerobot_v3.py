"""LeRobot v3.0. Datasets are made here as LeRobot 0.6 writes them (compared with one that it recorded; see test_lerobot_peer.py)."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, read
from robolearn.data.testing import ReaderContract
from tests.data.formats.lerobot_files import SIZE, encode, numbered, numbers, png

os.environ.setdefault("SVT_LOG", "1")
LENGTHS = (5, 7, 4, 6)  # episodes 0 to 2 share the first files, 3 has the second ones
FILE = (0, 0, 0, 1)
TASKS = ["pick the cup", "put it down"]


def rows(episode: int) -> pa.Table:
    """One episode in the Arrow types that `datasets` gives LeRobot's features."""
    rng, length, first = np.random.default_rng(episode), LENGTHS[episode], sum(LENGTHS[:episode])

    def vector(width: int) -> pa.Array:
        return pa.FixedSizeListArray.from_arrays(pa.array(rng.normal(size=length * width).astype(np.float32)), width)

    tactile = rng.normal(size=(length, 2, 3)).astype(np.float32)
    return pa.table({
        "observation.state": vector(3),
        "observation.tactile": pa.array(tactile.tolist(), pa.list_(pa.list_(pa.float32()))),
        "action": vector(2),
        "observation.images.wrist": [png(10 * episode + t, "frame-{:06d}.png") for t in range(length)],
        "next.reward": np.arange(length, dtype=np.float32),
        "timestamp": (np.arange(length) / 30).astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, episode),
        "index": first + np.arange(length),
        "task_index": np.full(length, episode % 2),
    })  # fmt: skip


def feature(dtype: str, *shape: int, names=None, **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "names": names} | more


VIDEO = "observation.images.top"
FEATURES = {
    "observation.state": feature("float32", 3, names=["x", "y", "z"]),
    "observation.tactile": feature("float32", 2, 3),
    "action": feature("float32", 2, names=["a", "b"]),
    VIDEO: feature("video", *SIZE, 3, names=["height", "width", "channels"], info={"video.codec": "av1", "is_depth_map": False}),
    "observation.images.wrist": feature("image", 6, 8, 3, names=["height", "width", "channels"]),
    "next.reward": feature("float32", 1),
    "timestamp": feature("float32", 1),
} | {name: feature("int64", 1) for name in ("frame_index", "episode_index", "index", "task_index")}


def make(root: Path, *, group_rows=None, index_name="task", **codec) -> Path:
    """`group_rows`: rows of a row group across episodes; None: a group for each episode."""
    (root / "meta/episodes/chunk-000").mkdir(parents=True)
    sizes = {"chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
    info = sizes | {
        "codebase_version": "v3.0",
        "fps": 30,
        "features": FEATURES,
        "total_episodes": len(LENGTHS),
        "total_frames": sum(LENGTHS),
        "total_tasks": 2,
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "robot_type": "so100",
        "splits": {"train": f"0:{len(LENGTHS)}"},
    }
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))
    pq.write_table(pa.table({"task_index": [0, 1], index_name: TASKS}), root / "meta/tasks.parquet")
    lines, shown = [], {0: 0, 1: 0}
    for episode, (length, file) in enumerate(zip(LENGTHS, FILE, strict=True)):
        place = {"chunk_index": 0, "file_index": file}
        start = shown[file] / 30
        shown[file] += length
        lines.append(
            {"episode_index": episode, "tasks": [TASKS[episode % 2]], "length": length}
            | {f"data/{k}": v for k, v in place.items()}
            | {"dataset_from_index": sum(LENGTHS[:episode]), "dataset_to_index": sum(LENGTHS[: episode + 1])}
            | {f"videos/{VIDEO}/{k}": v for k, v in place.items()}
            | {f"videos/{VIDEO}/from_timestamp": start, f"videos/{VIDEO}/to_timestamp": shown[file] / 30}
            | {"stats/action/min": [0.0, 0.0], "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}
        )
    pq.write_table(pa.Table.from_pylist(lines), root / "meta/episodes/chunk-000/file-000.parquet")
    for file in (0, 1):
        episodes = [e for e in range(len(LENGTHS)) if FILE[e] == file]
        data = root / f"data/chunk-000/file-{file:03d}.parquet"
        data.parent.mkdir(parents=True, exist_ok=True)
        tables = [rows(e) for e in episodes]
        with pq.ParquetWriter(data, tables[0].schema) as writer:
            for table in [pa.concat_tables(tables)] if group_rows else tables:
                writer.write_table(table, row_group_size=group_rows)
        frames = np.concatenate([100 * e + np.arange(LENGTHS[e]) for e in episodes])
        encode(root / f"videos/{VIDEO}/chunk-000/file-{file:03d}.mp4", numbered(frames), **codec)
    return root


def listed(path: Path) -> list[dict]:
    return pq.read_table(path / "meta/episodes/chunk-000/file-000.parquet").to_pylist()


def relist(path: Path, lines: list[dict]) -> None:
    pq.write_table(pa.Table.from_pylist(lines), path / "meta/episodes/chunk-000/file-000.parquet")


class TestLeRobotV3(ReaderContract):
    format, episodes = "lerobot_v3", 4

    @pytest.fixture
    def dataset(self, tmp_path):
        return make(tmp_path / "in" / "cups")


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"group_rows": 1000, "index_name": "__index_level_0__"},
        {"group_rows": 6},
        {"codec": "libx264", "bf": "3", "g": "12"},
        {"codec": "libx265", "x265-params": "keyint=12:bframes=4:open-gop=1:log-level=none"},
    ],
    ids=["recorded", "converted", "straddling", "h264", "hevc"],
)
def test_every_row_is_where_it_was(tmp_path, how):
    reader = read(make(tmp_path / "cups", **how))
    assert dict(reader.spec.cameras) == {"top": SIZE, "wrist": (6, 8)}
    assert {name: part.dim for name, part in reader.spec.state.items()} == {"state": 3, "tactile": 6}
    assert (reader.spec.name, reader.spec.rate_hz, reader.spec.action.names) == ("so100", 30.0, ("a", "b"))
    for index in (2, 0, 1, 3):
        episode, recorded, length = reader[index], rows(index), LENGTHS[index]
        check_episode(episode, reader.spec)
        np.testing.assert_array_equal(episode.state["state"], np.array(recorded["observation.state"].to_pylist(), np.float32))
        flat = np.array(recorded["observation.tactile"].to_pylist(), np.float32).reshape(length, 6)
        np.testing.assert_array_equal(episode.state["tactile"], flat)
        np.testing.assert_array_equal(episode.action, np.array(recorded["action"].to_pylist(), np.float32))
        np.testing.assert_array_equal(episode.time, np.asarray(recorded["timestamp"], np.float64))
        np.testing.assert_array_equal(episode.reward, np.arange(length))
        assert numbers(episode.images["top"]) == [100 * index + t for t in range(length)]
        np.testing.assert_array_equal(episode.images["wrist"][:, 3, 3, 1], 10 * index + np.arange(length))
        assert episode.meta["instruction"] == TASKS[index % 2]
        assert episode.meta["origin"] == {"file": "cups", "episode": index, "codebase_version": "v3.0"}
    reader.close()


def test_an_episode_late_in_a_long_video_is_sought_not_decoded_to(tmp_path, monkeypatch):
    """1000 frames, an episode of 5 from frame 900 on: only its own groups of pictures are decoded."""
    path = make(tmp_path / "cups")
    encode(path / f"videos/{VIDEO}/chunk-000/file-001.mp4", numbered(np.arange(1000)), codec="libx264", g="10", bf="2")
    lines = listed(path)
    lines[3] |= {f"videos/{VIDEO}/from_timestamp": 900 / 30, f"videos/{VIDEO}/to_timestamp": 906 / 30}
    relist(path, lines)
    decoded = []
    monkeypatch.setattr("robolearn.data.formats._video._time", lambda frame, position, half: decoded.append(1) or float(frame.time))
    assert numbers(read(path)[3].images["top"]) == list(range(900, 906))
    assert len(decoded) < 30


def test_only_the_episodes_own_row_groups_are_read(tmp_path, monkeypatch):
    path = make(tmp_path / "cups")
    asked = []
    real = pq.ParquetFile.read_row_groups
    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", lambda self, groups, **more: asked.append(groups) or real(self, groups, **more))
    reader = read(path)
    asked.clear()
    for index in (2, 1, 1, 3):
        _ = reader[index]
    # once the whole file's episode_index, then one group for each episode; the same episode again costs nothing
    assert asked == [[0, 1, 2], [2], [1], [0], [0]]


def test_episodes_after_an_edit_need_not_begin_at_zero(tmp_path):
    """LeRobot's tools delete and split episodes; where rows are is told by episode_index, not by counting."""
    path = make(tmp_path / "cups")
    relist(path, [line | {"dataset_from_index": 0, "dataset_to_index": line["length"]} for line in reversed(listed(path)[1:])])
    reader = read(path)
    assert [reader[i].meta["origin"]["episode"] for i in range(3)] == [3, 2, 1]
    assert [numbers(reader[i].images["top"])[0] for i in range(3)] == [300, 200, 100]


def test_missing_files_leave_out_their_episodes(tmp_path):
    path = make(tmp_path / "cups")
    (path / f"videos/{VIDEO}/chunk-000/file-000.mp4").unlink()
    reader = read(path)
    assert len(reader) == 1 and numbers(reader[0].images["top"]) == list(range(300, 306))
    assert any(f"3 of 4 episodes have not all their videos (first: videos/{VIDEO}/chunk-000/file-000.mp4" in note for note in reader.notes)
    assert len(read(path, options=Options(cameras=()))) == 4
    relist(path, [line | {f"videos/{VIDEO}/from_timestamp": None if i == 3 else 0.0} for i, line in enumerate(listed(path))])
    with pytest.raises(UserError, match="4 of 4 episodes have not all their videos"):
        read(path)
    shutil.rmtree(path / "data")
    with pytest.raises(UserError, match=r"4 of 4 episodes have not all their data \(first: data/chunk-000/file-000.parquet"):
        read(path, options=Options(cameras=()))


def test_many_lists_of_episodes(tmp_path):
    path = make(tmp_path / "cups")
    lines = listed(path)
    relist(path, lines[:2])
    (path / "meta/episodes/chunk-001").mkdir()
    pq.write_table(pa.Table.from_pylist(lines[2:]), path / "meta/episodes/chunk-001/file-000.parquet")
    reader = read(path)
    assert [reader[i].meta["origin"]["episode"] for i in range(len(reader))] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"length": 4}, r"file-000.parquet: has 5 rows of episode_index 0; meta/episodes says 4"),
        ({"episode_index": 9}, r"data/chunk-000/file-000.parquet: episode_index 9 is not there"),
        ({"episode_index": -1}, r"meta/episodes: episode_index is -1 in episode -1; expected a whole number"),
        ({"data/file_index": None}, r"meta/episodes: data/file_index is None in episode 0; expected a whole number"),
        ({f"videos/{VIDEO}/to_timestamp": 1e9}, r"file-000.mp4: holds no frame at"),
        ({f"videos/{VIDEO}/from_timestamp": 1e6}, r"observation.images.top: file-000.mp4: "),
        ({f"videos/{VIDEO}/from_timestamp": float("nan")}, r"file-000.mp4: "),
        ({f"videos/{VIDEO}/file_index": 7}, None),  # not here: left out
    ],
)
def test_lists_that_are_wrong(tmp_path, change, message):
    path = make(tmp_path / "cups")
    first, *rest = listed(path)
    relist(path, [first | change, *rest])
    if f"videos/{VIDEO}/to_timestamp" in change:
        encode(path / f"videos/{VIDEO}/chunk-000/file-000.mp4", numbered([0]))
    if message is None:
        assert len(read(path)) == 3
        return
    with pytest.raises(UserError, match=message) as error:
        _ = read(path)[0]
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_scattered_rows_are_refused(tmp_path):
    path = make(tmp_path / "cups")
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.take([0, 5, 1, 2, 3, 4, *range(6, 16)]), file)
    with pytest.raises(UserError, match="episode 0: data/chunk-000/file-000.parquet: episode_index 0 is scattered"):
        _ = read(path)[0]


def test_missing_metadata(tmp_path):
    path = make(tmp_path / "cups")
    (path / "meta/tasks.parquet").unlink()
    with pytest.raises(UserError, match="cups: meta/tasks.parquet is not here"):
        read(path)
    shutil.rmtree(path / "meta/episodes")
    with pytest.raises(UserError, match="meta/episodes: holds no list of episodes"):
        read(path)


def test_a_row_group_that_claims_too_much_is_refused(tmp_path, monkeypatch):
    path = make(tmp_path / "cups")
    monkeypatch.setattr("robolearn.data.formats._reader.MAX_EPISODE_BYTES", 5 * 3 * 8 - 1)
    with pytest.raises(UserError, match=r"file-000.parquet: .* has shape .*; an episode may have"):
        _ = read(path, options=Options(cameras=()))[0]
