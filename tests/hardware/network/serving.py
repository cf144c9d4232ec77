"""A server beside the test, as most tests of both sides need it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from hardware.network import keys
from hardware.network.keys import CLIENT, ClientKeys, ServerKeys
from hardware.network.server import Server, Service

ANYWHERE = "tcp://127.0.0.1:*"


@contextmanager
def served(service: Service, folder: Path, listen: str = ANYWHERE) -> Iterator[tuple[str, Path, list[str]]]:
    """(its address, the client's key file, what it logged). It answers in a thread of its own."""
    keys.make(folder)
    lines: list[str] = []
    ends = threading.Event()
    with Server(service, listen, ServerKeys.load(folder), lines.append) as server:

        def answer() -> None:
            while not ends.is_set():
                server.run(monotonic() + 0.02)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield server.address, folder / CLIENT, lines
        finally:
            ends.set()
            thread.join()


class Echo:
    """Answers what it is asked; `wait` answers when it is urged."""

    kind = "echo"
    facts = {"colour": "red"}

    def __init__(self) -> None:
        self.events: list[str] = []
        self.urged = threading.Event()

    def answer(self, what: str, arguments: list[Any]) -> Any:
        if what == "fail":
            raise ValueError("two\nlines")
        if what == "wait":
            self.urged.wait(10.0)
        self.events.append(what)
        return arguments

    def urge(self, reason: str) -> None:
        self.events.append(f"urged: {reason}")
        self.urged.set()

    def left(self, reason: str) -> None:
        self.events.append(f"left: {reason}")


def raw(address: str, key_file: Path) -> Any:
    """A client that says what it likes, with a known key."""
    import zmq

    own = ClientKeys.load(key_file)
    line = zmq.Context.instance().socket(zmq.DEALER)
    line.linger, line.rcvtimeo, line.sndtimeo = 0, 5000, 5000
    line.curve_serverkey, line.curve_secretkey, line.curve_publickey = own.server, own.secret, zmq.curve_public(own.secret)
    line.connect(address)
    return line  # closes itself at the end of `with`
