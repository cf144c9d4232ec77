"""A robot as a service: the arm, its cameras and its governor stay here. The network can only ask."""

from __future__ import annotations

from collections import Counter, deque
from inspect import signature
from typing import Any

import numpy as np

from hardware.clock import SimClock
from hardware.network.server import Service
from hardware.process import ANSWER_S, CONNECT_S, RemoteGovernor, longest_way_s
from hardware.process_server import Facts
from hardware.robot import SafeRobot
from hardware.types import Command, HardwareError, Observation, Source


class ServedRobot(Service):
    """Whatever SafeRobot can be asked for, of one that is connected. The client's stop, and its end, brake within a tick of the arm."""

    kind = "robot"

    def __init__(self, robot: SafeRobot) -> None:
        self.robot = robot
        arm = robot.governor.arm
        self.facts = {
            "spec": robot.spec.to_dict(),
            "arm": {name: getattr(arm, name) for name in ARM_FIELDS},
            "calibration": robot.calibration,
            "brake_s": robot.governor.brake_s,
            "reset_s": CONNECT_S + 2 * ANSWER_S + longest_way_s(robot.governor),
            "simulated": isinstance(robot.clock, SimClock),  # its time stands still while nobody observes
        }

    def answer(self, what: str, arguments: list[Any]) -> dict[str, Any]:
        """The value, and the robot's time; what it sees comes with what its governor says."""
        ask = _REQUESTS.get(what)
        if ask is None:
            raise HardwareError(f"{what!r:.40}: no request; valid: {', '.join(_REQUESTS)}")
        try:
            signature(ask).bind(self.robot, *arguments)
        except TypeError as error:
            raise HardwareError(f"{what}: {error}") from error
        value = ask(self.robot, *arguments)
        said = governor_says(self.robot) if what in ("observe", "governor") else None
        return {"value": value, "time": self.robot.clock.now(), "governor": said}

    def urge(self, reason: str) -> None:
        self.robot.brake(reason)

    def left(self, reason: str) -> None:
        """At rest, latched: the next client begins with a reset."""
        self.robot.stop(reason)
        self.robot.forget_stop()


ARM_FIELDS = ("name", "joints", "units", "q_min", "q_max", "v_max", "a_max", "j_max", "home", "rate_hz")


def governor_says(robot: SafeRobot) -> dict[str, Any]:
    governor = robot.governor
    if isinstance(governor, RemoteGovernor):
        facts = governor.facts
    else:
        facts = Facts(governor.stopped, Counter(governor.interventions), deque(governor.events), 0, 0)
    setpoint = governor.setpoint
    return {
        "stopped": facts.stopped,
        "interventions": dict(facts.interventions),
        "late_rows": facts.late_rows,
        "missed_ticks": facts.missed_ticks,
        "at_rest": governor.at_rest,
        "setpoint": [setpoint.q, setpoint.gripper, setpoint.v, setpoint.a],
    }


# Requests -----------------------------------------------------------------------------------------------------------


def _observe(robot: SafeRobot) -> dict[str, Any]:
    seen: Observation = robot.observe()
    return {"time": seen.time, "images": dict(seen.images), "state": dict(seen.state)}


def _send(robot: SafeRobot, time: float, action: np.ndarray, source: int) -> np.ndarray:
    if not isinstance(time, float) or not isinstance(action, np.ndarray) or source not in list(Source):
        raise HardwareError("command: expected a time [s], an array, and who acts, 0 to 5")
    return robot.send(Command(time, action, Source(source)))


def _reset(robot: SafeRobot, seed: int, final_stop: str | None) -> None:
    """final_stop: the client's. One that came while this reset was on its way ends it."""
    if not isinstance(seed, int) or seed < 0:
        raise HardwareError(f"reset: seed {seed!r:.40}; expected 0 or more")
    if not isinstance(final_stop, str | None):
        raise HardwareError(f"reset: final_stop {final_stop!r:.40}; expected a reason or nothing")
    robot.final_stop = final_stop
    robot.reset(np.random.default_rng(seed))


def _stop(robot: SafeRobot, reason: str) -> None:
    robot.stop(str(reason)[:200])


def _hold(robot: SafeRobot) -> np.ndarray:
    return robot.hold()


def _anchor(robot: SafeRobot) -> None:
    robot.anchor()


def _governor(robot: SafeRobot) -> None:
    """What it says comes with the answer."""


_REQUESTS = {
    "observe": _observe, "send": _send, "reset": _reset, "stop": _stop, "hold": _hold, "anchor": _anchor, "governor": _governor,
}  # fmt: skip
