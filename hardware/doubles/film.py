"""A double's cameras: drawn in a process of their own from what the panel says is true, served as network cameras do: MJPEG over HTTP."""

from __future__ import annotations

import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection

import numpy as np

from hardware import arms
from hardware.doubles.panel import Panel
from hardware.mjpeg import Stream

RATE_HZ = 30.0
QUALITY = 95  # of the JPEG; its colours as fine as its brightness


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
                stream.show(_jpeg(filming.picture(camera, size, shared.q, shared.ball)))
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
            stream.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
