"""What tests of several verbs share: episodes of the fake arm, a camera over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.experiments.training_config import record


@pytest.fixture(scope="session")
def fake_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("fake") / "fake.zarr")


@pytest.fixture
def stream() -> Iterator[str]:
    """Address of a camera's moving pictures over HTTP, whose red counts up."""
    pytest.importorskip("cv2")
    from tests.hardware.test_cameras import _Stream

    with ThreadingHTTPServer(("127.0.0.1", 0), _Stream) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
