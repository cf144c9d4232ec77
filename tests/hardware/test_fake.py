from __future__ import annotations

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.clock import SimClock
from hardware.fake import FakeArm, tip
from hardware.robot import SafeRobot
from hardware.testing import ArmContract, LimitProbe, RobotContract
from hardware.types import Arm, Clock, Command, HardwareError, Source


class TestFakeArm(ArmContract):
    def make(self) -> tuple[Arm, Clock]:
        arm = FakeArm()
        return arm, SimClock(arm.advance)


class TestFakeRobot(RobotContract):
    def make(self) -> SafeRobot:
        return hardware.open(RobotConfig(body="fake"))


class TestFakeStateRobot(RobotContract):
    def make(self) -> SafeRobot:
        return hardware.open(RobotConfig(body="fake:state"))


def test_the_target_can_be_reached_through_the_governor_within_limits() -> None:
    with hardware.open(RobotConfig(body="fake")) as robot:
        probe = LimitProbe.attach(robot)
        rng = np.random.default_rng(0)
        assert robot.world is not None
        for _ in range(10):
            robot.reset(rng)
            start = robot.world.reward()
            for _ in range(40):
                observation = robot.observe()
                goal, q = robot.world.privileged()["q_target"], robot.governor.setpoint.q
                robot.send(Command(observation.time, (q + np.clip(goal - q, -0.15, 0.15)).astype(np.float32), Source.SCRIPTED))
            assert robot.world.success()
            assert robot.world.reward() > start
        assert not probe.violations


def test_the_camera_shows_tip_and_target() -> None:
    with hardware.open(RobotConfig(body="fake", image_size=48)) as robot:
        robot.reset(np.random.default_rng(1))
        assert robot.world is not None
        image = robot.observe().images["top"].astype(int)
        for name, channel in (("tip", 2), ("target", 0)):
            x, y = robot.world.privileged()[name]
            row, column = int((0.5 - y / 1.2) * 48), int((0.5 + x / 1.2) * 48)
            assert image[row, column, channel] > image[row, column, 1] + 100, name


def test_forward_kinematics_of_a_straight_arm() -> None:
    np.testing.assert_allclose(tip(np.array([0.0, 0.0])), [0.5, 0.0, 0.0])
    np.testing.assert_allclose(tip(np.array([0.0, np.pi / 2])), [0.25, 0.25, 0.0], atol=1e-12)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RobotConfig(body="fakee"), ["body", "fakee", "pusht", "robosuite"]),
        (RobotConfig(body="fake:x"), ["fake:x", "fake:state"]),
        (RobotConfig(body="fake", cameras=("wrist",)), ["cameras", "wrist", "top"]),
        (RobotConfig(body="fake", rate_hz=7.0), ["rate_hz", "7.0 Hz", "100.0 Hz"]),
        (RobotConfig(body="fake", workspace_low=(0, 0, 0)), ["workspace_low", "workspace_high"]),
        (RobotConfig(body="fake", workspace_low=(0, 0, 0), workspace_high=(0, 1, 1)), ["workspace_low", "below", "m"]),
    ],
)
def test_a_wrong_config_is_answered_in_one_line(config: RobotConfig, words: list[str]) -> None:
    with pytest.raises(HardwareError) as caught:
        hardware.open(config)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_config_overrides_the_bodys_limits() -> None:
    config = RobotConfig(body="fake", stale_s=0.2, workspace_low=(0.1, -0.2, -1), workspace_high=(0.4, 0.2, 1))
    limits = hardware.open(config).governor.limits
    assert limits.stale_s == 0.2
    assert limits.workspace is not None
    np.testing.assert_array_equal(limits.workspace.low, [0.1, -0.2, -1])
    assert hardware.spec_of(config) == hardware.open(config).spec
