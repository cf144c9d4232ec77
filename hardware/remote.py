"""A robot on another computer as a body: `robolearn serve --robot ...` there, `--robot.body remote` here.

Its governor stays there, next to the motors; here is what one may ask of it. Times are the robot's own: an observation carries when it was
made, the command that answers it carries that time back, and the governor there judges the age of both ways and of the thought between by
one clock. Nothing is stamped anew, and nothing has to be synchronised.
"""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware.arms.lan import ControllerTime
from hardware.governor import Setpoint
from hardware.network.client import ANSWER_S, Client
from hardware.process import RemoteGovernor
from hardware.process_server import Facts
from hardware.real import RealConfig
from hardware.robot import SafeRobot
from hardware.types import ArmSpec, Command, HardwareError, Observation, RobotSpec

if TYPE_CHECKING:
    from hardware import RobotConfig

FRESH_S = 0.05  # what the governor said is taken for new


class NetworkClock:
    """The robot's time, by the answer that was least delayed: behind by its way, never ahead. A simulator's: of the last answer."""

    def __init__(self, simulated: bool) -> None:
        self._simulated, self._stamp = simulated, 0.0
        self._controller, self._behind = ControllerTime(), 0.0

    def heard(self, stamp: float) -> None:
        self._stamp, self._behind = stamp, self._controller.local(stamp) - stamp

    def now(self) -> float:
        return self._stamp if self._simulated else monotonic() - self._behind

    def sleep_until(self, time: float) -> None:
        sleep(0.0 if self._simulated else max(0.0, time - self.now()))


class NetworkGovernor(RemoteGovernor):
    """What the robot's governor said with the last observation, or says when asked."""

    def __init__(self, robot: RemoteRobot, facts: dict[str, Any]) -> None:
        self.arm = ArmSpec(**{**facts["arm"], "joints": tuple(facts["arm"]["joints"])})
        self.action, self.brake_s = robot.spec.action, facts["brake_s"]
        self.period_s, self.dt = 1 / robot.spec.rate_hz, 1 / self.arm.rate_hz
        self._robot, self._said, self._until = robot, dict[str, Any](), 0.0

    def heard(self, said: dict[str, Any] | None) -> None:
        """None: something was asked of the robot since, and what it said then may be old."""
        self._said, self._until = (said, monotonic() + FRESH_S) if said else ({}, 0.0)

    def admit(self, command: Command, now: float) -> np.ndarray:
        return self._robot.send(command)

    @property
    def facts(self) -> Facts:
        said = self._newest()
        return Facts(said["stopped"], Counter(said["interventions"]), deque(), said["late_rows"], said["missed_ticks"])

    @property
    def setpoint(self) -> Setpoint:
        return Setpoint(*self._newest()["setpoint"])

    @property
    def at_rest(self) -> bool:
        return self._newest()["at_rest"]

    def _newest(self) -> dict[str, Any]:
        if monotonic() > self._until:
            self._robot.ask("governor")
        return self._said


class RemoteRobot(SafeRobot):
    """As SafeRobot, by a socket. A link that is lost raises HardwareError here, and stops the robot there."""

    def __init__(self, client: Client, facts: dict[str, Any]) -> None:
        self.spec, self.world, self.cameras = RobotSpec.from_dict(facts["spec"]), None, {}
        self.calibration = facts["calibration"]
        self._client, self._facts = client, facts
        self._clock, self._governor = NetworkClock(facts["simulated"]), NetworkGovernor(self, facts)
        self._connected = False

    @property
    def clock(self) -> NetworkClock:
        return self._clock

    @property
    def governor(self) -> NetworkGovernor:
        return self._governor

    def connect(self) -> None:
        """Be its one client."""
        if not self._connected:
            self._client.open()
            self._connected = True

    def close(self) -> None:
        """It comes to rest there, and waits for the next client. Idempotent."""
        if self._connected:
            self._connected = False
            self._client.close(ANSWER_S + self.governor.brake_s)

    def reset(self, rng: np.random.Generator) -> None:
        self._begin_reset()
        self.ask("governor")  # within 2 s it is known whether it is there, and knows us
        try:
            self.ask("reset", int(rng.integers(2**63)), self.final_stop, within_s=self._facts["reset_s"])
        except HardwareError:
            raise
        except BaseException:  # Ctrl-C: there nobody knows of it
            self._client.urge("reset failed")
            raise

    def anchor(self) -> None:
        self.ask("anchor")

    def observe(self) -> Observation:
        seen = self.ask("observe", within_s=ANSWER_S + 1 / self.spec.rate_hz)
        return Observation(seen["time"], seen["images"], seen["state"])

    def send(self, command: Command) -> np.ndarray:
        return self.ask("send", float(command.time), np.asarray(command.action), int(command.source))

    def hold(self) -> np.ndarray:
        return self.ask("hold")

    def stop(self, reason: str) -> None:
        """Heard at once, also while another request is being answered; at rest when this returns."""
        self.brake(reason)
        self.ask("stop", reason, within_s=self._facts["reset_s"])

    def brake(self, reason: str) -> None:
        self._need_connection()
        self._note_stop(reason)
        self._client.urge(reason)

    def ask(self, what: str, *arguments: Any, within_s: float = ANSWER_S) -> Any:
        self._need_connection()
        self._governor.heard(None)
        answer = self._client.ask(what, *arguments, within_s=within_s)
        self._clock.heard(answer["time"])
        self._governor.heard(answer["governor"])
        return answer["value"]


def spec(config: RobotConfig) -> RobotSpec:
    """As the robot's computer says. Raises HardwareError where nobody answers there."""
    client = _client(config)
    try:
        return RobotSpec.from_dict(client.hello()["spec"])
    finally:
        client.close()


def build(config: RobotConfig) -> RemoteRobot:
    client = _client(config)
    try:
        return RemoteRobot(client, client.hello())
    finally:
        client.close()  # until it is connected


def _client(config: RobotConfig) -> Client:
    from hardware import RobotConfig

    arm = config.arm or RealConfig()
    if not arm.server_key:
        raise HardwareError("RobotConfig.arm.server_key: missing; expected the client.key that `robolearn serve --robot` made")
    for prefix, given, plain, mine in (
        ("", config, RobotConfig(), ("body", "arm")),
        ("arm.", arm, RealConfig(), ("address", "server_key")),
    ):
        for name, value in vars(given).items():
            if name not in mine and value != getattr(plain, name):
                raise HardwareError(f"RobotConfig.{prefix}{name}: {value}; a remote robot's is set on its own computer, leave it out here")
    return Client(arm.address, Path(arm.server_key).expanduser(), "robot")
