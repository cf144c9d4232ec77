"""UFACTORY xArm 5, 6, 7 and Lite 6 through xarm-python-sdk: servo mode at 200 Hz, reports of port 30000, the xArm gripper.

The controller has no watchdog: where nobody writes, the arm stays at its last setpoint. close() and halt() leave it holding,
motors on. Its joints are calibrated in its controller: of a Calibration only the gripper's readings are used. The Lite 6's own
gripper, which only opens or closes and measures nothing, is not driven.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from hardware.arms import Family
from hardware.arms.lan import ControllerTime, GripperBeside, bounded, parse, reach
from hardware.arms.model import ArmModel, limits, own, robosuite, with_hand
from hardware.calibration import Calibration
from hardware.types import ArmSpec, ArmState, HardwareError

RATE_HZ = 200.0  # of the reports; the controller takes setpoints at 250 Hz at most
FIRMWARE = (2, 1, 0)  # the first with reports that carry the controller's time and the joints' speeds
_CONTROL, _REPORT = 502, 30000
_ANSWER_S, _PATIENCE_S = 0.2, 3.0
_SERVO_MODE, _STOP = 1, 4
_EMERGENCY = (1, 2, 3)
_OPENING = threading.Lock()  # the SDK keeps the port in one place for all arms


def dial(arm: str, host: str, port: int, **options: object) -> Any:
    """A connected XArmAPI. Raises HardwareError."""
    try:
        Path("~/.UFACTORY/log/xarm/sdk").expanduser().mkdir(parents=True, exist_ok=True)  # the SDK would, and fails where two do at once
        from xarm.core.config.x_config import XCONF
        from xarm.wrapper import XArmAPI
    except ImportError as error:
        raise HardwareError(f"{arm}: xarm-python-sdk is not installed; pip install 'robolearn[xarm]'") from error
    except OSError as error:
        raise HardwareError(f"{arm}: xarm-python-sdk keeps its log there: {error}") from error
    reach(arm, host, port)
    with _OPENING:
        setattr(XCONF.SocketConf, "TCP_CONTROL_PORT", port)  # noqa: B010  # the SDK's stubs take it for a constant
        before = socket.getdefaulttimeout()
        api: Any = XArmAPI(host, is_radian=True, do_not_open=True, check_joint_limit=False, forbid_uds=True, **options)
        try:
            bounded(api.connect, _PATIENCE_S, f"{arm}: {host}")
        except HardwareError:
            api.disconnect()  # or it would go on trying
            raise
        finally:
            socket.setdefaulttimeout(before)  # the SDK changes it for everybody
    api.set_timeout(_ANSWER_S)
    return api


class XArm:
    """The driver. address: of the controller; ",gripper=none" after it where there is no xArm gripper."""

    def __init__(self, model: ArmModel, address: str, calibration: Calibration | None = None) -> None:
        self.spec = model.spec
        self._host, self._port, gripper = parse(self.spec.name, address, _CONTROL)
        self._has_gripper = gripper and self.spec.name != "lite6"
        self._calibration = calibration
        self._api: Any = None
        self._reports: Reports | None = None
        self._gripper = GripperBeside(None)
        self._halted = False
        self._state: ArmState | None = None
        self._stamp, self._clock = -1.0, ControllerTime()
        self._error = 0

    # Life -----------------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Clear errors, enable the motors, servo mode. Raises HardwareError: no SDK, no arm, or what to do about it."""
        self.close()
        try:
            # The SDK's own reports have no time and no speeds; from them it learns the mode, or it would warn at each setpoint.
            self._api = dial(self.spec.name, self._host, self._port, report_type="real")
            self._expect_arm()
            self._reports = Reports(self.spec.name, self._host, len(self.spec.joints))
            self._enable()
            self._gripper = GripperBeside(self._jaw() if self._has_gripper else None)
            self._gripper.start()
        except BaseException:
            self.close()
            raise

    def _jaw(self) -> XArmGripper:
        return XArmGripper(self.spec.name, self._host, self._port, self._calibration)

    def _expect_arm(self) -> None:
        axes, name = len(self.spec.joints), self.spec.name
        if self._api.axis != axes or (self._api.device_type == 9) != (name == "lite6"):
            raise HardwareError(f"{name}: {self._host} has {self._api.axis} joints, type {self._api.device_type}; expected {name}")
        if self._api.version_number < FIRMWARE:
            have, need = (".".join(map(str, version)) for version in (self._api.version_number, FIRMWARE))
            raise HardwareError(f"{name}: firmware {have}; expected {need} or later: update it in UFACTORY Studio")

    def _enable(self) -> None:
        self._api.clean_error()
        self._api.clean_warn()
        error = self._ask_error()
        if error in _EMERGENCY:
            raise HardwareError(f"{self.spec.name}: {_words(error)}; release it, then connect again")
        if error:
            raise HardwareError(f"{self.spec.name}: {_words(error)}; it cannot be cleared before its cause is")
        for call, what in (
            (partial(self._api.motion_enable, True), "motion_enable"),
            (partial(self._api.set_mode, _SERVO_MODE), "set_mode"),
            (partial(self._api.set_state, 0), "set_state"),
        ):
            self._do(call, what)
        ends = monotonic() + _PATIENCE_S
        while (seen := self._newest())[1] >= 3 or seen[2] != _SERVO_MODE or self._api.mode != _SERVO_MODE:
            if monotonic() > ends:
                raise HardwareError(f"{self.spec.name}: state {seen[1]}, mode {seen[2]}; expected state 1 or 2 and mode 1")
            time.sleep(0.005)

    def close(self) -> None:
        """Stop: the arm holds, its motors on."""
        api, reports, self._api, self._reports = self._api, self._reports, None, None
        self._gripper.stop()
        self._halted, self._state, self._error = False, None, 0
        self._stamp, self._clock = -1.0, ControllerTime()
        if reports is not None:
            reports.close()
        if api is not None:
            with suppress(Exception):
                api.set_state(_STOP)
            with suppress(Exception):
                api.disconnect()

    # Ticks ----------------------------------------------------------------------------------------------------------

    def read(self) -> ArmState:
        """The newest report, at once; of the same `seq` where there is none newer. Raises HardwareError."""
        stamp, state, _, q, dq = self._newest()
        fault = self._fault(state)
        if self._state is not None and stamp == self._stamp:
            return replace(self._state, fault=fault)
        if not np.isfinite([*q, *dq]).all():
            raise HardwareError(f"{self.spec.name}: corrupt report; joints {q.tolist()} rad")
        seq = 1 if self._state is None else self._state.seq + 1
        self._state = ArmState(self._clock.local(stamp), seq, q, dq, self._gripper.opening, fault)
        self._stamp = stamp
        return self._state

    def write(self, q: np.ndarray, gripper: float) -> None:
        """One setpoint. Raises HardwareError: not taken, or no reply."""
        self.spec.check(q, gripper)
        if self._halted:
            raise HardwareError(f"{self.spec.name}: halted; connect again")
        self._newest()
        self._do(partial(self._api.set_servo_angle_j, [float(v) for v in q]), "setpoint")
        self._gripper.goal = gripper

    def halt(self) -> None:
        """State 4: the controller brakes the arm and takes no setpoints; the gripper keeps its grip."""
        self._halted = True
        self._newest()
        self._do(partial(self._api.set_state, _STOP), "stop")

    # Words ----------------------------------------------------------------------------------------------------------

    def _newest(self) -> Report:
        if self._api is None or self._reports is None:
            raise HardwareError(f"{self.spec.name}: not connected")
        if not self._api.connected:
            raise HardwareError(f"{self.spec.name}: connection to {self._host} lost; connect again")
        return self._reports.newest()

    def _fault(self, state: int) -> str | None:
        """The controller says in each report whether it stopped; why, it has to be asked."""
        if state < _STOP:
            self._error = 0
            return self._gripper.fault
        self._error = self._error or self._ask_error()
        if self._error:
            return _words(self._error)
        return None if self._halted else f"stopped (state {state})"

    def _ask_error(self) -> int:
        code, codes = self._api.get_err_warn_code()
        if code != 0:
            raise HardwareError(f"{self.spec.name}: error code: {_CODES.get(code, f'code {code}')}")
        return int(codes[0])

    def _do(self, call: Callable[[], int], what: str) -> None:
        code = call()
        if code == 0:
            return
        why = _CODES.get(code, f"code {code}")
        if code in (1, 9):  # it has an error, or is not ready
            with suppress(HardwareError):
                self._error = self._ask_error()
                why = _words(self._error) if self._error else why
        raise HardwareError(f"{self.spec.name}: {what} not taken: {why}")


Report = tuple[float, int, int, np.ndarray, np.ndarray]
"""(controller's time [s], state, mode, q (J,) [rad], dq (J,) [rad/s])"""


class Reports:
    """Port 30000, as UFACTORY documents it: 200 reports a second; a thread keeps the newest."""

    def __init__(self, arm: str, host: str, axes: int) -> None:
        self._arm, self._axes, self._lost = arm, axes, ""
        self._newest: Report | None = None
        try:
            self._socket = socket.create_connection((host, _REPORT), 3.0)
        except OSError as error:
            raise HardwareError(f"{arm}: {host} port {_REPORT} (reports): {error.strerror or error}") from error
        self._socket.settimeout(None)
        threading.Thread(target=self._work, daemon=True, name="xarm reports").start()

    def newest(self) -> Report:
        """Raises HardwareError where the connection ended; waits for the very first one."""
        ends = monotonic() + 2.0
        while self._newest is None and not self._lost and monotonic() < ends:
            time.sleep(0.001)
        if self._newest is None or self._lost:
            raise HardwareError(f"{self._arm}: reports: {self._lost or 'none came'}; connect again")
        return self._newest

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _work(self) -> None:
        buffer = bytearray()
        try:
            while chunk := self._socket.recv(8192):
                buffer += chunk
                while len(buffer) >= 4:
                    size = int.from_bytes(buffer[:4], "big")
                    if not 172 <= size <= 4096:
                        raise ValueError(f"one of {size} bytes")
                    if len(buffer) < size:
                        break
                    self._newest = self._parse(bytes(buffer[:size]))
                    del buffer[:size]
            self._lost = "connection lost"
        except (OSError, ValueError) as error:
            self._lost = str(error)

    def _parse(self, data: bytes) -> Report:
        stamp, state = struct.unpack_from(">QB", data, 4)
        rows = struct.unpack_from("<14f", data, 116)
        q, dq = (np.array(row[: self._axes], dtype=np.float64) for row in (rows[:7], rows[7:]))
        return stamp * 1e-6, state & 0x0F, state >> 4, q, dq


class XArmGripper:
    """The xArm gripper: Modbus through the controller, on a connection of its own; 0 pulses closed, 850 open."""

    def __init__(self, arm: str, host: str, port: int, calibration: Calibration | None) -> None:
        self._arm, self._host, self._port = arm, host, port
        measured = calibration is not None and calibration.gripper is not None
        self._closed, self._open = (calibration.gripper_closed, calibration.gripper_open) if measured and calibration else (0.0, 850.0)
        self._api: Any = None

    def open(self) -> None:
        self._api = dial(self._arm, self._host, self._port, enable_report=False)
        self._check(self._api.set_gripper_mode(0), "set_gripper_mode")
        self._check(self._api.set_gripper_enable(True), "set_gripper_enable")
        self._check(self._api.set_gripper_speed(5000), "set_gripper_speed")

    def close(self) -> None:
        if self._api is not None:
            with suppress(Exception):
                self._api.disconnect()

    def move(self, goal: float) -> None:
        pulses = round(self._closed + goal * (self._open - self._closed))
        self._check(self._api.set_gripper_position(pulses, wait=False, wait_motion=False), "set_gripper_position")

    def look(self) -> tuple[float, str | None]:
        code, pulses = self._api.get_gripper_position()
        self._check(code, "get_gripper_position")
        if pulses is None:  # the SDK's way to say that the second of its two questions failed
            raise HardwareError(f"{self._arm}: gripper: no position")
        return min(1.0, max(0.0, (pulses - self._closed) / (self._open - self._closed))), None

    def _check(self, code: int, what: str) -> None:
        if code != 0:
            without = f"; without one: address {self._host},gripper=none"
            raise HardwareError(f"{self._arm}: gripper: {what}: {_CODES.get(code, f'code {code}')}{without}")


_CODES = {-1: "not connected", 1: "the controller has an error", 3: "no reply", 8: "could not be sent", 9: "not ready", 10: "invalid"} | {
    **dict.fromkeys((4, 5, 6, 7, 23), "corrupt reply"),
    **dict.fromkeys((20, 22, 102), "the gripper has a fault or is not there"),
}


def _words(error: int) -> str:
    """The vendor's words for one of its errors."""
    from xarm.core.config.x_code import ControllerErrorCodeMap

    title = ControllerErrorCodeMap.get(error, {}).get("en", {}).get("title", "unknown")
    return f"error {error}: {title}"


# The user manuals: 180 deg/s for every joint, 1145 deg/s2, 28647 deg/s3. A reserve of 30 % of the speed and half the
# acceleration, as the controller stops where a setpoint asks for more; a fifth of the jerk, for the links' sake.
_V_MAX, _A_MAX, _J_MAX = 0.7 * np.pi, 0.5 * np.radians(1145), 0.2 * np.radians(28647)
# Ranges of the user manual; of arms made since 2023 ("1305") where those are narrower.
_TURN, _SHOULDER, _WRIST = (-2 * np.pi, 2 * np.pi), (-2.042, 2.024), (-1.692, np.pi)


def _model(name: str, ranges: tuple[tuple[float, float], ...], torque_max: tuple[float, ...], home: list[float], mjcf: Any) -> ArmModel:
    """torque_max: effort in UFACTORY's xarm_description."""
    joints = tuple(f"joint{n + 1}" for n in range(len(ranges)))
    low, high = zip(*ranges, strict=True)
    n = len(joints)
    values = limits(q_min=low, q_max=high, v_max=[_V_MAX] * n, a_max=[_A_MAX] * n, j_max=[_J_MAX] * n, home=home)
    spec = ArmSpec(name, joints, "rad", **values, rate_hz=RATE_HZ)
    elbow = ("link4", "link5") if n == 7 else ("link3", "link4")
    hand = with_hand(mjcf, 0.06, 0.03) if name == "lite6" else with_hand(mjcf, 0.17, 0.06)  # UFACTORY's grippers, closed
    return ArmModel(spec, hand, elbow=elbow, torque_max=torque_max, gripper_max_m=0.084)


_PITCH = 0.25 + 0.9  # the tool points down
_ELBOW, _LITE_WRIST = (-3.822, 0.1745), (-2.164, 2.164)
FAMILY = Family(
    models={
        "xarm5": _model(
            "xarm5", (_TURN, _SHOULDER, _ELBOW, _WRIST, _TURN), (50, 50, 30, 20, 20), [0, -0.25, -0.9, _PITCH, 0], own("xarm5")
        ),
        "xarm6": _model(
            "xarm6",
            (_TURN, _SHOULDER, _ELBOW, _TURN, _WRIST, _TURN),
            (50, 50, 32, 32, 32, 20),
            [0, -0.25, -0.9, 0, _PITCH, 0],
            own("xarm6"),
        ),
        "xarm7": _model(
            "xarm7",
            (_TURN, _SHOULDER, _TURN, (-0.1047, 3.926), _TURN, _WRIST, _TURN),
            (50, 50, 30, 30, 30, 20, 20),
            [0, -0.25, 0, 0.9, 0, _PITCH, 0],
            robosuite("xarm7"),
        ),
        "lite6": _model(
            "lite6",
            (_TURN, (-2.617, 2.617), (-0.061, 5.235), _TURN, _LITE_WRIST, _TURN),
            (50, 50, 32, 32, 32, 20),
            [0, 0.2, 1.0, 0, 0.8, 0],
            own("lite6"),
        ),
    },
    drive=XArm,
    double="hardware.doubles.xarm",
    address="192.168.1.10",
)
