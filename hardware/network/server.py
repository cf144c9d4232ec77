"""The side that answers: one client at a time, its requests in their order, and what cannot wait beside them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from secrets import token_hex
from time import monotonic
from types import TracebackType
from typing import Any, Protocol, Self

from hardware.network import LINK, library
from hardware.network.keys import ServerKeys
from hardware.network.wire import LIMIT, VERSION, pack, unpack
from hardware.types import HardwareError

LOST_S = 2.0  # a client that was not heard for this long is gone
_DOMAIN = "robolearn"
_WAITING = 8  # requests; a client that waits for its answers has one


class Service(Protocol):
    """What is served. `answer` and `left` are called in turn by one thread, `urge` by another at any time."""

    kind: str  # what a client must have come for
    facts: Mapping[str, Any]  # what any client is told

    def answer(self, what: str, arguments: list[Any]) -> Any: ...  # raises HardwareError: refused, in one line
    def urge(self, reason: str) -> None: ...  # the client's stop, or its end: must not wait
    def left(self, reason: str) -> None: ...  # the client is gone; the next may come when this returned


@dataclass(frozen=True)
class _Job:
    what: str
    arguments: list[Any]
    sender: bytes = b""
    number: int = 0
    token: str = ""  # whose it is
    leaves: bool = False  # no request: the client is gone


class Server:
    """A service at an address. A thread of its own listens; `run` answers, in the thread that calls it.

    A message is [number, what, token, arguments], an answer [number, "ok" | "refused" | "lost", value]. The token is of the one client
    that was let in, by `open`; whoever else asks for more than `hello` is told "lost": it was never in, or is no longer.
    """

    def __init__(self, service: Service, listen: str, keys: ServerKeys, log: Callable[[str], None] = lambda line: None) -> None:
        """listen: tcp://0.0.0.0:5555; port * takes a free one. log: gets a line for whoever comes, goes or is refused."""
        self.service, self.listen, self.address = service, listen, ""
        self._keys, self._log = keys, log
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._token, self._heard = "", 0.0
        self._ends = threading.Event()

    def __enter__(self) -> Self:
        """Raises HardwareError where the address cannot be listened at."""
        zmq = library("zmq")
        self._zmq, self._context = zmq, zmq.Context()
        self._auth = library("zmq.auth.thread").ThreadAuthenticator(self._context)
        self._auth.start()
        self._auth.configure_curve_callback(_DOMAIN, self)
        self._router = self._context.socket(zmq.ROUTER)
        options = LINK | {"curve_server": True, "curve_secretkey": self._keys.secret, "maxmsgsize": 2 * LIMIT, "rcvhwm": 16}
        # Without a domain that is enforced, a client is let in wherever nobody answers for its key.
        options |= {"zap_domain": _DOMAIN.encode(), "zap_enforce_domain": 1}
        for name, value in options.items():
            setattr(self._router, name, value)
        self._done, self._answers = self._context.socket(zmq.PAIR), self._context.socket(zmq.PAIR)
        self._answers.bind("inproc://answers")
        self._done.connect("inproc://answers")
        try:
            self._router.bind(self.listen)
        except zmq.ZMQError as error:
            self._close()
            why = f"{error.strerror or error}; expected an address of this computer, such as tcp://0.0.0.0:5555"
            raise HardwareError(f"listen: {self.listen}: {why}") from error
        self.address = self._router.last_endpoint.decode().rstrip("\0")
        self._thread = threading.Thread(target=self._watch, daemon=True, name="network")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ends.set()
        self._thread.join()
        self._close()

    def _close(self) -> None:
        self._auth.stop()
        self._context.destroy(linger=0)

    def callback(self, domain: str, key: bytes) -> bool:
        """Is this client's key a known one? Asked by the authenticator, before anything of the client's is read."""
        if not (known := key in self._keys.known):
            self._log(f"refused: a client with an unknown key, {key.decode()}")
        return known

    # Answering ------------------------------------------------------------------------------------------------------

    def run(self, until: float = float("inf")) -> None:
        """Answer until a time [s, monotonic]. Raises HardwareError where listening failed."""
        while (left := until - monotonic()) > 0:
            try:
                job = self._jobs.get(timeout=min(left, 1.0))
            except queue.Empty:
                continue
            if job is None:
                raise HardwareError(f"{self.address}: no longer listening: {self._failure}")
            self._do(job)

    def _do(self, job: _Job) -> None:
        if not job.leaves and job.token != self._token:
            return  # its client is gone: nothing moves for nobody
        status, value = "ok", None
        try:
            if job.leaves:
                self.service.left(job.what)
            else:
                value = self.service.answer(job.what, job.arguments)
            data = pack([job.number, status, value])
        except HardwareError as error:
            data = self._refusal(job.number, job.what, str(error))
        except Exception as error:  # of a policy, or a fault of ours: the client is told, the next one is served
            data = self._refusal(job.number, job.what, f"{type(error).__name__}: {error}")
        if job.sender:
            self._done.send_multipart([job.sender, data])

    def _refusal(self, number: int, what: str, why: str) -> bytes:
        line = " ".join(why.split())[:400]
        self._log(f"refused: {what!r:.40}: {line}")
        return pack([number, "refused", line])

    # Listening, in the thread ---------------------------------------------------------------------------------------

    _failure = ""

    def _watch(self) -> None:
        poller = self._zmq.Poller()
        poller.register(self._router, self._zmq.POLLIN)
        poller.register(self._answers, self._zmq.POLLIN)
        try:
            while not self._ends.is_set():
                for socket, _ in poller.poll(100):
                    parts = socket.recv_multipart()
                    if socket is self._answers:
                        self._send(parts)
                    else:
                        self._hear(parts)
                # What came while this process stood still waits to be read.
                if self._token and monotonic() - self._heard > LOST_S and not self._router.poll(0):
                    self._leave("link lost")
        except Exception as error:  # deaf: what is served comes to rest
            self._failure = repr(error)
            self.service.urge("server failed")
            self._jobs.put(None)

    def _send(self, parts: list[bytes]) -> None:
        """An answer whose client is gone, or does not read, is dropped."""
        self._router.send_multipart(parts)

    def _hear(self, parts: list[bytes]) -> None:
        sender, number, what = parts[0], 0, "message"
        try:
            if len(parts) != 2:
                raise HardwareError(f"{len(parts) - 1} frames; expected 1")
            number, what, token, arguments = _checked(unpack(parts[1]))
            self._heed(_Job(what, arguments, sender, number, token))
        except HardwareError as error:
            self._send([sender, self._refusal(number, what, str(error))])

    def _heed(self, job: _Job) -> None:
        answer: Any = None
        if job.what == "hello":
            answer = self._hello(job.arguments)
        elif job.what == "open":
            answer = self._open()
        elif not job.token or job.token != self._token:
            self._send([job.sender, pack([job.number, "lost", None])])
            return
        else:
            self._heard = monotonic()
            if job.what == "close":
                self._leave("closed", job)
                return
            if job.what == "urge":
                if [type(part) for part in job.arguments] != [str]:
                    raise HardwareError("expected a reason")
                self.service.urge(job.arguments[0][:200])
            elif job.what != "beat":
                if self._jobs.qsize() >= _WAITING:
                    raise HardwareError(f"{_WAITING} requests are waiting")
                self._jobs.put(job)
                return
        self._send([job.sender, pack([job.number, "ok", answer])])

    def _hello(self, arguments: list[Any]) -> dict[str, Any]:
        version, kind = arguments if [type(part) for part in arguments] == [int, str] else (None, None)
        if version != VERSION:
            raise HardwareError(f"it speaks version {version!r:.20}, this server version {VERSION}; the same robolearn on both sides")
        if kind != self.service.kind:
            raise HardwareError(f"it came for a {kind!r:.20}; this server has a {self.service.kind}")
        return dict(self.service.facts)

    def _open(self) -> str:
        if self._token:
            raise HardwareError("in use by another client; one at a time")
        self._token, self._heard = token_hex(16), monotonic()
        self._log("a client has come")
        return self._token

    def _leave(self, reason: str, job: _Job | None = None) -> None:
        """The service is told at once, and again in turn, so that it is done with this client before it hears the next."""
        self._token = ""
        self._log(f"the client is gone: {reason}")
        self.service.urge(reason)
        sender, number = (job.sender, job.number) if job else (b"", 0)
        self._jobs.put(_Job(reason, [], sender, number, leaves=True))


def _checked(message: Any) -> tuple[int, str, str, list[Any]]:
    if not isinstance(message, list) or len(message) != 4 or [type(part) for part in message] != [int, str, str, list]:
        raise HardwareError("not one of ours; expected [number, what, token, arguments]")
    number, what, token, arguments = message
    return number, what, token, arguments
