"""Fine-tuning from a policy that was trained before: it becomes the agent's, flies in chunks and goes on learning."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from hardware import RobotConfig
from hardware.types import Source
from robolearn.agents.agent import Agent
from robolearn.agents.axes import Update
from robolearn.agents.config import AgentConfig, PlannerConfig
from robolearn.cli import parse
from robolearn.core.checkpoint import load_policy
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.evaluate import Evaluation
from robolearn.evaluation.sequential import ImprovementConfig
from robolearn.experiments import edit, evaluate, finetune, teleop, train
from robolearn.experiments.finetune_config import ours
from robolearn.learners.imitation import ImitationConfig
from robolearn.learners.pretraining.keypoints import PretrainConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.planning.caution import Caution
from robolearn.planning.gate import GateConfig
from robolearn.planning.search import SearchConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.vinn import VinnConfig
from robolearn.worldmodels.dynamics import ModelConfig

ROBOT = RobotConfig(body="fake", image_size=16)
EYES = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4, crop=1.0, tune="none")
TINY = ImitationConfig(warmup=2, precision="float32")
SEARCH = SearchConfig(horizon=3, proposals=4, samples=8, iterations=2, elites=4, ramp=100)
AGENT = replace(
    ours(),
    model=ModelConfig(latent=16, width=16, encoder_width=16, horizon=3),
    critic=replace(ours().critic, width=16, steps=4),
    planner=PlannerConfig(SEARCH),
    update=Update(utd=0.1, batch=8),
)


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Recordings, and policies made from them."""
    folder = tmp_path_factory.mktemp("offline")
    teleop.run(teleop.Config(out=folder / "teleop", robot=ROBOT, episodes=6, videos=0))
    inputs: dict = {"history": 2, "horizon": 8, "encoder": EYES}
    diffusion = DiffusionConfig(**inputs, widths=(8, 16), train_steps=10, sample_steps=2)
    for name, policy in (("diffusion", diffusion), ("bc", BcConfig(**inputs, hidden=(16,))), ("vinn", VinnConfig(**inputs))):
        train.run(
            train.Config(
                data=folder / "teleop/dataset.zarr",
                out=folder / name,
                policy=policy,
                pretrain=PretrainConfig(steps=3, batch_size=8),
                imitation=TINY,
                steps=6,
                batch_size=8,
                threads=1,
                device="cpu",
            )
        )
    return folder


@pytest.fixture
def config(offline, tmp_path):
    return finetune.Config(
        checkpoint=offline / "diffusion/policy.pt",
        data=offline / "teleop/dataset.zarr",
        out=tmp_path / "run",
        robot=ROBOT,
        agent=AGENT,
        episodes=2,
        chunk=3,
        offline_updates=4,
        held_out=0.2,
        lockstep=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["diffusion", "bc"])
def test_the_policy_becomes_the_agents_flies_in_chunks_and_learns(config, offline, tmp_path, kind):
    config = replace(config, checkpoint=offline / kind / "policy.pt")
    result = finetune.run(config)
    assert result["episodes"] == 2 and result["violations_at_the_actuator"] == {}
    online = EpisodeStore.open(config.out / "online.zarr")
    assert set(online.lowdim("source")) <= {Source.PLANNER, Source.NONE}
    doubts = [json.loads(line)["uncertainty"] for line in (config.out / "uncertainty.jsonl").read_text().splitlines()]
    assert len(doubts) == online.rows and doubts[0] == doubts[1] == doubts[2] != doubts[3]  # a plan for three actions
    trained, tuned = load_policy(config.checkpoint), load_policy(config.out / "planner.pt", online.spec)
    assert isinstance(tuned, Agent) and tuned.policy is not None
    before, after, untouched = (p.state_dict() for p in (trained, tuned.policy, load_policy(config.out / "learner/offline.pt").policy))
    assert all(torch.equal(value, untouched[name]) for name, value in before.items())  # offline, it was taught already
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    kept = ("encoder.", "state_norm.", "action_norm.", "feature_norm.")
    assert all(torch.equal(value, after[name]) for name, value in before.items() if name.startswith(kept))
    flown = evaluate.run(
        evaluate.Config(checkpoint=config.out / "planner.pt", out=tmp_path / "after", robot=ROBOT, trials=1, chunk=3, videos=0)
    )
    assert isinstance(flown, Evaluation)
    assert finetune.run(config)["seconds"] == result["seconds"]  # finished: nothing is flown twice


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 4}, "chunk: 4 actions per plan; valid 1 to 3, which the agent plans"),
        ({"episodes": -1}, "episodes: -1 online episodes; valid 1 to 1e+06"),
        ({"held_out": float("nan")}, "held_out: nan of the episodes; valid 0.01 to 0.9"),
        ({"agent": replace(AGENT, update=Update(batch=0))}, "agent.update.batch: 0 rows"),
        ({"agent": replace(AGENT, planner=PlannerConfig(replace(SEARCH, horizon=64)))}, "agent: planner.search.horizon: 64 decisions"),
        ({"agent": replace(AGENT, planner=PlannerConfig(replace(SEARCH, temperature=0.0)))}, "agent.planner.search.temperature: 0.0"),
        ({"agent": replace(AGENT, planner=PlannerConfig(SEARCH, Caution(heads=float("nan"))))}, "agent.planner.caution.heads: nan"),
        ({"agent": AgentConfig()}, "agent: policy: given, and critic.target: policy"),
    ],
)
def test_a_value_out_of_range_is_one_line_and_leaves_nothing(config, changes, message):
    with pytest.raises(UserError) as error:
        finetune.run(replace(config, **changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not config.out.exists()


def test_a_policy_that_learns_by_memory_is_refused(config, offline):
    with pytest.raises(UserError, match="agent.policy: a VinnPolicy learns by memory"):
        finetune.run(replace(config, checkpoint=offline / "vinn/policy.pt"))
    assert not config.out.exists()


@pytest.mark.slow
def test_what_was_fine_tuned_is_no_policy_to_begin_with(config, tmp_path):
    finetune.run(replace(config, episodes=1))
    with pytest.raises(UserError, match="a AgentConfig; fine-tuning starts from a chunk policy"):
        finetune.run(replace(config, checkpoint=config.out / "planner.pt", out=tmp_path / "again"))


def test_data_of_another_robot_is_refused_by_the_difference(config, tmp_path):
    other = tmp_path / "other"
    teleop.run(teleop.Config(out=other, robot=RobotConfig(body="fake", image_size=24), episodes=1, videos=0))
    with pytest.raises(UserError, match=r"dataset\.zarr: recorded on another robot.*cameras"):
        finetune.run(replace(config, data=other / "dataset.zarr"))
    assert not config.out.exists()


def test_recordings_whose_successes_earn_nothing_are_told_of(config, tmp_path):
    assert finetune.unrewarded(config) == ""
    source = EpisodeStore.open(config.data)
    with EpisodeStore.create(tmp_path / "bare.zarr", source.spec) as bare:
        for episode in source:
            bare.append(replace(episode, reward=0 * episode.reward, meta={"success": True}))
    bare = replace(config, data=tmp_path / "bare.zarr")
    assert "6 of 6 successful episodes have no reward" in finetune.unrewarded(bare)
    judged = replace(config.agent, reward=replace(config.agent.reward, source="classifier"))
    assert finetune.unrewarded(replace(bare, agent=judged)) == ""
    edit.run(edit.Config(path=(str(bare.data),), out=tmp_path / "better.zarr", reward="sparse"))
    assert finetune.unrewarded(replace(config, data=tmp_path / "better.zarr")) == ""


def test_gate_and_improvement_are_options_of_the_command_line_as_well(tmp_path):
    file = tmp_path / "finetune.yaml"
    file.write_text("gate: {patience: 3}\n")
    words = [str(file), "--gate.risk", "0.2", "--improvement.margin", "0.1", "--agent.preset", "ours"]
    config = parse("finetune", finetune.Config, words)
    assert config.gate == GateConfig(risk=0.2, patience=3) and config.improvement == ImprovementConfig(margin=0.1)
    assert parse("finetune", finetune.Config, []).gate is None
