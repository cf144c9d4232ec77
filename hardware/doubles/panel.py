"""What a test and a double share: faults to inject, and the truth to compare with. Plain shared memory: reading it costs nothing."""

from __future__ import annotations

from multiprocessing import shared_memory

import numpy as np

JOINTS = 16  # at most
FAULTS = (
    "mute",  # joint number, from 1: that device answers nothing; 0: none
    "corrupt",  # so many of the next replies carry a wrong checksum, or garbage where the protocol has none
    "lose",  # so many of the next replies are never sent
    "delay_s",  # replies come that late
    "freeze",  # 1: the same measurement again and again
    "cut",  # 1: the connection is closed, and none accepted until it is 0
    "estop",  # 1: somebody pressed the emergency stop
    "fault",  # the vendor's code of an error the arm shall have; 0: none
    "jam",  # 1: the gripper does not move
    "push",  # torque on the second joint [N m], as of a contact
    "hold",  # 1: physics stands still, as an arm against a wall
)
TRUTH = (
    "writes",  # setpoints received
    "refused",  # setpoints that the arm's controller would not take
    "contacts",  # physics steps so far with a part touching another
    "powered",  # 1: the motors are on
    "watchdog",  # times that the arm stopped by itself because nobody spoke to it
    "gripper",  # 0 closed .. 1 open
)
_VECTORS = len(FAULTS) + len(TRUTH)  # where q, dq and goal begin
_BALL = _VECTORS + 3 * JOINTS  # where the ball begins
_COUNT = _BALL + 3


class Panel:
    """Named numbers in shared memory. Attributes of FAULTS and TRUTH read and write floats; q, dq and goal are copies (J,), ball (3,)."""

    _memory: shared_memory.SharedMemory
    _values: np.ndarray
    _created: bool
    joints: int

    def __init__(self, joints: int, name: str | None = None) -> None:
        """name: of an existing one."""
        size = 8 * _COUNT
        memory = shared_memory.SharedMemory(name=name, create=name is None, size=size)
        object.__setattr__(self, "_memory", memory)
        object.__setattr__(self, "_created", name is None)
        values = np.ndarray(_COUNT, dtype=np.float64, buffer=memory.buf)
        if name is None:
            values[:] = 0.0
        object.__setattr__(self, "_values", values)
        object.__setattr__(self, "joints", joints)

    @property
    def name(self) -> str:
        return self._memory.name

    def __getattr__(self, field: str) -> float:
        if field in _PLACES:
            return float(self._values[_PLACES[field]])
        raise AttributeError(f"{field}; valid: {', '.join(_PLACES)}")

    def __setattr__(self, field: str, value: float) -> None:
        if field not in _PLACES:
            raise AttributeError(f"{field}; valid: {', '.join(_PLACES)}")
        self._values[_PLACES[field]] = value

    def take(self, field: str) -> bool:
        """Is one of so many left (corrupt, lose)? Then there is one less."""
        left = getattr(self, field)
        if left < 1:
            return False
        setattr(self, field, left - 1)
        return True

    @property
    def q(self) -> np.ndarray:
        """True joints [rad]."""
        return self._vector(0)

    @property
    def dq(self) -> np.ndarray:
        """True joint speeds [rad/s]."""
        return self._vector(1)

    @property
    def goal(self) -> np.ndarray:
        """Where the servos are told to be [rad]."""
        return self._vector(2)

    @property
    def ball(self) -> np.ndarray:
        """Where that of a scene hangs [m, from the arm's base]."""
        return self._values[_BALL:].copy()

    def place_ball(self, position: np.ndarray) -> None:
        """(3,) [m]."""
        self._values[_BALL:] = position

    def publish(self, q: np.ndarray, dq: np.ndarray, goal: np.ndarray) -> None:
        """What is true of the joints now."""
        for index, values in enumerate((q, dq, goal)):
            start = _VECTORS + index * JOINTS
            self._values[start : start + self.joints] = values

    def _vector(self, index: int) -> np.ndarray:
        start = _VECTORS + index * JOINTS
        return self._values[start : start + self.joints].copy()  # a view would outlive the memory

    def close(self) -> None:
        object.__setattr__(self, "_values", np.zeros(_COUNT))
        self._memory.close()
        if self._created:
            self._memory.unlink()


_PLACES = {field: place for place, field in enumerate((*FAULTS, *TRUTH))}
