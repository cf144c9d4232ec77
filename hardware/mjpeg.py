"""Moving pictures over HTTP as browsers and network cameras know them: one JPEG after the other."""

from __future__ import annotations

import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler

_PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"


class Stream:
    """The newest picture, for whoever watches; none that nobody fetched in time. `show` never waits for them."""

    def __init__(self) -> None:
        self.watched = 0  # by so many
        self._jpeg, self._count, self._closed, self._fresh = b"", 0, False, threading.Condition()

    def show(self, jpeg: bytes) -> None:
        with self._fresh:
            self._jpeg, self._count = jpeg, self._count + 1
            self._fresh.notify_all()

    def close(self) -> None:
        """Nobody watches any longer."""
        with self._fresh:
            self._closed = True
            self._fresh.notify_all()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """A GET: pictures until this is closed, or whoever asked is gone."""
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        with self._fresh:
            self.watched += 1
        try:
            with suppress(ConnectionError):
                count = 0
                while True:
                    with self._fresh:
                        while self._count == count and not self._closed:
                            self._fresh.wait()
                        if self._closed:
                            return
                        jpeg, count = self._jpeg, self._count
                    request.wfile.write(_PART % (len(jpeg), jpeg))
        finally:
            with self._fresh:
                self.watched -= 1
