"""What the messages of a robot's log mean: which hold pictures, which hold numbers, of what name and unit.

Definitions: common_interfaces (sensor_msgs, geometry_msgs, std_msgs) and REP 103, by whose terms all is rad, m, s, N and N m.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import attrgetter
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.formats._image import decode_images, image_size

EXTRA = "needs robolearn's extra `ros`: pip install robolearn[ros]"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
JOINTS, TEXT, JSON = "sensor_msgs/msg/JointState", "std_msgs/msg/String", "json"
MAX_NUMBERS = 1000  # of one message; beyond that it is a scan, a map or points

# encoding -> (bytes of a pixel, which of them are red, green and blue). sensor_msgs/image_encodings.hpp
ENCODINGS = {
    "rgb8": (3, [0, 1, 2]),
    "bgr8": (3, [2, 1, 0]),
    "rgba8": (4, [0, 1, 2]),
    "bgra8": (4, [2, 1, 0]),
    "mono8": (1, [0, 0, 0]),
    "8UC1": (1, [0, 0, 0]),
}


class Part(NamedTuple):
    """Numbers of one message that belong together."""

    suffix: str  # "" or what tells it from the message's other parts
    names: tuple[str, ...]
    units: tuple[str, ...]
    values: Sequence[float] | np.ndarray


def decode_cdr(data: bytes | memoryview, kind: str) -> Any:
    """A ROS 2 message of one of the types below. rosbags' own definitions are used, never those that a file brings along."""
    try:
        return _typestore().deserialize_cdr(memoryview(data), kind)
    except _damage() as error:
        raise UserError(f"a {kind} message is damaged: {' '.join(str(error).split())[:160]}") from error


def is_picture(kind: str) -> bool:
    return kind in (IMAGE, COMPRESSED)


def is_read(kind: str) -> bool:
    return is_picture(kind) or kind in _PARTS or kind == TEXT


def stamp_ns(message: Any) -> int | None:
    """When it was measured, by its header [ns]; None: it has no header."""
    if isinstance(message, dict):  # JSON: Foxglove's schemas have a timestamp, messages translated from ROS a header
        header = message.get("header")
        stamp = message.get("timestamp") or (header.get("stamp") if isinstance(header, dict) else None)
        stamp = SimpleNamespace(**{"nanosec": stamp.get("nsec", 0), "sec": 0} | stamp) if isinstance(stamp, dict) else None
    else:
        stamp = getattr(getattr(message, "header", None), "stamp", None)
    return None if stamp is None else int(stamp.sec) * 10**9 + int(stamp.nanosec)


def parts(message: Any, kind: str) -> Iterator[Part]:
    """The numbers of a message. UserError: a joint without a number, too many numbers."""
    for part in _PARTS[kind](message):
        if len(part.names) != len(part.values) or len(part.values) > MAX_NUMBERS:
            raise UserError(f"a {kind} message has {len(part.names)} names for {len(part.values)} numbers; at most {MAX_NUMBERS} are read")
        yield part


def text(message: Any) -> str:
    return str(message.data)


def picture_size(message: Any, kind: str) -> tuple[int, int]:
    """(height, width) [px]; nothing is decoded. UserError: no colour picture that is read here."""
    if kind == IMAGE:
        if message.encoding not in ENCODINGS:
            raise UserError(f"encoding {message.encoding[:40]!r}; valid: {', '.join(ENCODINGS)}")
        if not message.height or not message.width:
            raise UserError(f"its first picture is {message.height}x{message.width} px")
        return int(message.height), int(message.width)
    # "jpeg", or "<what it was>; jpeg compressed <what it is>" as compressed_image_transport writes it; beyond 8 bits it is depth
    what, _, codec = message.format.lower().rpartition(";")
    if re.match(r"\s*(16|32|64|mono16)", what) or "depth" in codec or not re.search("jpe?g|png", codec):
        raise UserError(f"format {message.format[:60]!r}; valid: jpeg or png of 8 bits")
    return image_size(bytes(message.data), "its first picture")


def decode_picture(message: Any, kind: str, size: tuple[int, int]) -> np.ndarray:
    """uint8 (H, W, 3) RGB. UserError: damaged, or not of this size [px]."""
    if kind == COMPRESSED:
        return decode_images([bytes(message.data)], size, "a picture")[0]
    height, width, step = int(message.height), int(message.width), int(message.step)
    pixel, order = ENCODINGS.get(message.encoding, (0, []))
    if (height, width) != size or not pixel:
        raise UserError(f"a picture is {message.encoding[:40]} {height}x{width} px; the first was {size[0]}x{size[1]}")
    data = np.frombuffer(message.data, np.uint8)
    if step < width * pixel or len(data) < height * step:
        raise UserError(f"a picture has {len(data)} bytes in steps of {step}; {message.encoding} {height}x{width} px needs more")
    return data[: height * step].reshape(height, step)[:, : width * pixel].reshape(height, width, pixel)[..., order]


def _joints(message: Any) -> Iterator[Part]:
    """Position, velocity and effort; each may be empty. The definition leaves prismatic joints (m, m/s, N) to the robot's model."""
    for suffix, unit, values in (("", "rad", message.position), ("velocity", "rad/s", message.velocity), ("effort", "N m", message.effort)):
        if len(values):
            names = tuple(message.name) or tuple(f"joint{i}" for i in range(len(values)))
            yield Part(suffix, names, (unit,) * len(names), values)


def _numbers(values: Any) -> Iterator[Part]:
    names = tuple(str(i) for i in range(len(values)))
    yield Part("", names, ("",) * len(names), values)


def _fields(where: str, table: Sequence[tuple[str, str, str]]) -> Callable[[Any], Iterator[Part]]:
    names, units, paths = zip(*table, strict=True)
    get = attrgetter(*(f"{where}{path}" for path in paths))
    return lambda message: iter((Part("", names, units, get(message)),))


def _leaves(message: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a JSON message by its path, but for the stamps."""
    if isinstance(message, dict):
        for key, value in message.items():
            if path or key not in ("timestamp", "header", "stamp"):
                yield from _leaves(value, f"{path}.{key}" if path else str(key))
    elif isinstance(message, list):
        for index, value in enumerate(message):
            yield from _leaves(value, f"{path}.{index}" if path else str(index))
    elif isinstance(message, int | float):
        yield path, float(message)


def _json(message: Any) -> Iterator[Part]:
    if found := dict(_leaves(message)):
        yield Part("", tuple(found), ("",) * len(found), list(found.values()))


_POSE = (
    *((axis, "m", f"position.{axis}") for axis in "xyz"),
    *((f"q{axis}", "1", f"orientation.{axis}") for axis in "wxyz"),  # ROS keeps xyzw
)
_TWIST = (*((f"v{axis}", "m/s", f"linear.{axis}") for axis in "xyz"), *((f"w{axis}", "rad/s", f"angular.{axis}") for axis in "xyz"))
_WRENCH = (*((f"f{axis}", "N", f"force.{axis}") for axis in "xyz"), *((f"t{axis}", "N m", f"torque.{axis}") for axis in "xyz"))

_PARTS: dict[str, Callable[[Any], Iterator[Part]]] = {
    JOINTS: _joints,
    JSON: _json,
    "geometry_msgs/msg/Pose": _fields("", _POSE),
    "geometry_msgs/msg/PoseStamped": _fields("pose.", _POSE),
    "geometry_msgs/msg/Twist": _fields("", _TWIST),
    "geometry_msgs/msg/TwistStamped": _fields("twist.", _TWIST),
    "geometry_msgs/msg/Wrench": _fields("", _WRENCH),
    "geometry_msgs/msg/WrenchStamped": _fields("wrench.", _WRENCH),
    "std_msgs/msg/Float32": lambda message: _numbers([message.data]),
    "std_msgs/msg/Float64": lambda message: _numbers([message.data]),
    "std_msgs/msg/Float32MultiArray": lambda message: _numbers(message.data),
    "std_msgs/msg/Float64MultiArray": lambda message: _numbers(message.data),
}


@cache
def _typestore() -> Any:
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise UserError(f"ROS 2 messages: reading them {EXTRA}") from error
    return get_typestore(Stores.ROS2_HUMBLE)  # the types above have been the same in every release


def _damage() -> tuple[type[Exception], ...]:
    from rosbags.serde import SerdeError

    return SerdeError, ValueError, IndexError, OverflowError, MemoryError
