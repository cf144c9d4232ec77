"""What a training draws: shares of several stores, weights, and the options that make no sense."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.core.run import Run
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows
from robolearn.experiments.reading import ReadingConfig, open_stores, sampler
from robolearn.experiments.train import Config, run
from robolearn.policies.bc import BcConfig

TWO = ArraySpec(("a", "b"), ("m", "m"), (-1.0, -1.0), (1.0, 1.0))
SPEC = RobotSpec("toy", {}, {"q": TWO}, TWO, "ee_delta", 10.0)


def episode(rows: int, value: float, success: bool = True) -> Episode:
    flat = np.full((rows, 2), value, np.float32)
    return Episode(
        time=np.arange(rows) / 10,
        images={},
        state={"q": flat},
        action=flat,
        requested_action=flat,
        reward=np.full(rows, float(success), np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, Source.HUMAN, np.uint8),
        meta={"success": success},
    )


@pytest.fixture
def stores(tmp_path):
    """100 rows of 0.1, 20 rows of 0.2 of which 10 failed (-0.9)."""
    with EpisodeStore.create(tmp_path / "a.zarr", SPEC) as a:
        a.extend([episode(50, 0.1), episode(50, 0.1)])
    with EpisodeStore.create(tmp_path / "b.zarr", SPEC) as b:
        b.extend([episode(10, 0.2), episode(10, -0.9, success=False)])
    return tmp_path / "a.zarr", str(tmp_path / "b.zarr")


def drawn(config: ReadingConfig, data, batches: int = 10) -> np.ndarray:
    windows = Windows(open_stores(data, config), 1, 1)
    order = sampler(windows, config, 20, np.random.default_rng(0))
    return np.concatenate([windows.read(next(order)).action[:, 0, 0] for _ in range(batches)]).round(3)


def test_every_batch_has_its_shares(stores):
    data, other = stores
    half = drawn(ReadingConfig(mix=(other,), shares=(0.5, 0.5)), data)
    assert ((half.reshape(10, 20) == np.float32(0.1)).sum(1) == 10).all()
    by_rows = drawn(ReadingConfig(mix=(other,)), data, batches=6)
    assert (by_rows == np.float32(0.1)).sum() == 100  # one epoch shows every row once


def test_weighting_leaves_out_what_failed(stores):
    data, other = stores
    won = drawn(ReadingConfig(mix=(other,), shares=(0.5, 0.5), weighting="success"), data)
    assert set(won.tolist()) == {np.float32(0.1).round(3).item(), np.float32(0.2).round(3).item()}
    best = drawn(ReadingConfig(mix=(other,), weighting="return", temperature=0.01), data)
    assert (best > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shares": (0.5, 0.5)}, r"reading.shares: 2 numbers; expected 1"),
        ({"shares": (-1.0,)}, "reading.shares.*none negative"),
        ({"workers": -1}, "reading.workers: -1"),
        ({"weighting": "intervention"}, "in no episode did a human take over"),
        ({"mix": ("nowhere.zarr",)}, "nowhere.zarr: no such store"),
    ],
)
def test_options_that_make_no_sense_are_one_line(stores, options, message):
    with pytest.raises(UserError, match=message):
        drawn(ReadingConfig(**options), stores[0])


def test_a_policy_learns_from_two_stores(tmp_path, stores):
    data, other = stores
    reading = ReadingConfig(mix=(other,), shares=(0.3, 0.7), weighting="success", workers=2)
    config = Config(
        data=data, out=tmp_path / "run", policy=BcConfig(history=1, horizon=2), reading=reading, steps=20, batch_size=10,
        validation=0.0, device="cpu",
    )  # fmt: skip
    run(config)
    assert Run(tmp_path / "run", config).result()["steps"] == 20
    run(config)  # already done
    with pytest.raises(UserError, match="reading.temperature: 0.1 != 0.2"):
        run(replace(config, reading=replace(reading, temperature=0.2)))
    file = tmp_path / "run" / "config.yaml"
    file.write_text(file.read_text().replace("reading:\n", "reading:\n  stride: 1\n"))  # an option of before
    run(config)
