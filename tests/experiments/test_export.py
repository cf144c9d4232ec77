"""The verb: every format that is written is read back, and what fails or is stopped leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats import read
from robolearn.data.store import EpisodeStore
from robolearn.experiments import export
from robolearn.experiments.export import Config, run

FORMATS = ["lerobot_v3", "lerobot_v2", "robomimic_hdf5", "diffusion_policy_zarr"]
NAMES = {"robomimic_hdf5": "x.hdf5", "diffusion_policy_zarr": "x.zarr"}
ROWS = [7, 4, 9]
TWO = ArraySpec(("a", "b"), ("rad", "rad"), (-3.0, -3.0), (3.0, 3.0))
SPEC = RobotSpec("arm", {"top": (32, 48)}, {"q": TWO}, TWO, "joint_pos", 10.0)


@pytest.fixture
def source(tmp_path):
    rng = np.random.default_rng(0)
    with EpisodeStore.create(tmp_path / "in.zarr", SPEC) as store:
        for number, rows in enumerate(ROWS):
            values = rng.normal(size=(rows, 2)).astype(np.float32)
            store.append(
                Episode(
                    time=np.arange(rows) / 10,
                    images={"top": np.full((rows, 32, 48, 3), 40 * number, np.uint8)},
                    state={"q": values},
                    action=values + 1,
                    requested_action=values + 1,
                    reward=np.zeros(rows, np.float32),
                    terminal=np.zeros(rows, bool),
                    source=np.full(rows, 2, np.uint8),
                    meta={"success": True, "task": "push"},
                )
            )
    return tmp_path / "in.zarr"


def left(tmp_path) -> list[str]:
    return sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_read_back(source, tmp_path, capsys, format):
    out = tmp_path / NAMES.get(format, "x")
    run(Config(path=str(source), format=format, out=out))
    assert left(tmp_path) == ["in.zarr", out.name]
    assert f"{out}: 3 episodes, 20 rows, {format}" in capsys.readouterr().err
    reader, store = read(out, format), EpisodeStore.open(source)
    assert [len(reader[i]) for i in range(len(reader))] == ROWS
    for i in range(len(reader)):
        np.testing.assert_allclose(reader[i].action, store.read(i).action, rtol=1e-6)
    reader.close()


def test_what_exists_is_never_replaced(source, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("...")
    with pytest.raises(UserError, match="thesis: exists already; choose another --out, or remove it"):
        run(Config(path=str(source), format="lerobot_v3", out=tmp_path / "thesis"))
    assert (tmp_path / "thesis" / "chapter.tex").exists() and left(tmp_path) == ["in.zarr", "thesis"]


@pytest.mark.parametrize("error", [UserError("{path}: no"), OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_fails_or_is_stopped_leaves_nothing(source, tmp_path, monkeypatch, error):
    def write(path, dataset, format):
        path.mkdir()
        (path / "half").write_bytes(b"x")
        path.with_name("beside").mkdir()
        _ = dataset[1]
        raise UserError(str(error).format(path=path)) if isinstance(error, UserError) else error

    monkeypatch.setattr(export, "write", write)
    with pytest.raises(type(error)) as caught:
        run(Config(path=str(source), format="lerobot_v3", out=tmp_path / "x"))
    assert left(tmp_path) == ["in.zarr"]
    if isinstance(error, UserError):
        assert str(caught.value) == f"{tmp_path / 'x'}: no"  # the name that people know


KILLED = """
import os, signal, sys
from robolearn import cli
from robolearn.data.store import EpisodeStore
read = EpisodeStore.read
def die(self, index, *rest):
    if index == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(self, index, *rest)
EpisodeStore.read = die
cli.main(sys.argv[1:])
"""


def test_what_a_kill_leaves_is_tidied_by_the_next_run(source, tmp_path):
    words = ["export", "--path", str(source), "--format", "diffusion_policy_zarr", "--out", str(tmp_path / "x.zarr")]
    before = EpisodeStore.open(source).identity()
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env=os.environ)
    assert done.returncode == -signal.SIGKILL and left(tmp_path) == [".x.zarr.partial", "in.zarr"]
    assert EpisodeStore.open(source).identity() == before
    run(Config(path=str(source), format="diffusion_policy_zarr", out=tmp_path / "x.zarr"))
    assert left(tmp_path) == ["in.zarr", "x.zarr"]


def test_wrong_input(source, tmp_path):
    with pytest.raises(UserError, match="format: 'rlds' cannot be written; valid: .*diffusion_policy_zarr"):
        run(Config(path=str(source), format="rlds", out=tmp_path / "x"))
    with pytest.raises(UserError, match="nowhere: no such store"):
        run(Config(path=str(tmp_path / "nowhere"), format="lerobot_v3", out=tmp_path / "x"))
    EpisodeStore.create(tmp_path / "empty.zarr", SPEC).close()
    with pytest.raises(UserError, match="empty.zarr: holds no episode yet"):
        run(Config(path=str(tmp_path / "empty.zarr"), format="lerobot_v3", out=tmp_path / "x"))
    assert left(tmp_path) == ["empty.zarr", "in.zarr"]
