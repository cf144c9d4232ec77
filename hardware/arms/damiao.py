"""Arms of Damiao motors on a CAN bus: OpenArm and YAM. The frames are written here; python-can carries them."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

import numpy as np

from hardware.arms import Family
from hardware.arms.damiao_bus import CLEAR, DISABLE, DISABLED, ENABLE, ENABLED, ERRORS, TIMEOUT, Feedback, MotorBus, command
from hardware.arms.damiao_models import CHAINS, MODELS, calibration
from hardware.arms.model import ArmModel
from hardware.calibration import Calibration
from hardware.types import ArmState, HardwareError

WATCHDOG = 4000  # a motor lets go when nobody speaks to it for so long; factory value, 0.2 s by Damiao's manual (50 us each)
FRESH_S = 0.05  # how long a read waits for a round of answers that was not read yet
STUCK_RAD = 0.01  # goals moved on so far, and still the same bytes from all motors: nothing was measured
CONNECT_S = 5.0


@dataclass(frozen=True)
class _Round:
    """Once around the bus."""

    number: int
    fresh: int
    time: float
    raw: np.ndarray  # (J + 1,) [rad]
    speed: np.ndarray
    fault: str | None
    problem: str | None  # why there was no measurement


class Damiao:
    """A thread speaks with the motors all the time, or they would let go: neither read nor write waits for the bus.

    Motors hold the newest setpoint while this process lives, and let go soon after it has died. There is no compensation of gravity:
    the arm hangs below its setpoints by its weight over the gains. A motor's answer carries no time: the same bytes from all of them
    count as no measurement once the setpoints have moved on.
    """

    def __init__(self, model: ArmModel, address: str, given: Calibration | None) -> None:
        """address: python-can's interface and channel, socketcan:can0, socketcand:HOST:PORT, udp_multicast:239.74.163.2:43113."""
        self.spec, self.address, self.calibration = model.spec, address, given or calibration(model.spec.name)
        self._chain = CHAINS[model.spec.name]
        self._guessed = given is None and not self._chain.gripper_known
        self._numbers = [*self.calibration.channel, self.calibration.gripper]
        if sorted(map(str, self._numbers)) != sorted(str(i + 1) for i in range(len(self._chain.motors))):
            raise HardwareError(f"{self.spec.name}: calibration.channel: {self._numbers}; valid: 1..{len(self._chain.motors)}, once each")
        self._motors = {int(number): self._chain.motors[int(number) - 1] for number in self._numbers if number is not None}
        self._names = dict(zip(self._motors, (*self.spec.joints, "gripper"), strict=True))
        self._bus: MotorBus | None = None
        self._thread: threading.Thread | None = None
        self._lock, self._closing = threading.Lock(), threading.Event()
        self._round: _Round | None = None
        self._lost: str | None = None
        self._goal, self._speed, self._written = np.zeros(len(self._motors)), np.zeros(len(self._motors)), 0.0
        self._halted, self._limp, self._read, self._fresh = False, False, 0, 0

    def connect(self) -> None:
        """Checks every motor, sets its watchdog, enables it where it stands. HardwareError names those silent, faulty or set otherwise."""
        self.close()
        bus = self._open()
        try:
            self._prepare(bus)
        except HardwareError as error:
            bus.close()
            raise self._error(str(error)) from error
        except Exception as error:  # python-can's and the operating system's
            bus.close()
            raise self._error(f"bus lost: {error}") from error
        self._bus, self._round, self._lost, self._halted, self._limp = bus, None, None, False, False
        self._closing.clear()
        self._thread = threading.Thread(target=self._run, args=(bus,), daemon=True)
        self._thread.start()
        until = monotonic() + CONNECT_S
        while (self._round is None or self._round.problem) and self._lost is None and monotonic() < until:
            sleep(0.005)
        state = self._round
        if self._lost or state is None or state.problem or state.fault:
            why = self._lost or (state and (state.problem or state.fault)) or f"no answers within {CONNECT_S:g} s"
            self.close()
            raise self._error(why)

    def _open(self) -> MotorBus:
        try:
            import can
        except ImportError as error:
            raise HardwareError(f"{self.spec.name}: python-can is not installed; pip install 'robolearn[can]'") from error
        interface, _, channel = self.address.partition(":")
        options: dict[str, Any] = {"interface": interface, "channel": channel}
        host, _, port = channel.rpartition(":")
        if port.isdigit() and interface in ("socketcand", "udp_multicast"):
            options |= {"port": int(port)}
            options |= {"channel": host} if interface == "udp_multicast" else {"channel": "can0", "host": host, "tcp_tune": True}
        else:
            options |= {"bitrate": 1_000_000}
        try:
            if "host" in options:
                with socket.create_connection((host, int(port)), 3.0) as greeting:  # python-can would wait without end
                    greeting.recv(64)
            return MotorBus(can.Bus(**options), can.Message, self._motors)
        except Exception as error:  # each interface has errors of its own
            raise self._error(f"{' '.join(str(error).split())}; an address looks like socketcan:can0") from error

    def _prepare(self, bus: MotorBus) -> None:
        if silent := bus.silent():
            who = ", ".join(f"{self._names[number]} (motor {number})" for number in silent)
            raise HardwareError(f"no answer from {who}; expected motors 1..{len(self._motors)}, powered, emergency stop released")
        for number in self._motors:
            if not bus.write(number, TIMEOUT, WATCHDOG):
                raise HardwareError(f"{self._names[number]} (motor {number}): did not take its watchdog's time")
        bus.exchange(dict.fromkeys(self._motors, CLEAR))
        answers = bus.exchange(dict.fromkeys(self._motors, ENABLE))
        if missing := self._missing(answers):
            raise HardwareError(missing)
        self._goal = np.array([answers[number].q for number in self._motors])
        self._speed = np.zeros(len(self._motors))

    def close(self) -> None:
        """Disables the motors: the arm is limp, and falls unless it is held. Without anybody speaking to it, it would soon be so anyway."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(1.0)  # a bus may block
        if self._bus is not None:
            self._bus.close()
        self._thread = self._bus = None

    def read(self) -> ArmState:
        """Waits FRESH_S at most for answers not read yet. HardwareError names motors that gave none in time, or tells of a lost bus."""
        state = self._newest()
        until = monotonic() + FRESH_S
        while state.number == self._read and self._lost is None and monotonic() < until:
            sleep(0.0005)
            state = self._newest()
        self._read = state.number
        if self._lost or state.problem:
            raise self._error(self._lost or state.problem or "")
        return ArmState(
            time=state.time,
            seq=state.fresh,
            q=self.calibration.angles(state.raw[:-1]),
            dq=np.array(self.calibration.sign) * state.speed[:-1] * self.calibration.scale,
            gripper=self.calibration.openness(state.raw[-1]),
            fault=state.fault,
        )

    def write(self, q: np.ndarray, gripper: float) -> None:
        """Goes out within a round. Steps small enough to be motion are fed forward as speeds."""
        self.spec.check(q, gripper)
        self._newest()
        if self._lost:
            raise self._error(self._lost)
        if self._halted or self._limp:
            raise HardwareError(f"{self.spec.name}: {'limp' if self._limp else 'halted'}; connect again")
        if self._guessed:
            raise HardwareError(f"{self.spec.name}: no calibration, and its gripper has no fixed zero; make one with `robolearn calibrate`")
        goal = np.append(self.calibration.raw(q), self.calibration.gripper_raw(gripper))
        for raw, (number, motor) in zip(goal, self._motors.items(), strict=True):
            if not abs(raw) <= motor.q_max:
                raise self._error(f"{self._names[number]}: {raw:.3f} rad at the motor; valid: -{motor.q_max:g}..{motor.q_max:g}")
        with self._lock:
            now = monotonic()
            speed = (goal - self._goal) * self.spec.rate_hz
            moving = now - self._written < 3.0 / self.spec.rate_hz and np.abs(speed[:-1]).max() <= 1.2 * self.spec.v_max.max()
            self._speed = np.append(speed[:-1], 0.0) if moving else np.zeros_like(goal)
            self._goal, self._written = goal, now

    def halt(self) -> None:
        """The joints hold where they are measured, damped, until connected again; the gripper keeps its grip."""
        self._halted = True
        with self._lock:
            if self._round is not None:
                self._goal = np.append(self._round.raw[:-1], self._goal[-1])
            self._speed = np.zeros_like(self._goal)

    def limp(self) -> None:
        """Motors off: the arm falls unless somebody holds it. It can be read on; connect again switches them on."""
        before, self._limp = self._newest().number, True
        until = monotonic() + CONNECT_S
        while self._newest().number < before + 2 and self._lost is None and monotonic() < until:  # one round may be under way
            sleep(0.005)
        if self._lost:
            raise self._error(self._lost)

    def readings(self) -> np.ndarray:
        """(J + 1,): the joints' motors, then the gripper's [rad], before any calibration. Raises HardwareError."""
        self.read()
        return self._newest().raw.copy()

    def _run(self, bus: MotorBus) -> None:
        """Round after round, until closed or the bus is lost."""
        before: list[bytes] = []
        then = self._goal
        try:
            while not self._closing.is_set():
                began = monotonic()
                with self._lock:
                    goal = self._goal
                    speed = self._speed if began - self._written < 3.0 / self.spec.rate_hz else np.zeros_like(goal)
                answers = bus.exchange(dict.fromkeys(self._motors, DISABLE) if self._limp else self._commands(goal, speed))
                data = [answer.data for answer in answers.values()]
                if data != before or np.abs(goal - then).max() <= STUCK_RAD:
                    self._fresh += not self._missing(answers)
                    if data != before:
                        before, then = data, goal
                self._publish(began, answers)
                self._closing.wait(max(0.0, began + 1.0 / self.spec.rate_hz - monotonic()))
            bus.exchange(dict.fromkeys(self._motors, DISABLE))
        except Exception as error:  # the one place where a bus may break: python-can's interfaces raise what they like
            self._lost = f"bus lost: {' '.join(str(error).split()) or type(error).__name__}"

    def _commands(self, goal: np.ndarray, speed: np.ndarray) -> dict[int, bytes]:
        """In the order of the calibration's channels: joints, then gripper."""
        gains = ((self._chain.kp[number - 1], self._chain.kd[number - 1]) for number in self._motors)
        return {
            number: command(motor, float(q), float(dq), kp, kd)
            for (number, motor), q, dq, (kp, kd) in zip(self._motors.items(), goal, speed, gains, strict=True)
        }

    def _publish(self, began: float, answers: dict[int, Feedback]) -> None:
        last = self._round
        number, problem = (last.number if last else 0) + 1, self._missing(answers)
        if problem:
            empty = np.zeros(len(self._motors))
            kept = (last.fresh, last.time, last.raw, last.speed, last.fault) if last else (0, began, empty, empty, None)
            self._round = _Round(number, *kept, problem)
            return
        raw, speed = (np.array([getattr(answers[motor], what) for motor in self._motors]) for what in ("q", "dq"))
        fine = (ENABLED, DISABLED) if self._limp else (ENABLED,)
        faults = [f"{self._names[motor]}: {_words(answers[motor].error)}" for motor in self._motors if answers[motor].error not in fine]
        self._round = _Round(number, self._fresh, began, raw, speed, "; ".join(faults) or None, None)

    def _missing(self, answers: dict[int, Feedback]) -> str | None:
        silent = [f"{self._names[number]} (motor {number})" for number in self._motors if number not in answers]
        return f"no answer in time from {', '.join(silent)}" if silent else None

    def _newest(self) -> _Round:
        if self._thread is None or self._round is None:
            raise HardwareError(f"{self.spec.name}: not connected; call connect()")
        return self._round

    def _error(self, why: str) -> HardwareError:
        return HardwareError(f"{self.spec.name}: {self.address}: {why}")


def _words(error: int) -> str:
    return f"{ERRORS.get(error, 'unknown error')} ({error:X})" if error else "disabled (0)"


FAMILY = Family(models=MODELS, drive=Damiao, double="hardware.doubles.damiao", address="socketcan:can0")
