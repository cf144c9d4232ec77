"""A chunk policy in the actor's place: what it imitates, and what is kept of it."""

from __future__ import annotations

import copy

import pytest
import torch

from robolearn.learners.rl.finetuning import FineTuning, build
from robolearn.learners.rl.learner import AgentLearner
from tests.agents.tiny import IN_SAMPLE, config, generator, replay


def tuning(taught: bool = False, **fields) -> FineTuning:
    fields = {**IN_SAMPLE, "policy": {}, "history": 2, **fields}
    built = build(config(**fields), replay(history=2))
    return FineTuning(built.agent, built.old, 0, taught)


def weights(of: FineTuning) -> list[torch.Tensor]:
    assert of.agent.policy is not None
    return copy.deepcopy([p.detach() for p in of.agent.policy.parameters()])


def moved(of: FineTuning, before: list[torch.Tensor]) -> bool:
    return any(not torch.equal(a, b) for a, b in zip(weights(of), before, strict=True))


def test_a_policy_that_was_taught_rests_offline_and_learns_online():
    course = tuning(taught=True)
    before = weights(course)
    course.offline(3)
    assert not moved(course, before)
    course.begin_online()
    course.learner.update(course._draw())
    assert moved(course, before)


def test_without_a_weight_of_imitation_it_rests():
    course = tuning(actor={"q": [0, 0], "bc": [1, 0]})
    before = weights(course)
    course.offline(1)
    assert moved(course, before)
    course.begin_online()
    before = weights(course)
    course.learner.update(course._draw())
    assert not moved(course, before)


@pytest.mark.parametrize("examples", ["all", "successes"])
def test_of_failures_it_learns_nothing_where_successes_are_its_examples(examples):
    course = tuning(actor={**IN_SAMPLE["actor"], "examples": examples})
    course.old._columns["won"][:] = False
    before = weights(course)
    course.offline(1)
    assert moved(course, before) == (examples == "all")


def test_rows_count_by_what_became_of_their_first_action(monkeypatch):
    course = tuning(actor={**IN_SAMPLE["actor"], "beta": 1.0, "advantage": "return"}, model={"horizon": 3})
    seen = []
    assert course.learner.imitation is not None
    monkeypatch.setattr(course.learner.imitation.imitation, "update", lambda batch: seen.append(batch) or {})
    walks = []
    real = course.learner.actor_loss.weights
    monkeypatch.setattr(course.learner.actor_loss, "weights", lambda *given: walks.append(given) or real(*given))
    course.offline(1)
    (batch,), ((_, action, _, counts),) = seen, walks
    assert batch.action.shape[1] == 4  # the policy's chunk, though the batch is longer
    torch.testing.assert_close(course.agent.action_norm.unnormalize(action), batch.action[:, 0])
    ratio = batch.weight / (real(*walks[0])[0] * counts)
    torch.testing.assert_close(ratio[counts > 0], ratio[counts > 0][:1].expand(int((counts > 0).sum())))
    assert float(batch.weight.mean()) == pytest.approx(1.0)


def test_it_goes_on_where_it_was_kept():
    first, second = tuning(), tuning()
    first.offline(3)
    first.begin_online()
    state = copy.deepcopy(first.state_dict())
    second.load_state_dict(state)
    for course in (first, second):
        course.learner.update(course._draw())
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))


def test_what_flies_is_an_average_that_nothing_but_imitation_moves():
    course = tuning()
    assert course.agent.policy is not None and not any(p.requires_grad for p in course.agent.policy.parameters())
    learner = AgentLearner(course.agent, generator())
    assert learner.imitation is not None
    assert any(p.requires_grad for p in learner.imitation.imitation.trained.parameters())  # made from an average, and yet it learns
