"""Driving with a phone or a browser: one page, over one WebSocket. Its touch areas and keys move the robot only while they are touched."""

from __future__ import annotations

import hmac
import json
import logging
import math
import secrets
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, cast, get_args

import numpy as np

from hardware.teleop.keys import Keys, NoKeys
from hardware.teleop.operator import GRIPPER_PER_S, STOPPED_BY_PERSON, Jogger, Verdict
from hardware.types import HardwareError, Observation, RobotSpec

SILENT_S = 0.3  # a page speaks twenty times a second; one that says nothing for so long moves nothing
LATE_S = 0.5  # one whose newest word from us is older moves nothing: a round trip of about 0.4 s is let through
SEAT_S = 3.0  # whoever said nothing for so long has left the seat
DEAF_S = 1.0  # what a page does not answer within this time is not waited for
MESSAGE_BYTES = 300
WORDS = (*get_args(Verdict), "stop")
_FIELDS = {"hold", "x", "y", "z", "turn", "grip", "word", "heard"}


@dataclass(frozen=True)
class Message:
    """What a page says: a finger or key is down, where it wants to go (x, y, z, turn about z, gripper; -1 to 1), perhaps a word."""

    hold: bool
    wish: tuple[float, float, float, float, float]
    word: str | None = None
    heard: float | None = None  # the newest of our times [s] that the page knew: it was said no earlier

    @staticmethod
    def read(text: str | bytes) -> Message:
        """Raises ValueError, in one line, for what no page of ours says."""
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError("not JSON") from error
        if not isinstance(given, dict) or given.keys() - _FIELDS:
            raise ValueError(f"valid fields: {', '.join(sorted(_FIELDS))}")
        hold, word = given.get("hold", False), given.get("word")
        if not isinstance(hold, bool) or not (word is None or word in WORDS):
            raise ValueError(f"hold: true or false; word: {', '.join(WORDS)}")
        values = [given.get(name, 0.0) for name in ("x", "y", "z", "turn", "grip")]
        if not all(type(value) in (int, float) and -1.0 <= value <= 1.0 for value in values):
            raise ValueError("x, y, z, turn, grip: -1 to 1")
        heard = given.get("heard")
        if heard is not None and not (type(heard) in (int, float) and 0.0 <= heard <= 1e9):
            raise ValueError("heard: seconds, 0 to 1e9")
        x, y, z, turn, grip = map(float, values)
        return Message(hold, (x, y, z, turn, grip), word, heard)


class Seat:
    """One client moves the robot, the others watch. Whoever takes the seat begins with nothing held.

    `hold` stays what it was said to be last: a lost connection lets go of nothing, it only moves nothing. Times are of one clock, ours:
    a page says back the newest that it heard of, and is taken to have spoken then. One that heard of none moves nothing.
    """

    def __init__(self) -> None:
        self.hold, self._wish = False, (0.0,) * 5
        self._said = self._came = -math.inf  # the newest message: said no earlier, and here, at [s]
        self._client: object | None = None
        self._words: deque[tuple[float, Verdict]] = deque(maxlen=16)
        self._lock = threading.Lock()

    def hear(self, client: object, message: Message, now: float) -> bool:
        """True: it has the seat. now: [s]."""
        with self._lock:
            if now - self._came > SEAT_S:  # its own page, too, lets go first: it may have slept with a key down
                self._client = None
            if client is not self._client:
                if self._client is not None or message.hold:
                    return False
                self._client = client
            self._said, self._came = -math.inf if message.heard is None else min(message.heard, now), now
            self.hold, self._wish = message.hold, message.wish
            if message.word not in (None, "stop"):  # a stop is no word of an episode's: Browser hears it from everybody
                self._words.append((self._said, cast(Verdict, message.word)))
            return True

    def leave(self, client: object) -> None:
        with self._lock:
            if client is self._client:
                self._client = None

    def wish(self, now: float) -> np.ndarray:
        """(5,): x, y, z, turn, grip; zeros unless somebody holds on, was heard of lately and is not too far away."""
        with self._lock:
            fresh = now - self._came <= SILENT_S and now - self._said <= LATE_S
            return np.array(self._wish if fresh and self.hold and self._client is not None else (0.0,) * 5)

    def words(self) -> list[tuple[float, Verdict]]:
        """Heard since the last call, and when they were said, at the earliest."""
        with self._lock:
            said = list(self._words)
            self._words.clear()
            return said


class Browser(Jogger):
    """Nothing moves, the gripper neither, unless a finger or a key is down on the page of the client that has the seat.

    A word counts, however late it comes, if its page had heard from us since the reset when it was said; within about a round trip of
    the reset none does. A stop always counts, and from everybody.

    The address holds a secret: whoever knows it may drive. It is not encrypted; use it in a network that you trust, or through ssh.
    """

    help = "on the page: touch to move, let go to hold; or arrow keys, u d, , . and o c for the gripper · Esc STOP"

    def __init__(
        self,
        spec: RobotSpec,
        stop: Callable[[str], None],
        keys: Keys | None = None,
        host: str = "127.0.0.1",
        port: int = 8643,
        camera: str = "",
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """stop: stops the robot, from any thread and without waiting; called as soon as a page says so, episode or none. host: 0.0.0.0
        lets a phone in. port: 0 picks a free one. camera: what follows this machine's name in the address of moving pictures, as in
        :8642/stream. keys: episode keys typed in the terminal as well, where there is one."""
        super().__init__(spec, NoKeys() if keys is None else keys)
        self._stop, self._host, self._port, self._clock = stop, host, port, clock
        self._period_s, self._turn, self._began = 1.0 / spec.rate_hz, 0.0, clock()
        self._secret = secrets.token_urlsafe(12)
        page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
        self._page = page.replace('"{camera}"', json.dumps(camera))
        self.seat = Seat()
        self._server: Any = None

    @property
    def url(self) -> str:
        """Of the page."""
        port = self._port if self._server is None else self._server.socket.getsockname()[1]
        return f"http://{_reachable(self._host)}:{port}/{self._secret}/"

    def __enter__(self) -> Browser:
        self._server = self._open()
        threading.Thread(target=self._server.serve_forever, daemon=True, name="browser").start()
        super().__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def reset(self) -> None:
        super().reset()
        self._began = self._clock()  # what was said before means nothing, however late it comes

    def step_m(self, observation: Observation, pressed: list[str]) -> np.ndarray:
        for said, word in self.seat.words():
            if said >= self._began:
                self.verdict = word
        *step, self._turn, grip = np.zeros(5) if self.verdict else self.seat.wish(self._clock())
        self.openness = float(np.clip(self.openness + grip * GRIPPER_PER_S * self._period_s, 0.0, 1.0))
        return np.array(step) * self.jog.limit_m()

    def turn_rad(self, observation: Observation) -> np.ndarray:
        return np.array([0.0, 0.0, self._turn]) * self.jog.limit_rad()

    def clutch(self) -> bool:
        return self.seat.hold

    # The network ----------------------------------------------------------------------------------------------------

    def _open(self) -> Any:
        try:
            from websockets.sync.server import serve
        except ImportError as error:
            raise HardwareError("browser: websockets is not installed; pip install 'robolearn[browser]'") from error
        quiet = logging.Logger("browser", logging.CRITICAL)  # the terminal belongs to the progress bar
        options: dict[str, Any] = {"process_request": self._answer, "max_size": MESSAGE_BYTES, "compression": None, "logger": quiet}
        options |= {"open_timeout": DEAF_S, "close_timeout": DEAF_S}
        try:
            return serve(self._talk, self._host, self._port, **options)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise HardwareError(f"browser: {self._host}:{self._port} cannot be used ({why}); valid port: 0 picks a free one") from error

    def _answer(self, connection: Any, request: Any) -> Any:
        """The page, or None: go on with the WebSocket; without the secret there is nothing here."""
        path = request.path.encode()
        if hmac.compare_digest(path, f"/{self._secret}/ws".encode()):
            # A page that reads nothing is hung up on: else its thread would wait to answer it, and hear no stop of its.
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(DEAF_S), 0))
            return None
        if not hmac.compare_digest(path, f"/{self._secret}/".encode()):
            return connection.respond(HTTPStatus.NOT_FOUND, "nothing here; the address has a secret in it\n")
        response = connection.respond(HTTPStatus.OK, self._page)
        del response.headers["Content-Type"]
        response.headers["Content-Type"] = "text/html; charset=utf-8"
        response.headers["Cache-Control"], response.headers["Referrer-Policy"] = "no-store", "no-referrer"
        return response

    def _talk(self, client: Any) -> None:
        """Answers every message: whether it has the seat, the time [s], and how late it was [s], 0 where that is soon enough."""
        from websockets.exceptions import ConnectionClosed

        try:
            for text in client:
                message, now = Message.read(text), self._clock()
                if message.word == "stop":
                    self._stop(STOPPED_BY_PERSON)
                late = 0.0 if message.heard is None else now - message.heard
                answer = {"moves": self.seat.hear(client, message, now), "now": now, "late": round(late, 1) if late > LATE_S else 0}
                with suppress(ConnectionClosed):  # what it said before it left is heard all the same: it may be a stop
                    client.send(json.dumps(answer))
        except ValueError as error:
            client.close(1008, str(error))
        except ConnectionClosed:
            pass
        finally:
            self.seat.leave(client)


def _reachable(host: str) -> str:
    """This machine's name for others, where it listens to all of them."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks which way that would go
            return probe.getsockname()[0]
        except OSError:
            return socket.gethostname()
