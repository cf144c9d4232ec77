"""What a person needs around a device: a simulator that runs no faster than the world, and something to look at."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import numpy as np
from PIL import Image

from hardware.mjpeg import Stream
from hardware.types import Command, Observation, Pilot
from robolearn.core.errors import UserError

_PAGE = b"""<!doctype html><meta charset="utf-8"><title>robolearn</title>
<style>body{margin:0;background:#17191c;color:#e8e8e8;font:16px system-ui,sans-serif;
display:grid;place-items:center;align-content:center;height:100vh}
img{width:min(96vw,170vh);image-rendering:pixelated}td{padding:2px 12px}</style><img src="stream"><table id="figures"></table><script>
setInterval(async () => {
  const rows = await (await fetch("figures")).json();
  figures.replaceChildren(...rows.map(row => { const line = document.createElement("tr");
    line.append(...row.map(text => Object.assign(document.createElement("td"), { textContent: text }))); return line; }));
}, 300);
</script>"""


class Pace:
    """Keeps a simulator from running ahead of the wall clock; a real arm never does."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._ahead: float | None = None  # of the wall clock, by which the episode's time began

    def wait(self, observed: float) -> None:
        """Until that time [s] of the robot's has come."""
        now = time.monotonic()
        if self._ahead is None or observed < self._ahead + now:  # too slow for real time: no catching up in a burst
            self._ahead = observed - now
        time.sleep(max(0.0, observed - self._ahead - now))


class Attended:
    """Hands decisions on to the person's device, each no sooner than its time; shows the cameras on `view`, if any."""

    def __init__(self, pilot: Pilot, view: LiveView | None = None) -> None:
        self.pilot, self.view, self._pace = pilot, view, Pace()

    @property
    def verdict(self) -> str | None:
        return getattr(self.pilot, "verdict", None)

    def reset(self) -> None:
        self._pace.reset()
        self.pilot.reset()

    def decide(self, observation: Observation) -> Command:
        if self.view is not None:
            self.view.show(observation.images)
        self._pace.wait(observation.time)
        return self.pilot.decide(observation)


class LiveView:
    """The cameras side by side as moving pictures at http://127.0.0.1:port, for a browser here or at the end of an ssh tunnel.

    `figures`, pairs of a name and what is to be said of it, stand below them; whoever has some puts them there.

    host: 0.0.0.0 lets others in, who should need a secret then: a part of the address.
    """

    def __init__(self, port: int = 8642, host: str = "127.0.0.1", secret: str = "") -> None:
        self.path = f"/{secret}/" if secret else "/"
        self.figures: Sequence[tuple[str, str]] = ()
        self.stream = Stream()
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(self))
        except (OSError, OverflowError) as error:
            raise UserError(
                f"view_port: {port} cannot be used ({getattr(error, 'strerror', None) or error}); 0 picks a free one"
            ) from error
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}{self.path}".removesuffix("/")
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()

    def __enter__(self) -> LiveView:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stream.close()
        self._server.shutdown()
        self._server.server_close()

    def show(self, images: Mapping[str, np.ndarray]) -> None:
        """uint8 (H, W, 3) each. Never waits for whoever looks."""
        if not images:
            return
        height = max(image.shape[0] for image in images.values())
        picture = np.hstack([np.pad(image, ((0, height - image.shape[0]), (0, 0), (0, 0))) for image in images.values()])
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "JPEG", quality=90)
        self.stream.show(encoded.getvalue())


def _handler(view: LiveView) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == f"{view.path}stream":
                view.stream.answer(self)
                return
            pages = {view.path: ("text/html", _PAGE), f"{view.path}figures": ("application/json", json.dumps(view.figures).encode())}
            kind, body = pages.get(self.path, ("text/plain", b""))
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass  # the terminal belongs to the progress bar

    return Handler
