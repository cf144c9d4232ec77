"""The verb: what lands in the new store, its lineage, and that the sources and half-made stores are safe whatever happens."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, Stream
from robolearn.data.store import EpisodeStore
from robolearn.experiments import building, edit
from robolearn.experiments.edit import Config, run

TWO = ArraySpec(("a", "b"), ("rad", "rad"), (-30.0, -30.0), (30.0, 30.0))
SPEC = RobotSpec(
    "arm", {"front": (8, 8), "wrist": (8, 8)}, {"q": TWO}, TWO, "joint_pos", 10.0, {"force": ArraySpec(("f",), ("N",), (0,), (9,))}
)


def episode(rows: int, seed: int, **meta) -> Episode:
    """Its joints move in every step; the action tells which episode and row it is."""
    rng = np.random.default_rng(seed)
    q = np.cumsum(rng.uniform(0.2, 0.4, (rows, 2)), axis=0).astype(np.float32)
    action = np.stack([np.full(rows, seed), np.arange(rows)], axis=1).astype(np.float32)
    return Episode(
        time=np.arange(rows) / 10,
        images={name: rng.integers(0, 256, (rows, 8, 8, 3), dtype=np.uint8) for name in SPEC.cameras},
        state={"q": q},
        action=action,
        requested_action=action,
        reward=np.zeros(rows, np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, 2, np.uint8),
        meta={"success": None, **meta},
        image_time={"front": np.arange(rows) / 10},
        streams={"force": Stream(np.arange(rows * 5) / 50, rng.uniform(0, 9, (rows * 5, 1)).astype(np.float32))},
    )


def store_of(path: Path, *episodes: Episode, spec: RobotSpec = SPEC) -> Path:
    with EpisodeStore.create(path, spec, {"by": "hand"}) as store:
        for one in episodes:
            store.append(one)
    return path


@pytest.fixture(scope="module")
def master(tmp_path_factory):
    """Six episodes; 1 stands still at first, 4 has a camera that froze, 5 is a copy of 3."""
    waiting, frozen, third = episode(20, 1, success=False, score=0.2), episode(20, 4, who="bert"), episode(20, 3, who="anna")
    waiting.state["q"][:10] = waiting.state["q"][10]
    frozen.images["wrist"][3:12] = frozen.images["wrist"][3]
    return store_of(
        tmp_path_factory.mktemp("master") / "a.zarr",
        episode(20, 0, success=True, score=0.9, who="anna", origin={"file": "x"}),
        waiting,
        episode(12, 2, success=True),
        third,
        frozen,
        replace(third, meta={"success": True}),
    )


@pytest.fixture
def source(master, tmp_path):
    return shutil.copytree(master, tmp_path / "a.zarr")


@pytest.fixture
def go(source, tmp_path):
    """go(**options): edit the source into b.zarr, and open that; `before` and after, the source is the same."""
    before = snapshot(source)

    def made(**options) -> EpisodeStore:
        run(Config(**{"path": (str(source),), "out": tmp_path / "b.zarr", **options}))
        return EpisodeStore.open(tmp_path / "b.zarr")

    yield made
    assert snapshot(source) == before


def snapshot(path: Path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in path.rglob("*") if p.is_file() and p.name != "writer.lock"}


def numbers(store: EpisodeStore) -> list[int]:
    """Which episodes these are."""
    return [int(store.read(i).action[0, 0]) for i in range(len(store))]


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


def test_nothing_asked_for_is_a_copy_with_a_lineage(go, source, tmp_path, capsys):
    store, original = go(), EpisodeStore.open(source)
    assert store.spec == original.spec and store.lengths.tolist() == original.lengths.tolist()
    for i in range(6):
        mine, its = store.read(i), original.read(i)
        for name in ("time", "action", "requested_action", "reward", "terminal", "source"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(its, name))
        np.testing.assert_array_equal(mine.images["wrist"], its.images["wrist"])
        np.testing.assert_array_equal(mine.image_time["front"], its.image_time["front"])
        np.testing.assert_array_equal(mine.streams["force"].values, its.streams["force"].values)
        assert mine.meta == its.meta
    lineage = store.provenance["edit"]
    assert lineage["from"] == [{"path": str(source), "identity": original.identity(), "provenance": {"by": "hand"}}]
    assert lineage["options"] == {} and lineage["part"] == "out" and "robolearn" in lineage and store.provenance["episodes"] == ["0-5"]
    assert "b.zarr: 6 of 6 episodes, 112 of 112 rows" in capsys.readouterr().err
    assert left(tmp_path) == ["a.zarr", "b.zarr"]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("1,3-4", [1, 3, 4]),
        ("success", [0, 2, 3]),
        ("not success", [1, 3, 4]),
        ("success == None", [3, 4]),
        ("meta.success == false", [1]),
        ("length > 12 and who == 'anna'", [0, 3]),
        ("meta.score > 0.5", [0]),
        ("index in [0, 5]", [0, 3]),
        ("meta.origin.file == 'x'", [0]),
        ("not frozen_camera", [0, 1, 2, 3, 3]),  # raised, as inspect would
        ("frozen_camera >= 8", [4]),  # or the number itself
        ("idle_start > 0.5 or frozen_camera", [1, 4]),
        ("not duplicate", [0, 1, 2, 3, 4]),  # of two the first stays
        ("unlabeled", [3, 4]),
    ],
)
def test_keeping_by_number_meta_and_flag(go, keep, expected):
    store = go(keep=keep)
    assert numbers(store) == expected
    assert store.provenance["edit"]["options"] == {"keep": keep}


def test_episodes_say_where_they_were(go):
    assert go(keep="0,2-3,5").provenance["episodes"] == ["0,2-3,5"]


def test_frames_are_looked_at_only_for_flags(go, monkeypatch):
    monkeypatch.setattr("robolearn.data.editing.facts.examine", lambda *_: pytest.fail("looked at"))
    assert len(go(keep="success and length > 12")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "sucess"}, "keep: 'sucess': 'sucess' is not known; valid: index, length, success, frozen_camera, .*meta.score"),
        ({"keep": "meta.origin.fil"}, "'meta.origin.fil' is not known; valid: .*meta.origin.file"),
        ({"keep": "__import__('os')"}, "Call is not part of the language"),
        ({"keep": "7"}, "keep: episode 7 does not exist; valid: 0-5"),
        ({"keep": "length > 100"}, "out: no episode is left of 6; nothing was written"),
        ({"success": "1", "failure": "score < 0.5"}, "success, failure: episode 1 is in both"),
        ({"trim_idle": -1.0}, "trim_idle: -1.0 s"),
        ({"rate_hz": 0.0}, "rate_hz: 0.0 Hz; expected above 0"),
        (
            {"reward": "sparse"},
            r"reward: of 2 episodes nobody says whether they succeeded: 3 \(None\), 4 \(None\); --success and --failure do",
        ),
        ({"redact": ("top",)}, "redact: 'top' is not a camera; valid: front, wrist"),
        ({"rename": ("top=front",)}, "rename: 'top' is not known"),
        ({"rename": ("front=../../x",)}, "cameras: '../../x' cannot be a folder"),
        ({"rename": ("front=",)}, "cameras: '' cannot be a folder"),
        ({"compression": "gif"}, "compression: 'gif'; valid: zstd"),
        ({"split": 0.5}, "split: needs both --split and --out-rest"),
        ({"out_rest": Path("c.zarr")}, "split: needs both --split and --out-rest"),
        ({"split": 1.5, "out_rest": Path("c.zarr")}, "split: 1.5; expected a share between 0 and 1, or an expression"),
        ({"split": 0.99, "out_rest": Path("c.zarr")}, "out_rest: no episode is left of 6"),
        ({"path": ()}, "path: names no store"),
        ({"path": ("nowhere",)}, "nowhere: no such store"),
    ],
)
def test_wrong_options_write_nothing(go, tmp_path, options, message):
    with pytest.raises(UserError, match=message) as caught:
        go(**options)
    assert "\n" not in str(caught.value) and left(tmp_path) == ["a.zarr"]


def test_relabelling_comes_before_filtering(go):
    store = go(success="3,5", failure="success == None and who == 'bert'", keep="success != None")
    assert [(n, store.meta(i)["success"]) for i, n in enumerate(numbers(store))] == [
        (0, True),
        (1, False),
        (2, True),
        (3, True),
        (4, False),
        (3, True),
    ]
    assert store.meta(3)["who"] == "anna"


def test_rewards_may_say_what_the_labels_say(go):
    store = go(success="3", reward="sparse", keep="success != None")
    for index, number in enumerate(numbers(store)):
        episode, won = store.read(index), number != 1
        assert episode.reward.tolist() == [0.0] * (len(episode) - 1) + [float(won)]
        assert episode.terminal.tolist() == [False] * (len(episode) - 1) + [won]


def test_of_what_the_rewards_said_before_nothing_is_left(tmp_path):
    ends = np.arange(20) == 19
    said = {"return": 7.0, "max_reward": 1.0, "length": 20, "truncated": False, "success_step": 3}
    lost = replace(episode(20, 0, success=0, **said), terminal=ends, reward=np.ones(20, np.float32))
    won = episode(20, 1, success=1.0, **said)
    run(Config((str(store_of(tmp_path / "a.zarr", lost, won)),), tmp_path / "b.zarr", reward="sparse", rate_hz=5.0))
    first, second = EpisodeStore.open(tmp_path / "b.zarr")
    assert not first.reward.any() and not first.terminal.any(), "the end of a failure is no way out"
    assert (first.meta["return"], first.meta["truncated"], first.meta["success_step"], first.meta["length"]) == (0.0, True, None, 10)
    assert second.terminal.tolist() == second.reward.tolist() == [0.0] * 9 + [1.0]
    assert (second.meta["return"], second.meta["truncated"], second.meta["success_step"]) == (1.0, False, 9)


def test_everything_at_once_in_the_documented_order(go):
    store = go(
        keep="index < 2",
        trim_idle=0.25,
        rate_hz=5.0,
        redact=("wrist:0,0,8,4",),
        rename=("front=top", "state.q.a=shoulder"),
    )
    assert dict(store.spec.cameras) == {"top": (8, 8), "wrist": (8, 8)} and store.spec.rate_hz == 5.0
    assert store.spec.state["q"].names == ("shoulder", "b")
    # Episode 1 stands still up to row 10 (1.0 s): rows 8 to 19 stay, every other one of them.
    assert store.lengths.tolist() == [10, 6] and store.read(1).action[:, 1].tolist() == [8, 10, 12, 14, 16, 18]
    assert (store.read(0).images["wrist"][:, :, :4] == 0).all() and (store.read(0).images["wrist"][:, :, 4:] != 0).any()
    np.testing.assert_allclose(np.diff(store.read(1).time), 0.2)


def test_a_dropped_camera_is_gone_from_the_files(go, tmp_path):
    assert dict(go(redact=("wrist",)).spec.cameras) == {"front": (8, 8)}
    assert not [path for path in (tmp_path / "b.zarr").rglob("*") if "wrist" in path.name]


# Several stores -------------------------------------------------------------------------------------------------------


def test_stores_are_merged_in_order_and_numbered_through(go, source, tmp_path):
    other = store_of(tmp_path / "other.zarr", episode(9, 7), episode(8, 8))
    store = go(path=(str(source), str(other)), keep="2-3,6-7")
    assert numbers(store) == [2, 3, 7, 8]
    assert store.provenance["episodes"] == ["2-3", "0-1"]
    assert [one["path"] for one in store.provenance["edit"]["from"]] == [str(source), str(other)]
    assert numbers(go(path=(str(source), str(other)), keep="frozen_camera", overwrite=True)) == [4]


def test_stores_that_do_not_fit_list_the_differences(go, source, tmp_path):
    spec = replace(SPEC, name="leg", rate_hz=20.0, action=replace(TWO, low=(-1.0, -1.0)))
    other = store_of(tmp_path / "other.zarr", episode(9, 7), spec=spec)
    different = "name: arm != leg; action.low: .*; rate_hz: 10.0 != 20.0"
    with pytest.raises(UserError, match=f"other.zarr: its spec differs from that of .*a.zarr: {different}"):
        go(path=(str(source), str(other)))
    EpisodeStore.create(tmp_path / "empty.zarr", SPEC).close()
    with pytest.raises(UserError, match="empty.zarr: holds no episode yet"):
        go(path=(str(source), str(tmp_path / "empty.zarr")))


def test_a_split_by_share_is_drawn_with_the_seed(go, tmp_path):
    rest = tmp_path / "rest.zarr"
    drawn = {}
    for seed in (0, 1, 2, 3):
        kept = numbers(go(split=0.5, out_rest=rest, keep="index < 5", seed=seed, overwrite=True))
        assert len(kept) == 2 and sorted(kept + numbers(EpisodeStore.open(rest))) == [0, 1, 2, 3, 4]
        assert kept == sorted(kept)
        drawn[seed] = kept
    assert len({tuple(kept) for kept in drawn.values()}) > 1
    assert numbers(go(split=0.5, out_rest=rest, keep="index < 5", seed=0, overwrite=True)) == drawn[0]
    parts = [EpisodeStore.open(path).provenance for path in (tmp_path / "b.zarr", rest)]
    assert [part["edit"]["part"] for part in parts] == ["out", "rest"]
    assert parts[0]["edit"]["options"] == {"keep": "index < 5", "split": 0.5}


def test_a_split_by_question(go, tmp_path):
    rest = tmp_path / "rest.zarr"
    assert numbers(go(split="who == 'anna'", out_rest=rest)) == [0, 3]
    assert numbers(EpisodeStore.open(rest)) == [1, 2, 4, 3]


# Safety ---------------------------------------------------------------------------------------------------------------


def test_the_source_is_never_the_target(go, source, tmp_path):
    for out in (source, source / "inside.zarr", tmp_path):
        for options in ({"out": out}, {"split": 0.5, "out_rest": out}, {"out": out, "overwrite": True}):
            with pytest.raises(UserError, match="lies in the way of .*; an edit makes a new store"):
                go(**options)
    (tmp_path / "link.zarr").symlink_to(source)
    with pytest.raises(UserError, match="lies in the way of"):
        go(out=tmp_path / "link.zarr", overwrite=True)
    with pytest.raises(UserError, match="lies in the way of"):
        go(split=0.5, out_rest=tmp_path / "b.zarr")


def test_the_same_command_again_does_nothing(go, capsys, monkeypatch):
    go(keep="0-1")
    monkeypatch.setattr(edit, "building", lambda *_: pytest.fail("built again"))
    go(keep="0-1")
    assert "already complete" in capsys.readouterr().err
    with pytest.raises(UserError, match="exists, made of other data or with other options.*choose another --out, or --overwrite it"):
        go(keep="0-2")


def test_a_source_that_grew_is_another_source(source, tmp_path):
    config = Config(path=(str(source),), out=tmp_path / "b.zarr")
    run(config)
    with EpisodeStore.open(source, "a") as store:
        store.append(episode(5, 6))
    with pytest.raises(UserError, match="exists, made of other data or with other options"):
        run(config)
    run(replace(config, overwrite=True))
    assert len(EpisodeStore.open(tmp_path / "b.zarr")) == 7 and left(tmp_path) == ["a.zarr", "b.zarr"]


def test_an_error_on_the_way_leaves_nothing(go, tmp_path, monkeypatch):
    extend = EpisodeStore.extend

    def full(self, episodes):
        if len(self) == 1:
            raise UserError("disk full")
        return extend(self, episodes)

    monkeypatch.setattr(building, "BATCH_BYTES", 0)
    monkeypatch.setattr(EpisodeStore, "extend", full)
    with pytest.raises(UserError, match="disk full"):
        go(split=0.5, out_rest=tmp_path / "rest.zarr")
    assert left(tmp_path) == ["a.zarr"]


KILLED = """
import os, signal, sys
from robolearn import cli
from robolearn.data.store import EpisodeStore
from robolearn.experiments import building
building.BATCH_BYTES = 0
extend, count = EpisodeStore.extend, [0]
def die(self, episodes):
    if count[0] == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    count[0] += 1
    return extend(self, episodes)
EpisodeStore.extend = die
sys.exit(cli.main(sys.argv[2:]))
"""


def test_killed_it_leaves_no_half_store_and_goes_on(go, source, tmp_path):
    words = ["edit", "--path", str(source), "--out", str(tmp_path / "b.zarr"), "--out-rest", str(tmp_path / "rest.zarr")]
    words += ["--split", "0.5", "--keep", "index < 5", "--trim-idle", "0.5"]
    for stored in (0, 1, 2):  # nothing; one; the third run starts with that one, writes two more into the rest, and dies again
        done = subprocess.run([sys.executable, "-c", KILLED, str(stored), *words], stderr=subprocess.DEVNULL)
        assert done.returncode == -signal.SIGKILL
        assert not (tmp_path / "b.zarr").exists() and not (tmp_path / "rest.zarr").exists()
    stored = len(EpisodeStore.open(tmp_path / ".b.zarr.partial")) + len(EpisodeStore.open(tmp_path / ".rest.zarr.partial"))
    assert stored == 3
    done = subprocess.run([sys.executable, "-c", KILLED, "2", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr  # no more than the two that were missing
    assert left(tmp_path) == ["a.zarr", "b.zarr", "rest.zarr"]
    go(out=tmp_path / "c.zarr", split=0.5, out_rest=tmp_path / "d.zarr", keep="index < 5", trim_idle=0.5)
    for killed, whole in (("b.zarr", "c.zarr"), ("rest.zarr", "d.zarr")):
        one, other = EpisodeStore.open(tmp_path / killed), EpisodeStore.open(tmp_path / whole)
        assert numbers(one) == numbers(other) and one.lengths.tolist() == other.lengths.tolist()


def test_from_the_command_line(source, tmp_path):
    words = ["edit", "--path", str(source), "--out", str(tmp_path / "b.zarr"), "--keep", "success and not frozen_camera"]
    words += ["--trim-idle", "0.5", "--rate-hz", "5", "--rename", "front=top", "--redact", "wrist"]
    done = subprocess.run([sys.executable, "-m", "robolearn.cli", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    store = EpisodeStore.open(tmp_path / "b.zarr")
    assert numbers(store) == [0, 2, 3] and dict(store.spec.cameras) == {"top": (8, 8)}
    assert json.loads(json.dumps(store.provenance))["edit"]["options"]["rename"] == ["front=top"]


def test_stores_that_differ_only_in_the_robots_name_can_be_merged(tmp_path):
    one = store_of(tmp_path / "a.zarr", episode(5, 0))
    other = store_of(tmp_path / "b.zarr", episode(5, 1), spec=replace(SPEC, name="arm of another task"))
    with pytest.raises(UserError, match="name: arm != arm of another task; --robot NAME gives both one name"):
        run(Config(path=(str(one), str(other)), out=tmp_path / "c.zarr"))
    run(Config(path=(str(one), str(other)), out=tmp_path / "c.zarr", robot="arms"))
    merged = EpisodeStore.open(tmp_path / "c.zarr")
    assert (merged.spec.name, len(merged)) == ("arms", 2)
