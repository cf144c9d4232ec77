"""A double's cameras: drawn in a process of their own from what the panel says is true, served as network cameras do: MJPEG over HTTP."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

import numpy as np

from hardware import arms
from hardware.doubles.panel import Panel

RATE_HZ = 30.0
QUALITY = 95  # of the JPEG; its colours as fine as its brightness
_PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"


class Stream:
    """The newest picture of one camera, for whoever watches."""

    def __init__(self) -> None:
        self.watched = 0
        self._jpeg, self._count, self._fresh = b"", 0, threading.Condition()

    def show(self, picture: np.ndarray) -> None:
        """uint8 (H, W, 3) RGB."""
        jpeg = _jpeg(picture)
        with self._fresh:
            self._jpeg, self._count = jpeg, self._count + 1
            self._fresh.notify_all()

    def pictures(self) -> Generator[bytes, None, None]:
        """One after the other, each once it is there; none that nobody fetched in time."""
        count = 0
        with self._fresh:
            self.watched += 1
        try:
            while True:
                with self._fresh:
                    while self._count == count:
                        self._fresh.wait()
                    jpeg, count = self._jpeg, self._count
                yield jpeg
        finally:
            with self._fresh:
                self.watched -= 1


def film(name: str, mjcf: str, panel: str, size: tuple[int, int], pipe: Connection) -> None:
    """In the process: draw the arm on its stage, as long as the parent is there. Says {camera: address}."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from hardware.mujoco.filming import Filming
    from hardware.mujoco.stage import CAMERAS, dressed

    arm = dressed(arms.find(name)[1], mjcf)
    shared, filming, streams = Panel(len(arm.spec.joints), panel), Filming(arm), {camera: Stream() for camera in CAMERAS}
    filming.open(size)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(streams))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send({camera: f"http://127.0.0.1:{server.server_port}/{camera}" for camera in streams})
    due = time.monotonic()
    while not pipe.poll(max(0.0, due - time.monotonic())):  # it never says anything: it is gone
        due = max(due + 1 / RATE_HZ, time.monotonic())
        for camera, stream in streams.items():
            if stream.watched:
                stream.show(filming.picture(camera, size, shared.q, shared.ball))
    os._exit(0)


def _jpeg(picture: np.ndarray) -> bytes:
    import cv2

    options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _handler(streams: dict[str, Stream]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stream = streams.get(self.path.strip("/"))
            if stream is None:
                self.send_error(404, f"cameras here: {', '.join(streams)}")
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with closing(stream.pictures()) as pictures, suppress(ConnectionError):  # until nobody watches any more
                for jpeg in pictures:
                    self.wfile.write(_PART % (len(jpeg), jpeg))

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
