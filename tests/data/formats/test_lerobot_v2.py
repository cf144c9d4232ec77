"""LeRobot v2.0 and v2.1. Datasets are made here as LeRobot 0.1 to 0.3 wrote them, after its documentation and the real sample's files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hardware.types import ArraySpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, read
from robolearn.data.testing import ReaderContract
from tests.data.formats.lerobot_files import SIZE, encode, numbered, numbers, png

os.environ.setdefault("SVT_LOG", "1")
REAL = Path(os.environ.get("ROBOLEARN_DATA", "/nowhere")) / "g1-inspire-lerobot-v21"
LENGTHS = (5, 7, 4)
TASKS = ["pick the cup", "put it down"]


def rows(episode: int, length: int, first: int) -> dict:
    rng = np.random.default_rng(episode)
    return {
        "observation.state": rng.normal(size=(length, 3)).astype(np.float32).tolist(),
        "observation.environment_state": rng.normal(size=(length, 2, 2)).astype(np.float32).tolist(),
        "action": rng.normal(size=(length, 2)).astype(np.float32).tolist(),
        "observation.images.wrist": [png(10 * episode + t) for t in range(length)],
        "next.reward": [float(t) for t in range(length)],
        "next.done": [t == length - 1 for t in range(length)],
        "next.success": [t == length - 1 and episode == 1 for t in range(length)],
        "timestamp": (np.arange(length) / 30).astype(np.float32),
        "frame_index": np.arange(length),
        "episode_index": np.full(length, episode),
        "index": first + np.arange(length),
        "task_index": np.full(length, episode % 2),
    }


def feature(dtype: str, *shape: int, names=None, **more) -> dict:
    return {"dtype": dtype, "shape": list(shape), "names": names} | more


FEATURES = {
    "observation.state": feature("float32", 3, names={"motors": ["shoulder", "elbow", "gripper"]}),
    "observation.environment_state": feature("float32", 2, 2),
    "action": feature("float32", 2, names=[["shoulder", "elbow"]]),
    "observation.images.cam_high": feature(
        "video", *SIZE, 3, names=["height", "width", "channel"], info={"video.fps": 30.0, "video.codec": "av1", "video.is_depth_map": False}
    ),
    "observation.images.wrist": feature("image", 3, 6, 8, names=["channels", "height", "width"]),
    "next.reward": feature("float32", 1),
    "next.done": feature("bool", 1),
    "next.success": feature("bool", 1),
    "timestamp": feature("float32", 1),
} | {name: feature("int64", 1) for name in ("frame_index", "episode_index", "index", "task_index")}


def make(root: Path, *, version="v2.1", features=FEATURES, columns=rows, lengths=LENGTHS, videos=True, **info) -> Path:
    """`columns(episode, length, first row)` gives the parquet columns; None stands for a column that is not written."""
    (root / "meta").mkdir(parents=True)
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "total_episodes": len(lengths),
        "total_frames": sum(lengths),
        "total_tasks": 2,
        "total_videos": len(lengths),
        "total_chunks": 1,
        "chunks_size": 1000,
        "fps": 30,
        "splits": {"train": f"0:{len(lengths)}"},
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
        "features": features,
    } | info
    (root / "meta/info.json").write_text(json.dumps(info, indent=4))
    (root / "meta/tasks.jsonl").write_text("".join(json.dumps({"task_index": i, "task": t}) + "\n" for i, t in enumerate(TASKS)))
    if version == "v2.0":
        (root / "meta/stats.json").write_text("{}")
    else:
        (root / "meta/episodes_stats.jsonl").write_text("".join(json.dumps({"episode_index": i, "stats": {}}) + "\n" for i in range(3)))
    with (root / "meta/episodes.jsonl").open("w") as listed:
        for episode, length in enumerate(lengths):
            print(json.dumps({"episode_index": episode, "tasks": [TASKS[episode % 2]], "length": length}), file=listed)
            values = {k: v for k, v in columns(episode, length, sum(lengths[:episode])).items() if k in features and v is not None}
            data = root / f"data/chunk-000/episode_{episode:06d}.parquet"
            data.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table(values), data)
            for key in (key for key, f in features.items() if f["dtype"] == "video" and videos):
                encode(root / f"videos/chunk-000/{key}/episode_{episode:06d}.mp4", numbered(100 * episode + np.arange(length)))
    return root


def changed(columns=rows, **values):
    """Columns with some of them replaced; a function gets the number of rows."""
    return lambda e, n, first: columns(e, n, first) | {k.replace("__", "."): v(n) if callable(v) else v for k, v in values.items()}


class TestLeRobotV21(ReaderContract):
    format, episodes = "lerobot_v2", 3

    @pytest.fixture
    def dataset(self, tmp_path):
        return make(tmp_path / "in" / "cups")


class TestLeRobotV20(TestLeRobotV21):
    @pytest.fixture
    def dataset(self, tmp_path):
        return make(tmp_path / "in" / "cups", version="v2.0")


def test_every_row_is_where_it_was(tmp_path):
    reader = read(make(tmp_path / "cups"))
    spec = reader.spec
    assert (spec.name, spec.rate_hz, spec.action_mode) == ("so100", 30.0, "as_recorded")
    assert dict(spec.cameras) == {"cam_high": SIZE, "wrist": (6, 8)}
    assert {name: part.names for name, part in spec.state.items()} == {
        "state": ("shoulder", "elbow", "gripper"),
        "environment_state": ("0_0", "0_1", "1_0", "1_1"),
    }
    assert spec.action == ArraySpec(("shoulder", "elbow"), ("", ""), (-np.inf,) * 2, (np.inf,) * 2)
    assert len(reader) == 3
    for index, length in enumerate(LENGTHS):
        episode, recorded = reader[index], rows(index, length, 0)
        check_episode(episode, spec)
        np.testing.assert_array_equal(episode.state["state"], np.array(recorded["observation.state"], np.float32))
        flat = np.array(recorded["observation.environment_state"], np.float32).reshape(length, 4)
        np.testing.assert_array_equal(episode.state["environment_state"], flat)
        np.testing.assert_array_equal(episode.action, np.array(recorded["action"], np.float32))
        np.testing.assert_array_equal(episode.requested_action, episode.action)
        np.testing.assert_array_equal(episode.time, recorded["timestamp"].astype(np.float64))
        np.testing.assert_array_equal(episode.reward, np.arange(length))
        assert numbers(episode.images["cam_high"]) == [100 * index + t for t in range(length)]
        np.testing.assert_array_equal(episode.images["wrist"][:, 3, 3, 1], 10 * index + np.arange(length))
        assert (episode.source == Source.HUMAN).all()
        assert episode.meta == {
            "task": TASKS[index % 2],
            "instruction": TASKS[index % 2],
            "success": index == 1,
            "operator": "unknown",
            "origin": {"file": "cups", "episode": index, "codebase_version": "v2.1"},
        }
        assert episode.terminal.tolist() == [False] * (length - 1) + [index == 1]  # done at a time limit is no end of the task


def test_cameras_by_name_or_by_feature(tmp_path):
    path = make(tmp_path / "cups")
    for name in ("cam_high", "observation.images.cam_high"):
        assert list(read(path, options=Options(cameras=(name,)))[0].images) == ["cam_high"]
    with pytest.raises(UserError, match="cameras: 'nose' is not in the files; valid: cam_high, wrist"):
        read(path, options=Options(cameras=("nose",)))


def test_missing_videos_leave_whole_episodes_and_say_so(tmp_path):
    path = make(tmp_path / "cups")
    (path / "videos/chunk-000/observation.images.cam_high/episode_000001.mp4").unlink()
    reader = read(path)
    assert [reader[i].meta["origin"]["episode"] for i in range(len(reader))] == [0, 2]
    assert (
        "left out: 1 of 3 episodes have not all their videos (first: videos/chunk-000/observation.images.cam_high/episode_000001.mp4 "
        "is not here); Options(cameras=()), in ingest a bare --cameras, reads all episodes without images"
    ) in reader.notes
    assert len(read(path, options=Options(cameras=()))) == len(read(path, options=Options(cameras=("wrist",)))) == 3
    shutil.rmtree(path / "videos")
    with pytest.raises(UserError, match=r"3 of 3 episodes have not all their videos .*; Options\(cameras=\(\)\), in ingest"):
        read(path)
    (path / "data/chunk-000/episode_000000.parquet").unlink()
    reader = read(path, options=Options(cameras=()))
    assert [reader[i].meta["origin"]["episode"] for i in range(len(reader))] == [1, 2]
    assert any("1 of 3 episodes have not all their data (first: data/chunk-000/episode_000000.parquet" in note for note in reader.notes)


def test_without_an_action_the_next_state_stands_for_it(tmp_path):
    reader = read(make(tmp_path / "cups", features={k: f for k, f in FEATURES.items() if k != "action"}))
    assert any("action: not recorded; the next row's observation.state stands for it" in note for note in reader.notes)
    episode = reader[0]
    np.testing.assert_array_equal(episode.action[:-1], episode.state["state"][1:])
    np.testing.assert_array_equal(episode.action[-1], episode.state["state"][-1])
    assert reader.spec.action_mode == "next_state" and reader.spec.action.names == ("shoulder", "elbow", "gripper")
    assert episode.meta["computed"] == "action from the next row's observation.state"
    bare = {k: f for k, f in FEATURES.items() if k not in ("action", "observation.state")}
    with pytest.raises(UserError, match="has neither an action nor observation.state"):
        read(make(tmp_path / "bare", features=bare))


def test_actions_in_parts_stand_one_after_the_other(tmp_path):
    """As AgiBot World names them."""
    features = {k: f for k, f in FEATURES.items() if k not in ("action", "observation.images.cam_high")}
    features |= {"actions.joint.position": feature("float32", 2, names=["a", "b"]), "actions.effector.position": feature("float32", 1)}
    parts = changed(actions__joint__position=lambda n: [[1.0, 2.0]] * n, actions__effector__position=lambda n: [3.0] * n)
    reader = read(make(tmp_path / "cups", features=features, columns=parts))
    assert reader.spec.action.names == ("a", "b", "0")
    np.testing.assert_array_equal(reader[0].action, [[1, 2, 3]] * 5)
    assert "action: actions.joint.position, actions.effector.position one after the other" in reader.notes


def test_done_alone_ends_no_task_and_success_alone_does(tmp_path):
    reader = read(make(tmp_path / "done", features={k: f for k, f in FEATURES.items() if k != "next.success"}))
    assert not any(reader[i].terminal.any() for i in range(3)) and reader[1].meta["success"] is None
    assert any(note.startswith("next.done: does not tell the task's end") for note in reader.notes)
    reader = read(make(tmp_path / "success", features={k: f for k, f in FEATURES.items() if k != "next.done"}))
    assert [bool(reader[i].terminal[-1]) for i in range(3)] == [False, True, False]


def test_interventions_tell_the_person_from_the_policy(tmp_path):
    key = "complementary_info.is_intervention"
    features = {k: f for k, f in FEATURES.items() if f["dtype"] != "video"} | {key: feature("bool", 1)}
    reader = read(make(tmp_path / "cups", features=features, columns=changed(**{key: lambda n: [t % 2 == 0 for t in range(n)]})))
    assert reader[2].source.tolist() == [Source.HUMAN, Source.POLICY] * 2
    assert f"who acted: a person where {key}, else a policy" in reader.notes


def test_several_instructions_in_one_episode(tmp_path):
    reader = read(make(tmp_path / "cups", columns=changed(task_index=lambda n: [1] * (n - 2) + [0] * 2)))
    assert reader[0].meta["instruction"] == TASKS[1] and reader[0].meta["instructions"] == [TASKS[1], TASKS[0]]


def test_the_rate_can_be_overridden(tmp_path):
    path = make(tmp_path / "cups", columns=changed(timestamp=lambda n: np.zeros(n, np.float32)))
    with pytest.raises(UserError, match=r"cups: episode 1: timestamp does not increase at row 1 .*Options\(rate_hz=30\) numbers the rows"):
        _ = read(path)[1]
    reader = read(path, options=Options(rate_hz=15.0))
    np.testing.assert_array_equal(reader[0].time, np.arange(5) / 15)
    assert reader.spec.rate_hz == 15.0
    assert "time: row number / 15 Hz as asked for; the files say 30 Hz" in reader.notes
    assert numbers(reader[1].images["cam_high"]) == list(range(100, 107))  # as many frames as rows: one for each


def test_a_video_of_another_rate_is_read_by_time(tmp_path):
    """10 rows per second, 30 frames per second: every third frame, as LeRobot looks them up."""
    path = make(tmp_path / "cups", fps=10, columns=changed(timestamp=lambda n: (np.arange(n) / 10).astype(np.float32)))
    for episode in range(3):
        encode(path / f"videos/chunk-000/observation.images.cam_high/episode_{episode:06d}.mp4", numbered(range(40)))
    assert numbers(read(path)[1].images["cam_high"]) == list(range(0, 21, 3))


def test_images_beside_the_parquet_files(tmp_path):
    """Before LeRobot embedded them, a cell held only the path."""
    path = make(tmp_path / "cups", columns=changed(observation__images__wrist=lambda n: [{"bytes": None, "path": "images/a.png"}] * n))
    (path / "images").mkdir()
    (path / "images/a.png").write_bytes(png(77)["bytes"])
    assert (read(path)[0].images["wrist"] == 77).all()


def test_the_hubs_cache_is_all_links(tmp_path):
    snapshot = tmp_path / "datasets--me--cups" / "snapshots" / "abc"
    plain = make(tmp_path / "cups")
    (blobs := snapshot.parents[1] / "blobs").mkdir(parents=True)
    for number, file in enumerate(sorted(p for p in plain.rglob("*") if p.is_file())):
        shutil.copy(file, blobs / str(number))
        link = snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(number), link.parent))
    np.testing.assert_array_equal(read(snapshot)[1].images["cam_high"], read(plain)[1].images["cam_high"])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"action": None}, r"episode_000000.parquet: has no column 'action'; it has observation.state"),
        ({"action": lambda n: [[1.0, 2.0, 3.0]] * n}, r"action: rows have 3 numbers; meta/info.json says 2"),
        ({"action": lambda n: [[1.0, 2.0]] * (n - 1) + [[1.0]]}, "action: rows have 1 to 2 numbers"),
        ({"action": lambda n: [[1.0, 2.0]] * (n - 1) + [None]}, "action: 1 values are missing"),
        ({"action": lambda n: [["a", "b"]] * n}, "action: holds string; expected numbers"),
        ({"action": lambda n: [[1e300, 0.0]] * n}, "action holds 1e.300; float32 ends at 3.4e38"),
        ({"observation.images.wrist": lambda n: [{"bytes": b"no image", "path": ""}] * n}, "wrist 0 is not a JPEG or PNG image"),
        ({"observation.images.wrist": lambda n: [{"bytes": None, "path": "../../secret.png"}] * n}, "leads out of"),
        ({"observation.images.wrist": lambda n: [{"bytes": None, "path": None}] * n}, "wrist: holds NoneType; expected the bytes"),
        ({"timestamp": lambda n: np.arange(n) / 20}, "cam_high: episode_000000.mp4: holds no frame at"),
    ],
)
def test_rows_that_do_not_fit(tmp_path, columns, message):
    path = make(tmp_path / "cups", columns=changed(**columns))
    if "timestamp" in columns:  # one frame too few for the rows: LeRobot's look-up by time decides
        encode(path / "videos/chunk-000/observation.images.cam_high/episode_000000.mp4", numbered(range(4)))
    with pytest.raises(UserError, match=message) as error:
        _ = read(path)[0]
    assert str(error.value).startswith(f"{path}: episode 0: ") and "\n" not in str(error.value)


def test_nan_that_pandas_stored_as_missing_is_nan(tmp_path):
    reader = read(make(tmp_path / "cups", columns=changed(action=lambda n: [[1.0, None]] * n)))
    assert np.isnan(reader[0].action[:, 1]).all() and (reader[0].action[:, 0] == 1).all()
    with pytest.raises(ValueError, match="action is not finite at row 0"):
        check_episode(reader[0], reader.spec)


def test_lists_that_disagree(tmp_path):
    path = make(tmp_path / "cups")
    listed = path / "meta/episodes.jsonl"
    good = listed.read_text()
    listed.write_text(good.replace('"length": 5', '"length": 6'))
    with pytest.raises(UserError, match=r"episode_000000.parquet: has 5 rows; meta/episodes.jsonl says 6"):
        _ = read(path)[0]
    listed.write_text(good + "[1]\n")
    with pytest.raises(UserError, match=r"meta/episodes.jsonl: line 4 is no JSON object"):
        read(path)
    listed.write_text('{"episode_index": "a"}\n')
    with pytest.raises(UserError, match="episode_index 'a' with length None; expected whole numbers"):
        read(path)
    listed.write_text("")
    with pytest.raises(UserError, match="meta: lists no episode"):
        read(path)
    listed.unlink()
    with pytest.raises(UserError, match="meta/episodes.jsonl is not here"):
        read(path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    path = make(tmp_path / "cups")
    for file in ("data/chunk-000/episode_000000.parquet", "videos/chunk-000/observation.images.cam_high/episode_000001.mp4"):
        (path / file).rename(tmp_path / Path(file).name)
        (path / file).symlink_to(tmp_path / Path(file).name)
    for episode in (0, 1):
        with pytest.raises(UserError, match="leads out of"):
            _ = read(path)[episode]


# The real sample ------------------------------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.skipif(not REAL.is_dir(), reason="ROBOLEARN_DATA/g1-inspire-lerobot-v21: not there")
def test_a_real_humanoid():
    """100 episodes of a Unitree G1, videos of ten of them (datasets/g1-inspire.md)."""
    reader = read(REAL)
    assert len(reader) == 10 and any("90 of 100 episodes have not all their videos" in note for note in reader.notes)
    episode = reader[3]
    check_episode(episode, reader.spec)
    assert episode.meta["origin"]["episode"] == 27 and episode.meta["instruction"] == "Pick up the yellow bottle on the table."
    assert episode.images["cam_high"].shape == (319, 480, 640, 3)
    assert np.abs(np.diff(episode.images["cam_high"][::20].astype(float), axis=0)).mean((1, 2, 3)).min() > 0.5  # the scene moves
    states = read(REAL, options=Options(cameras=()))
    assert sum(len(states[i]) for i in range(len(states))) == 35965
    assert states.spec.name == "Unitree_G1_Inspire" and states.spec.action.dim == 26
    assert states.spec.action.names[0] == "kLeftShoulderPitch" and states.spec.rate_hz == 30.0
