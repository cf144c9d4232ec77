from __future__ import annotations

import io
import sys

import numpy as np
import pytest
from PIL import Image

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, Stream
from robolearn.data.store import EpisodeStore
from robolearn.experiments.inspect import Config, run
from robolearn.experiments.rerun_log import RerunLog

rerun = pytest.importorskip("rerun", reason="rerun-sdk is an optional extra")

ONE, TWO = ArraySpec(("f",), ("N",), (-1.0,), (1.0,)), ArraySpec(("a", "b c"), ("m", "m"), (0.0, 0.0), (1.0, 1.0))
SPEC = RobotSpec("arm", {"front": (32, 48)}, {"q": TWO}, TWO, "joint_pos", 10.0, {"force": ONE})


def episode(rows: int = 5, start: float = 100.0) -> Episode:
    values = np.linspace(0, 1, 2 * rows, dtype=np.float32).reshape(rows, 2)
    time = start + np.arange(rows) / 10
    return Episode(
        time=time,
        images={"front": np.repeat(np.arange(rows, dtype=np.uint8) * 20, 32 * 48 * 3).reshape(rows, 32, 48, 3)},
        state={"q": values},
        action=values + 1,
        requested_action=values + 2,
        reward=np.arange(rows, dtype=np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, 2, np.uint8),
        meta={"task": "<b>"},
        image_time={"front": time - 0.03},
        streams={"force": Stream(start + np.arange(7) / 500, np.arange(7, dtype=np.float32)[:, None])},
    )


def logged(path) -> dict:
    """entity -> (times [s], rows of its first data column), static data left out."""
    from rerun.chunk import RrdReader

    reader, found = RrdReader(str(path)), {}
    for chunk in reader.stream(store=reader.recordings()[0]):
        if chunk.is_static or "time" not in chunk.timeline_names:
            continue
        batch = chunk.to_record_batch()
        times, rows = found.setdefault(str(chunk.entity_path), ([], []))
        times += [t.value * 1e-9 for t in batch.column("time")]
        rows += next(
            batch.column(name) for name in batch.schema.names if name.startswith(("Scalars", "EncodedImage:blob", "Image"))
        ).to_pylist()
    return found


def test_what_is_logged_can_be_read_again(tmp_path):
    with RerunLog(tmp_path / "new" / "out.rrd", SPEC, "store") as log:
        log.add(3, episode())
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["out.rrd"]
    found = logged(tmp_path / "new" / "out.rrd")
    assert set(found) == {
        f"/episode_3/{name}" for name in ("images/front", "state/q", "action", "requested_action", "reward", "streams/force")
    }
    times, rows = found["/episode_3/state/q"]
    np.testing.assert_allclose(times, np.arange(5) / 10, atol=1e-9)  # from the episode's first row
    np.testing.assert_allclose(rows, episode().state["q"])
    np.testing.assert_allclose(found["/episode_3/action"][1], episode().action)
    np.testing.assert_allclose(np.ravel(found["/episode_3/reward"][1]), np.arange(5))
    np.testing.assert_allclose(found["/episode_3/streams/force"][0], np.arange(7) / 500, atol=1e-9)
    times, rows = found["/episode_3/images/front"]
    np.testing.assert_allclose(times, np.arange(5) / 10 - 0.03, atol=1e-9)  # when each frame was taken
    for row, (blob,) in enumerate(rows):
        picture = np.asarray(Image.open(io.BytesIO(bytes(blob))))
        assert picture.shape == (32, 48, 3) and abs(picture.astype(int) - 20 * row).max() <= 2


def test_inspect_logs_the_episodes_it_shows(tmp_path, capsys):
    with EpisodeStore.create(tmp_path / "d.zarr", SPEC) as store:
        for start in (0.0, 50.0, 80.0):
            store.append(episode(start=start))
    run(Config(path=tmp_path / "d.zarr", shown=2, rerun=tmp_path / "out.rrd", seed=1))
    assert f"rerun: {tmp_path / 'out.rrd'}" in capsys.readouterr().out
    episodes = {path.split("/")[1] for path in logged(tmp_path / "out.rrd") if path.startswith("/episode_")}
    shown = np.random.default_rng(1).permutation(3)[:2]
    assert episodes == {f"episode_{i}" for i in shown}


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), RerunLog(tmp_path / "out.rrd", SPEC, "store") as log:
        log.add(0, episode())
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_without_the_extra_a_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UserError, match=r"--rerun needs rerun-sdk: pip install robolearn\[rerun\]"):
        RerunLog(tmp_path / "out.rrd", SPEC, "store")
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        RerunLog(tmp_path / "file" / "out.rrd", SPEC, "store")
