"""TCP for doubles of controllers: fixed ports on a loopback alias of their own, a thread per connection, and a cable to cut."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from hardware.doubles.panel import Panel

Talk = Callable[[socket.socket], None]
_PLUG_S = 0.005


class Plugs:
    """`listen` once. While panel.cut is 1, every connection is closed, and new ones are at once."""

    def __init__(self, panel: Panel) -> None:
        self._panel, self._open, self._lock = panel, set[socket.socket](), threading.Lock()

    def listen(self, ports: Mapping[int, Talk]) -> str:
        """Serve these ports on the first loopback alias that has all of them free; its address."""
        first = os.getpid() % 200
        for n in range(200):
            host, servers = f"127.0.0.{2 + (first + n) % 200}", []
            try:
                servers.extend(socket.create_server((host, port)) for port in ports)
            except OSError:  # extend keeps what was opened before the port that is taken
                for server in servers:
                    server.close()
                continue
            for server, talk in zip(servers, ports.values(), strict=True):
                start(self._accept, server, talk)
            start(self._watch)
            return host
        raise OSError(f"no loopback address has the ports {sorted(ports)} free")

    def _accept(self, server: socket.socket, talk: Talk) -> None:
        while True:
            connection, _ = server.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._panel.cut:
                connection.close()
                continue
            with self._lock:
                self._open.add(connection)
            start(self._talk, connection, talk)

    def _talk(self, connection: socket.socket, talk: Talk) -> None:
        try:
            talk(connection)
        except (OSError, ValueError, EOFError):  # gone, or it sent nonsense: the next one is served all the same
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
            connection.close()

    def _watch(self) -> None:
        while True:
            time.sleep(_PLUG_S)
            if self._panel.cut:
                with self._lock:
                    for connection in self._open:
                        shut(connection)


class Late:
    """A stream whose packages leave panel.delay_s after they were made, in their order."""

    def __init__(self, panel: Panel, connection: socket.socket) -> None:
        self._panel, self._connection = panel, connection
        self._waiting: deque[tuple[float, bytes]] = deque()

    def send(self, package: bytes) -> None:
        now = time.monotonic()
        self._waiting.append((now + self._panel.delay_s, package))
        while self._waiting and self._waiting[0][0] <= now:
            self._connection.sendall(self._waiting.popleft()[1])


def exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes. Raises EOFError where the connection ends before."""
    data = bytearray()
    while len(data) < count:
        chunk = connection.recv(count - len(data))
        if not chunk:
            raise EOFError
        data += chunk
    return bytes(data)


def shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def start(work: Callable[..., None], *arguments: object) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()
