"""The processes in which libfranka lives, and the memory they share with the driver.

pylibfranka keeps Python's lock during every call: a gripper's `move` stops the whole program until the fingers have arrived, and a
controller whose cycle counter stands still stops it for ever. So each device has a process of its own, which the kernel ends when a
call hangs. This file is run by its path and imports nothing of ours.
"""

from __future__ import annotations

import mmap
import os
import select
import signal
import subprocess
import sys
from time import monotonic, sleep
from typing import Any, NoReturn

import numpy as np

CYCLE_S = 0.01  # of the arm's process: the newest target out, the newest state in
HUNG_S, HAND_HUNG_S = 3, 15  # a call that takes longer ends the process
LOST_S = 0.05  # after a pause like this the first state may be an old one
DRIFT = 1e-4  # of the controller's clock against ours, at most
CORRUPT_MAX = 3  # bad states in a row that a connection survives
GRASP_FORCE_N, HAND_SPEED, HAND_STEP = 30.0, 0.1, 0.02  # [N], [m/s], smallest change of 0..1 that is passed on
RUN, HALT, QUIT = range(3)

ORDER = np.dtype([("count", "<i8"), ("what", "u1"), ("q", "<f8", 7), ("gripper", "<f8")])
STATE = np.dtype(
    [("id", "<i8"), ("time", "<f8"), ("q", "<f8", 7), ("dq", "<f8", 7), ("gripper", "<f8")]
    + [("fault", "S400"), ("bad", "<i8"), ("failed", "S400")]
)
# Joint and Cartesian thresholds from which a contact is a reflex [N m], [N], as in Franka's own examples.
COLLISION_NM = [20.0, 20.0, 18.0, 18.0, 16.0, 14.0, 12.0]
COLLISION_N = [20.0, 20.0, 20.0, 25.0, 25.0, 25.0]


class Slot:
    """A record in shared memory: one process puts, the other gets the newest, neither waits."""

    def __init__(self, memory: mmap.mmap, offset: int, dtype: np.dtype) -> None:
        self._version = np.ndarray(1, np.int64, memory, offset)
        self._record = np.ndarray((), dtype, memory, offset + 8)

    def put(self, record: np.ndarray) -> None:
        self._version[0] += 1  # odd: being written
        self._record[...] = record
        self._version[0] += 1

    def get(self) -> np.ndarray:
        record = self._record.copy()
        for _ in range(1000):
            before = int(self._version[0])
            record = self._record.copy()
            if before % 2 == 0 and int(self._version[0]) == before:
                break
        return record


class Link:
    """The driver's end: a process for one device at one address."""

    def __init__(self, device: str, address: str, maximum: list[float]) -> None:
        """device: "arm" or "hand". maximum: speeds of the arm's joints (7,) [rad/s]."""
        handle = os.memfd_create("franka")
        os.ftruncate(handle, mmap.PAGESIZE)
        self.orders, self.states = _slots(handle)
        command = [sys.executable, "-P", __file__, device, address, str(handle), *map(str, maximum)]
        self._process = subprocess.Popen(
            command,
            pass_fds=[handle],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for us to handle
        )
        os.close(handle)
        self._order = np.zeros((), ORDER)
        self._patience = 2.0 if device == "arm" else 0.2  # fingers on their way need nobody to stop them

    def order(self, what: int, q: np.ndarray | None = None, gripper: float | None = None) -> None:
        """Takes effect within a cycle of the device's process."""
        self._order["count"] += 1
        self._order["what"] = what
        if q is not None:
            self._order["q"] = q
        if gripper is not None:
            self._order["gripper"] = gripper
        self.orders.put(self._order)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def failure(self) -> str:
        """Why the process has ended."""
        return self.states.get()["failed"].item().decode() or "no fresh state for seconds (frozen or unreachable controller)"

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        self.order(QUIT)
        try:
            self._process.wait(self._patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


def _slots(handle: int) -> tuple[Slot, Slot]:
    memory = mmap.mmap(handle, mmap.PAGESIZE)
    return Slot(memory, 0, ORDER), Slot(memory, 1024, STATE)


class _Device:
    """In a device's process: what it was told, what it tells."""

    def __init__(self, orders: Slot, states: Slot, hung_s: int) -> None:
        self._orders, self._states, self._hung_s = orders, states, hung_s
        self.state = np.zeros((), STATE)
        signal.alarm(hung_s)

    def cycle(self) -> np.ndarray:
        """The newest order; QUIT when the driver's process is gone. Has to be called before a call hangs too long."""
        signal.alarm(self._hung_s)
        order = self._orders.get()
        if select.select([sys.stdin], [], [], 0)[0]:
            order["what"] = QUIT
        return order

    def publish(self) -> None:
        self._states.put(self.state)

    def fail(self, why: str) -> NoReturn:
        self.state["failed"] = " ".join(why.split()).encode()[:399]
        self.publish()
        sys.exit(1)


class _Clock:
    """When a state was measured, on our clock: from the controller's, so that one that came late is known to be old."""

    def __init__(self) -> None:
        self._offset, self._seen = np.inf, 0.0

    def time(self, theirs: float) -> float:
        now = monotonic()
        if np.isfinite(self._offset):
            self._offset += DRIFT * (now - self._seen)
        self._seen, self._offset = now, min(self._offset, now - theirs)
        return self._offset + theirs


def _arm(device: _Device, sdk: Any, address: str, maximum: list[float]) -> None:
    robot = sdk.Robot(address, sdk.RealtimeConfig.kIgnore)
    _recover(device, sdk, robot)
    robot.set_collision_behavior(COLLISION_NM, COLLISION_NM, COLLISION_N, COLLISION_N)
    handlers = sdk.AsyncPositionControlHandler
    start = robot.read_once()
    started = handlers.configure(robot, handlers.Configuration(maximum_joint_velocities=maximum, goal_tolerance=10.0))
    if started.error_message is not None:
        device.fail(started.error_message)
    control, clock, halted, bad, before = started.handler, _Clock(), False, 0, monotonic()
    target = list(start.q)
    while True:
        order = device.cycle()
        if order["what"] != RUN and not halted:
            control.stop_control()
            halted = True
        if order["what"] == QUIT:
            return
        if not halted and not device.state["fault"].item():
            if order["count"]:
                target = order["q"].tolist()
            # Again and again the same: only writing tells whether the connection still stands.
            sent = control.set_joint_position_target(handlers.JointPositionTarget(joint_positions=target))
            if sent.error_message is not None:
                device.fail(sent.error_message)
        try:
            if monotonic() - before > LOST_S:
                robot.read_once()
            state = robot.read_once()
        except (sdk.NetworkException, sdk.ControlException):
            raise
        except Exception as error:  # the SDK has no name for a state of the wrong size
            bad += 1
            device.state["bad"] += 1
            if bad > CORRUPT_MAX:
                device.fail(str(error))
        else:
            bad, before = 0, monotonic()
            device.state["id"], device.state["time"] = round(1000 * state.time.to_sec()), clock.time(state.time.to_sec())
            device.state["q"], device.state["dq"] = state.q, state.dq
            device.state["fault"] = _fault(sdk, state, halted).encode()[:399]
        device.publish()
        sleep(CYCLE_S)


def _recover(device: _Device, sdk: Any, robot: Any) -> None:
    """Clear what may be cleared from here; somebody's hand on the robot may not."""
    mode = robot.read_once().robot_mode
    modes = sdk.RobotMode
    if mode == modes.UserStopped:
        device.fail("user stop pressed; release the external activation device or the emergency stop, then connect again")
    if mode == modes.Guiding:
        device.fail("guided by hand; let go of the guiding buttons, then connect again")
    if mode == modes.Other:
        device.fail("robot mode other; unlock the joints and activate FCI in Desk, then connect again")
    if mode != modes.Idle or robot.read_once().current_errors:
        robot.automatic_error_recovery()


def _fault(sdk: Any, state: Any, halted: bool) -> str:
    """Why the arm does not follow, with Franka's names of the error flags; empty while it does, or was told to stand."""
    mode, modes = state.robot_mode, sdk.RobotMode
    flags = str(state.current_errors if state.current_errors else state.last_motion_errors).strip("[]").replace('"', "")
    if mode == modes.Move or (mode == modes.Idle and halted):
        return f"error: {flags}" if state.current_errors else ""
    words = {
        modes.UserStopped: "user stop pressed",
        modes.Reflex: "reflex",
        modes.Guiding: "guided by hand",
        modes.Idle: "idle: the motion has ended",
        modes.AutomaticErrorRecovery: "recovering from an error",
    }.get(mode, "robot mode other")
    return f"{words}: {flags}" if flags and mode != modes.UserStopped else words


def _hand(device: _Device, sdk: Any, address: str) -> None:
    hand = sdk.Gripper(address)
    if hand.read_once().max_width < 0.01:  # [m]; not known before the fingers have once been opened and closed
        hand.homing()
    goal = None
    while (order := device.cycle())["what"] != QUIT:
        state = hand.read_once()
        device.state["id"] += 1
        device.state["time"], device.state["gripper"] = monotonic(), min(max(state.width / state.max_width, 0.0), 1.0)
        device.publish()
        asked = float(order["gripper"])
        if order["count"] and order["what"] == RUN and (goal is None or abs(asked - goal) > HAND_STEP):
            closing, goal = asked * state.max_width < state.width, asked
            try:
                if closing:
                    hand.grasp(asked * state.max_width, HAND_SPEED, GRASP_FORCE_N, state.max_width, state.max_width)
                else:
                    hand.move(asked * state.max_width, HAND_SPEED)
            except sdk.CommandException:
                goal = None  # refused; asked again
        sleep(CYCLE_S)


def main() -> None:
    kind, address, handle, *maximum = sys.argv[1:]
    device = _Device(*_slots(int(handle)), HUNG_S if kind == "arm" else HAND_HUNG_S)
    signal.alarm(HAND_HUNG_S)  # importing the SDK and connecting take longer
    try:
        import pylibfranka

        if kind == "arm":
            _arm(device, pylibfranka, address, [float(v) for v in maximum])
        else:
            _hand(device, pylibfranka, address)
    except Exception as error:  # the one place that tells of any failure
        device.fail(str(error))


if __name__ == "__main__":
    main()
