from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hardware.types import Source
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.data.weighting import by_return, intervention_only, success_only
from robolearn.data.windows import Windows


@pytest.fixture
def windows(tmp_path, make_episode):
    """Three episodes of 4 rows: a human's, a policy's with the human in rows 2 and 3, a failed one. Returns 4, 8, 0."""

    def build(spec):
        human, policy = Source.HUMAN, Source.POLICY
        sources = ([human] * 4, [policy, policy, human, human], [policy] * 4)
        with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
            for number, (source, reward) in enumerate(zip(sources, (1.0, 2.0, 0.0), strict=True)):
                episode = make_episode(4, number, success=number < 2)
                store.append(replace(episode, source=np.array(source, np.uint8), reward=np.full(4, reward, np.float32)))
        return Windows(EpisodeStore.open(store.path), 1, 1, images=False)

    return build


def test_each_says_which_rows_count(windows, spec):
    data = windows(spec)
    assert success_only(data).tolist() == [1] * 8 + [0] * 4
    assert intervention_only(data).tolist() == [0] * 6 + [1, 1] + [0] * 4
    np.testing.assert_allclose(by_return(data, 0.5), np.repeat(np.exp([-1, 0, -2]), 4))
    some = Windows(data.stores, 1, 1, images=False, episodes=[[1, 2]])
    assert intervention_only(some).tolist() == [0, 0, 1, 1, 0, 0, 0, 0]
    weights = some.weights(rows=success_only(some) * by_return(some))
    np.testing.assert_allclose(weights, np.repeat([0.25, 0], 4))


def test_none_of_the_kind_is_an_error(windows, spec):
    data = windows(spec)
    first = Windows(data.stores, 1, 1, images=False, episodes=[[0]])
    with pytest.raises(UserError, match="in no episode did a human take over from a policy"):
        intervention_only(first)
    with pytest.raises(UserError, match="no episode succeeded"):
        success_only(Windows(data.stores, 1, 1, images=False, episodes=[[2]]))
    with pytest.raises(UserError, match="temperature: 0; expected above 0"):
        by_return(data, 0)


def test_returns_are_scaled_over_the_episodes_that_take_part(windows, spec):
    """However low the temperature, the best of them counts, not one that was held out."""
    some = Windows(windows(spec).stores, 1, 1, images=False, episodes=[[0, 2]])
    np.testing.assert_allclose(by_return(some, 0.001), np.repeat([1, 0], 4))
    with pytest.raises(UserError, match="temperature: nan"):
        by_return(some, np.nan)
