"""A server beside the test, as most tests of both sides need it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from hardware.network import keys
from hardware.network.keys import CLIENT, ServerKeys
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
