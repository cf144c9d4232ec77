"""The side that asks. A thread says that it is still there; what cannot wait goes by a socket of its own."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

from hardware.network import LINK, library
from hardware.network.keys import ClientKeys
from hardware.network.wire import VERSION, pack, unpack
from hardware.types import HardwareError

ANSWER_S = 2.0  # a request that takes no longer by itself
HELLO_S = 10.0  # a server that is just starting, or busy
BEAT_S = 0.25
BEATS = 20  # so many without an answer, and nobody is there who would give a long one
_BEAT = -1  # the number of a beat and of its answer


class NoAnswer(HardwareError):
    """Nobody answered in time, or the one that did knows nothing of us: it was started anew, or missed us for too long."""


class Client:
    """Asks one server for what it serves. Thread-safe: requests are answered in turn, `urge` beside them."""

    def __init__(self, address: str, key_file: Path, kind: str) -> None:
        """address: tcp://HOST:PORT. kind: what the server must have, "policy" or "robot". Raises HardwareError; connects when it asks."""
        url = urlsplit(address)
        try:
            found = url.scheme == "tcp" and url.hostname and url.port
        except ValueError:
            found = None
        if not found:
            raise HardwareError(f"address: {address!r}; valid: tcp://HOST:PORT, the server's")
        self.address, self._kind, self._token = address, kind, ""
        keys = ClientKeys.load(key_file)
        self._key_file = key_file
        self._requests, self._urgent = _Line(address, keys), _Line(address, keys)
        self._ends = threading.Event()
        self._beats: threading.Thread | None = None
        self._unheard = 0  # beats

    @property
    def is_open(self) -> bool:
        return bool(self._token)

    def hello(self, within_s: float = HELLO_S) -> dict[str, Any]:
        """What is served there. Raises HardwareError: another version, something else, or nobody whom this key knows."""
        return self._ask(self._requests, "hello", [VERSION, self._kind], within_s)

    def open(self, within_s: float = HELLO_S) -> dict[str, Any]:
        """Be the one client; what is served there. Raises HardwareError: another one is."""
        facts = self.hello(within_s)
        self._token = self._ask(self._requests, "open", [], ANSWER_S)
        self._unheard = 0
        if self._beats is None:
            self._ends.clear()
            self._beats = threading.Thread(target=self._beat, daemon=True, name=f"beats to {self.address}")
            self._beats.start()
        return facts

    def ask(self, what: str, *arguments: Any, within_s: float = ANSWER_S) -> Any:
        """Raises NoAnswer, or HardwareError with what the server refused it for."""
        return self._ask(self._requests, what, list(arguments), within_s)

    def urge(self, reason: str) -> None:
        """Heard while a request is being answered. Raises NoAnswer."""
        self._ask(self._urgent, "urge", [reason], ANSWER_S)

    def close(self, within_s: float = ANSWER_S) -> None:
        """Let the next client in; `open` comes back. Never raises: a server that is gone has let go of us by itself."""
        if self._token:
            with contextlib.suppress(HardwareError):
                self._ask(self._requests, "close", [], within_s)
        self._token = ""
        self._ends.set()
        if self._beats is not None:
            self._beats.join()
            self._beats = None
        for line in (self._requests, self._urgent):
            line.close()

    def _beat(self) -> None:
        while not self._ends.wait(BEAT_S):
            if self._token:  # beats are counted, not seconds: a process that stood still has missed nothing
                self._unheard = 1 if self._urgent.tell("beat", self._token) else self._unheard + 1

    def _gone(self) -> bool:
        return bool(self._token) and self._unheard > BEATS

    def _ask(self, line: _Line, what: str, arguments: list[Any], within_s: float) -> Any:
        began, is_long = monotonic(), within_s > ANSWER_S
        answer = line.ask(what, self._token, arguments, within_s, self._gone if is_long else lambda: False)
        if answer is None:
            if line is self._requests:
                self._urgent.close()  # as stale; the next beat goes by a new one
            raise NoAnswer(f"{self.address}: `{what}` got no answer in {min(monotonic() - began, within_s):.3g} s; {self._why()}")
        self._unheard = 0
        status, value = answer
        if status == "lost":
            self._token = ""
            raise NoAnswer(f"{self.address}: the server was started anew, or did not hear us for too long")
        if status != "ok":
            raise HardwareError(f"{self.address}: {value}")
        return value

    def _why(self) -> str:
        """Keys that do not fit look like silence: ZeroMQ tells a stranger nothing."""
        url = urlsplit(self.address)
        try:
            socket.create_connection((url.hostname or "", url.port or 0), 1.0).close()
        except OSError as error:
            return f"nobody listens there: {error.strerror or error}"
        return f"somebody listens there, who hangs, or whose keys do not go with {self._key_file}"


class _Line:
    """One socket to the server, used by one thread at a time. After a silence it is a new one: nothing late is taken for an answer."""

    def __init__(self, address: str, keys: ClientKeys) -> None:
        self._address, self._keys = address, keys
        self._lock, self._number = threading.Lock(), 0
        self._socket: Any = None

    def ask(self, what: str, token: str, arguments: list[Any], within_s: float, gone: Callable[[], bool]) -> tuple[str, Any] | None:
        """(status, value); None: no answer in time, or nobody there any more."""
        with self._lock:
            self._number += 1
            ends = monotonic() + within_s
            with contextlib.suppress(library("zmq").Again):  # whoever listens there may not even shake hands: nothing gets away
                line = self._opened()
                line.sndtimeo = math.ceil(1000 * within_s)
                line.send(pack([self._number, what, token, arguments]))
            while (left := ends - monotonic()) > 0:
                if not self._socket.poll(1000 * min(left, BEAT_S)):
                    if gone():
                        break
                    continue
                number, status, value = _answer(self._socket.recv())
                if number in (self._number, 0):  # 0: the server could not read the question
                    return status, value
            self._drop()
        return None

    def tell(self, what: str, token: str) -> bool:
        """Without waiting; nothing is said where the last words did not get away. True: what was told before was heard by a server that
        knows us."""
        zmq, heard = library("zmq"), False
        with self._lock, contextlib.suppress(zmq.Again, HardwareError):
            line = self._opened()
            while line.poll(0):
                heard = _answer(line.recv())[1] == "ok"
            line.send(pack([_BEAT, what, token, []]), zmq.NOBLOCK)
        return heard

    def close(self) -> None:
        with self._lock:
            self._drop()

    def _opened(self) -> Any:
        if self._socket is None:
            zmq = library("zmq")
            self._socket = zmq.Context.instance().socket(zmq.DEALER)
            options = LINK | {"curve_serverkey": self._keys.server, "curve_secretkey": self._keys.secret, "sndhwm": 16}
            options |= {"curve_publickey": zmq.curve_public(self._keys.secret), "reconnect_ivl_max": 500}
            for name, value in options.items():
                setattr(self._socket, name, value)
            self._socket.connect(self._address)
        return self._socket

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _answer(data: bytes) -> tuple[int, str, Any]:
    message = unpack(data)
    if not isinstance(message, list) or len(message) != 3 or not isinstance(message[0], int) or not isinstance(message[1], str):
        raise HardwareError("the server's answer is not one of ours; the same robolearn on both sides")
    return message[0], message[1], message[2]
