"""Universal Robots e-series through ur_rtde: servoJ at 500 Hz, the controller's own watchdog, a Robotiq 2F-85 on the tool.

The robot has to be on, its brakes released, in remote control, its speed slider at 100 %. close() and halt() leave it
holding. A UR's joints are calibrated in its controller: of a Calibration only the gripper's readings are used.
"""

from __future__ import annotations

import ctypes
import math
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

import numpy as np

from hardware.arms import Family
from hardware.arms.lan import ControllerTime, GripperBeside, bounded, parse, reach
from hardware.arms.model import ArmModel, limits, own, robosuite, with_hand
from hardware.calibration import Calibration
from hardware.types import ArmSpec, ArmState, HardwareError

RATE_HZ = 500.0
LOOKAHEAD_S, GAIN = 0.05, 500  # of servoJ: 0.03-0.2 and 100-2000; short and stiff, as the governor's setpoints are smooth already
WATCHDOG_HZ = 2.0  # the controller stops the program where nobody wrote for 1/2 s; the arm stands at its last setpoint long before
_PORT, _GRIPPER_PORT = 30004, 63352
_ANSWER_S = 3.0
_NORMAL, _RUNNING = (1, 2), 7  # in reduced mode it moves, too
_SAFETY = (
    *("undefined", "normal", "reduced", "protective stop", "recovery", "safeguard stop", "system emergency stop", "robot emergency stop"),
    *("violation", "fault", "validate joint id", "undefined", "automatic mode safeguard stop", "three position enabling stop"),
)
_MODES = ("NO_CONTROLLER", "DISCONNECTED", "CONFIRM_SAFETY", "BOOTING", "POWER_OFF", "POWER_ON", "IDLE", "BACKDRIVE", "RUNNING", "UPDATING")
_JOINT_MODES = {245: "not responding", 251: "violation", 252: "fault"}
_OUTPUTS = ("timestamp", "actual_q", "actual_qd", "robot_mode", "joint_mode", "safety_mode", "robot_status_bits", "target_speed_fraction")


class UR:
    """The driver. address: of the controller; ",gripper=none" after it where the tool has no Robotiq."""

    def __init__(self, model: ArmModel, address: str, calibration: Calibration | None = None) -> None:
        self.spec = model.spec
        self._host, _, self._has_gripper = parse(self.spec.name, address)
        self._calibration = calibration
        self._receive: Any = None
        self._control: Any = None
        self._gripper = GripperBeside(None)
        self._halted = self._guarded = False
        self._state: ArmState | None = None
        self._stamp, self._clock = math.nan, ControllerTime()

    # Life -----------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Raises HardwareError: no SDK, no robot, or a robot that is not ready, with what to do about it."""
        try:
            import dashboard_client
            import rtde_control
            import rtde_receive
        except ImportError as error:
            raise HardwareError(f"{self.spec.name}: ur_rtde is not installed; pip install 'robolearn[ur]'") from error
        self.close()
        reach(self.spec.name, self._host, _PORT)
        try:
            self._prepare(dashboard_client.DashboardClient(self._host))
            self._receive = self._ask(partial(rtde_receive.RTDEReceiveInterface, self._host, RATE_HZ, list(_OUTPUTS)), "receiving")
            self._expect_ready()
            self._control = self._ask(partial(rtde_control.RTDEControlInterface, self._host, RATE_HZ), "control program", 10.0)
            self._gripper = GripperBeside(Robotiq(self.spec.name, self._host, self._calibration) if self._has_gripper else None)
            self._gripper.start()
            self._await_program()
        except BaseException:
            self.close()
            raise

    def _prepare(self, dashboard: Any) -> None:
        """What the dashboard can tell and clear."""
        self._ask(partial(dashboard.connect, 2000), "dashboard")
        try:
            model = self._ask(dashboard.getRobotModel, "robot model")
            if model.strip().lower() != self.spec.name.removesuffix("e"):
                raise HardwareError(f"{self.spec.name}: {self._host} is a {model.strip()}; expected {self.spec.name[:-1].upper()}")
            local = self._host in ("127.0.0.1", "localhost")  # a simulator on this computer has no such key
            if not local and not self._ask(dashboard.isInRemoteControl, "remote control"):
                raise HardwareError(f"{self.spec.name}: in local control; switch the teach pendant to remote control")
            ends = monotonic() + 8.0  # a protective stop may be unlocked after 5 s
            while "protective" in self._ask(dashboard.safetystatus, "safety status").lower():
                try:
                    self._ask(dashboard.unlockProtectiveStop, "unlock protective stop")
                except HardwareError as error:
                    if monotonic() > ends:
                        raise HardwareError(f"{error}; see to its cause at the robot") from error
                    time.sleep(0.2)
        finally:
            dashboard.disconnect()

    def _expect_ready(self) -> None:
        receive, name = self._receive, self.spec.name
        ends = monotonic() + 0.3  # a stop that was just unlocked may still be in the stream
        while (fault := self._safety()) is not None and monotonic() < ends:
            time.sleep(0.02)
        if fault is not None:
            raise HardwareError(f"{name}: {fault}; release it at the robot, then connect again")
        mode = receive.getRobotMode()
        if mode != _RUNNING:
            raise HardwareError(f"{name}: robot mode {_name(_MODES, mode + 1)}; expected RUNNING: power it on and release its brakes")
        slider = receive.getTargetSpeedFraction()
        if slider < 0.999:
            raise HardwareError(f"{name}: speed slider at {100 * slider:.0f} %; expected 100 %: set it on the teach pendant")

    def _await_program(self) -> None:
        ends = monotonic() + _ANSWER_S
        while not self._program_runs():
            if monotonic() > ends:
                raise HardwareError(f"{self.spec.name}: the control program does not run; does another program?")
            time.sleep(0.005)

    def close(self) -> None:
        """End the control program: the robot holds, powered."""
        control, receive, self._control, self._receive = self._control, self._receive, None, None
        self._gripper.stop()
        self._halted = self._guarded = False
        self._state, self._stamp, self._clock = None, math.nan, ControllerTime()
        if control is not None:
            with suppress(HardwareError):
                self._end_program(control, receive)
        for side in (control, receive):
            if side is not None:
                # It sleeps half a second. Its destructor would once more, and no other thread of Python could run: it never dies.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(side))
                threading.Thread(target=side.disconnect).start()

    # Ticks ----------------------------------------------------------------------------------------------------------

    def read(self) -> ArmState:
        """The newest measurement, at once; of the same `seq` where there is none newer. Raises HardwareError."""
        stamp = self._connected().getTimestamp()
        fault = self._fault()
        if self._state is not None and stamp == self._stamp:  # the controller measures nothing new
            return replace(self._state, fault=fault)
        stamp, q, dq = self._consistent()
        if not np.isfinite([stamp, *q, *dq]).all():
            raise HardwareError(f"{self.spec.name}: corrupt measurement; joints {q.tolist()} rad")
        seq = 1 if self._state is None else self._state.seq + 1
        self._state = ArmState(self._clock.local(stamp), seq, q, dq, self._gripper.opening, fault)
        self._stamp = stamp
        return self._state

    def _consistent(self) -> tuple[float, np.ndarray, np.ndarray]:
        """The SDK's getters read one package each; all of these are of the same."""
        while True:
            stamp = self._receive.getTimestamp()
            q, dq = np.array(self._receive.getActualQ()), np.array(self._receive.getActualQd())
            if self._receive.getTimestamp() == stamp or not math.isfinite(stamp):
                return stamp, q, dq

    def write(self, q: np.ndarray, gripper: float) -> None:
        """One setpoint. Raises HardwareError. The first arms the controller's watchdog, and each one kicks it."""
        self.spec.check(q, gripper)
        if self._halted:
            raise HardwareError(f"{self.spec.name}: halted; connect again")
        self._connected()
        if not self._guarded:
            self._guarded = bool(self._ask(partial(self._control.setWatchdog, WATCHDOG_HZ), "watchdog"))
        self._expect_taken(self._program_runs())
        # The SDK wants a speed and an acceleration; the controller ignores both.
        taken = self._control.servoJ([float(v) for v in q], 0.5, 0.5, 1 / RATE_HZ, LOOKAHEAD_S, GAIN)
        self._connected()  # the SDK says yes to a setpoint that it could not send
        self._expect_taken(taken)
        self._gripper.goal = gripper

    def _expect_taken(self, taken: bool) -> None:
        if not taken:
            raise HardwareError(f"{self.spec.name}: setpoint not taken: {self._fault() or 'control program stopped'}")

    def halt(self) -> None:
        """servoStop, and no program any more until connected again; the gripper keeps its grip."""
        self._halted = True
        self._connected()
        self._end_program(self._control, self._receive)

    def _end_program(self, control: Any, receive: Any) -> None:
        for call in (control.servoStop, control.stopScript):
            if receive.isConnected() and control.isConnected():  # the SDK would wait for ever
                bounded(call, _ANSWER_S, f"{self.spec.name}: stop")

    # Words ----------------------------------------------------------------------------------------------------------

    def _connected(self) -> Any:
        if self._receive is None or self._control is None:
            raise HardwareError(f"{self.spec.name}: not connected")
        # Only the receiving side stays away once it is gone; the other one comes back by itself, without a watchdog.
        if not self._receive.isConnected():
            raise HardwareError(f"{self.spec.name}: connection to {self._host} lost; connect again")
        return self._receive

    def _ask(self, call: Any, what: str, seconds: float = _ANSWER_S) -> Any:
        return bounded(call, seconds, f"{self.spec.name}: {what}")

    def _program_runs(self) -> bool:
        return bool(self._receive.getRobotStatus() & 2)

    def _safety(self) -> str | None:
        mode = self._receive.getSafetyMode()
        if mode in _NORMAL:
            return None
        modes = zip(self.spec.joints, self._receive.getJointMode(), strict=True)
        joints = ", ".join(f"{joint} {_JOINT_MODES[mode]}" for joint, mode in modes if mode in _JOINT_MODES)
        return f"{_name(_SAFETY, mode)} (safety mode {mode}){': ' if joints else ''}{joints}"

    def _fault(self) -> str | None:
        mode = self._receive.getRobotMode()
        if (fault := self._safety()) is not None:
            return fault
        if mode != _RUNNING:
            return f"robot mode {_name(_MODES, mode + 1)}"
        if not self._halted and not self._program_runs():
            return "control program stopped, as by its watchdog"
        return self._gripper.fault


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if 0 <= number < len(names) else "unknown"


class Robotiq:
    """A Robotiq 2F-85 through its URCap's socket on the robot's controller: 0 open, 255 closed."""

    def __init__(self, arm: str, host: str, calibration: Calibration | None) -> None:
        self._arm, self._host = arm, host
        measured = calibration is not None and calibration.gripper is not None
        self._closed, self._open = (calibration.gripper_closed, calibration.gripper_open) if measured and calibration else (255.0, 0.0)
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Connect, and activate it unless it is: then it moves once through its range. Raises HardwareError."""
        try:
            if self._get("STA") != 3:
                self._set("ACT 0")
                self._set("ACT 1")
                ends = monotonic() + 10.0
                while self._get("STA") != 3:
                    if monotonic() > ends:
                        raise HardwareError(f"{self._arm}: the gripper does not get active; fault {self._get('FLT')}")
                    time.sleep(0.05)
            self._set("SPE 255 FOR 80 GTO 1")
        except (OSError, ValueError) as error:
            without = f"without one: address {self._host},gripper=none"
            raise HardwareError(f"{self._arm}: gripper, port {_GRIPPER_PORT}: {error}; {without}") from error

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def move(self, goal: float) -> None:
        self._set(f"POS {round(self._closed + goal * (self._open - self._closed))} GTO 1")

    def look(self) -> tuple[float, str | None]:
        opening = (self._get("POS") - self._closed) / (self._open - self._closed)
        fault = self._get("FLT")
        return min(1.0, max(0.0, opening)), f"gripper fault {fault}" if fault else None

    def _get(self, word: str) -> int:
        return int(self._say(f"GET {word}", rf"{word} (\d+)\s*"))

    def _set(self, words: str) -> None:
        self._say(f"SET {words}", r"(ack)\s*")

    def _say(self, line: str, expected: str) -> str:
        """What it answers. After a wrong or late answer the next word goes over a new connection: no answer is another word's."""
        if self._socket is None:
            self._socket = socket.create_connection((self._host, _GRIPPER_PORT), _ANSWER_S)
        try:
            self._socket.sendall(line.encode() + b"\n")
            answer = self._socket.recv(1024).decode("ascii", errors="replace")
            found = re.fullmatch(expected, answer)
            if found is None:
                raise ValueError(f"{line} answered with {answer.strip()!r}")
        except (OSError, ValueError):
            self.close()
            raise
        return found.group(1)


_JOINTS = ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_joint", "wrist_1_joint", "wrist_2_joint", "wrist_3_joint")
# The user manuals' joint ranges, the elbow's halved: beyond half a turn the forearm meets the upper arm.
_Q_MAX = (2 * np.pi, 2 * np.pi, np.pi, 2 * np.pi, 2 * np.pi, 2 * np.pi)
# The data sheets name speeds only (UR3e, UR5e, UR10e technical specifications). A reserve of 30 % for the safety system; an
# acceleration of a quarter of the 40 rad/s2 that PolyScope accepts, reached in 0.1 s.
_V_SHARE, _A_MAX, _J_MAX = 0.7, 10.0, 100.0


def _model(name: str, speeds_deg: tuple[float, ...], torque_max: tuple[float, ...], mjcf: Any) -> ArmModel:
    """torque_max: UR's article "Max. joint torques"."""
    values = limits(
        q_min=[-q for q in _Q_MAX],
        q_max=_Q_MAX,
        v_max=_V_SHARE * np.radians(speeds_deg),
        a_max=[_A_MAX] * 6,
        j_max=[_J_MAX] * 6,
        home=[0, -np.pi / 2, np.pi / 2, -np.pi / 2, -np.pi / 2, 0],
    )
    spec = ArmSpec(name, _JOINTS, "rad", **values, rate_hz=RATE_HZ)
    hand = with_hand(mjcf, 0.16, 0.06)  # Robotiq's 2F-85, closed
    return ArmModel(spec, hand, elbow=("forearm_link", "wrist_1_link"), torque_max=torque_max, gripper_max_m=0.085)


FAMILY = Family(
    models={
        "ur3e": _model("ur3e", (180, 180, 180, 360, 360, 360), (56, 56, 28, 12, 12, 12), own("ur3e")),
        "ur5e": _model("ur5e", (180,) * 6, (150, 150, 150, 28, 28, 28), robosuite("ur5e")),
        "ur10e": _model("ur10e", (120, 120, 180, 180, 180, 180), (330, 330, 150, 56, 56, 56), own("ur10e")),
    },
    drive=UR,
    double="hardware.doubles.ur",
    address="192.168.1.10",
)
