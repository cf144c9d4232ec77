"""Real-Time Data Exchange (port 30004) as a UR controller speaks it: packages of big-endian numbers by negotiated recipes."""

from __future__ import annotations

import math
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Protocol

from hardware.doubles.lan import Late, exactly, start
from hardware.doubles.panel import Panel

Value = float | int | bool | tuple[float, ...] | tuple[int, ...]
_FORMATS = {"VECTOR6D": "6d", "VECTOR6INT32": "6i", "VECTOR3D": "3d"} | {
    "DOUBLE": "d",
    "UINT64": "Q",
    "UINT32": "I",
    "INT32": "i",
    "UINT8": "B",
}
_TYPES = {
    "UINT64": ("actual_digital_input_bits", "actual_digital_output_bits"),
    "UINT32": ("runtime_state", "robot_status_bits", "safety_status_bits", "speed_slider_mask"),
    "INT32": ("robot_mode", "safety_mode", "safety_status", "tool_mode"),
    "VECTOR6INT32": ("joint_mode",),
    "VECTOR3D": ("actual_tool_accelerometer", "payload_cog", "elbow_position", "elbow_velocity"),
    "VECTOR6D": (
        *(f"target_{what}" for what in ("q", "qd", "qdd", "current", "moment", "TCP_pose", "TCP_speed")),
        *(f"actual_{what}" for what in ("q", "qd", "current", "TCP_pose", "TCP_speed", "TCP_force", "joint_voltage")),
        *("joint_control_output", "joint_temperatures", "ft_raw_wrench", "payload_inertia", "external_force_torque"),
    ),
    "DOUBLE": (
        *("timestamp", "actual_execution_time", "speed_scaling", "target_speed_fraction", "actual_momentum", "payload"),
        *("actual_main_voltage", "actual_robot_voltage", "actual_robot_current", "speed_scaling_combined", "speed_slider_fraction"),
    ),
}
_KNOWN = {name: kind for kind, names in _TYPES.items() for name in names}
_MAX = 4096  # bytes of one package from a client; more is nonsense


class Controller(Protocol):
    """What the exchange reads and writes."""

    def outputs(self) -> Mapping[str, Value]: ...
    def inputs(self, values: Mapping[str, float]) -> None: ...


def type_of(name: str) -> str:
    """The type of an output or input by its name; NOT_FOUND, as the controller answers for one that it does not know."""
    if name in _KNOWN:
        return _KNOWN[name]
    for part, kind in (("int_register_", "INT32"), ("double_register_", "DOUBLE"), ("standard_analog_", "DOUBLE")):
        if part in name:
            return kind
    return "UINT8" if "digital_output" in name or "analog_output" in name else "NOT_FOUND"


class Exchange:
    """One client's connection: what it asked for, at the rate it asked for."""

    def __init__(self, controller: Controller, panel: Panel, connection: socket.socket) -> None:
        self._controller, self._panel, self._connection = controller, panel, connection
        self._lock, self._playing, self._gone = threading.Lock(), threading.Event(), threading.Event()
        self._recipes: list[list[str]] = []
        self._outputs: list[str] = []
        self._period = 0.002

    def run(self) -> None:
        start(self._stream)
        try:
            while True:
                size, kind = struct.unpack(">HB", exactly(self._connection, 3))
                if not 3 <= size <= _MAX:
                    raise ValueError(f"package of {size} bytes")
                self._handle(chr(kind), exactly(self._connection, size - 3))
        finally:
            self._gone.set()
            self._playing.set()

    def _handle(self, kind: str, body: bytes) -> None:
        if kind == "U":
            self._take(body)
        elif kind == "V":
            self._reply(kind, b"\x01" if body == b"\x00\x02" else b"\x00")
        elif kind == "v":
            self._reply(kind, struct.pack(">4I", 5, 15, 0, 0))
        elif kind == "O":
            self._period = 1.0 / min(500.0, max(1.0, struct.unpack_from(">d", body)[0]))
            self._outputs = _names(body[8:])
            self._reply(kind, b"\x01" + _kinds(self._outputs))
        elif kind == "I":
            self._recipes.append(_names(body))
            self._reply(kind, bytes([len(self._recipes)]) + _kinds(self._recipes[-1]))
        elif kind == "S":
            self._reply(kind, b"\x01")
            self._playing.set()
        elif kind == "P":
            self._playing.clear()
            self._reply(kind, b"\x01")

    def _take(self, body: bytes) -> None:
        names = self._recipes[body[0] - 1] if 1 <= body[0] <= len(self._recipes) else []
        shape = ">" + "".join(_FORMATS[type_of(name)] for name in names)
        if not names or struct.calcsize(shape) != len(body) - 1:
            return  # the controller drops what fits no recipe
        values = struct.unpack(shape, body[1:])
        if len(values) == len(names):  # no vectors: what this double understands has none
            self._controller.inputs(dict(zip(names, values, strict=True)))

    def _reply(self, kind: str, body: bytes) -> None:
        with self._lock:
            self._connection.sendall(_package(kind, body))

    def _stream(self) -> None:
        late, due, body = Late(self._panel, self._connection), time.monotonic(), b""
        try:
            while self._playing.wait() and not self._gone.is_set():
                due = max(due + self._period, time.monotonic() - 10 * self._period)
                time.sleep(max(0.0, due - time.monotonic()))
                if not (self._panel.freeze and body):
                    body = self._measured()
                package = body
                if "actual_q" in self._outputs:  # faults of measurements: a client that only commands has none
                    if self._panel.take("lose"):
                        continue
                    if self._panel.take("corrupt"):  # there is no checksum to break: all bits set, as of a dead line
                        package = body[:1] + b"\xff" * (len(body) - 1)
                with self._lock:
                    late.send(_package("U", package))
        except OSError:
            pass

    def _measured(self) -> bytes:
        values = self._controller.outputs()
        return b"\x01" + b"".join(_pack(type_of(name), values.get(name)) for name in self._outputs)


def _pack(kind: str, value: Value | None) -> bytes:
    shape = ">" + _FORMATS.get(kind, "")
    if value is None:
        return bytes(struct.calcsize(shape))
    return struct.pack(shape, *value) if isinstance(value, tuple) else struct.pack(shape, value)


def _package(kind: str, body: bytes) -> bytes:
    return struct.pack(">HB", 3 + len(body), ord(kind)) + body


def _names(body: bytes) -> list[str]:
    return [name for name in body.decode("ascii").split(",") if name]


def _kinds(names: list[str]) -> bytes:
    return ",".join(type_of(name) for name in names).encode()


def finite(values: Mapping[str, float], prefix: str, count: int) -> tuple[list[float], bool]:
    """The first `count` registers of that name, and whether all of them are numbers."""
    found = [values.get(f"{prefix}{n}", math.nan) for n in range(count)]
    return found, all(math.isfinite(value) for value in found)
