"""What drivers of arms on the network share: addresses, calls that end, the controller's clock, a gripper beside the arm."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable
from time import monotonic
from typing import Protocol, TypeVar

from hardware.types import HardwareError

_WINDOW_S = 10.0
_GRIPPER_S, _GRIPPER_ERRORS = 0.02, 5  # between two words with a gripper; errors in a row that are a fault
T = TypeVar("T")


def parse(arm: str, address: str, port: int = 0) -> tuple[str, int, bool]:
    """(host, port, has it a gripper) of HOST, HOST:PORT, each with ",gripper=none" where there is none. Raises HardwareError."""
    place, _, option = address.partition(",")
    host, _, number = place.strip().partition(":")
    if option.strip() not in ("", "gripper=none") or not host or not (number or "0").isdigit():
        raise HardwareError(f"{arm}: address {address!r}; valid: 192.168.1.10 or 192.168.1.10,gripper=none")
    return host, int(number or port), not option


def reach(arm: str, host: str, port: int, seconds: float = 3.0) -> None:
    """HardwareError unless somebody listens there: the SDKs would wait for minutes."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError as error:
        what = error.strerror or str(error)
        raise HardwareError(f"{arm}: {host} port {port}: {what}; expected the arm's controller, switched on and on this network") from error


def bounded(call: Callable[[], T], seconds: float, what: str) -> T:
    """call(), or HardwareError: SDKs wait for some replies without end. A call that never returns keeps its thread."""
    results: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            results.put((call(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        value, error = results.get(timeout=seconds)
    except queue.Empty:
        raise HardwareError(f"{what}: no answer in {seconds:g} s") from None
    if isinstance(error, HardwareError):
        raise error
    if error is not None:
        raise HardwareError(f"{what}: {' '.join(str(error).split()) or type(error).__name__}") from error
    return value  # pyright: ignore[reportReturnType]


class ControllerTime:
    """The controller's stamps [s] as monotonic time of this computer, so that a late measurement looks as old as it is.

    The least difference seen between the two clocks is of a package that was not delayed; it is sought again in each
    window, as the clocks drift apart.
    """

    def __init__(self) -> None:
        self._least = self._before = float("inf")
        self._until = 0.0

    def local(self, stamp: float) -> float:
        now = monotonic()
        if now > self._until:
            self._before, self._least, self._until = self._least, float("inf"), now + _WINDOW_S
        self._least = min(self._least, now - stamp)
        return stamp + min(self._least, self._before)


class Jaw(Protocol):
    """A gripper's own protocol. open raises HardwareError, move and look whatever went wrong; after that they can be tried again."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def move(self, goal: float) -> None: ...
    def look(self) -> tuple[float, str | None]: ...  # (opening 0..1, its fault)


class GripperBeside:
    """Speaks with a gripper in a thread of its own: slow words to it never delay a tick of the arm. None: there is no gripper."""

    def __init__(self, jaw: Jaw | None) -> None:
        self._jaw, self._stop = jaw, threading.Event()
        self._thread: threading.Thread | None = None
        self.goal: float | None = None
        self.opening = 0.0
        self.fault: str | None = None

    def start(self) -> None:
        """Raises HardwareError where the gripper does not answer."""
        if self._jaw is None:
            return
        self._jaw.open()
        self.opening, self.fault = self._jaw.look()
        self._thread = threading.Thread(target=self._work, daemon=True, name="gripper")
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join(5.0)
        if self._jaw is not None:
            self._jaw.close()

    def _work(self) -> None:
        assert self._jaw is not None
        sent: float | None = None
        errors = 0
        while not self._stop.wait(_GRIPPER_S):
            try:
                goal = self.goal
                if goal is not None and goal != sent:
                    self._jaw.move(goal)
                    sent = goal
                self.opening, self.fault = self._jaw.look()
                errors = 0
            except Exception as error:  # one lost word is everyday life; SDKs answer it with all kinds of exceptions
                errors += 1
                if errors >= _GRIPPER_ERRORS:
                    self.fault = f"gripper: {error}"
