from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.experiments import ingest
from robolearn.experiments.ingest import Config, run


@pytest.fixture
def source(tmp_path):
    """A Push-T replay buffer of three episodes."""
    import zarr

    rng, ends = np.random.default_rng(0), np.array([4, 6, 11])
    group = zarr.create_group(str(tmp_path / "in.zarr"), zarr_format=2)
    for name, value in {
        "img": rng.integers(0, 256, (11, 96, 96, 3)).astype(np.float32),
        "state": rng.uniform(0, 6, (11, 5)).astype(np.float32),
        "action": rng.uniform(0, 512, (11, 2)).astype(np.float32),
    }.items():
        group.create_array(f"data/{name}", data=value, chunks=(4, *value.shape[1:]))
    group.create_array("meta/episode_ends", data=ends)
    return tmp_path / "in.zarr"


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


def test_a_dataset_becomes_a_store(source, tmp_path, capsys):
    run(Config(path=source, out=tmp_path / "out.zarr"))
    store = EpisodeStore.open(tmp_path / "out.zarr")
    assert [store.length(i) for i in range(len(store))] == [4, 2, 5]
    assert store.spec.name == "pusht"
    assert store.provenance["import"]["format"] == "diffusion_policy_zarr" and store.provenance["import"]["from"] == str(source)
    assert left(tmp_path) == ["in.zarr", "out.zarr"]
    assert "3 episodes, 11 rows" in capsys.readouterr().err


def test_the_same_command_again_does_nothing(source, tmp_path, capsys, monkeypatch):
    run(Config(path=source, out=tmp_path / "out.zarr", limit=2))
    assert len(EpisodeStore.open(tmp_path / "out.zarr")) == 2
    monkeypatch.setattr(ingest, "read", lambda *_: pytest.fail("read again"))
    run(Config(path=source, out=tmp_path / "out.zarr", limit=2))
    assert "already complete" in capsys.readouterr().err


def test_another_dataset_is_never_overwritten_unasked(source, tmp_path):
    run(Config(path=source, out=tmp_path / "out.zarr", limit=2))
    with pytest.raises(UserError, match="exists and came from elsewhere; choose another --out, or --overwrite"):
        run(Config(path=source, out=tmp_path / "out.zarr"))
    run(Config(path=source, out=tmp_path / "out.zarr", overwrite=True))
    assert len(EpisodeStore.open(tmp_path / "out.zarr")) == 3
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(UserError, match="not a robolearn store"):
        run(Config(path=source, out=tmp_path / "thesis", overwrite=True))
    assert (tmp_path / "thesis" / "chapter.tex").exists()


def test_a_bad_episode_leaves_nothing(source, tmp_path, monkeypatch):
    action = source / "data" / "action" / "2.0"
    action.write_bytes(b"torn")
    with pytest.raises(UserError, match="in.zarr: episode 2: unreadable"):
        run(Config(path=source, out=tmp_path / "out.zarr"))
    assert left(tmp_path) == ["in.zarr"]


def test_values_that_do_not_fit_name_file_and_episode(tmp_path, monkeypatch, source):
    spec = RobotSpec("a", {"c": (4, 4)}, {}, ArraySpec(("x",), ("m",), (0.0,), (1.0,)), "joint_pos", 10.0)
    one = np.zeros((3, 1), np.float32)
    good = Episode(
        time=np.arange(3) / 10,
        images={"c": np.zeros((3, 4, 4, 3), np.uint8)},
        state={},
        action=one,
        requested_action=one,
        reward=one[:, 0],
        terminal=np.zeros(3, bool),
        source=np.zeros(3, np.uint8),
    )
    for change, message in (
        ({"action": one * np.nan}, "episode 1: action is not finite at row 0"),
        (
            {"images": {"c": np.zeros((3, 8, 8, 3), np.uint8)}},
            r"episode 1: images.c is uint8 \(3, 8, 8, 3\); expected uint8 \(3, 4, 4, 3\)",
        ),
    ):
        bad = replace(good, **change)
        monkeypatch.setattr(ingest, "read", lambda *_, bad=bad: (spec, iter([good, bad])))
        with pytest.raises(UserError, match=f"{source}: {message}"):
            run(Config(path=source, out=tmp_path / "out.zarr"))
        assert left(tmp_path) == ["in.zarr"]
    monkeypatch.setattr(ingest, "read", lambda *_: (spec, iter([])))
    with pytest.raises(UserError, match="holds no episode"):
        run(Config(path=source, out=tmp_path / "out.zarr"))
    assert left(tmp_path) == ["in.zarr"]


def test_an_interruption_is_taken_up_where_it_was(source, tmp_path, monkeypatch):
    append, stored = EpisodeStore.append, []

    def interrupted(self, episode):
        if len(self) == 2:
            raise KeyboardInterrupt
        return append(self, episode)

    monkeypatch.setattr(EpisodeStore, "append", interrupted)
    config = Config(path=source, out=tmp_path / "out.zarr")
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert left(tmp_path) == [".out.zarr.partial", "in.zarr"]

    def counted(self, episode):
        stored.append(len(episode))
        return append(self, episode)

    monkeypatch.setattr(EpisodeStore, "append", counted)
    run(config)
    assert stored == [5]  # only what was missing
    assert left(tmp_path) == ["in.zarr", "out.zarr"]
    assert EpisodeStore.open(config.out).lengths.tolist() == [4, 2, 5]


def test_what_another_import_left_is_not_continued(source, tmp_path, monkeypatch):
    config = Config(path=source, out=tmp_path / "out.zarr", limit=1)
    run(config)
    config.out.rename(tmp_path / ".out.zarr.partial")
    run(Config(path=source, out=config.out))
    assert len(EpisodeStore.open(config.out)) == 3


def test_wrong_input(source, tmp_path):
    with pytest.raises(UserError, match="nowhere: no such file"):
        run(Config(path=tmp_path / "nowhere", out=tmp_path / "out.zarr"))
    with pytest.raises(UserError, match="limit: 0 episodes; must be at least 1"):
        run(Config(path=source, out=tmp_path / "out.zarr", limit=0))
    assert left(tmp_path) == ["in.zarr"]
