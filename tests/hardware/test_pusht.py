from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.clock import SimClock
from hardware.pusht import PushT, block_pose
from hardware.robot import SafeRobot
from hardware.testing import ArmContract, LimitProbe, RobotContract
from hardware.types import Arm, Clock, Command, HardwareError, Source


class TestPushTArm(ArmContract):
    gripper = False

    def make(self) -> tuple[Arm, Clock]:
        world = PushT()
        return world, SimClock(world.advance)


class TestPushTRobot(RobotContract):
    def make(self) -> SafeRobot:
        return hardware.open(RobotConfig(body="pusht"))


class TestPushTStateRobot(RobotContract):
    def make(self) -> SafeRobot:
        return hardware.open(RobotConfig(body="pusht:state"))


def test_the_governor_hands_every_target_through_in_one_tick() -> None:
    with hardware.open(RobotConfig(body="pusht:state")) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        rng = np.random.default_rng(1)
        corners = [(0.0, 0.0), (512.0, 512.0), (0.0, 512.0), (512.0, 0.0)]
        for target in [*corners, *rng.uniform(0, 512, (20, 2))]:
            action = np.array(target, dtype=np.float32)
            np.testing.assert_array_equal(robot.send(Command(robot.observe().time, action, Source.HUMAN)), action)
            robot.observe()
            np.testing.assert_allclose(robot.governor.setpoint.q, action, atol=1e-6)
        assert not robot.governor.interventions
        assert not probe.violations


def test_it_moves_exactly_as_gym_pusht_does() -> None:
    from gym_pusht.envs.pusht import PushTEnv

    actions = np.random.default_rng(5).uniform(50, 450, (25, 2)).astype(np.float32)
    env = PushTEnv(obs_type="state")
    with hardware.open(RobotConfig(body="pusht:state")) as robot:
        robot.reset(np.random.default_rng(9))
        env.reset(seed=int(np.random.default_rng(9).integers(2**31)))
        assert robot.world is not None
        robot.observe()
        for action in actions:
            robot.send(Command(robot.clock.now(), action, Source.REPLAY))
            observation = robot.observe()
            state, reward, success, _, _ = cast("Any", env.step(action.astype(np.float64)))
            np.testing.assert_allclose(robot.world.privileged()["state"], state, atol=1e-3)
            np.testing.assert_allclose(observation.state["block_pose"], block_pose(state), atol=1e-3)
            assert robot.world.reward() == pytest.approx(float(reward), abs=1e-4)
            assert robot.world.success() == bool(success)


def test_restore_puts_the_block_where_it_was_recorded() -> None:
    world = PushT()
    wanted = np.array([100.0, 200.0, 300.0, 250.0, 2.0])
    world.restore(wanted)
    np.testing.assert_allclose(world.state(), wanted, atol=1e-6)
    world.restore(np.array([100.0, 100.0, 256.0, 256.0, np.pi / 4]))  # the goal itself
    assert world.success()
    assert world.reward() == 1.0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RobotConfig(body="pusht:keypoints"), ["pusht:keypoints", "pusht:state"]),
        (RobotConfig(body="pusht", cameras=("top",)), ["cameras", "top", "image"]),
        (RobotConfig(body="pusht", rate_hz=20.0), ["rate_hz", "20.0 Hz"]),
    ],
)
def test_a_wrong_config_is_answered_in_one_line(config: RobotConfig, words: list[str]) -> None:
    with pytest.raises(HardwareError) as caught:
        hardware.open(config)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.skipif("ROBOLEARN_DATA" not in os.environ, reason="ROBOLEARN_DATA is not set: no recorded demonstrations here")
def test_human_episodes_replay_and_their_images_match() -> None:
    import zarr

    root: Any = zarr.open(Path(os.environ["ROBOLEARN_DATA"]) / "pusht-human-zarr" / "pusht_cchi_v7_replay.zarr", mode="r")
    ends = np.asarray(root["meta/episode_ends"])
    best, differences = [], []
    with hardware.open(RobotConfig(body="pusht")) as robot:
        assert isinstance(robot.world, PushT)
        for episode in range(5):
            rows = slice(0 if episode == 0 else int(ends[episode - 1]), int(ends[episode]))
            states, actions = np.asarray(root["data/state"][rows]), np.asarray(root["data/action"][rows])
            robot.reset(np.random.default_rng(0))
            robot.world.restore(states[0])
            robot.anchor()
            first = robot.observe().images["image"].astype(np.float32)
            differences.append(np.abs(first - np.asarray(root["data/img"][rows.start])).mean())
            reward = 0.0
            for action in actions:
                robot.send(Command(robot.clock.now(), action, Source.REPLAY))
                robot.observe()
                reward = max(reward, robot.world.reward())
            best.append(reward)
    assert np.mean(best) > 0.85, best
    assert max(differences) < 0.2, differences
