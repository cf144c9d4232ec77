"""A UR e-series controller and its Robotiq 2F-85: dashboard, script upload, RTDE and the gripper's socket, with MuJoCo behind them.

The URScript that ur_rtde uploads is not interpreted. What it does with its registers is: input_int_register_0 is a command,
the double registers are its arguments, output_int_register_0 says 1 ready or 2 done.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping

import numpy as np

from hardware.doubles.chain import Chain
from hardware.doubles.lan import Plugs, start
from hardware.doubles.rtde import Exchange, Value, finite

DASHBOARD, SCRIPT, RTDE, GRIPPER = 29999, 30003, 30004, 63352  # fixed by the controller
_CLEARED, _SERVOJ, _SERVO_STOP, _SET_WATCHDOG, _KICK, _STOP_SCRIPT = 0, 11, 16, 35, 99, 255
_NORMAL, _PROTECTIVE, _EMERGENCY, _FAULT = 1, 3, 7, 9  # safety modes
_POWER_OFF, _IDLE, _RUNNING = 3, 5, 7  # robot modes
_DEVIATION = 0.5  # rad between a joint and its setpoint: a protective stop, as of a collision or a jump
_SAFETY = dict(enumerate(("NORMAL", "REDUCED", "PROTECTIVE_STOP", "RECOVERY", "SAFEGUARD_STOP", "SYSTEM_EMERGENCY_STOP"), 1)) | dict(
    enumerate(("ROBOT_EMERGENCY_STOP", "VIOLATION", "FAULT"), 7)
)
_ROBOT_MODES = {_POWER_OFF: "POWER_OFF", _IDLE: "IDLE", _RUNNING: "RUNNING"}


class Controller:
    """Modes, the control program's registers and its watchdog. Calls come from many threads: one lock."""

    def __init__(self, chain: Chain, *, remote: bool, slider: float, unlock_s: float) -> None:
        self._chain, self._panel, self._lock = chain, chain.panel, threading.RLock()
        self.remote, self._slider, self._unlock_s = remote, slider, unlock_s
        self.mode, self.safety = _RUNNING, _NORMAL
        self._running, self._ready, self._watchdog_s = False, 0, 0.0
        self._inputs: dict[str, float] = {}
        self._began = self._heard = time.monotonic()
        self._stopped_at, self._mute, self._fault, self._estop = 0.0, 0, 0, False
        start(self._watch)

    # RTDE -----------------------------------------------------------------------------------------------------------

    def outputs(self) -> dict[str, Value]:
        """One instant's: a package does not tell of a stopped program before it tells what stopped it."""
        with self._lock:
            return self._outputs()

    def _outputs(self) -> dict[str, Value]:
        q, dq, _ = self._chain.measure()
        stopped = self.safety not in (_NORMAL, 2)
        bits = {_PROTECTIVE: 1 << 2, 5: 1 << 4, 6: 1 << 5 | 1 << 7, _EMERGENCY: 1 << 6 | 1 << 7, 8: 1 << 8, _FAULT: 1 << 9}
        joints = [253 if self.mode == _RUNNING else 239] * len(q)
        if self._mute:
            joints[self._mute - 1] = 245
        return {
            "timestamp": time.monotonic() - self._began,
            "actual_q": tuple(q),
            "actual_qd": tuple(dq),
            "target_q": tuple(self._chain.goal),
            "robot_mode": self.mode,
            "joint_mode": tuple(joints),
            "safety_mode": self.safety,
            "safety_status_bits": bits.get(self.safety, 0) | 1 << 10 if stopped else 1,
            "robot_status_bits": (self.mode == _RUNNING) | self._running << 1,
            "runtime_state": 2 if self._running else 1,
            "speed_scaling": self._slider,
            "target_speed_fraction": self._slider,
            "output_int_register_0": self._ready,
        }

    def inputs(self, values: Mapping[str, float]) -> None:
        """A package of a client's: also what the program's watchdog waits for."""
        with self._lock:
            self._inputs.update(values)
            self._heard = time.monotonic()
            command = int(self._inputs.get("input_int_register_0", 0))
            if not self._running:
                self._panel.refused += command == _SERVOJ
            elif command in (_CLEARED, _KICK):
                self._ready = 1
            elif command == _SERVOJ:
                self._servo()
            elif command == _STOP_SCRIPT:
                self._end()
            else:
                if command == _SET_WATCHDOG:
                    frequency = self._inputs.get("input_double_register_0", 0.0)
                    self._watchdog_s = 1.0 / frequency if frequency > 0 else 0.0
                elif command == _SERVO_STOP:
                    self._chain.hold()
                self._ready = 2

    def _servo(self) -> None:
        goal, fine = finite(self._inputs, "input_double_register_", 6)
        if fine and np.abs(np.array(goal) - self._chain.measure()[0]).max() > _DEVIATION:
            self._panel.refused += 1
            self._protect()
        else:
            self._chain.servo(np.array(goal))

    # The program, and what ends it ------------------------------------------------------------------------------------

    def play(self) -> None:
        """The control script arrived: it runs instead of the one before, if the robot can."""
        with self._lock:
            self._end()
            if self.remote and self.mode == _RUNNING and self.safety == _NORMAL:
                self._running, self._ready = True, 1

    def stop(self) -> None:
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._running:
            self._chain.hold()
        self._running, self._ready, self._watchdog_s = False, 0, 0.0

    def _protect(self) -> None:
        self._end()
        self.safety, self._stopped_at = _PROTECTIVE, time.monotonic()

    def _watch(self) -> None:
        while True:
            time.sleep(0.004)
            with self._lock:
                self._look()

    def _look(self) -> None:
        """The watchdog, and what a test or a person did to the arm."""
        panel = self._panel
        if self._running and self._watchdog_s and time.monotonic() - self._heard > self._watchdog_s:
            panel.watchdog += 1
            self._end()
        fault, estop = int(panel.fault), bool(panel.estop)
        if estop != self._estop:
            self._estop, self.safety = estop, _EMERGENCY if estop else _NORMAL
            self._end()
            self.mode = _POWER_OFF  # the brakes hold the arm
        elif (mute := int(panel.mute)) != self._mute:
            self._mute, self.safety = mute, _FAULT if mute else _NORMAL
            self._end()
        elif fault != self._fault:
            self._fault = fault
            if fault == _PROTECTIVE:
                self._protect()
            elif fault or self.safety != _PROTECTIVE:
                self.safety = fault or _NORMAL
                self._end()

    # Dashboard ------------------------------------------------------------------------------------------------------

    def answer(self, command: str, model: str) -> str:
        with self._lock:
            if command == "stop":
                self._end()
            elif command == "power on" and self.safety == _NORMAL and self.mode == _POWER_OFF:
                self.mode = _IDLE
            elif command == "brake release" and self.safety == _NORMAL:
                self.mode = _RUNNING
            elif command == "unlock protective stop":
                return self._unlock()
            answers = {
                "PolyscopeVersion": "URSoftware 5.15.0.0 (Jan 01 2024)",
                "is in remote control": str(self.remote).lower(),
                "get serial number": "20225500001",
                "get robot model": model,
                "robotmode": f"Robotmode: {_ROBOT_MODES[self.mode]}",
                "safetystatus": f"Safetystatus: {_SAFETY.get(self.safety, self.safety)}",
                "stop": "Stopped",
                "power on": "Powering on",
                "brake release": "Brake releasing",
                "running": f"Program running: {str(self._running).lower()}",
            }
            known = command.startswith(("popup", "close ")) and "ok"
            return answers.get(command) or known or f"could not understand: '{command}'"

    def _unlock(self) -> str:
        if self.safety == _PROTECTIVE:
            if self._panel.fault == _PROTECTIVE or time.monotonic() - self._stopped_at < self._unlock_s:
                return "Cannot unlock protective stop until 5s after occurrence. Always inspect cause of protective stop before unlocking"
            self.safety = _NORMAL
        return "Protective stop releasing"


class Robotiq:
    """The 2F-85's URCap: words like GET POS; 0 is open, 255 closed."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._words = {"ACT": 0, "GTO": 0, "POS": 0, "SPE": 255, "FOR": 255, "FLT": 0, "ATR": 0, "ARD": 0}

    def talk(self, connection: socket.socket) -> None:
        with connection.makefile("r", encoding="ascii", errors="replace", newline="\n") as lines:
            for line in lines:
                answer = self.answer(line.split())
                time.sleep(self._chain.panel.delay_s)
                connection.sendall(answer.encode())

    def answer(self, words: list[str]) -> str:
        if words[:1] == ["GET"] and len(words) == 2:
            value = self._get(words[1])
            return f"{words[1]} {value}\n" if value is not None else "?\n"
        if words[:1] == ["SET"] and len(words) % 2 and all(word in self._words for word in words[1::2]):
            self._words.update(zip(words[1::2], (int(word) for word in words[2::2]), strict=True))
            if self._words["ACT"] and self._words["GTO"]:
                self._chain.servo(gripper=1.0 - self._words["POS"] / 255)
            return "ack"  # without an end of line, as the URCap answers
        return "nack"

    def _get(self, word: str) -> int | None:
        if word == "POS":
            return round(255 * (1.0 - self._chain.measure()[2]))
        return {"STA": 3 * self._words["ACT"], "PRE": self._words["POS"], "OBJ": 3}.get(word, self._words.get(word))


def serve(chain: Chain, remote: bool = True, slider: float = 1.0, unlock_s: float = 5.0, gripper: bool = True) -> str:
    """remote: in remote control; slider: the speed slider 0..1; unlock_s: how long a protective stop cannot be unlocked."""
    controller = Controller(chain, remote=remote, slider=slider, unlock_s=unlock_s)
    model = chain.arm.spec.name[:-1].upper()  # an e-series says UR5, too

    def dashboard(connection: socket.socket) -> None:
        connection.sendall(b"Connected: Universal Robots Dashboard Server\n")
        with connection.makefile("r", encoding="ascii", errors="replace") as lines:
            for line in lines:
                time.sleep(chain.panel.delay_s)
                connection.sendall(controller.answer(line.strip(), model).encode() + b"\n")

    def script(connection: socket.socket) -> None:
        text = b""
        while chunk := connection.recv(65536):
            text = (text + chunk)[-(1 << 20) :]
            if text.rstrip().endswith(b"\nend"):  # of the program: all others are indented
                text = b""
                controller.play()

    ports = {DASHBOARD: dashboard, SCRIPT: script, RTDE: lambda connection: Exchange(controller, chain.panel, connection).run()}
    if gripper:
        ports[GRIPPER] = Robotiq(chain).talk
    return Plugs(chain.panel).listen(ports)
