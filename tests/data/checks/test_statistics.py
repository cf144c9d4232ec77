from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware.types import ArraySpec, Source
from robolearn.data.checks.footage import watch
from robolearn.data.checks.statistics import column_statistics, episode_statistics, state_scale
from robolearn.data.store import EpisodeStore


def test_columns():
    spec = ArraySpec(("a", "b"), ("m", ""), (0.0, -np.inf), (1.0, np.inf))
    values = np.stack([np.linspace(0, 1, 101), np.full(101, 7.0)], 1).astype(np.float32)
    values[50, 1] = np.nan
    a, b = column_statistics(values, spec)
    assert (a.name, a.unit, a.low, a.high) == ("a", "m", 0.0, 1.0)
    assert (a.minimum, a.maximum) == (0.0, 1.0)
    assert a.median == pytest.approx(0.5) and a.q01 == pytest.approx(0.01) and a.q99 == pytest.approx(0.99)
    assert a.std == pytest.approx(np.linspace(0, 1, 101).std())
    assert a.saturated == pytest.approx(2 / 101)  # the first and the last row
    assert (b.mean, b.std, b.saturated) == (7.0, 0.0, 0.0)


def test_an_episode_tells_its_faults(spec, make_episode, tmp_path):
    clean = make_episode(11)
    time = np.arange(11) * 0.05
    time[6:] += 0.2  # one late row
    images = {"front": clean.images["front"].copy(), "wrist": clean.images["wrist"]}
    images["front"][3:6] = images["front"][2]  # four rows show one picture
    state = {name: value.copy() for name, value in clean.state.items()}
    for value in state.values():
        value[7:9] = value[6]  # two steps stand still
    executed = clean.requested_action.copy()
    executed[4] += 0.5
    source = np.array([Source.HUMAN] * 8 + [Source.NONE] * 3, np.uint8)
    episode = replace(clean, time=time, images=images, state=state, action=executed, source=source)
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(clean)
        found = episode_statistics(0, episode, spec, state_scale(store))
    assert found.rows == 11 and found.success is None
    assert found.seconds == pytest.approx(0.75)  # ten steps, and as long again as the usual one for the last row
    assert found.rate_hz == pytest.approx(20) and found.longest_step_ms == pytest.approx(250)
    assert found.jitter_ms == pytest.approx(60)
    assert found.idle == pytest.approx(0.2)
    assert found.overruled == pytest.approx(1 / 11)
    assert found.duplicated == pytest.approx({"front": 0.3, "wrist": 0.0})
    assert found.frozen == {"front": 4, "wrist": 1}
    assert found.sources == {Source.HUMAN: 8, Source.NONE: 3}
    assert found.reward == pytest.approx(float(clean.reward.sum()))


def test_frames_that_were_watched_are_not_watched_again(spec, make_episode):
    episode = make_episode(11)
    footage = {name: watch(frames) for name, frames in episode.images.items()}
    footage["front"].same[2:5] = True
    found = episode_statistics(0, episode, spec, np.ones(3), footage)
    assert found.frozen == {"front": 4, "wrist": 1} and found.duplicated["front"] == pytest.approx(0.3)


def test_one_row_is_an_episode_too(spec, make_episode):
    found = episode_statistics(0, make_episode(1), spec, np.ones(3))
    assert (found.rate_hz, found.jitter_ms, found.idle, found.seconds) == (20.0, 0.0, 0.0, 0.05)
    assert found.frozen == {"front": 1, "wrist": 1}


def test_a_state_that_never_moves_counts_as_idle(spec, make_episode, tmp_path):
    still = make_episode(5)
    for value in still.state.values():
        value[:] = 1
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(still)
        assert episode_statistics(0, still, spec, state_scale(store)).idle == 1.0
