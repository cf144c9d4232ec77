"""A camera on the network: motion JPEG over HTTP from a process of its own, which a test can disturb, or kill."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SIZE = (24, 32)
FINE, FROZEN, SLOW, CUT = range(4)


class Film:
    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._mode, (self._pipe, theirs) = context.RawValue("i", FINE), context.Pipe()
        self._process = context.Process(target=_serve, args=(self._mode, theirs), daemon=True, name="camera")
        self._process.start()
        theirs.close()
        self.address = f"http://127.0.0.1:{self._pipe.recv()}/"

    @property
    def mode(self) -> int:
        return self._mode.value

    @mode.setter
    def mode(self, mode: int) -> None:
        self._mode.value = mode

    def kill(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.join()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()


def _serve(mode: Any, pipe: Any) -> None:
    import cv2
    import numpy as np

    class Stream(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            number = 0
            while mode.value != CUT:
                number += mode.value != FROZEN
                jpeg = cv2.imencode(".jpg", np.full((*SIZE, 3), number % 250, np.uint8))[1].tobytes()
                try:
                    self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(jpeg), jpeg))
                except OSError:
                    return
                time.sleep(1.0 if mode.value == SLOW else 0.03)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stream)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    pipe.send(server.server_port)
    try:
        pipe.recv()
    except EOFError:  # whoever looks at it is gone
        os._exit(0)
