"""A leader arm and who follows it: by joints and by the end effector, at a double of the leader that the vendor's own SDK speaks to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest

from hardware import arms
from hardware.arms.feetech import calibration
from hardware.doubles import Double, launch
from hardware.mujoco.apart import ArmGeometry
from hardware.teleop.keys import TerminalKeys
from hardware.teleop.leader import AHEAD_RAD, APPROACH_RAD_S, Leader, LeaderArm
from hardware.testing import PilotContract
from hardware.types import ArmState, ArraySpec, HardwareError, Observation, RobotSpec, Source
from tests.waiting import until

pytest.importorskip("scservo_sdk", reason="robolearn[feetech] is not installed")

STEP = 0.02
STEPS = ArraySpec(("dx", "dy", "dz", "gripper"), ("m", "m", "m", "1"), (-STEP, -STEP, -STEP, 0.0), (STEP, STEP, STEP, 1.0))
TOOL = RobotSpec("arm", {}, {}, STEPS, "ee_delta", 10.0)
NOW = Observation(0.0, {}, {})
SO101 = arms.find("so101")[1]
APPROACH = APPROACH_RAD_S / 10.0


def follower(name: str) -> RobotSpec:
    """As hardware.real makes it."""
    arm = arms.find(name)[1].spec
    joints = ArraySpec(arm.joints, ("rad",) * len(arm.joints), tuple(arm.q_min), tuple(arm.q_max))
    action = ArraySpec((*joints.names, "gripper"), (*joints.units, "1"), (*joints.low, 0.0), (*joints.high, 1.0))
    state = {"joint_pos": joints, "gripper": ArraySpec(("opening",), ("1",), (0.0,), (1.0,))}
    return RobotSpec(name, {}, state, action, "joint_pos", 10.0)


class Robot:
    """A follower that is where it was told to be, unless something blocks it."""

    def __init__(self, joints: int = 5, gripper: float = 0.7) -> None:
        self.q, self.gripper, self.blocked = np.zeros(joints), gripper, False

    def seen(self) -> Observation:
        state = {"joint_pos": self.q.astype(np.float32), "gripper": np.array([self.gripper], np.float32)}
        return Observation(0.0, {}, state)

    def led(self, pilot: LeaderArm) -> np.ndarray:
        """One decision, done. Returns the joints asked for."""
        action = pilot.decide(self.seen()).action
        if not self.blocked:
            self.q, self.gripper = action[:-1].astype(np.float64), float(action[-1])
        return action[:-1]


class Keys(TerminalKeys):
    """Typed by a test."""

    def __init__(self) -> None:
        super().__init__()
        self.typed: list[str] = []

    def open(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> list[str]:
        typed, self.typed = self.typed, []
        return typed


class Puppet(Leader):
    """A leader without servos: `q` is where the person has it; None: no reading."""

    def __init__(self, name: str = "so101") -> None:
        super().__init__(name, "nowhere")
        self.q: np.ndarray | None = np.zeros(len(self.model.spec.joints))
        self.gripper = 0.3

    def open(self) -> None: ...
    def close(self) -> None: ...

    def read(self) -> ArmState | None:
        return None if self.q is None else ArmState(0.0, 1, self.q, np.zeros_like(self.q), self.gripper)


def led_by(leader: Puppet, spec: RobotSpec | None = None) -> tuple[LeaderArm, Keys]:
    keys = Keys()
    pilot = LeaderArm(follower("so101") if spec is None else spec, leader, keys)
    pilot.reset()
    return pilot, keys


class TestByJointsContract(PilotContract):
    def make(self) -> tuple[LeaderArm, RobotSpec, Observation]:
        return LeaderArm(follower("so101"), Puppet()), follower("so101"), Robot().seen()


class TestByToolContract(PilotContract):
    def make(self) -> tuple[LeaderArm, RobotSpec, Observation]:
        return LeaderArm(TOOL, Puppet()), TOOL, NOW


# Joint by joint -------------------------------------------------------------------------------------------------------


def test_until_it_is_engaged_the_robot_holds_its_gripper_too() -> None:
    leader, robot = Puppet(), Robot()
    pilot, _ = led_by(leader)
    leader.q = np.full(5, 0.5)
    for _ in range(3):
        np.testing.assert_array_equal(robot.led(pilot), np.zeros(5))
    assert robot.gripper == pytest.approx(0.7)


def test_engaged_it_comes_slowly_to_the_leaders_pose_then_is_where_the_leader_is() -> None:
    leader, robot = Puppet(), Robot()
    pilot, keys = led_by(leader)
    leader.q = np.array([0.5, -0.2, 0.1, 0.0, 0.3])
    keys.typed = ["c"]
    path = np.array([np.zeros(5), *(robot.led(pilot) for _ in range(11))])
    assert np.abs(np.diff(path, axis=0)).max() <= APPROACH + 1e-6
    assert robot.gripper == pytest.approx(0.7), "the gripper is led on arrival only"
    for _ in range(2):
        robot.led(pilot)
    np.testing.assert_allclose(robot.q, leader.q, atol=1e-6)
    assert robot.gripper == pytest.approx(0.3)
    leader.q = leader.q + 0.15  # more than a step of the approach
    np.testing.assert_allclose(robot.led(pilot), leader.q, atol=1e-6)


def test_released_it_holds_and_engaged_elsewhere_it_does_not_jump() -> None:
    leader, robot = Puppet(), Robot()
    pilot, keys = led_by(leader)
    keys.typed = ["c"]
    for _ in range(3):
        robot.led(pilot)
    keys.typed = ["c"]
    leader.q = np.full(5, 0.8)
    held = robot.q
    for _ in range(3):
        np.testing.assert_allclose(robot.led(pilot), held, atol=1e-6)
    keys.typed = ["c"]
    assert np.abs(robot.led(pilot) - held).max() <= APPROACH + 1e-6


def test_released_far_from_where_it_was_told_to_go_it_stops_there() -> None:
    """A robot that something kept from following must not go on when the clutch is released."""
    leader, robot = Puppet(), Robot()
    pilot, keys = led_by(leader)
    keys.typed = ["c"]
    robot.led(pilot)
    robot.blocked = True
    leader.q = np.full(5, 1.0)
    np.testing.assert_allclose(robot.led(pilot), 1.0, atol=1e-6)
    keys.typed = ["c"]
    assert np.abs(robot.led(pilot)).max() <= AHEAD_RAD + 1e-6


def test_a_held_arm_that_sags_is_not_lowered_bit_by_bit() -> None:
    pilot, _ = led_by(Puppet())
    robot = Robot()
    robot.led(pilot)
    for _ in range(20):
        robot.q = robot.q - 0.05  # under its weight
        np.testing.assert_allclose(robot.led(pilot), 0.0, atol=1e-6)


def test_a_verdict_and_a_lost_reading_hold() -> None:
    leader, robot = Puppet(), Robot()
    pilot, keys = led_by(leader)
    keys.typed = ["c"]
    robot.led(pilot)
    leader.q = None
    np.testing.assert_allclose(robot.led(pilot), 0.0, atol=1e-6)
    leader.q = np.full(5, 0.1)
    keys.typed = ["s"]
    np.testing.assert_allclose(robot.led(pilot), 0.0, atol=1e-6)
    assert pilot.verdict == "success"


def test_a_leader_beyond_the_robots_range_takes_it_to_its_end() -> None:
    leader, robot = Puppet(), Robot()
    pilot, keys = led_by(leader)
    robot.q = SO101.spec.q_max - 0.05
    leader.q = SO101.spec.q_max + 0.5
    keys.typed = ["c"]
    for _ in range(4):
        robot.led(pilot)
    np.testing.assert_allclose(robot.q, SO101.spec.q_max, atol=1e-6)
    assert robot.gripper == pytest.approx(0.3), "arrived"


def test_joints_go_by_name_where_names_agree_and_in_order_where_they_are_as_many() -> None:
    q = np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    backwards = follower("so101")
    turned = {k: tuple(reversed(getattr(backwards.state["joint_pos"], k))) for k in ("names", "units", "low", "high")}
    action = ArraySpec(**{k: (*turned[k], getattr(backwards.action, k)[-1]) for k in turned})
    backwards = replace(backwards, state={**backwards.state, "joint_pos": ArraySpec(**turned)}, action=action)
    for spec, expected in ((backwards, q[::-1]), (follower("koch"), q)):
        leader = Puppet()
        leader.q = q
        pilot, keys = led_by(leader, spec)
        robot = Robot()
        keys.typed = ["c"]
        for _ in range(15):
            robot.led(pilot)
        np.testing.assert_allclose(robot.q, expected, atol=1e-6)
    LeaderArm(follower("ur5e"), Puppet("gello"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: LeaderArm(follower("ur5e"), Puppet()), "a so101 has 5 joints, ur5e has 6; expected as many"),
        (
            lambda: LeaderArm(follower("so101"), Puppet(), scale=2.0),
            r"leader\.scale: 2\.0; valid .* joint positions: 1",
        ),
        (lambda: LeaderArm(replace(follower("so101"), state={}), Puppet()), "so101 does not show its joint_pos"),
        (
            lambda: LeaderArm(replace(TOOL, action_mode="velocity"), Puppet()),
            "action_mode 'velocity'; a person's device needs 'ee_delta'; a real arm: arm.actions",
        ),
        (lambda: Leader("ur5e", "10.0.0.1"), "a ur5e cannot be moved by hand; valid: gello, koch, openarm, so100, so101"),
        (lambda: Leader("so101", "x", calibration("so100")), "calibration of a so100; expected of a so101"),
    ],
)
def test_who_cannot_lead_whom(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        wrong()


# By the end effector --------------------------------------------------------------------------------------------------


def test_the_robot_repeats_the_displacement_of_the_leaders_tool() -> None:
    leader = Puppet()
    pilot = LeaderArm(TOOL, leader, scale=1.5)
    pilot.reset()
    first = pilot.decide(NOW)
    assert not first.action[:3].any(), "engaging must not jump"
    assert first.source == Source.HUMAN
    leader.q = np.array([0.2, 0.3, -0.2, 0.1, 0.5])
    moved = np.sum([pilot.decide(NOW).action[:3] for _ in range(15)], axis=0)
    tool = ArmGeometry(SO101).tool
    np.testing.assert_allclose(moved, 1.5 * (tool(leader.q) - tool(np.zeros(5))), atol=1e-5)
    assert not pilot.decide(NOW).action[:3].any(), "arrived"


def test_each_step_stays_within_the_robots_bounds_and_lag_is_forgotten() -> None:
    leader = Puppet()
    pilot = LeaderArm(TOOL, leader)
    pilot.reset()
    pilot.decide(NOW)
    leader.q = np.array([1.6, 0.0, 0.0, 0.0, 0.0])  # a jerk of half a metre
    steps = [pilot.decide(NOW).action[:3] for _ in range(15)]
    assert np.abs(steps).max() <= STEP + 1e-7
    assert abs(np.sum(steps, axis=0)[1]) <= 10 * STEP + 1e-6


def test_released_the_leader_may_be_moved_back() -> None:
    leader = Puppet()
    pilot, keys = led_by(leader, TOOL)
    for typed, q, moves in (("", 0.3, False), ("c", 0.3, False), ("", 0.35, True), ("c", 0.0, False), ("c", 0.0, False), ("", 0.05, True)):
        keys.typed, leader.q = [typed], np.array([q, 0.0, 0.0, 0.0, 0.0])
        assert pilot.decide(NOW).action[:3].any() == moves
        while pilot.decide(NOW).action[:3].any():
            pass


# Servos ---------------------------------------------------------------------------------------------------------------


class TestServos:
    double: Double

    @classmethod
    def setup_class(cls) -> None:
        cls.double = launch("so101")
        cls.double.panel.hold = 1  # the person's hands

    @classmethod
    def teardown_class(cls) -> None:
        cls.double.close()

    @pytest.fixture
    def pilot(self) -> Iterator[LeaderArm]:
        self.double.place(np.zeros(5), 0.5)
        with LeaderArm(TOOL, Leader("so101", self.double.address, calibration("so101"))) as pilot:
            pilot.reset()
            yield pilot
            self.double.panel.mute = self.double.panel.corrupt = 0

    def test_opening_makes_it_limp_and_closing_leaves_it_so(self, pilot: LeaderArm) -> None:
        until(lambda: not self.double.panel.powered)
        pilot.leader.close()
        assert not self.double.panel.powered

    def test_the_robot_is_led_with_its_gripper(self, pilot: LeaderArm) -> None:
        assert pilot.decide(NOW).action[3] == pytest.approx(0.5, abs=2e-3)
        self.double.place(np.array([-0.03, 0.0, 0.0, 0.0, 0.0]), 1.0)
        action = pilot.decide(NOW).action
        assert action[1] > 0.005
        assert action[3] == pytest.approx(1.0, abs=2e-3)

    def test_a_corrupt_reply_is_asked_for_again(self, pilot: LeaderArm) -> None:
        pilot.decide(NOW)
        self.double.panel.corrupt = 2
        self.double.place(np.array([-0.03, 0.0, 0.0, 0.0, 0.0]))
        assert pilot.decide(NOW).action[1] > 0.005

    def test_a_lost_servo_holds_then_is_named_and_it_leads_again_after_a_short_loss(self, pilot: LeaderArm) -> None:
        pilot.decide(NOW)
        self.double.panel.mute = 3
        self.double.place(np.array([-0.03, 0.0, 0.0, 0.0, 0.0]))
        assert not pilot.decide(NOW).action[:3].any()
        self.double.panel.mute = 0
        assert pilot.decide(NOW).action[1] > 0.005
        self.double.panel.mute = 3
        for _ in range(3):
            pilot.decide(NOW)
        with pytest.raises(HardwareError, match=r"leader: so101: .*no valid reply from elbow_flex \(servo id 3\) in 3 attempts"):
            pilot.decide(NOW)

    def test_its_own_fault_is_named(self, pilot: LeaderArm) -> None:
        self.double.panel.fault = 4
        try:
            with pytest.raises(HardwareError, match="leader: so101: shoulder_lift .*overheated"):
                for _ in range(1000):
                    pilot.decide(NOW)
        finally:
            self.double.panel.fault = 0


def test_a_leader_whose_measurements_stand_still_is_none() -> None:
    pytest.importorskip("dynamixel_sdk", reason="robolearn[dynamixel] is not installed")
    with launch("koch") as double:
        double.panel.hold = 1
        with LeaderArm(TOOL, Leader("koch", double.address)) as pilot:
            pilot.reset()
            pilot.decide(NOW)
            double.panel.freeze = 1
            with pytest.raises(HardwareError, match="leader: koch: its measurements stand still"):
                for _ in range(6):
                    pilot.decide(NOW)


def test_no_port_is_one_line() -> None:
    with (
        pytest.raises(HardwareError, match=r"leader: so101: /dev/ttyNOWHERE: .*/dev/ttyACM0"),
        LeaderArm(TOOL, Leader("so101", "/dev/ttyNOWHERE")),
    ):
        pass
