"""A policy, or a robot, on another computer: one side of a socket asks, the other answers. Both prove who they are; all is encrypted."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from hardware.types import HardwareError

# Of a socket that goes over a network: a host that is gone, or a cable that is out, is noticed by TCP itself, in about 5 s, which is
# long enough that a glitch costs no connection: an answer in it would be lost. Not by ZeroMQ's heartbeats: with those libzmq 4.3.5
# aborts the process (`!_io_error`) when a client leaves while its messages still wait.
LINK = {"linger": 0, "tcp_keepalive": 1, "tcp_keepalive_idle": 1, "tcp_keepalive_intvl": 1, "tcp_keepalive_cnt": 5, "tcp_maxrt": 5000}


def library(name: str) -> Any:
    """zmq or msgpack, imported when first needed: a robot that nobody reaches by a socket needs neither."""
    try:
        return import_module(name)
    except ImportError as error:
        raise HardwareError(f"{name} is missing; pip install 'robolearn[serve]'") from error
