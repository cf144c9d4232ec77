"""The verb: what it stores, what it leaves when it fails or is killed, and what it leaves out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.cli import parse
from robolearn.core.errors import UserError
from robolearn.data.editing import mapping
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.experiments import building, ingest
from robolearn.experiments.ingest import Config, run

ENDS = np.array([4, 6, 11])
SPEC = RobotSpec("a", {"c": (4, 4)}, {}, ArraySpec(("x",), ("m",), (0.0,), (1.0,)), "joint_pos", 10.0)


def replay_buffer(path: Path) -> Path:
    """A Push-T replay buffer of three episodes, as Diffusion Policy writes it (zarr v2)."""
    import zarr

    rng, rows = np.random.default_rng(0), int(ENDS[-1])
    group = zarr.create_group(str(path), zarr_format=2)
    for name, value in {
        "img": rng.integers(0, 256, (rows, 96, 96, 3)).astype(np.float32),
        "state": rng.uniform(0, 6, (rows, 5)).astype(np.float32),
        "action": rng.uniform(0, 512, (rows, 2)).astype(np.float32),
    }.items():
        group.create_array(f"data/{name}", data=value, chunks=(4, *value.shape[1:]))
    group.create_array("meta/episode_ends", data=ENDS)
    return path


@pytest.fixture
def source(tmp_path):
    return replay_buffer(tmp_path / "in.zarr")


@pytest.fixture
def go(source, tmp_path):
    """go(**options): run the verb on the replay buffer; the store it made."""

    def made(**options) -> EpisodeStore:
        run(Config(**{"path": str(source), "out": tmp_path / "out.zarr", "format": "diffusion_policy_zarr", **options}))
        return EpisodeStore.open(tmp_path / "out.zarr")

    return made


def spoil(source: Path, *rows: int) -> None:
    """NaN in the action of these rows."""
    import zarr

    action = zarr.open_group(str(source), mode="r+")["data/action"]
    for row in rows:
        action[row] = np.nan  # type: ignore[index]


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_dataset_becomes_a_store(go, source, tmp_path, capsys):
    store = go(format=None)  # told by content
    assert [store.length(i) for i in range(len(store))] == [4, 2, 5]
    assert store.spec.name == "pusht"
    made = store.provenance["import"]
    assert made.keys() == {"from", "format", "limit", "robolearn", "files"}
    assert made["format"] == "diffusion_policy_zarr" and made["from"] == str(source)
    assert left(tmp_path) == ["in.zarr", "out.zarr"]
    assert "3 episodes, 11 rows" in capsys.readouterr().err


def test_the_same_command_again_does_nothing(go, capsys, monkeypatch):
    assert len(go(limit=2)) == 2
    monkeypatch.setattr(ingest, "read_mapped", lambda *_: pytest.fail("read again"))
    go(limit=2)
    assert "already complete" in capsys.readouterr().err


@pytest.mark.parametrize(
    "other", [{"limit": None}, {"rate_hz": 5.0}, {"cameras": ()}, {"episodes": "0-1"}, {"skip_bad": True}, {"compression": "zstd:9"}]
)
def test_other_options_are_another_store(go, other):
    go(limit=2)
    with pytest.raises(UserError, match="out.zarr: exists, made of other data .*choose another --out, or --overwrite"):
        go(**{"limit": 2, **other})


def test_another_dataset_is_never_overwritten_unasked(go, tmp_path):
    go(limit=2)
    with pytest.raises(UserError, match="exists, made of other data or with other options"):
        go()
    assert len(go(overwrite=True)) == 3
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(UserError, match="not a robolearn store"):
        go(out=tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").exists()
    assert left(tmp_path) == ["in.zarr", "out.zarr", "thesis"]


def test_what_somebody_writes_to_is_not_replaced(go, tmp_path):
    with EpisodeStore.open(go(limit=1).path, "a"), pytest.raises(UserError, match="another process is writing"):
        go(overwrite=True)
    assert len(EpisodeStore.open(tmp_path / "out.zarr")) == 1


def test_episodes_and_cameras_are_chosen(go):
    store = go(episodes="2,0", cameras=())
    assert store.lengths.tolist() == [5, 4] and dict(store.spec.cameras) == {}
    assert store.provenance["import"]["episodes"] == "2,0" and store.provenance["import"]["cameras"] == []
    assert [store.meta(i)["origin"]["episode"] for i in range(2)] == [2, 0]
    assert go(episodes="2,0", limit=1, overwrite=True).lengths.tolist() == [5]


def test_the_rate_is_the_flag_then_the_map_then_the_files(go, tmp_path):
    (tmp_path / "map.yaml").write_text("rate_hz: 5")
    for options, rate in (({}, 10.0), ({"map": tmp_path / "map.yaml"}, 5.0), ({"map": tmp_path / "map.yaml", "rate_hz": 4.0}, 4.0)):
        store = go(**options, overwrite=True)
        assert store.spec.rate_hz == rate
        np.testing.assert_allclose(np.diff(store.read(0).time), 1 / rate)


def test_a_map_decides_what_is_stored_and_is_kept(go, tmp_path, capsys):
    (tmp_path / "map.yaml").write_text("robot: mine\ncameras: {image: {name: top, size: [48, 96]}}\nsuccess: {reward: max, above: -1}")
    store = go(map=tmp_path / "map.yaml")
    assert store.spec.name == "mine" and dict(store.spec.cameras) == {"top": (48, 96)}
    assert [store.meta(i)["success"] for i in range(3)] == [True] * 3
    assert store.provenance["import"]["map"]["success"] == {"reward": "max", "above": -1.0}
    said = [note for note in store.provenance["notes"] if note.startswith("map: ")]
    assert said == ["map: success of every episode: max reward > -1", "map: camera image is stretched from 96x96 to 48x96 px"]
    told = capsys.readouterr().err
    assert all(f"note: {note}" in told for note in said)
    (tmp_path / "map.yaml").write_text("robot: yours")
    with pytest.raises(UserError, match="exists, made of other data or with other options"):
        go(map=tmp_path / "map.yaml")


def test_a_map_that_does_not_fit_leaves_nothing(go, tmp_path):
    (tmp_path / "map.yaml").write_text("cameras: {wrist: {drop: true}}")
    with pytest.raises(UserError, match="map: cameras: 'wrist' is not in the files; valid: image"):
        go(map=tmp_path / "map.yaml")
    assert left(tmp_path) == ["in.zarr", "map.yaml"]


def test_a_dropped_camera_is_not_even_decoded(go, source, tmp_path, monkeypatch):
    asked, read = [], mapping.read
    monkeypatch.setattr(mapping, "read", lambda path, name, options: asked.append(options.cameras) or read(path, name, options))
    (tmp_path / "map.yaml").write_text("cameras: {image: {drop: true}}")
    assert dict(go(map=tmp_path / "map.yaml").spec.cameras) == {}
    assert asked == [None, ()]


# Bad episodes ---------------------------------------------------------------------------------------------------------


def test_a_damaged_episode_leaves_nothing(go, source, tmp_path):
    (source / "data" / "action" / "2.0").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"in\.zarr: episode 2: .*; --skip-bad leaves such episodes out") as caught:
        go()
    assert "\n" not in str(caught.value)
    assert left(tmp_path) == ["in.zarr"]


def test_nan_ends_an_import_or_is_left_out(go, source, tmp_path, capsys):
    spoil(source, 5)
    with pytest.raises(UserError, match=r"in\.zarr: episode 1: action is not finite at row 1; .*--skip-bad leaves such episodes out"):
        go()
    assert left(tmp_path) == ["in.zarr"]
    store = go(skip_bad=True)
    assert store.lengths.tolist() == [4, 5] and [store.meta(i)["origin"]["episode"] for i in range(2)] == [0, 2]
    why = "action is not finite at row 1; NaN and inf are refused"
    assert store.provenance["skipped"] == [{"episode": 1, "why": why}]
    assert f"left out: episode 1: {why}" in capsys.readouterr().err
    assert len(go(skip_bad=True)) == 2  # already complete
    spoil(source, 0, 9)
    with pytest.raises(UserError, match="none of its 3 episodes can be stored; episode 0: action is not finite at row 0"):
        go(skip_bad=True, overwrite=True)
    assert len(EpisodeStore.open(tmp_path / "out.zarr")) == 2  # the old one stays


def test_time_that_stands_still_is_refused(tmp_path, monkeypatch):
    good, path = episode(), tmp_path / "in"
    path.mkdir()
    for change, message in (
        ({"time": np.zeros(3)}, r"episode 1: time does not increase at row 1 \[s\]"),
        (
            {"images": {"c": np.zeros((3, 8, 8, 3), np.uint8)}},
            r"episode 1: images.c is uint8 \(3, 8, 8, 3\); expected uint8 \(3, 4, 4, 3\)",
        ),
    ):
        fake(monkeypatch, path, SPEC, [good, replace(good, **change)])
        with pytest.raises(UserError, match=f"{path}: {message}"):
            run(Config(path=str(path), out=tmp_path / "out.zarr"))
        assert left(tmp_path) == ["in"]


@pytest.mark.parametrize("name", ["../../escaped", "/etc", "a/b", "..", "", "new\nline"])
def test_a_name_from_the_files_never_becomes_a_path(tmp_path, monkeypatch, name):
    path = tmp_path / "in"
    path.mkdir()
    spec = replace(SPEC, cameras={name: (4, 4)})
    fake(monkeypatch, path, spec, [replace(episode(), images={name: np.zeros((3, 4, 4, 3), np.uint8)})])
    with pytest.raises(UserError, match="cameras: .* cannot be a folder"):
        run(Config(path=str(path), out=tmp_path / "out.zarr"))
    assert left(tmp_path) == ["in"]


def episode() -> Episode:
    one = np.zeros((3, 1), np.float32)
    return Episode(
        time=np.arange(3) / 10,
        images={"c": np.zeros((3, 4, 4, 3), np.uint8)},
        state={},
        action=one,
        requested_action=one,
        reward=one[:, 0],
        terminal=np.zeros(3, bool),
        source=np.zeros(3, np.uint8),
    )


def fake(monkeypatch, path: Path, spec: RobotSpec, episodes: list[Episode]) -> None:
    """A reader of no format."""

    class Fake(list):
        notes = ()

        def close(self) -> None: ...

    reader = Fake(episodes)
    reader.spec = spec
    monkeypatch.setattr(ingest, "locate", lambda *_: (path, "fake"))
    monkeypatch.setattr(ingest, "read_mapped", lambda *_: reader)


# Interruptions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def one_by_one(monkeypatch):
    monkeypatch.setattr(building, "BATCH_BYTES", 0)


def test_an_interruption_is_taken_up_where_it_was(go, source, tmp_path, monkeypatch, one_by_one):
    extend, stored = EpisodeStore.extend, []
    spoil(source, 0)

    def interrupted(self, episodes):
        if len(self) == 1:
            raise KeyboardInterrupt
        return extend(self, episodes)

    monkeypatch.setattr(EpisodeStore, "extend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        go(skip_bad=True)
    assert left(tmp_path) == [".out.zarr.partial", "in.zarr"]

    def counted(self, episodes):
        stored.extend(map(len, episodes))
        return extend(self, episodes)

    monkeypatch.setattr(EpisodeStore, "extend", counted)
    store = go(skip_bad=True)
    assert stored == [5]  # only what was missing, though an episode had been left out before
    assert left(tmp_path) == ["in.zarr", "out.zarr"]
    assert store.lengths.tolist() == [2, 5] and [one["episode"] for one in store.provenance["skipped"]] == [0]


def test_an_episode_left_out_amid_a_batch_is_no_gap(go, source, tmp_path, monkeypatch):
    """Killed right after it was noted: what came before it is stored by then, or the next run would store it twice or never."""
    spoil(source, 4)
    seen, record = [], ingest.record_skipped

    def stop(store, skipped):
        record(store, skipped)
        seen.append(len(store))
        raise KeyboardInterrupt

    monkeypatch.setattr(ingest, "record_skipped", stop)
    with pytest.raises(KeyboardInterrupt):
        go(skip_bad=True)
    assert seen == [1]
    monkeypatch.setattr(ingest, "record_skipped", record)
    assert go(skip_bad=True).lengths.tolist() == [4, 5]


def test_short_episodes_share_files(go, monkeypatch):
    monkeypatch.setattr(building, "BATCH_S", np.inf)
    few = len(list(go().path.rglob("c.*")))
    monkeypatch.setattr(building, "BATCH_BYTES", 0)
    assert len(list(go(overwrite=True).path.rglob("c.*"))) == 3 * few


KILLED = """
import os, signal, sys
from robolearn import cli
from robolearn.data.store import EpisodeStore
from robolearn.experiments import building
building.BATCH_BYTES = 0
extend = EpisodeStore.extend
def die(self, episodes):
    if len(self) == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return extend(self, episodes)
EpisodeStore.extend = die
cli.main(sys.argv[2:])
"""


def test_killed_it_goes_on_at_the_next_episode(go, source, tmp_path):
    words = ["ingest", "--path", str(source), "--out", str(tmp_path / "out.zarr"), "--format", "diffusion_policy_zarr"]
    for stored in (1, 2):
        done = subprocess.run([sys.executable, "-c", KILLED, str(stored), *words])
        assert done.returncode == -signal.SIGKILL
        assert left(tmp_path) == [".out.zarr.partial", "in.zarr"]
        assert len(EpisodeStore.open(tmp_path / ".out.zarr.partial")) == stored
    go()
    assert left(tmp_path) == ["in.zarr", "out.zarr"]
    assert EpisodeStore.open(tmp_path / "out.zarr").lengths.tolist() == [4, 2, 5]


def test_what_another_import_left_is_not_continued(go, tmp_path):
    go(limit=1).path.rename(tmp_path / ".out.zarr.partial")
    assert len(go()) == 3 and left(tmp_path) == ["in.zarr", "out.zarr"]


def test_wrong_input(go, tmp_path):
    for options, message in (
        ({"path": str(tmp_path / "nowhere")}, "nowhere: no such file"),
        ({"limit": 0}, "limit: 0 episodes; expected at least 1"),
        ({"rate_hz": 0.0}, "rate_hz: 0.0 Hz; expected above 0"),
        ({"episodes": "1-3"}, "episodes: episode 3 does not exist; valid: 0-2"),
        ({"episodes": "all"}, "episodes: 'all' is not valid; expected episode numbers such as 24-33,40"),
        ({"cameras": ("nose",)}, "cameras: 'nose' is not in the files; valid: img"),
        ({"format": "rlds"}, "format: 'rlds'; valid: "),
        ({"compression": "gif"}, "compression: 'gif'; valid: zstd"),
        ({"map": tmp_path / "map.yaml"}, "map.yaml: cannot read"),
        ({"path": "hf://pusht"}, "hf://pusht: expected hf://owner/name or hf://owner/name@revision"),
    ):
        with pytest.raises(UserError, match=message):
            go(**options)
    assert left(tmp_path) == ["in.zarr"]


# The configs that come with robolearn ----------------------------------------------------------------------------------

CONFIGS = sorted(Path("configs/ingest").glob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_the_configs_are_valid(file):
    config = parse("ingest", Config, [str(file)])
    assert config.map is None or mapping.load_map(config.map) != mapping.Map()


@pytest.mark.peer
@pytest.mark.skipif("ROBOLEARN_DATA" not in os.environ, reason="ROBOLEARN_DATA is not set: no recorded demonstrations here")
def test_real_demonstrations_become_absolute_targets(tmp_path):
    config = parse("ingest", Config, ["configs/ingest/bridge_absolute.yaml", "--limit", "2"])
    config = replace(config, path=str(Path(os.environ["ROBOLEARN_DATA"]) / "bridge-rlds-tfrecord"), out=tmp_path / "targets.zarr")
    run(config)
    run(replace(config, map=None, out=tmp_path / "steps.zarr"))
    targets, steps = EpisodeStore.open(tmp_path / "targets.zarr"), EpisodeStore.open(tmp_path / "steps.zarr")
    assert list(targets.spec.cameras) == ["front", "left", "right"] and targets.spec.action.names[:3] == ("x", "y", "z")
    for i in range(2):
        after, before = targets.read(i), steps.read(i)
        np.testing.assert_allclose(after.action[:, :6], before.action[:, :6] + before.state["state"][:, :6], atol=1e-6)
        np.testing.assert_array_equal(after.action[:, 6], before.action[:, 6])
        np.testing.assert_array_equal(after.images["left"], before.images["image_1"])


def test_data_that_changed_is_not_already_complete(go, source):
    go()
    go()  # nothing changed
    (source / ".zattrs").write_text("{}")
    with pytest.raises(UserError, match="made of other data or with other options.*files: "):
        go()
    assert len(go(overwrite=True)) == 3


def test_episodes_go_by_the_files_own_numbers():
    config = ingest.Config(path="x", out=Path("y"), episodes="25,24")
    assert ingest._numbers(config, [24, 25, 33]) == [1, 0]
    with pytest.raises(UserError, match="episodes: 26 cannot be read; valid: 24-25,33"):
        ingest._numbers(ingest.Config(path="x", out=Path("y"), episodes="25-26"), [24, 25, 33])
