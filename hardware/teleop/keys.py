"""Keys typed in a terminal, without a display server: cbreak mode, so Ctrl-C still interrupts."""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Protocol, runtime_checkable

from hardware.types import HardwareError

_SEQUENCES = {b"[A": "up", b"[B": "down", b"[C": "right", b"[D": "left", b"[5~": "page_up", b"[6~": "page_down"}
_TOKEN = re.compile(rb"\x1b([\[O][0-9;]*[A-Za-z~])|([^\x1b])", re.DOTALL)
_UNFINISHED = re.compile(rb"\x1b([\[O][0-9;]*)?$")


@runtime_checkable
class Keys(Protocol):
    """Where a device gets what is typed: characters, and names for the arrows and page keys."""

    def open(self) -> None: ...
    def close(self) -> None: ...
    def read(self) -> list[str]: ...


class TerminalKeys:
    """`read` returns the keys typed since the last call: characters, and names for the arrows and page keys."""

    def __init__(self, fd: int | None = None) -> None:
        self._fd, self._rest = fd, b""
        self._saved: list[Any] | None = None

    def open(self) -> None:
        """Raises HardwareError where the input is not a terminal."""
        if self._fd is None:
            self._fd = sys.stdin.fileno()
        if not os.isatty(self._fd):
            valid = "--pilot scripted, spacemouse, gamepad, browser or leader"
            raise HardwareError(f"keyboard: the input is not a terminal; valid without one: {valid}")
        self._saved = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)

    def close(self) -> None:
        """Give the terminal back as it was. Idempotent."""
        if self._saved is not None and self._fd is not None:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
            self._saved = None

    @staticmethod
    def _key_by_key(fd: int) -> None:
        """Also after Ctrl-Z and fg: a shell hands the terminal back as it likes it, where a key is heard with the next Enter only."""
        try:
            if termios.tcgetattr(fd)[3] & termios.ICANON:
                tty.setcbreak(fd)
        except termios.error as error:
            raise OSError(*error.args) from error

    def read(self) -> list[str]:
        """Raises HardwareError where the terminal is gone: nobody could stop the robot with it any more."""
        if self._saved is None or self._fd is None:
            return []
        fresh = b""
        try:
            self._key_by_key(self._fd)
            while select.select([self._fd], [], [], 0)[0]:
                if not (data := os.read(self._fd, 1024)):
                    raise OSError("end of input")
                fresh += data
        except OSError as error:
            raise HardwareError(f"keyboard: the terminal is gone ({error.strerror or error})") from error
        keys, self._rest = parse(self._rest + fresh)
        if not fresh:
            self._rest = b""  # a bare Esc never becomes the start of the next arrow
        return keys


class UrgentKeys:
    """Reads keys in a thread of its own, and acts at once on some of them, whatever else is being waited for. `read` has them all."""

    POLL_S = 0.02

    def __init__(self, keys: Keys, urgent: Collection[str], act: Callable[[], None]) -> None:
        self._keys, self._urgent, self._act = keys, set(urgent), act
        self._typed: deque[str] = deque()
        self._ends = threading.Event()
        self._reader = threading.Thread(target=self._listen, name="keys", daemon=True)
        self._error: HardwareError | None = None

    def open(self) -> None:
        self._keys.open()
        self._reader.start()

    def close(self) -> None:
        self._ends.set()
        if self._reader.is_alive():
            self._reader.join()
        self._keys.close()

    def read(self) -> list[str]:
        """Raises HardwareError as the keys did."""
        if self._error is not None:
            raise self._error
        return [self._typed.popleft() for _ in range(len(self._typed))]

    def _listen(self) -> None:
        while not self._ends.wait(self.POLL_S):
            try:
                typed = self._keys.read()
            except HardwareError as error:  # the robot's loop hears of it at its next decision
                self._error = error
                return
            self._typed.extend(typed)
            if self._urgent.intersection(typed):
                with contextlib.suppress(HardwareError):  # not connected: then nothing moves
                    self._act()


class PassedKeys:
    """Keys that somebody else reads first, who passes on what is not meant for them."""

    def __init__(self) -> None:
        self._typed: list[str] = []

    def open(self) -> None: ...

    def close(self) -> None: ...

    def put(self, key: str) -> None:
        self._typed.append(key)

    def read(self) -> list[str]:
        typed, self._typed = self._typed, []
        return typed


class NoKeys:
    """Stands in where a device needs no terminal: its own buttons end the episodes."""

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def read(self) -> list[str]:
        return []


def parse(data: bytes) -> tuple[list[str], bytes]:
    """(keys, the unfinished escape sequence at the end). Arrows arrive as ESC [ A or ESC O A; unknown ones are dropped."""
    rest = b""
    if match := _UNFINISHED.search(data):
        data, rest = data[: match.start()], match[0]
    keys = []
    for sequence, character in _TOKEN.findall(data):
        name = _SEQUENCES.get(sequence.replace(b"O", b"[", 1)) if sequence else character.decode("latin-1")
        if name is not None:
            keys.append(name)
    return keys, rest
