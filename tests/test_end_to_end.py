"""teleop -> Zarr -> train -> deploy -> Zarr -> report on the fake arm, in seconds, through the same code as on any robot."""

import json

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.testing import LimitProbe
from hardware.types import Source
from robolearn.core.checkpoint import load_policy
from robolearn.data.store import EpisodeStore
from robolearn.experiments import evaluate, report, teleop, train
from robolearn.learners.imitation import ImitationConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for

STATE, IMAGES = RobotConfig(body="fake:state"), RobotConfig(body="fake", image_size=16)
KEYPOINTS = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4, crop=1.0)
TINY = ImitationConfig(lr=3e-3, warmup=10, precision="float32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Recorded once for every policy: 40 episodes with the target in the state, 6 with pictures of it."""
    folder = tmp_path_factory.mktemp("end_to_end")
    for name, robot, episodes in (("state", STATE, 40), ("images", IMAGES, 6)):
        teleop.run(teleop.Config(out=folder / name / "teleop", robot=robot, episodes=episodes, videos=0))
    (folder / "untrained").mkdir()
    (folder / "untrained" / "teleop").symlink_to(folder / "state" / "teleop")
    return folder


def learn(run, policy, steps, robot, encoder=None):
    inputs: dict = {"history": 1, "horizon": 4, "encoder": encoder}
    kinds = {
        "diffusion": DiffusionConfig(**inputs, widths=(16, 32), train_steps=20, sample_steps=4, prediction="sample"),
        "bc": BcConfig(**inputs, hidden=(64, 64), dropout=0.0),
    }
    out = run / f"train_{policy}"
    train.run(
        train.Config(
            data=run / "teleop" / "dataset.zarr",
            out=out,
            policy=kinds[policy],
            imitation=TINY,
            steps=steps,
            batch_size=64,
            validation=0.1,
            threads=1,
            device="cpu",
        )
    )
    return evaluate.Config(
        checkpoint=out / "policy.pt", out=run / f"evaluate_{policy}", robot=robot, trials=12, chunk=2, videos=0, threads=1, device="cpu"
    )


@pytest.mark.parametrize(("policy", "steps"), [("bc", 500), ("diffusion", 250)])
def test_what_was_shown_is_learned_and_flown(runs, policy, steps):
    """A third of the starts is much: nobody touches a target of 3 cm by chance, as the untrained policy shows."""
    learned = evaluate.run(learn(runs / "state", policy, steps, STATE))
    untrained = evaluate.run(learn(runs / "untrained", policy, 1, STATE))
    assert learned.successes >= 4, f"{policy}: {learned.successes} of {learned.trials}"
    assert untrained.successes <= 1
    assert learned.mean_max_reward > untrained.mean_max_reward


@pytest.mark.parametrize("policy", ["bc", "diffusion"])
@pytest.mark.parametrize("frozen", [True, False])
def test_pictures_flow_through_the_same_path_and_what_is_flown_can_be_learned_from_again(runs, tmp_path, policy, frozen):
    encoder = SmallCnnConfig(**{**vars(KEYPOINTS), "tune": "none" if frozen else "full"})
    (tmp_path / "teleop").symlink_to(runs / "images" / "teleop")
    config = learn(tmp_path, policy, 20, IMAGES, encoder)
    with hardware.open(IMAGES) as robot, EpisodeStore.create(tmp_path / "deployed.zarr", robot.spec) as store:
        probe = LimitProbe.attach(robot)
        pilot = PolicyPilot(load_policy(config.checkpoint, robot.spec), chunk=2)
        for i in range(2):
            store.append(rollout(robot, pilot, task_for("fake"), np.random.default_rng([9, i])))
    deployed = EpisodeStore.open(tmp_path / "deployed.zarr")
    assert len(deployed) == 2 and deployed.read(0).images["top"].shape[1:] == (16, 16, 3)
    assert (deployed.read(1).source == Source.POLICY).all()
    assert not probe.violations and probe.setpoints > 100
    again = train.Config(
        data=tmp_path / "deployed.zarr",
        out=tmp_path / "again",
        policy=BcConfig(),
        steps=3,
        batch_size=8,
        validation=0.0,
        threads=1,
        device="cpu",
    )
    train.run(again)
    assert json.loads((tmp_path / "again" / "done.json").read_text())["steps"] == 3


def test_the_report_is_made_of_what_was_left(runs):
    page = report.run(report.Config(run=runs / "state")).read_text()
    assert "scripted: a program" in page and "<td>40</td>" in page
