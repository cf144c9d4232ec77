"""What the doubles of servo buses share: a serial device, and what lies between the servos' encoders and the arm's physics."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep, time

import numpy as np

from hardware.arms.servo_bus import TURN
from hardware.calibration import Calibration
from hardware.doubles.chain import Chain
from hardware.doubles.panel import Panel

LOOK_S = 0.02  # between two looks at the panel and the physics
_PREFIX = "servo-bus-"
STALL = 30  # raw: a servo further from its goal than this, standing, is stuck


class Line(threading.Thread):
    """A pseudo-terminal behind a link whose name stays, as a USB adapter's does. Answers come at the line's pace, in order;
    the panel's cut, lose, corrupt and delay_s happen here."""

    def __init__(
        self,
        panel: Panel,
        baud: int,
        talk: Callable[[bytes], tuple[list[bytes], bytes]],
        watch: Callable[[float], None],
        return_delay_s: float = 0.0,
        latency_s: float = 0.0,
    ) -> None:
        """talk(bytes) -> (answers, what is left over); watch(seconds since the last instruction). latency_s: of the adapter."""
        super().__init__(daemon=True, name="servo bus")
        self._panel, self._talk, self._watch = panel, talk, watch
        self._speed, self._byte_s = getattr(termios, f"B{baud}"), 10.0 / baud
        self._return_delay_s, self._latency_s = return_delay_s, latency_s
        _sweep()
        self.address = str(Path(tempfile.mkdtemp(prefix=_PREFIX)) / "tty")
        self._master = self._slave = -1
        self._due: deque[tuple[float, bytes]] = deque()
        self._free = 0.0  # when the line is
        self._plug()

    def run(self) -> None:
        pending, heard = b"", monotonic()
        while True:
            if self._panel.cut:
                self._unplug()
                pending = b""
                sleep(LOOK_S)
            else:
                self._plug()
                wait = min(LOOK_S, max(0.0, self._due[0][0] - monotonic())) if self._due else LOOK_S
                if select.select([self._master], [], [], wait)[0] and (received := self._received()):
                    answers, pending = self._talk(pending + received)
                    heard = monotonic()
                    self._queue(answers, heard + len(received) * self._byte_s)
                self._flush()
            self._watch(monotonic() - heard)

    def _plug(self) -> None:
        if self._master < 0:
            self._master, self._slave = os.openpty()
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            Path(self.address).parent.mkdir(exist_ok=True)
            Path(self.address).unlink(missing_ok=True)
            os.symlink(os.ttyname(self._slave), self.address)

    def _unplug(self) -> None:
        if self._master >= 0:
            Path(self.address).unlink(missing_ok=True)
            os.close(self._master)
            os.close(self._slave)
            self._master = -1
            self._due.clear()

    def _received(self) -> bytes:
        try:
            data = os.read(self._master, 4096)
        except OSError:
            return b""
        return data if termios.tcgetattr(self._slave)[4] == self._speed else b""  # at another speed it is noise

    def _queue(self, answers: list[bytes], start: float) -> None:
        self._free = max(self._free, start)
        for answer in answers:
            self._free += self._return_delay_s + len(answer) * self._byte_s
            if self._panel.take("lose"):
                continue
            if self._panel.take("corrupt"):
                answer = answer[:-1] + bytes([answer[-1] ^ 0x40])
            due = self._free + self._latency_s + self._panel.delay_s
            self._due.append((max(due, self._due[-1][0]) if self._due else due, answer))

    def _flush(self) -> None:
        while self._due and self._due[0][0] <= monotonic():
            with suppress(OSError):  # nobody reads
                os.write(self._master, self._due.popleft()[1])


def _sweep() -> None:
    """Links of doubles that were killed lead nowhere. A young one may be about to lead somewhere."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if not (old / "tty").exists() and time() - old.stat().st_mtime > 60.0:
                shutil.rmtree(old, ignore_errors=True)


class Shafts:
    """Encoders and goals in raw units, of an arm calibrated so. shift: raw, as if every horn had been mounted turned by it."""

    def __init__(self, chain: Chain, calibration: Calibration, shift: float = 0.0) -> None:
        self.chain, self._calibration, self._shift = chain, calibration, shift
        assert calibration.gripper is not None
        self.channels = (*calibration.channel, calibration.gripper)

    def look(self) -> dict[int, tuple[float, float]]:
        """Servo id -> (position, speed per second)."""
        calibration = self._calibration
        q, dq, gripper = self.chain.measure()
        raw = np.append(calibration.raw(q), calibration.gripper_raw(gripper)) + self._shift
        speed = np.append(np.array(calibration.sign) * dq / calibration.scale, 0.0)
        return dict(zip(self.channels, zip(raw.tolist(), speed.tolist(), strict=True), strict=True))

    def go(self, goals: Mapping[int, float]) -> None:
        """Of some servos; one setpoint, however many of them."""
        calibration, joints = self._calibration, {servo: raw - self._shift for servo, raw in goals.items()}
        grip = joints.pop(self.channels[-1], None)
        raw = calibration.raw(self.chain.goal)
        for servo, goal in joints.items():
            raw[calibration.channel.index(servo)] = goal
        q = calibration.angles(raw) if joints else None
        self.chain.servo(q, None if grip is None else calibration.openness(grip))

    def power(self, on: bool) -> None:
        if on != self.chain.powered:
            self.chain.measure()  # until now it was the other way
            self.chain.hold()
            self.chain.powered = on

    def servo_of(self, joint: float) -> int:
        """Of a joint's number from 1, the gripper last; 0: none."""
        place = int(joint)
        return self.channels[place - 1] if 0 < place <= len(self.channels) else 0


def wrapped(raw: float) -> int:
    """What a servo reads that counts no turns."""
    return round(raw) % TURN
