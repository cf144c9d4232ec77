"""Folders made by hand, after docs/formats-folder.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read
from robolearn.data.testing import ReaderContract

HEADER = "timestamp_ms,step,action_x [m],action_gripper,arm.j1 [rad],arm.j2 [rad],gripper,reward"


def steps(rows: int = 4, start: float = 100.0, header: str = HEADER) -> str:
    lines = [header] + [f"{start + 50 * t},{t},{t / 10},{t % 2},{t * 1.5},{-t},0.25,{t == rows - 1:d}" for t in range(rows)]
    return "\n".join(lines) + "\n"


def pictures(folder: Path, rows: int = 4, first: int = 0, suffix: str = "png", size: tuple[int, int] = (6, 8)) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(rows).integers(0, 256, (rows, *size, 3)).astype(np.uint8)
    for row, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"img_{first + row}.{suffix}")
    return frames


def video(path: Path, rows: int = 4, rate: int = 25) -> np.ndarray:
    import av

    frames = np.stack([np.full((32, 48, 3), 30 + 40 * row, np.uint8) for row in range(rows)])
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return frames


def episode_folder(path: Path, rows: int = 4, table: str | None = None, name: str = "steps.csv", meta: Any = None) -> Path:
    path.mkdir(parents=True)
    (path / name).write_text(table if table is not None else steps(rows))
    if meta is not None:
        (path / "meta.json").write_text(meta if isinstance(meta, str) else json.dumps(meta))
    return path


class TestPictures(ReaderContract):
    format, episodes = "folder", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        for number in range(2):
            pictures(episode_folder(tmp_path / "in" / "cups" / f"episode_{number}") / "front")
        return tmp_path / "in" / "cups"


class TestOneEpisodeWithVideo(ReaderContract):
    format, episodes = "folder", 1

    @pytest.fixture
    def dataset(self, tmp_path):
        table = "\n".join(json.dumps({"time": t / 10, "action": [t, 1], "q": [0.5, t]}) for t in range(4))
        folder = episode_folder(tmp_path / "in" / "cup", table=table, name="log.jsonl")
        video(folder / "wrist.mp4")
        return folder


def test_rows_come_out_as_written(tmp_path):
    for number in (10, 2, 1):
        folder = episode_folder(tmp_path / "cups" / f"episode_{number}", rows=number + 2, meta={"success": number == 2, "robot": "arm7"})
        shown = pictures(folder / "front", rows=number + 2, first=8)  # img_8, img_9, img_10: by number, not by letter
        filmed = video(folder / "wrist.mp4", rows=number + 2) if number < 5 else video(folder / "wrist.mp4", rows=12)
        if number == 2:
            expected, film = shown, filmed
    reader = read(tmp_path / "cups")
    spec = reader.spec
    assert [len(reader[i]) for i in range(3)] == [3, 4, 12]
    assert (spec.name, spec.rate_hz, dict(spec.cameras)) == ("arm7", 20, {"front": (6, 8), "wrist": (32, 48)})
    assert {name: (part.names, part.units) for name, part in spec.state.items()} == {
        "arm": (("j1", "j2"), ("rad", "rad")),
        "state": (("gripper",), ("",)),
    }
    assert (spec.action.names, spec.action.units) == (("x", "gripper"), ("m", ""))
    episode = reader[1]
    check_episode(episode, spec)
    np.testing.assert_allclose(episode.time, [0, 0.05, 0.1, 0.15])
    np.testing.assert_allclose(episode.action, [[0, 0], [0.1, 1], [0.2, 0], [0.3, 1]], rtol=1e-6)
    np.testing.assert_array_equal(episode.state["arm"], [[0, 0], [1.5, -1], [3, -2], [4.5, -3]])
    np.testing.assert_array_equal(episode.reward, [0, 0, 0, 1])
    np.testing.assert_array_equal(episode.images["front"], expected)
    np.testing.assert_allclose(episode.images["wrist"].astype(int), film.astype(int), atol=4)
    assert not episode.terminal.any() and (episode.source == Source.HUMAN).all()
    assert episode.meta["success"] is True and reader[0].meta["success"] is False
    assert episode.meta["task"] == "cups" and episode.meta["origin"] == {"file": "episode_2", "episode": 1}
    assert any("left out: step" in note for note in reader.notes)


def test_json_lines_with_words(tmp_path):
    table = "\n".join(
        json.dumps({"t": 1, "timestamp_ns": 10**18 + t * 10**8, "action": [t, True], "q": [0.5, t], "instruction": "stack the cups"})
        for t in range(3)
    )
    reader = read(episode_folder(tmp_path / "cup", table=table, name="a.jsonl", meta={"operator": "scripted", "task": "stacking"}))
    (episode,) = reader
    check_episode(episode, reader.spec)
    np.testing.assert_allclose(episode.time, [0, 0.1, 0.2], atol=1e-6)
    np.testing.assert_array_equal(episode.action, [[0, 1], [1, 1], [2, 1]])
    assert {name: part.dim for name, part in reader.spec.state.items()} == {"state": 1, "q": 2}
    assert (episode.meta["instruction"], episode.meta["task"], episode.meta["operator"]) == ("stack the cups", "stacking", "scripted")
    assert (episode.source == Source.SCRIPTED).all()


@pytest.mark.parametrize(
    ("column", "step"), [("time", 1.0), ("Timestamp_s", 1.0), ("time_us", 1e-6), ("time [ms]", 1e-3), ("timestamp_ns", 1e-9)]
)
def test_the_columns_name_tells_the_unit_of_time(tmp_path, column, step):
    table = f"{column},action\n" + "".join(f"{1000 + 40 * t},{t}\n" for t in range(5))
    (episode,) = read(episode_folder(tmp_path / "cup", table=table), options=Options(rate_hz=5.0))
    np.testing.assert_allclose(episode.time, np.arange(5) * 40 * step)


@pytest.mark.parametrize(
    ("meta", "with_video", "asked", "rate", "note"),
    [
        (None, False, None, 10, "no time is recorded: 10 Hz is assumed"),
        (None, True, None, 25, "at the rate of wrist.mp4, 25 Hz"),
        ({"rate_hz": 15}, True, None, 15, None),
        ({"rate_hz": 15}, True, 30.0, 30, None),
    ],
)
def test_without_times_the_rate_comes_from_elsewhere(tmp_path, meta, with_video, asked, rate, note):
    folder = episode_folder(tmp_path / "cup", table="action,q\n1,2\n3,4\n5,6\n", meta=meta)
    if with_video:
        video(folder / "wrist.mp4", rows=3)
    reader = read(folder, options=Options(rate_hz=asked))
    assert reader.spec.rate_hz == rate
    np.testing.assert_allclose(reader[0].time, np.arange(3) / rate)
    assert [n for n in reader.notes if "no time is recorded" in n] == [n for n in reader.notes if note is not None and note in n]
    assert reader[0].meta["computed"] == "time from the rate"


def test_without_actions_the_next_state_is_assumed(tmp_path):
    reader = read(episode_folder(tmp_path / "cup", table="time,arm.j1 [rad],arm.j2,grip\n0,1,2,3\n0.1,4,5,6\n0.2,7,8,9\n"))
    np.testing.assert_array_equal(reader[0].action, [[4, 5, 6], [7, 8, 9], [7, 8, 9]])
    assert reader.spec.action.names == ("j1", "j2", "grip") and reader.spec.action.units == ("rad", "", "")
    assert any("assumed to be the next row's state" in note for note in reader.notes)
    assert reader[0].meta["computed"] == "action: the next row's state"


def test_depth_is_left_out(tmp_path):
    folder = episode_folder(tmp_path / "cup")
    (folder / "depth").mkdir()
    for row in range(4):
        Image.fromarray(np.full((6, 8), 1000 + row, np.uint16)).save(folder / "depth" / f"{row}.png")
    reader = read(folder)
    assert dict(reader.spec.cameras) == {} and any("depth is left out" in note for note in reader.notes)


def test_terminal_is_what_the_table_says(tmp_path):
    (episode,) = read(episode_folder(tmp_path / "cup", table="time,action,terminal,done\n0,1,0,0\n0.1,1,1,1\n"))
    assert episode.terminal.tolist() == [False, True]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("time,action\n0,1\n0.1,high\n", "cup/steps.csv line 3: column action holds 'high'; expected a number"),
        ("time,action\n0,1\n0.1\n", "cup/steps.csv line 3: 1 cells; the header has 2"),
        ("time,action,action\n0,1,2\n", "cup/steps.csv line 2: 3 columns of 2 names; at most 10000, each name once"),
        ("time,action\n", "cup/steps.csv holds no row of numbers"),
        ('time,action\n0,"' + "1" * 200_000 + "\n", "cup/steps.csv is damaged: field larger than field limit"),
        ("time,reward\n0,1\n0.1,1\n", "its columns are time, reward; expected action or state among them"),
        (
            "timestamp,action\n1700000000000000000,1\n1700000000100000000,1\n",
            "timestamp holds 1.7e.18, too much for seconds; name its unit",
        ),
        ("time [h],action\n0,1\n1,1\n", r"column time \[h\]: unit 'h'; valid: s, ms, us, ns"),
        ("time,action\n0,1\n", "time tells no rate: 1 rows"),
        ("time,action\n5,1\n4,1\n3,1\n", "time tells no rate: 3 rows, median step -1 s"),
    ],
)
def test_tables_that_are_wrong(tmp_path, table, message):
    with pytest.raises(UserError, match=message) as caught:
        read(episode_folder(tmp_path / "cup", table=table))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", "cup/a line holds list; expected an object"),
        ('{"time": 0.1}', "cup/a.jsonl line 2: columns differ from the first row's in action"),
        ('{"time": 0.1, "action": {"x": 1}}', "cup/a.jsonl line 2: column action holds .*expected a number"),
        ('{"time": 0.1, "action": null}', "cup/a.jsonl line 2: column action holds 'None'"),
        ('{"time": 0.1, "action"', "cup/a.jsonl is damaged: Expecting ':' delimiter"),
        ("[" * 100_000, "cup/a.jsonl is damaged: maximum recursion depth exceeded"),
    ],
)
def test_json_lines_that_are_wrong(tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        read(episode_folder(tmp_path / "cup", table='{"time": 0, "action": 1}\n' + line + "\n", name="a.jsonl"))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ("{", "cup/meta.json is damaged"),
        ([1], "cup/meta.json: 'list'; valid: task, instruction"),
        ({"sucess": True}, "cup/meta.json: 'sucess'; valid: task, instruction, success, operator, robot, rate_hz"),
    ],
)
def test_meta_that_is_wrong(tmp_path, meta, message):
    with pytest.raises(UserError, match=message):
        read(episode_folder(tmp_path / "cup", meta=meta))


def test_cameras_must_fit_the_rows(tmp_path):
    cups = tmp_path / "cups"
    pictures(episode_folder(cups / "1") / "front")
    pictures(episode_folder(cups / "2") / "front", rows=3)
    pictures(episode_folder(cups / "3") / "front", size=(4, 8))
    pictures(episode_folder(cups / "4") / "front", first=4)
    (cups / "4" / "front" / "img_07.jpg").write_bytes((cups / "4" / "front" / "img_7.png").read_bytes())
    pictures(episode_folder(cups / "5") / "front", rows=3)
    Image.new("RGB", (8, 6)).save(cups / "5" / "front" / "last.png")
    video(episode_folder(cups / "6") / "front.mp4", rows=5)
    pictures(episode_folder(cups / "7") / "front")
    (cups / "7" / "front" / "img_2.png").write_bytes((cups / "7" / "front" / "img_2.png").read_bytes()[:60])
    episode_folder(cups / "8", table="time,action\n0,1\n0.1,1\n")
    reader = read(cups)
    assert len(reader[0]) == 4
    for index, message in (
        (1, "2/front has 3 pictures for 4 rows; expected one for each"),
        (2, "3/front .*is 4x8 px"),
        (3, "front/img_0?7.(png|jpg) has a number twice; expected 000000.png"),
        (4, "front/last.png has no number"),
        (5, "6/front.mp4 has 5 frames for 4 rows; expected one for each"),
        (6, "7/front .*img_2.png is"),
        (7, "8: columns differ from the first episode's in action, action_gripper, action_x"),
    ):
        with pytest.raises(UserError, match=f"episode {index}: {message}"):
            _ = reader[index]


def test_nothing_outside_is_read(tmp_path):
    outside = pictures(tmp_path / "elsewhere")
    assert len(outside) == 4
    folder = episode_folder(tmp_path / "cups" / "1")
    (folder / "front").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="'1/front' leads out of .*; refused"):
        read(tmp_path / "cups")
    (folder / "front").unlink()
    (folder / "steps.csv").unlink()
    (tmp_path / "secret.csv").write_text(steps())
    (folder / "steps.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(UserError, match="leads out of .*; refused"):
        read(tmp_path / "cups")


def test_a_cycle_of_links_does_not_hang(tmp_path):
    folder = episode_folder(tmp_path / "cups" / "1")
    (folder / "again").symlink_to(folder)
    (tmp_path / "cups" / "round").symlink_to(tmp_path / "cups" / "round")
    assert len(read(tmp_path / "cups")) == 1


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("tasks.jsonl", '{"task_index": 0, "task": "Lift the cup"}\n'),  # LeRobot's meta/
        ("prices.csv", "name,price\nx,1\n"),
        ("steps.csv", "\x00\xff"),
        ("steps.jsonl", "[1, 2]\n"),
        ("steps.txt", steps()),
    ],
)
def test_other_tables_are_no_episodes(tmp_path, name, table):
    episode_folder(tmp_path / "thing" / "meta", table=table, name=name)
    with pytest.raises(UserError, match="not in a format that is read here"):
        locate(tmp_path / "thing")
