from __future__ import annotations

import pytest
import torch

from robolearn.planning.search import Found, Search, SearchConfig

H = 3
GOAL = torch.tensor([[0.5, -0.3], [0.2, 0.7], [-0.6, 0.1]])
SMALL = {"horizon": H, "proposals": 4, "samples": 64, "iterations": 5, "elites": 8}


def judge(plans: torch.Tensor) -> torch.Tensor:
    """The nearer to the goal the better."""
    return -(plans - GOAL).square().sum((1, 2))


def own(spread: float = 0.05, centre: float = 0.0) -> torch.Tensor:
    return centre + spread * torch.randn(4, H, 2, generator=torch.Generator().manual_seed(3))


def search(seed: int = 0, clock=None, **fields) -> Search:
    generator = torch.Generator().manual_seed(seed)
    config = SearchConfig(**{**SMALL, **fields})
    return Search(config, generator) if clock is None else Search(config, generator, clock)


def find(proposals: torch.Tensor | None = None, judged=judge, release: float = 1.0, last=None, explore=False, **fields) -> Found:
    return search(**fields).find(own() if proposals is None else proposals, judged, release, last, explore)


@pytest.mark.parametrize("update", [{}, {"update": "resample", "std_max": 0.3, "iterations": 12}], ids=["gaussian", "resample"])
@pytest.mark.parametrize("execute", ["best", "elite", "better"])
@pytest.mark.parametrize("weights", [{}, {"weights": "raw", "temperature": 20.0}], ids=["standard", "raw"])
def test_it_finds_what_is_best(update, execute, weights):
    found = find(execute=execute, samples=512, **update, **weights)
    assert float(judge(found.plan[None])) > 0.5 * float(judge(own()[:1]))
    if execute != "better":  # which is content with less
        assert (found.plan - GOAL).abs().max() < 0.25 and found.plan.shape == (H, 2)
    assert torch.equal(found.plan, found.candidates[found.chosen]) and found.scores[found.chosen] == judge(found.plan[None])
    if execute == "best":
        assert found.chosen == int(found.scores.argmax())


def test_a_longer_search_finds_a_better_plan():
    worth = [float(judge(find(iterations=i, execute="best").plan[None])) for i in (0, 1, 3, 8)]
    assert worth == sorted(worth) and worth[-1] > -0.05


def test_candidate_zero_is_always_the_policys_own_plan():
    proposals = own()
    seen = []

    def watch(plans: torch.Tensor) -> torch.Tensor:
        seen.append(plans)
        return judge(plans)

    for update in ("gaussian", "resample"):
        found = find(proposals, watch, update=update)
        assert torch.equal(found.candidates[0], proposals[0])
    assert len(seen) == 12 and all(torch.equal(plans[:4], proposals) for plans in seen)
    assert all(plans.abs().max() <= 1 for plans in seen)
    assert [len(plans) for plans in seen] == [4, 68, *[69] * 4, 4, 4 + 4 + 64, *[4 + 8 + 64] * 4]


@pytest.mark.parametrize("update", ["gaussian", "resample"])
def test_what_beats_nothing_is_not_flown(update):
    proposals = own()
    proposals[0] = GOAL
    found = find(proposals, execute="better", update=update)
    assert found.chosen == 0 and torch.equal(found.plan, GOAL)
    flat = find(judged=lambda plans: torch.zeros(len(plans)), execute="better", update=update)
    assert flat.chosen == 0


class Clock:
    """A millisecond passes whenever a plan is judged."""

    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def judge(self, plans: torch.Tensor) -> torch.Tensor:
        self.now += 1e-3
        return judge(plans)


@pytest.mark.parametrize(("deadline_ms", "iterations"), [(0.0, 5), (0.5, 0), (1.5, 1), (3.5, 3), (1000.0, 5)])
def test_no_iteration_begins_after_the_deadline(deadline_ms, iterations):
    clock = Clock()
    found = search(clock=clock, deadline_ms=deadline_ms, execute="best").find(own(), clock.judge)
    assert found.iterations == iterations and clock.now == pytest.approx(100 + 1e-3 * (1 + iterations))
    free = find(execute="best", iterations=iterations)
    assert torch.equal(found.plan, free.plan)  # what was found until then is what so short a search finds
    assert float(judge(found.plan[None])) >= float(judge(own()).max()) - 1e-6


def test_unreleased_it_stays_by_the_proposals():
    far = own(0.01, centre=-0.8)
    for update in ("gaussian", "resample"):
        one = find(far, release=0.0, iterations=1, std_min=0.02, update=update)
        assert (one.candidates - far.mean(0)).abs().max() < 0.15
        free = find(far, release=1.0, iterations=1, std_min=0.02, update=update)
        assert (free.candidates - far.mean(0)).abs().max() > 1
    assert (find(far, release=0.5, iterations=1).candidates[4:].mean(0) - far.mean(0) / 2).abs().max() < 0.4


def test_noise_of_resampled_plans_grows_with_the_release():
    still = torch.zeros(4, H, 2)
    for release, expected in ((0.0, 0.1), (0.5, 0.2), (1.0, 0.3)):
        config = {"update": "resample", "iterations": 1, "samples": 2000, "std_min": 0.1, "std_max": 0.3}
        found = find(still, release=release, **config)
        assert float(found.candidates[8:].std()) == pytest.approx(expected, rel=0.05)


def test_resampled_plans_are_near_elites_and_never_between_them():
    """Two good plans, far apart: their mean is none."""
    proposals = torch.stack([0.5 * torch.ones(H, 2), -0.5 * torch.ones(H, 2)]).repeat(2, 1, 1)
    two = lambda plans: -torch.minimum((plans - 0.5).square().sum((1, 2)), (plans + 0.5).square().sum((1, 2)))  # noqa: E731
    found = find(proposals, two, update="resample", std_min=0.02, std_max=0.02)
    assert ((found.candidates.abs() - 0.5).abs() < 0.4).all() and (found.candidates[4:] > 0).float().mean().item() not in (0, 1)


def test_momentum_keeps_a_share_of_the_old_mean():
    zero, free = torch.zeros(4, H, 2), find(torch.zeros(4, H, 2), iterations=1)
    held = find(zero, iterations=1, momentum=0.75)
    torch.testing.assert_close(held.mean, 0.25 * free.mean)  # it began at 0
    assert free.mean.abs().max() > 0.05


def test_mean_and_deviation_are_the_elites_by_weight():
    found = find(iterations=1, temperature=0.5, std_min=0.0)
    kept = found.scores.topk(8)
    weight = ((kept.values - kept.values.max()) / kept.values.std(correction=0) / 0.5).softmax(0)[:, None, None]
    elites = found.candidates[kept.indices]
    mean = (weight * elites).sum(0)
    torch.testing.assert_close(found.mean, mean)
    torch.testing.assert_close(found.std, (weight * (elites - mean).square()).sum(0).sqrt())
    raw = find(iterations=1, temperature=0.5, weights="raw")
    torch.testing.assert_close(raw.mean, ((0.5 * kept.values).softmax(0)[:, None, None] * elites).sum(0))
    assert find(iterations=5, std_min=0.05, std_max=0.07).std.min() >= 0.05 and find(std_max=0.07).std.max() <= 0.07


def test_standard_weights_know_no_unit_and_raw_ones_do():
    tenfold = lambda plans: 10 * judge(plans) + 3  # noqa: E731
    torch.testing.assert_close(find(judged=tenfold).mean, find().mean, atol=1e-4, rtol=0)
    assert not torch.allclose(find(judged=tenfold, weights="raw", iterations=1).mean, find(weights="raw", iterations=1).mean, atol=1e-2)


def test_a_warm_start_is_the_last_plan_a_step_further():
    last = torch.arange(6.0).view(H, 2) / 10
    config = {"iterations": 1, "samples": 4000, "std_max": 0.05}
    sampled = find(last=last, **config).candidates[4:].mean(0)
    torch.testing.assert_close(sampled, torch.cat([last[1:], torch.zeros(1, 2)]), atol=5e-3, rtol=0)
    for plain in (find(last=None, **config), find(last=last, warm_start=False, **config)):
        torch.testing.assert_close(plain.candidates[4:].mean(0), torch.zeros(H, 2), atol=5e-3, rtol=0)
    assert torch.equal(last, torch.arange(6.0).view(H, 2) / 10)


@pytest.mark.parametrize("update", ["gaussian", "resample"])
def test_a_seed_repeats_and_another_does_not(update):
    one, same, other = (find(seed=seed, update=update) for seed in (0, 0, 1))
    assert torch.equal(one.plan, same.plan) and torch.equal(one.candidates, same.candidates)
    assert not torch.equal(one.candidates, other.candidates)


def test_while_exploring_the_plan_is_flown_with_its_noise():
    calm, moved = find(std_min=0.1), find(std_min=0.1, explore=True)
    assert calm.chosen == moved.chosen and not torch.equal(calm.plan, moved.plan)
    assert (calm.plan - moved.plan).abs().max() < 1 and moved.plan.abs().max() <= 1
    resampled = find(update="resample", explore=True)
    assert torch.equal(resampled.plan, resampled.candidates[resampled.chosen])  # its plans are noisy already


def test_elites_are_drawn_by_weight_and_only_they():
    chosen = [search(seed, iterations=1, elites=3).find(own(), judge) for seed in range(40)]
    for found in chosen:
        assert found.chosen in found.scores.topk(3).indices
    assert len({int((f.scores > f.scores[f.chosen]).sum()) for f in chosen}) > 1  # not always the best
