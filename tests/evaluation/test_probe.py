import numpy as np
import pytest

from robolearn.evaluation.probe import Part, linear_probe, small_pixels

RNG = np.random.default_rng(0)


def part(state: dict[str, np.ndarray], episodes: int = 8) -> Part:
    rows = len(next(iter(state.values())))
    return Part(state, np.arange(rows) * episodes // rows)


def data(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and a state of two numbers that is linear in the first three of them."""
    features = np.random.default_rng(seed).normal(size=(rows, 6)).astype(np.float32)
    return features, features[:, :3] @ np.array([[1.0, 0.0], [2.0, -1.0], [0.0, 3.0]]) + 5.0


def test_what_is_linear_is_read_exactly_and_what_is_not_there_not_at_all():
    (features, state), (held_out, truth) = data(300, 0), data(100, 1)
    other, hidden = RNG.normal(size=(300, 1)), RNG.normal(size=(100, 1))
    scores = linear_probe(features, part({"arm": state, "hidden": other}), held_out, part({"arm": truth, "hidden": hidden}))
    assert list(scores) == ["arm", "hidden"]
    assert scores["arm"] > 0.999 and -0.2 < scores["hidden"] < 0.05


def test_the_mean_of_the_training_rows_scores_zero():
    state, truth = RNG.normal(size=(200, 2)), RNG.normal(size=(60, 2)) + 1.0
    nothing = np.zeros((200, 4), np.float32)
    scores = linear_probe(nothing, part({"arm": state}), nothing[:60], part({"arm": truth}))
    assert scores["arm"] == pytest.approx(0.0, abs=1e-9)


def test_the_score_is_the_mean_over_a_states_numbers_whatever_their_units():
    features, held_out = RNG.normal(size=(400, 2)), RNG.normal(size=(200, 2))
    state = np.stack([1000 * features[:, 0], RNG.normal(size=400)], axis=1)
    truth = np.stack([1000 * held_out[:, 0], RNG.normal(size=200)], axis=1)
    assert linear_probe(features, part({"a": state}), held_out, part({"a": truth}))["a"] == pytest.approx(0.5, abs=0.06)


def test_what_does_not_move_is_left_out():
    (features, state), (held_out, truth) = data(100, 0), data(50, 1)
    still, train, test = np.ones((100, 1)), state.copy(), truth.copy()
    train[:, 1], test[:, 1] = 2.0, 2.0
    scores = linear_probe(features, part({"arm": train, "grip": still}), held_out, part({"arm": test, "grip": still[:50]}))
    assert list(scores) == ["arm"] and scores["arm"] > 0.999
    assert linear_probe(features, part({"grip": still}), held_out, part({"grip": still[:50]})) == {}


def test_training_episodes_alone_choose_the_ridge():
    """Nearly as many features as rows, most of them noise: without a ridge the fit is useless, and no test row helps."""
    features, held_out = (np.random.default_rng(s).normal(size=(n, 110)) for s, n in ((1, 120), (2, 400)))
    state, truth = (x[:, :1] + 0.5 * np.random.default_rng(3).normal(size=(len(x), 1)) for x in (features, held_out))
    score = linear_probe(features, part({"arm": state}), held_out, part({"arm": truth}))["arm"]
    weights = np.linalg.lstsq(features, state - state.mean(), rcond=None)[0]
    plain = 1 - np.square(held_out @ weights + state.mean() - truth).sum() / np.square(truth - state.mean()).sum()
    assert plain < 0 and score > 0.2
    half = linear_probe(features, part({"arm": state}), held_out[:200], part({"arm": truth[:200]}))["arm"]
    other = linear_probe(features, part({"arm": state}), held_out[200:], part({"arm": truth[200:]}))["arm"]
    assert half != other and min(half, other) <= score <= max(half, other) + 0.02


def test_one_episode_or_features_that_never_change_are_no_failure():
    (features, state), (held_out, truth) = data(100, 0), data(50, 1)
    features[:, 5], held_out[:, 5] = 1.0, 7.0
    score = linear_probe(features, part({"arm": state}, 1), held_out, part({"arm": truth}, 1))["arm"]
    assert 0.9 < score <= 1.0


def test_small_pixels_are_mean_colours():
    image = RNG.integers(0, 256, (3, 48, 40, 3), dtype=np.uint8)
    small = small_pixels({"front": image, "tiny": image[:, :8, :8]})
    assert small.shape == (3, 16 * 16 * 3 + 8 * 8 * 3) and small.dtype == np.float32
    assert small[1, 0] == pytest.approx(image[1, :3, :2, 0].mean(), rel=1e-5)
    np.testing.assert_array_equal(small[:, 768:], image[:, :8, :8].reshape(3, -1))
    np.testing.assert_allclose(small_pixels({"a": np.full((1, 50, 37, 3), 9, np.uint8)}), 9.0)
