import numpy as np
import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.learners.pretraining import Clips
from robolearn.learners.pretraining.moco import MocoConfig
from robolearn.learners.pretraining.taco import TacoConfig
from robolearn.learners.pretraining.time_contrastive import TimeContrastiveConfig
from robolearn.learners.pretraining.vip import VipConfig

RNG = np.random.default_rng


def clips(path, objective, cameras=("top", "side"), episodes=None, **settings) -> Clips:
    store = EpisodeStore.open(path)
    chosen = np.arange(len(store)) if episodes is None else np.array(episodes)
    return Clips(store, objective, cameras, chosen, settings.pop("batch_size", 16), settings.pop("seed", 0), **settings)


def test_a_clip_holds_the_frames_of_its_rows(pushing):
    store = EpisodeStore.open(pushing)
    with clips(pushing, VipConfig(), episodes=[4]) as drawn:
        clip = next(drawn)
    assert clip.images["top"].shape == (16, 4, 3, 24, 24) and clip.images["side"].shape == (16, 4, 3, 16, 20)
    rows = store.starts[4] + clip.rows.numpy()
    for camera in ("top", "side"):
        expected = store.frames(camera, rows.ravel()).reshape(16, 4, *store.spec.cameras[camera], 3)
        np.testing.assert_array_equal(clip.images[camera].permute(0, 1, 3, 4, 2).numpy(), expected)
    assert clip.action is None


def test_actions_are_those_after_the_first_frame(pushing):
    store = EpisodeStore.open(pushing)
    with clips(pushing, TacoConfig(steps=4), ("top",), [2, 7]) as drawn:
        clip = next(drawn)
    assert clip.action is not None and clip.action.shape == (16, 4, 2)
    assert torch.equal(clip.rows[:, 1] - clip.rows[:, 0], torch.full((16,), 4))
    starts = {tuple(store.lowdim("action")[store.starts[e] + r]): (e, r) for e in (2, 7) for r in range(store.length(e))}
    for action, rows in zip(clip.action.numpy(), clip.rows[:, 0].tolist(), strict=True):
        episode, row = starts[tuple(action[0])]
        assert row == rows
        first = store.starts[episode] + row
        np.testing.assert_array_equal(action, store.lowdim("action")[first : first + 4])


@pytest.mark.parametrize("objective", [MocoConfig(), VipConfig(), TimeContrastiveConfig(), TimeContrastiveConfig(span=4), TacoConfig()])
@pytest.mark.parametrize("length", ["shortest", 9])
def test_rows_lie_in_their_episode_in_the_order_of_time_and_everywhere(objective, length):
    length = objective.shortest if length == "shortest" else length
    rows = objective.pick(np.full(4000, length), RNG(0))
    assert rows.min() == 0 and rows.max() == length - 1
    assert (np.diff(rows, axis=1) >= 0).all()
    assert (rows[:, 0] + objective.actions <= length).all()


def test_three_frames_are_three_and_within_their_span():
    rows = TimeContrastiveConfig().pick(np.full(6000, 5), RNG(0))
    found, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(found) == 10 and counts.min() > 450, "all i < j < k alike"
    near = TimeContrastiveConfig(span=3).pick(np.full(6000, 9), RNG(0))
    assert (np.diff(near, axis=1) > 0).all() and (near[:, 2] - near[:, 0]).max() == 3


def test_a_stretch_for_values_is_start_two_neighbours_goal():
    rows = VipConfig().pick(np.full(3000, 7), RNG(0))
    start, now, then, goal = rows.T
    assert (now == then - 1).all() and (start <= now).all() and (then <= goal).all()
    assert (then == goal).any() and (start < now).any() and goal.max() == 6


def test_an_episode_is_drawn_as_often_as_it_is_long(pushing):
    with clips(pushing, MocoConfig(), ("top",), [0, 11], batch_size=4000) as drawn:
        drawn_rows = next(drawn).rows
    assert int(drawn_rows.max()) == 20  # of the longer one, 21 rows against 10
    assert abs(float((drawn_rows >= 10).float().mean()) - 11 / 31) < 0.03


def test_the_order_goes_on_where_it_was_left_however_much_was_read_ahead(pushing):
    with clips(pushing, TimeContrastiveConfig()) as drawn:
        first = [next(drawn).rows for _ in range(3)]
        state = drawn.state_dict()
        rest = [next(drawn).rows for _ in range(3)]
    again = clips(pushing, TimeContrastiveConfig(), seed=5)
    again.load_state_dict(state)
    with again:
        assert all(torch.equal(a, next(again).rows) for a in rest)
    with clips(pushing, TimeContrastiveConfig(), cache_mb=100) as whole:
        assert all(torch.equal(a, next(whole).rows) for a in [*first, *rest])


def test_other_episodes_are_no_place_to_go_on(pushing):
    state = clips(pushing, MocoConfig(), episodes=[0, 1]).state_dict()
    with pytest.raises(ValueError, match="saved over 2 other episodes; the data changed"):
        clips(pushing, MocoConfig(), episodes=[0, 2]).load_state_dict(state)


def test_episodes_too_short_for_a_clip_take_no_part(pushing):
    assert clips(pushing, TacoConfig(steps=15)).episodes.tolist() == [6, 7, 8, 9, 10, 11]
    with pytest.raises(UserError, match=r"pushing.zarr: no episode has the 31 rows that a clip of this objective needs"):
        clips(pushing, TacoConfig(steps=30))


def test_a_sample_for_objectives_is_spread_over_the_chosen_episodes(pushing):
    drawn, store = clips(pushing, MocoConfig(), episodes=[3, 8]), EpisodeStore.open(pushing)
    sample = drawn.frames(5)
    assert sample["top"].shape == (5, 24, 24, 3) and sample["side"].shape == (5, 16, 20, 3)
    np.testing.assert_array_equal(sample["top"][0], store.frames("top", store.starts[[3]])[0])
    np.testing.assert_array_equal(sample["top"][-1], store.frames("top", store.starts[[8]] + store.length(8) - 1)[0])
    assert drawn.actions().shape == (store.length(3) + store.length(8), 2)
