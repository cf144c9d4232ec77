"""Arms of servos on one half-duplex bus: what Feetech's and Dynamixel's have in common.

A bus is all question and answer. Nothing in an answer says which question it is to, so questions differ in how many bytes they
ask for: an answer of another length is an older question's, held up on the way, and is dropped. Setpoints are not answered at all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import pi
from time import monotonic, sleep
from typing import Any, NamedTuple

import numpy as np

from hardware.arms.model import ArmModel
from hardware.calibration import Calibration
from hardware.types import ArmState, HardwareError

try:
    import termios

    LOST: tuple[type[Exception], ...] = (OSError, termios.error)  # what a serial device that is gone raises
except ImportError:  # Windows
    LOST = (OSError,)

TURN = 4096  # raw units, of every servo here
ATTEMPTS = 3  # of one tick: a corrupt reply now and then is everyday life on these buses
PATIENCE = 5  # of one register while connecting
QUESTIONS = 12  # that differ in length, before the first comes again
SETTLE_S = 0.15  # while connecting there is time to wait until nothing late is on its way
READ_TIMEOUT_S = 0.005  # the SDKs ask for what is there again and again: so each time they sleep until it is, or this long
WRITE_TIMEOUT_S = 0.2  # an adapter that takes no bytes must not hang the loop


class Register(NamedTuple):
    """Some bytes of a servo's table, little endian."""

    address: int
    size: int
    value: int

    def of(self, table: bytes) -> int:
        return int.from_bytes(table[self.address : self.address + self.size], "little")

    @property
    def data(self) -> list[int]:
        return list((self.value % (1 << 8 * self.size)).to_bytes(self.size, "little"))


@dataclass(frozen=True)
class Servo:
    """One servo as it has to be found on the bus."""

    id: int
    name: str
    """Of what it moves: a joint of ArmSpec.joints, gripper."""
    models: tuple[int, ...]
    """Model numbers that do."""
    registers: tuple[Register, ...]
    """What it shall hold; written where it does not."""
    built: tuple[Register, ...] = ()
    """What whoever built the arm has set; never written, since a wrong guess lets two servos fight."""
    shadow: bool = False
    """It turns the same joint as another servo and follows what is written to that one."""

    def __str__(self) -> str:
        return f"{self.name} (servo id {self.id})"


class Answer(NamedTuple):
    """What one servo said to one question."""

    error: int
    data: bytes


def centred(arm: str, channel: tuple[int, ...], gripper: int, closed: float, opened: float) -> Calibration:
    """The calibration of an arm whose servos were mounted in the middle of their turn at q = 0."""
    joints = len(channel)
    half, unit = (TURN / 2,) * joints, (2 * pi / TURN,) * joints
    return Calibration(arm, channel, half, (1,) * joints, unit, gripper, closed, opened)


class ServoBusArm(ABC):
    """A driver. Closing leaves torque on: a falling arm breaks things; `limp` is for arms that a person moves."""

    extra: str  # of pip install 'robolearn[...]'
    baud: int
    persistent: int  # registers below are kept without power, and written with torque off only
    table: int  # bytes of it that `registers` are in
    torque: int  # address
    goal: Register
    counts_turns: bool  # positions go on beyond a turn, as long as there is power

    def __init__(self, model: ArmModel, port: str, calibration: Calibration, servos: tuple[Servo, ...]) -> None:
        self.spec, self.port, self.calibration, self.servos = model.spec, port, calibration, servos
        self._names = {servo.id: str(servo) for servo in servos}
        if calibration.gripper is None or len(calibration.channel) != len(self.spec.joints):
            have = f"{len(calibration.channel)} joints, gripper {calibration.gripper}"
            raise HardwareError(
                f"{self.spec.name}: calibration: {have}; expected {len(self.spec.joints)} joints and the gripper's servo id"
            )
        self._channels = [*calibration.channel, calibration.gripper]
        if strange := [channel for channel in self._channels if channel not in self._names]:
            raise HardwareError(f"{self.spec.name}: calibration.channel: {strange}; valid servo ids: {', '.join(map(str, self._names))}")
        middle = calibration.raw((self.spec.q_min + self.spec.q_max) / 2)
        self._middle = np.append(middle, (calibration.gripper_closed + calibration.gripper_open) / 2)
        self._turns = np.zeros(len(self._channels))  # raw units to add to positions, so that a joint's range is in one piece
        self._device: Any = None  # the SDK's port, while open
        self._refuses: str | None = "not connected"  # why no setpoint is taken
        self._fault: str | None = None
        self._question = self._seq = 0
        self._time = -np.inf

    # What a family's SDK does ----------------------------------------------------------------------------------------

    @abstractmethod
    def _open(self) -> None:
        """Import the SDK and open the port. Raises HardwareError, OSError."""

    @abstractmethod
    def _ping(self, servo: int) -> int | None:
        """Its model number; None: no valid reply."""

    @abstractmethod
    def _load(self, servo: int, address: int, size: int) -> bytes | None:
        """Registers; None: no valid reply."""

    @abstractmethod
    def _store(self, servo: int, register: Register) -> bool:
        """True once acknowledged. Raises HardwareError where the servo refuses it."""

    @abstractmethod
    def _ask(self, longer: int) -> dict[int, Answer]:
        """One question to all, `longer` bytes longer than need be; those whose valid reply to it came."""

    @abstractmethod
    def _send(self, goals: Mapping[int, int]) -> None:
        """Goals of servos, unacknowledged, at once."""

    @abstractmethod
    def _decode(self, answer: Answer) -> tuple[int, float]:
        """(position [raw], speed [raw/s])."""

    @abstractmethod
    def _judge(self, answers: Mapping[int, Answer]) -> str | None:
        """The fault in them, and whose it is."""

    @abstractmethod
    def _is_fresh(self, answers: Mapping[int, Answer]) -> bool:
        """They are a newer measurement than the one last called fresh."""

    @abstractmethod
    def _wake(self, servo: Servo) -> None:
        """Clear what can be cleared, before anything else is asked of a servo."""

    @abstractmethod
    def _watch(self, on: bool) -> None:
        """The servos' own watchdogs, where they have them."""

    @abstractmethod
    def _lock(self, servo: Servo, on: bool) -> None:
        """Guard of the persistent registers, where there is one."""

    # The contract of an arm -------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Find and set up every servo, hold the arm where it is, then switch torque on. An arm that is held is not let go
        of, unless a servo's persistent registers have to change. Raises HardwareError."""
        self._release()
        with self._wire(opening=True):
            self._open()
            # At real-time priority a busy wait would keep the kernel from delivering what is waited for.
            self._device.ser.timeout = READ_TIMEOUT_S
            self._device.ser.write_timeout = WRITE_TIMEOUT_S
            self._device.ser.exclusive = True  # two programs must not move one arm
        try:
            with self._wire():
                self._find()
                for servo in self.servos:
                    self._wake(servo)
                    self._set_up(servo)
                self._turn_on()
                self._watch(True)
        except BaseException:
            self._release()
            raise
        self._refuses = self._fault = None

    def close(self) -> None:
        """Torque stays on and holds. Idempotent."""
        if self._device is not None:
            with suppress(HardwareError), self._wire():
                self._watch(False)  # silence is now as it should be
        self._release()

    def read(self) -> ArmState:
        """Raises HardwareError naming the servos that gave no valid reply."""
        with self._wire():
            asked = monotonic()
            answers = self._insist()
            self._fault = self._judge(answers)
            if self._is_fresh(answers):
                self._seq, self._time = self._seq + 1, asked
        position, speed = self._measured(answers)
        if not self.counts_turns:
            self._choose_turns(position)
        raw, calibration = position + self._turns, self.calibration
        return ArmState(
            time=self._time,
            seq=self._seq,
            q=calibration.angles(raw[:-1]),
            dq=np.array(calibration.sign) * speed[:-1] * calibration.scale,
            gripper=calibration.openness(raw[-1]),
            fault=self._fault,
        )

    def write(self, q: np.ndarray, gripper: float) -> None:
        """One setpoint, joints (J,) [rad], gripper 0..1. Raises HardwareError, also while the last read showed a fault."""
        self.spec.check(q, gripper)
        if self._refuses or self._fault:
            raise HardwareError(f"{self.spec.name}: {self._refuses or self._fault}; connect again")
        raw = np.append(self.calibration.raw(q), self.calibration.gripper_raw(gripper))
        goals = dict(zip(self._channels, np.rint(raw - self._turns).astype(int).tolist(), strict=True))
        with self._wire():
            self._send(goals)

    def halt(self) -> None:
        """Hold where the joints are: these servos know no other stop. No setpoint is taken until connected again."""
        with self._wire():
            self._refuses = "halted"
            answers = self._insist()
            self._send({channel: self._decode(answers[channel])[0] for channel in self._channels})

    def limp(self) -> None:
        """Torque off: the arm falls unless somebody holds it. It can be read on; connect again switches torque on."""
        with self._wire():
            self._refuses = "limp"
            self._watch(False)
            for servo in self.servos:
                self._surely(servo, Register(self.torque, 1, 0))

    def readings(self) -> np.ndarray:
        """(J + 1,): what the joints' servos read, then the gripper's [raw], before any calibration. Raises HardwareError."""
        with self._wire():
            return self._measured(self._insist())[0]

    def _measured(self, answers: Mapping[int, Answer]) -> np.ndarray:
        """(2, J + 1): positions [raw] and speeds [raw/s] of the joints, then the gripper."""
        return np.array([self._decode(answers[channel]) for channel in self._channels], dtype=np.float64).T

    def _choose_turns(self, position: np.ndarray) -> None:
        """Joints are where they are nearest to the middle of their ranges."""
        self._turns = TURN * np.round((self._middle - position) / TURN)

    @property
    def is_limp(self) -> bool:
        return self._refuses == "limp"

    # Connecting -------------------------------------------------------------------------------------------------------

    def _find(self) -> None:
        models: dict[int, int] = {}
        doubtful = list(self.servos)
        for attempt in range(ATTEMPTS):
            if attempt:
                self._settle()
            models |= {servo.id: model for servo in doubtful if (model := self._ping(servo.id)) is not None}
            doubtful = [servo for servo in doubtful if models.get(servo.id) not in servo.models]  # perhaps an older question's answer
            if not doubtful:
                return
        if silent := [str(servo) for servo in doubtful if servo.id not in models]:
            expected = ", ".join(str(servo.id) for servo in self.servos)
            raise HardwareError(f"{self.spec.name}: {self.port}: no answer from {', '.join(silent)}; expected servo ids {expected}")
        found = "; ".join(f"{s} is of model {models[s.id]}, expected {' or '.join(map(str, s.models))}" for s in doubtful)
        raise HardwareError(f"{self.spec.name}: {self.port}: {found}")

    def _set_up(self, servo: Servo) -> None:
        for attempt in range(3):  # setting a mode may reset other registers
            table = self._table(servo)
            for register in servo.built:
                if register.of(table) != register.value:
                    self._complain(servo, register, table)
            wrong = [register for register in servo.registers if register.of(table) != register.value]
            if not wrong:
                return
            if attempt == 2:
                self._complain(servo, wrong[0], table)
            lasting = any(register.address < self.persistent for register in wrong)
            if lasting:
                self._surely(servo, Register(self.torque, 1, 0))
                self._lock(servo, False)
            for register in wrong:
                self._surely(servo, register)
            if lasting:
                self._lock(servo, True)

    def _complain(self, servo: Servo, register: Register, table: bytes) -> None:
        found = f"register {register.address} holds {register.of(table)}, expected {register.value}"
        raise HardwareError(f"{self.spec.name}: {self.port}: {servo}: {found}")

    def _turn_on(self) -> None:
        """Goals to where the joints are, then torque: no jump."""
        answers = self._insist(PATIENCE)
        self._choose_turns(self._measured(answers)[0])
        leaders = [servo for servo in self.servos if not servo.shadow]
        for servo in leaders:
            self._surely(servo, self.goal._replace(value=self._decode(answers[servo.id])[0]))
        for servo in leaders:
            self._surely(servo, Register(self.torque, 1, 1))

    def _table(self, servo: Servo) -> bytes:
        for _ in range(PATIENCE):
            if (table := self._load(servo.id, 0, self.table)) is not None:
                return table
            self._settle()
        raise self._silent([servo.id], PATIENCE)

    def _surely(self, servo: Servo, register: Register) -> None:
        for _ in range(PATIENCE):
            if self._store(servo.id, register):
                return
            self._settle()
        raise self._silent([servo.id], PATIENCE)

    def _settle(self) -> None:
        sleep(SETTLE_S)
        self._device.clearPort()

    # The wire ---------------------------------------------------------------------------------------------------------

    def _insist(self, attempts: int = ATTEMPTS) -> dict[int, Answer]:
        missing: Iterable[int] = self._names
        for _ in range(attempts):
            question = self._question
            self._question = (question + 1) % QUESTIONS  # until it is answered it counts as lost, whatever happens, Ctrl-C too
            answers = self._ask(question)
            missing = [servo for servo in self._names if servo not in answers]
            if not missing:
                self._question = question
                return answers
        raise self._silent(missing, attempts)

    def _silent(self, servos: Iterable[int], attempts: int) -> HardwareError:
        names = ", ".join(self._names[servo] for servo in servos)
        return HardwareError(f"{self.spec.name}: {self.port}: no valid reply from {names} in {attempts} attempts")

    @contextmanager
    def _wire(self, opening: bool = False) -> Iterator[None]:
        """Whatever a serial device raises is one line, and the end of this connection."""
        if self._device is None and not opening:
            raise HardwareError(f"{self.spec.name}: {self.port}: {self._refuses}; connect again")
        if self._device is not None:
            self._device.is_using = False  # Ctrl-C within an SDK leaves its port marked as busy for ever
        try:
            yield
        except LOST as error:
            reason = getattr(error, "strerror", None) or error
            self._release("not connected" if opening else f"connection lost ({reason})")
            hint = "valid: a free serial device like /dev/ttyACM0" if opening else "connect again"
            raise HardwareError(f"{self.spec.name}: {self.port}: {reason}; {hint}") from error

    def _release(self, why: str = "not connected") -> None:
        """Let go of the port, saying nothing to the servos."""
        device, self._device, self._refuses = self._device, None, why
        if device is not None and device.ser is not None:
            with suppress(*LOST):
                device.closePort()
