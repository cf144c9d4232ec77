"""What a fine-tuning may be told: every value out of its range is one line, before anything is written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hardware import RobotConfig
from robolearn.cli import parse
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.experiments import finetune, teleop
from robolearn.experiments.finetune import check_examples


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    teleop.run(teleop.Config(out=folder, robot=RobotConfig(body="fake:state"), episodes=3, videos=0))
    return folder / "dataset.zarr"


def told(data, out, *words):
    return parse("finetune", finetune.Config, ["--data", str(data), "--out", str(out), "--robot.body", "fake:state", *words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--agent.actor.q 0 0", "agent: actor.q: (0.0, 0.0), bc: (0.0, 0.0) and density: (0.0, 0.0); valid"),
        ("--agent.critic.reduce quantile quantile --agent.critic.level 2 2", "agent: critic.level: (2.0, 2.0); a quantile's is 0 to 1"),
        ("--agent.critic.level -1 -1", "agent.critic.level: (-1.0, -1.0) (standard deviations, or a quantile); valid 0 to 1000"),
        ("--agent.critic.pessimism cql --agent.critic.weight -1 -1", "agent.critic.weight: (-1.0, -1.0) (a weight); valid 0 to 1e+06"),
        ("--agent.actor.bc -1 -1", "agent.actor.bc: (-1.0, -1.0)"),
        ("--agent.actor.density -1 -1", "agent.actor.density: (-1.0, -1.0)"),
        ("--agent.critic.loss two_hot --agent.critic.bound 0", "agent.critic.bound: 0.0 (symlog); valid 0.2 to 30"),
        ("--agent.critic.loss two_hot --agent.critic.bound=-1", "agent.critic.bound: -1.0 (symlog)"),
        ("--agent.critic.loss two_hot --agent.critic.bound 1e9", "agent.critic.bound: 1000000000.0 (symlog)"),
        ("--agent.critic.loss two_hot --agent.critic.bound 1000", "agent.critic.bound: 1000.0 (symlog)"),
        ("--agent.reward.scale 1e30", "agent.reward.scale: 1e+30 times the reward; valid 1e-06 to 1e+06"),
        ("--agent.reward.scale 0", "agent.reward.scale: 0.0"),
        ("--agent.reward.shift 1e30", "agent.reward.shift: 1e+30 (a reward)"),
        ("--agent.reward.bonus entropy --agent.reward.bonus-weight=-5", "agent.reward.bonus_weight: -5.0"),
        ("--agent.actor.beta=-3 --agent.actor.bc 1 1", "agent.actor.beta: -3.0 (sharpness); valid 0 to 1000"),
        ("--agent.actor.betas 1 1", "agent: actor.betas: (1.0, 1.0); valid: the first below the second"),
        ("--agent.actor.betas 5 1", "agent: actor.betas: (5.0, 1.0)"),
        ("--agent.actor.weight-max=-1", "agent.actor.weight_max: -1.0"),
        ("--agent.actor.edit=-5", "agent.actor.edit: -5.0 of the action range's half; valid 0 to 2"),
        ("--agent.actor.edit 100", "agent.actor.edit: 100.0"),
        ("--agent.actor.ucb=-3", "agent.actor.ucb: -3.0 standard deviations"),
        ("--agent.actor.smooth=-1", "agent.actor.smooth: -1.0"),
        ("--agent.critic.smooth=-1", "agent.critic.smooth: -1.0"),
        ("--agent.critic.smooth-noise=-1", "agent.critic.smooth_noise: -1.0 normalised units"),
        ("--agent.critic.expansion-penalty=-1", "agent.critic.expansion_penalty: -1.0"),
        ("--agent.model.width 0", "agent.model.width: 0 units"),
        ("--agent.model.encoder-width 0", "agent.model.encoder_width: 0 units"),
        ("--agent.model.bound 0", "agent.model.bound: 0.0 (symlog)"),
        ("--agent.model.rho=-1", "agent.model.rho: -1.0 per step; valid 0 to 1"),
        ("--agent.model.rho 5", "agent.model.rho: 5.0 per step"),
        ("--agent.model.consistency=-20", "agent.model.consistency: -20.0"),
        ("--agent.model.encoder-rate=-1", "agent.model.encoder_rate: -1.0"),
        ("--agent.model.target-encoder 5", "agent.model.target_encoder: 5.0 per update; valid 0 to 1"),
        ("--agent.model.target-encoder=-1", "agent.model.target_encoder: -1.0"),
        ("--agent.preset ours --agent.planner.search.samples 0", "agent.planner.search.samples: 0 candidates; valid 1 to 1e+06"),
        ("--agent.preset ours --agent.planner.search.momentum 5", "agent.planner.search.momentum: 5.0 of the old mean; valid 0 to 1"),
        ("--agent.preset ours --agent.planner.search.deadline-ms=-5", "agent.planner.search.deadline_ms: -5.0 ms"),
        ("--agent.state none", "agent.state: none of robot 'fake', and agent.encoder: null"),
        ("--agent.state bogus", "agent.state: 'bogus' is not in the data of fake; valid: joint_pos, target"),
        ("--agent.encoder.type cnn --agent.encoder.tune none", "agent.encoder: robot 'fake' has no camera"),
        ("--agent.critic.heads 1", "agent: critic.subset: 2 heads, and critic.heads: 1; valid 0 (all) to 1"),
        ("--agent.update.inner 7", "agent.update.inner: 7, but with update.outer: 1 and replay.mix: append it does nothing"),
        ("--regime-episodes=-3", "regime_episodes: -3 online episodes; valid 2"),
        ("--patience-s 0", "patience_s: 0.0 seconds; valid 30 to"),
    ],
)
def test_a_value_that_makes_no_sense_is_one_line_and_leaves_nothing(data, tmp_path, words, message):
    given = words.split() if "--agent.preset" in words else ["--agent.preset", "sac", *words.split()]
    with pytest.raises(UserError) as error:
        finetune.run(told(data, tmp_path / "run", *given))
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_data_without_a_success_teach_a_policy_of_successes_nothing(data, tmp_path):
    recorded, failed = EpisodeStore.open(data), tmp_path / "failed.zarr"
    with EpisodeStore.create(failed, recorded.spec) as store:
        for index in range(3):
            episode = recorded[index]
            store.append(replace(episode, meta={**episode.meta, "success": False}))
    config = told(failed, tmp_path / "run", "--agent.preset", "ours")
    message = r"^agent.actor.examples: successes, but .*failed.zarr has 0 among the 2 episodes that are not held out; record some, or all "
    with pytest.raises(UserError, match=message):
        finetune.run(config)
    assert not config.out.exists()
    actor = replace(config.agent.actor, examples="all")
    for teaches in (told(data, config.out, "--agent.preset", "ours"), replace(config, agent=replace(config.agent, actor=actor))):
        check_examples(teaches, EpisodeStore.open(teaches.data))
