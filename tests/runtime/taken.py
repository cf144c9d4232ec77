"""An SO-101 in simulated time behind its real governor, a policy that drifts, and devices held by a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from hardware import RealConfig, RobotConfig, arms, real
from hardware.clock import SimClock
from hardware.fake import FakeArm
from hardware.governor import Setpoint
from hardware.loop import ArmLoop
from hardware.robot import SafeRobot
from hardware.teleop.keys import NoKeys, PassedKeys
from hardware.teleop.leader import Leader, LeaderArm
from hardware.teleop.operator import Jogger
from hardware.testing import LimitProbe
from hardware.types import ArmState, HardwareError, Observation, RobotSpec
from robolearn.core.types import Obs, Policy

Actions = Literal["joint_pos", "ee_delta"]
OPEN = 0.3  # what the policy wants of the gripper


def robot_of(actions: Actions) -> SafeRobot:
    config = RobotConfig("so101", arm=RealConfig("nowhere", actions=actions))
    model = arms.find("so101")[1]
    model = replace(model, spec=real.slowed(model.spec, 0.3))
    spec, arm = real.spec(config), FakeArm(model.spec)
    governor = real.governor_of(model, config, spec)
    return SafeRobot(spec, ArmLoop(arm, SimClock(arm.advance), governor), {}, real.state_reader(governor.kinematics))


class Drift(Policy):
    """Wants to go on from what it sees: 0.03 rad, or 1 cm, per row, to and fro every 20 decisions; counts its answers."""

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__()
        self.spec, self.history, self.horizon, self.answers = spec, 1, 8, 0

    def act(self, obs: Obs) -> torch.Tensor:
        sign = 1.0 if self.answers % 5 < 3 else -1.0
        self.answers += 1
        row = torch.arange(1, self.horizon + 1)[:, None]
        if self.spec.action_mode == "joint_pos":
            moved = obs.state[0, -1, :5] + sign * 0.03 * row * torch.tensor([1.0, 0.5, -0.5, 1.0, -1.0])
        else:
            moved = sign * torch.tensor([0.004, 0.01, 0.005]).expand(self.horizon, 3)
        return torch.cat([moved, torch.full((self.horizon, 1), OPEN)], 1)[None]


class Stick(Jogger):
    """With a clutch: it moves by `step` [share of the largest] while it is `down`. `dead`: it was unplugged."""

    def __init__(self, spec: RobotSpec) -> None:
        super().__init__(spec, NoKeys())
        self.down, self.step, self.dead = False, np.zeros(3), False

    def clutch(self) -> bool:
        return self.down

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        if self.dead:
            raise HardwareError("stick: it is gone")
        return self.step * self.jog.limit_m() if self.down else np.zeros(3)


class Puppet(Leader):
    """A leader without servos: `q` is where the person has it. `dead`: it gives no readings any more."""

    def __init__(self) -> None:
        super().__init__("so101", "nowhere")
        self.q, self.gripper, self.dead = np.full(5, 0.4), 0.8, False

    def open(self) -> None: ...

    def close(self) -> None: ...

    def read(self) -> ArmState | None:
        if self.dead:
            raise HardwareError("leader: so101: no valid reply")
        return ArmState(0.0, 1, self.q, np.zeros(5), self.gripper)


class Led(LeaderArm):
    """A leader whose clutch is `down`."""

    def __init__(self, spec: RobotSpec) -> None:
        self.puppet = Puppet()
        super().__init__(spec, self.puppet, PassedKeys())

    @property
    def down(self) -> bool:
        return self.engaged

    @down.setter
    def down(self, down: bool) -> None:
        if down != self.engaged:
            assert isinstance(self.keys, PassedKeys)
            self.keys.put("c")


class Smooth:
    """Below the governor: the limits of a LimitProbe, and that no setpoint's acceleration jumps."""

    def __init__(self, robot: SafeRobot) -> None:
        self.probe, self.robot = LimitProbe.attach(robot), robot
        self.jumps, self.last, self.path = 0, np.zeros(5), [np.zeros(5)]
        assert isinstance(robot.loop, ArmLoop)
        robot.loop.on_setpoint.append(self._look)
        robot.loop.on_reset.append(self._forget)

    def _forget(self) -> None:
        self.last, self.path = np.zeros(5), []

    def _look(self, now: float, setpoint: Setpoint) -> None:
        arm = self.robot.governor.arm
        self.jumps += bool((np.abs(setpoint.a - self.last) > arm.j_max / arm.rate_hz * (1 + 1e-6)).any())
        self.last = setpoint.a
        self.path.append(setpoint.q)

    def check(self) -> None:
        assert self.probe.setpoints > 50
        assert not self.probe.violations
        assert self.jumps == 0


DEVICES: dict[str, tuple[Actions, Callable[[RobotSpec], Stick | Led]]] = {
    "a stick": ("ee_delta", Stick),
    "a leader by its tool": ("ee_delta", Led),
    "a leader by its joints": ("joint_pos", Led),
}


def move(device: Stick | Led, by: np.ndarray) -> None:
    """The person's hand: by (3,), -1 to 1."""
    if isinstance(device, Stick):
        device.step = by
    else:
        device.puppet.q = np.clip(device.puppet.q + 0.1 * np.append(by, by[:2]), -1.2, 1.2)
