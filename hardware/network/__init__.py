"""A policy, or a robot, on another computer: one side of a socket asks, the other answers. Both prove who they are; all is encrypted."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hardware.types import HardwareError


def library(name: str) -> Any:
    """zmq or msgpack, imported when first needed: a robot that nobody reaches by a socket needs neither."""
    try:
        return import_module(name)
    except ImportError as error:
        raise HardwareError(f"{name} is missing; pip install 'robolearn[serve]'") from error
