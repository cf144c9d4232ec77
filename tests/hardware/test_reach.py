"""An arm at its table in simulation: a body like any other, and to whoever flies it the real arm."""

from __future__ import annotations

import numpy as np
import pytest

import hardware
from hardware import RealConfig, RobotConfig
from hardware.cameras import CameraConfig
from hardware.clock import SimClock
from hardware.mujoco.servoed import ServoedArm
from hardware.mujoco.stage import staged
from hardware.reach import SimulatedArm
from hardware.robot import SafeRobot
from hardware.testing import ArmContract, LimitProbe, RobotContract
from hardware.types import Arm, Clock, Command, HardwareError, Source


class TestArm(ArmContract):
    def make(self) -> tuple[Arm, Clock]:
        body = ServoedArm(staged("so101").arm)
        clock = SimClock(lambda seconds: body.advance(round(seconds / body.model.opt.timestep)))
        return SimulatedArm(body.arm.spec, body, clock), clock


class TestUr5e(RobotContract):
    def make(self) -> SafeRobot:
        return hardware.open(RobotConfig("reach:ur5e"))


class TestSo101(RobotContract):
    def make(self) -> SafeRobot:
        return hardware.open(RobotConfig("reach:so101"))


@pytest.mark.parametrize("name", ["ur5e", "so101", "fr3"])
@pytest.mark.parametrize("actions", ["ee_delta", "joint_pos"])
def test_its_spec_is_the_real_arms(name: str, actions: str) -> None:
    cameras = {"front": CameraConfig(size=(48, 64)), "wrist": CameraConfig(source="2", size=(48, 64))}
    real = RobotConfig(name, rate_hz=20.0, arm=RealConfig(actions=actions, cameras=cameras))  # pyright: ignore[reportArgumentType]
    simulated = RobotConfig(f"reach:{name}", rate_hz=20.0, arm=real.arm)
    assert hardware.spec_of(simulated).diff(hardware.spec_of(real)) == []
    own = hardware.spec_of(RobotConfig(f"reach:{name}"))
    assert (own.action_mode, own.cameras) == ("ee_delta", {"front": (84, 84), "wrist": (84, 84)})


@pytest.mark.parametrize("name", ["ur5e", "so101"])
def test_straight_ahead_every_goal_is_reached_within_limits(name: str) -> None:
    with hardware.open(RobotConfig(f"reach:{name}", cameras=())) as robot:
        probe, world = LimitProbe.attach(robot), robot.world
        assert world is not None
        for seed in range(5):
            robot.reset(np.random.default_rng(seed))
            observation = robot.observe()
            start = world.reward()
            for _ in range(60):
                way = world.privileged()["goal_pos"] - observation.state["ee_pos"]
                robot.send(Command(observation.time, np.append(0.3 * way, 1.0).astype(np.float32), Source.SCRIPTED))
                observation = robot.observe()
                if world.success():
                    break
            assert world.success()
            assert world.reward() == 1.0 > start
            assert robot.stopped is None
        assert not probe.violations


def test_every_start_is_home_with_an_open_gripper_and_another_goal() -> None:
    with hardware.open(RobotConfig("reach:so101", cameras=())) as robot:
        goals = []
        for seed in (1, 2, 1):
            robot.reset(np.random.default_rng(seed))
            observation = robot.observe()
            np.testing.assert_allclose(observation.state["joint_pos"], robot.governor.arm.home, atol=1e-6)
            assert observation.state["gripper"] == [1.0]
            assert robot.world is not None
            goals.append(robot.world.privileged()["goal_pos"])
        np.testing.assert_array_equal(goals[0], goals[2])
        assert np.abs(goals[0] - goals[1]).max() > 0.01


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RobotConfig("reach:r2d2"), "RobotConfig.body: 'reach:r2d2'; valid: reach:ARM with ARM one of .*so101"),
        (RobotConfig("reach:so101", cameras=("top",)), "RobotConfig.cameras: 'top'; valid: front, wrist"),
        (
            RobotConfig("reach:so101", workspace_low=(0.2, -0.1, 0.05), workspace_high=(0.3, 0.1, 0.2)),
            r"RobotConfig.workspace_low, workspace_high: goals lie from \[0.179, -0.12, ",
        ),
    ],
)
def test_what_cannot_be_built(config: RobotConfig, message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        hardware.open(config)
