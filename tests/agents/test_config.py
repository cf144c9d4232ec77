"""What an agent may be made of: axes that do not go together, and fields that do nothing, are one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robolearn.agents.config import check_idle
from robolearn.core.errors import UserError
from tests.agents.tiny import IN_SAMPLE, SPEC, config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"planner": {}, "model": None}, "planner: .*no model"),
        ({"critic": {"target": "expansion"}}, "critic.target: expansion.*no model"),
        ({"critic": {"target": "best_of_n"}}, "critic.target: best_of_n.*candidates is 1"),
        ({"critic": {"pessimism": "gap"}}, "critic.pessimism: gap.*replay.ratio"),
        ({"critic": {"residual": True, "loss": "two_hot"}}, "critic.residual: .*two_hot"),
        ({"critic": {"heads": 1, "subset": 0, "reduce": ["min", "pair_min"]}}, "critic.reduce: pair_min.*two"),
        ({"critic": {"heads": 3, "subset": 1, "reduce": ["min", "pair_min"]}}, "critic.reduce: pair_min.*two"),
        ({"critic": {"heads": 1}}, r"critic.subset: 2 heads, and critic.heads: 1; valid 0 \(all\) to 1"),
        ({"critic": {"reduce": ["min", "quantile"], "level": [0.5, 2]}}, r"critic.level: \(0.5, 2.0\); a quantile's is 0 to 1"),
        ({"actor": {"q": [0, 1]}}, r"actor.q: \(0.0, 1.0\), bc: .*learns from nothing"),
        ({"actor": {"bc": [1, 1], "betas": [5, 1]}}, r"actor.betas: \(5.0, 1.0\); valid: the first below the second"),
        ({"actor": {"bc": [1, 1], "betas": [1, 1]}}, r"actor.betas: \(1.0, 1.0\)"),
        ({"actor": {"smooth": 0.1, "kind": "diffusion"}}, "actor.smooth: with a diffusion"),
        ({"critic": {"smooth": 0.1}, "model": {}}, "smooth: with a model"),
        ({"actor": {"smooth": 0.1}, "model": {}}, "smooth: with a model"),
        ({"update": {"outer": 0.0}}, "update.outer: 0.0; valid"),
        ({"update": {"outer": 1.5}}, "update.outer: 1.5; valid"),
        ({"replay": {"offline": 1.1}}, "replay.offline: 1.1.*valid"),
    ],
)
def test_axes_that_do_not_fit_are_refused_in_one_line(fields, message):
    with pytest.raises(UserError, match=f"^agent: {message}") as caught:
        config(None, **fields).build(SPEC)
    assert "\n" not in str(caught.value)


def test_a_latent_must_be_whole_groups():
    for latent, group, named in ((10, 8, "latent"), (0, 8, "latent"), (16, 0, "group")):
        with pytest.raises(UserError, match=f"^agent.model.{named}: .*valid"):
            config(model={"latent": latent, "group": group})


def test_the_least_noise_of_a_search_is_at_most_the_largest():
    with pytest.raises(UserError, match="^agent.planner.search.std_min: 2.0 of the action range, above std_max: 0.01"):
        config("fowm", planner={"search": {"std_min": 2, "std_max": 0.01}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"state": ["none"]}, "agent.state: none of robot 'point', and agent.encoder: null; the agent would see nothing"),
        ({"state": ["bogus"]}, "agent.state: 'bogus' is not in the data of point; valid: x"),
        ({"encoder": {"type": "cnn", "tune": "none"}}, "agent.encoder: robot 'point' has no camera; leave the encoder out (null)"),
    ],
)
def test_an_agent_has_to_see_something_that_is_there(fields, message):
    with pytest.raises(UserError) as error:
        config(None, **fields).build(SPEC)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"cameras": ["top"]}, "cameras: ('top',), but with encoder: null"),
        ({"replay": {"ratio": True}, "carry": {"data": False}}, "replay.ratio: True, but with carry.data: false"),
        ({"warmup": {"random_updates": True}}, "warmup.random_updates: True, but with warmup.random: 0"),
        ({"critic": {"weight": [5, 0]}}, "critic.weight: (5.0, 0.0), but with critic.pessimism: none"),
        ({"critic": {"residual": True}, "carry": {"critic": False}}, "critic.residual: True, but with carry.critic: false"),
        ({"critic": {"expansion_penalty": 1}}, "critic.expansion_penalty: 1.0, but with critic.target: policy"),
        ({"actor": {"ucb": 1}}, "actor.ucb: 1.0, but with actor.candidates: 1"),
        ({"actor": {"planner": 1}}, "actor.planner: 1.0, but with planner: null"),
        ({**IN_SAMPLE, "policy": {}}, "actor.width: 16, but with a policy in the actor's place"),
        ({"reward": {"bonus_weight": 1}}, "reward.bonus_weight: 1.0, but with reward.bonus: none"),
        ({"update": {"inner": 7}}, "update.inner: 7, but with update.outer: 1 and replay.mix: append"),
    ],
)
def test_a_field_that_does_nothing_beside_the_others_is_refused(fields, message):
    here = config(None, **fields)
    with pytest.raises(UserError) as error:
        check_idle(replace(here, actor=replace(here.actor, width=256)) if "actor.width" not in message else here)
    assert str(error.value).startswith(f"agent.{message} it does nothing; leave it at ")
    here.build(SPEC)  # one that was saved so can still be flown
