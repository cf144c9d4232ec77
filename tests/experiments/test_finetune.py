"""Fine-tuning on the fake arm: what it leaves behind, how it resumes, what it refuses."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import hardware
from hardware import RobotConfig
from hardware.types import Source
from robolearn.core.checkpoint import load_policy
from robolearn.core.errors import UserError
from robolearn.core.run import read_metrics
from robolearn.data.store import EpisodeStore
from robolearn.experiments import finetune, teleop, train
from robolearn.learners.imitation import ImitationConfig
from robolearn.learners.latent_mpc import LatentMpcConfig
from robolearn.learners.pretraining.keypoints import PretrainConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.planning.mppi import MppiConfig, Planner
from robolearn.policies.bc import BcConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for
from robolearn.worldmodels.latent import LatentConfig

ROBOT = RobotConfig(body="fake", image_size=16)
EYES = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4, crop=1.0, tune="none")
TINY = ImitationConfig(warmup=2, precision="float32")


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """Recordings, and a diffusion and a BC policy made from them."""
    folder = tmp_path_factory.mktemp("offline")
    teleop.run(teleop.Config(out=folder / "teleop", robot=ROBOT, episodes=6, videos=0))
    inputs: dict = {"history": 2, "horizon": 8, "encoder": EYES}
    diffusion = DiffusionConfig(**inputs, widths=(8, 16), train_steps=10, sample_steps=2)
    for name, policy in (("diffusion", diffusion), ("bc", BcConfig(**inputs, hidden=(16,)))):
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
        episodes=3,
        chunk=3,
        pretrain_updates=4,
        model_updates=2,
        policy_updates=2,
        batch_size=8,
        held_out=0.2,
        search=MppiConfig(horizon=3, proposals=4, samples=8, iterations=2, elites=4),
        model=LatentConfig(latent=16, width=16),
        learner=LatentMpcConfig(horizon=3),
        imitation=TINY,
        threads=1,
    )


def test_it_flies_learns_and_leaves_a_planner_that_flies_elsewhere(config):
    result = finetune.run(config)
    rows = read_metrics(config.out / "metrics.jsonl")
    episodes = [row for row in rows if row["kind"] == "episode"]
    assert [row["episode"] for row in episodes] == [0, 1, 2]
    assert result["episodes"] == 3
    assert result["setpoints"] > 0
    assert result["violations_at_the_actuator"] == {}
    online = EpisodeStore.open(config.out / "online.zarr")
    assert len(online) == 3
    assert set(online.lowdim("source")) <= {Source.PLANNER, Source.NONE}
    doubts = [json.loads(line) for line in (config.out / "uncertainty.jsonl").read_text().splitlines()]
    assert len(doubts) == online.rows
    planner = load_policy(config.out / "planner.pt", online.spec)
    assert isinstance(planner, Planner)
    with hardware.open(ROBOT) as robot:
        episode = rollout(robot, PolicyPilot(planner, 3), task_for(ROBOT.body), np.random.default_rng(0))
    assert len(episode) > 0
    assert np.isfinite(episode.notes["uncertainty"]).all()
    assert finetune.run(config)["seconds"] == result["seconds"]  # finished: nothing is flown twice


def test_stopped_after_an_episode_it_goes_on_as_if_it_had_not_been(config, tmp_path, monkeypatch):
    """Stopped right after a stored flight, before anything was learned from it: the worst moment."""
    whole = replace(config, out=tmp_path / "whole")
    finetune.run(whole)
    learn, calls = finetune.Session.learn, []

    def stop_at_the_second(self, online):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        learn(self, online)

    monkeypatch.setattr(finetune.Session, "learn", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config)
    assert len(EpisodeStore.open(config.out / "online.zarr")) == 2
    assert not (config.out / "planner.pt").exists()
    monkeypatch.undo()
    finetune.run(config)
    resumed, straight = (load_policy(c.out / "planner.pt").state_dict() for c in (config, whole))
    logged = [row["episode"] for row in read_metrics(config.out / "metrics.jsonl") if row["kind"] == "episode"]
    assert logged == [0, 1, 2]
    for name, value in straight.items():
        torch.testing.assert_close(resumed[name], value, msg=lambda m, n=name: f"{n}: {m}")


def test_killed_before_an_episode_was_logged_the_log_is_made_whole(config, monkeypatch):
    save, saves = finetune.Session._save, []

    def stop_after_the_second_episode(self):
        save(self)
        saves.append(self.episodes)
        if self.episodes == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(finetune.Session, "_save", stop_after_the_second_episode)
    with pytest.raises(KeyboardInterrupt):
        finetune.run(config)
    monkeypatch.undo()
    finetune.run(config)
    logged = [row["episode"] for row in read_metrics(config.out / "metrics.jsonl") if row["kind"] == "episode"]
    assert logged == [0, 1, 2]


def test_a_policy_that_cannot_propose_is_refused(config, offline):
    with pytest.raises(UserError, match="BcPolicy; fine-tuning starts from a DiffusionPolicy"):
        finetune.run(replace(config, checkpoint=offline / "bc/policy.pt"))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chunk": 4}, "chunk: 4 actions per plan; valid 1 to search.horizon = 3"),
        ({"episodes": -1}, "episodes: -1 online episodes; valid 1 to 1e+06"),
        ({"batch_size": 0}, "batch_size: 0 rows"),
        ({"held_out": float("nan")}, "held_out: nan of the episodes; valid 0.01 to 0.9"),
        ({"model": LatentConfig(latent=13)}, "model.latent: 13 units; valid: multiples of model.group = 8"),
        ({"search": MppiConfig(horizon=64)}, "search.horizon: 64 decisions"),
        ({"search": MppiConfig(horizon=3, temperature=0.0)}, "search.temperature: 0.0 standard deviations"),
        ({"search": MppiConfig(horizon=3, discount=float("nan"))}, "search.discount: nan per decision; valid 0 to 1"),
    ],
)
def test_a_value_out_of_range_is_one_line_and_leaves_nothing(config, changes, message):
    with pytest.raises(UserError) as error:
        finetune.run(replace(config, **changes))
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
    assert not config.out.exists()


def test_data_of_another_robot_is_refused_by_the_difference(config, tmp_path):
    other = tmp_path / "other"
    teleop.run(teleop.Config(out=other, robot=RobotConfig(body="fake", image_size=24), episodes=1, videos=0))
    with pytest.raises(UserError, match=r"dataset\.zarr: recorded on another robot.*cameras"):
        finetune.run(replace(config, data=other / "dataset.zarr"))
    assert not config.out.exists()
