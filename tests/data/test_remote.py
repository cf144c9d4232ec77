"""The same calls on an object store: a local server that speaks S3 (moto), and a plain HTTP server."""

from __future__ import annotations

import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows

pytest.importorskip("moto.server", reason="moto is a development dependency")


@pytest.fixture
def store(tmp_path, spec, make_episode):
    with EpisodeStore.create(tmp_path / "d.zarr", spec, {"by": "test"}, compression={"wrist": "jpegxl"}) as store:
        for rows in (40, 7, 300):
            store.append(make_episode(rows, rows, success=rows != 7))
    return EpisodeStore.open(store.path)


@pytest.fixture
def s3(monkeypatch):
    """A running server's client, its bucket `data` empty."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="data")
    yield client
    server.stop()


def upload(client, store) -> str:
    for path in store.path.rglob("*"):
        if path.is_file():
            client.upload_file(str(path), "data", f"sets/{path.relative_to(store.path.parent)}")
    return "s3://data/sets/d.zarr"


class Ranges(SimpleHTTPRequestHandler):
    """Python's own file server, and the Range header that it does not know."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = self.translate_path(self.path)
        try:
            data = Path(path).read_bytes()
        except OSError:
            return self.send_error(404)
        if asked is None:
            asked = re.fullmatch(r"(0)-()", "0-")
        assert asked is not None
        first = int(asked[1]) if asked[1] else max(len(data) - int(asked[2]), 0)
        last = min(int(asked[2]) if asked[1] and asked[2] else len(data) - 1, len(data) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(data[first : last + 1])

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def http(store):
    folder = str(store.path.parent)
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Ranges(*a, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/d.zarr"
    server.shutdown()
    server.server_close()


def compare(url: str, store: EpisodeStore, assert_same) -> None:
    remote = EpisodeStore.open(url)
    assert (remote.spec, remote.provenance, len(remote)) == (store.spec, store.provenance, 3)
    for index in range(3):
        assert_same(remote[index], store[index])
    indices = np.array([3, 45, 300, 46, 346])
    near, far = (Windows(s, 2, 4).read(indices) for s in (store, remote))
    np.testing.assert_array_equal(near.action, far.action)
    for camera in store.spec.cameras:
        np.testing.assert_array_equal(near.obs.images[camera], far.obs.images[camera])


def test_s3(s3, store, assert_same, tmp_path, monkeypatch):
    url = upload(s3, store)
    compare(url, store, assert_same)
    with pytest.raises(UserError, match="s3://data/sets/d.zarr: an object store is read only"):
        EpisodeStore.open(url, "a")
    with pytest.raises(UserError, match="s3://data/none.zarr: not a robolearn store"):
        EpisodeStore.open("s3://data/none.zarr")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remote = EpisodeStore.open(url)
    features = np.ones((347, 2), np.float32)
    remote.write_features("net", features)  # kept on this machine
    np.testing.assert_array_equal(EpisodeStore.open(url).features("net"), features)
    s3.delete_object(Bucket="data", Key="sets/d.zarr/images/front/c.0.0.0.0")
    with pytest.raises(UserError, match="s3://data/sets/d.zarr/images/front: damaged: the file or a chunk of it is missing"):
        EpisodeStore.open(url).frames("front", np.array([0]))


def test_http(http, store, assert_same):
    compare(http, store, assert_same)


def test_the_page_about_a_remote_store_needs_a_place(http, tmp_path):
    from robolearn.experiments import inspect

    with pytest.raises(UserError, match="out: http://.*/d.zarr is no place for the page; name one with --out"):
        inspect.run(inspect.Config(path=Path(http)))
    inspect.run(inspect.Config(path=Path(http), out=tmp_path / "page.html", shown=1))
    assert "d.zarr" in (tmp_path / "page.html").read_text()


def test_a_place_that_cannot_be_reached_is_one_line(monkeypatch):
    with pytest.raises(UserError, match="scheme 'ftp'; valid: a path, s3://, gs://, http://, https://"):
        EpisodeStore.open("ftp://host/d.zarr")
