"""Datasets of the Hub, from a server of our own that answers as huggingface.co does; and without any network."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from robolearn.core.errors import UserError
from robolearn.data.formats._hub import download
from robolearn.data.formats._reader import inside
from robolearn.data.store import EpisodeStore

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(pusht_zarr, tmp_path):
    """A server with the dataset anna/pusht, in two revisions. (environment, requests)"""
    source = pusht_zarr()
    files = {str(p.relative_to(source)): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    listed = [{"type": "file", "path": name, "size": len(data), "oid": f"{abs(hash(name)):040x}"[:40]} for name, data in files.items()]
    info = {"id": "anna/pusht", "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "private": False, "tags": []}
    requests: list[str] = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            requests.append(path)
            if path in ("/api/datasets/anna/pusht/revision/main", "/api/datasets/anna/pusht/revision/v1"):
                return self.send(json.dumps(info).encode())
            if path == f"/api/datasets/anna/pusht/tree/{COMMIT}":
                return self.send(json.dumps(listed).encode())
            name = path.removeprefix(f"/datasets/anna/pusht/resolve/{COMMIT}/")
            return self.send(files[name]) if name in files else self.send(b"not found", 404)

        def send(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{abs(hash(body)):040x}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    proxies = {name: "" for name in os.environ if name.lower().endswith("_proxy")}
    yield os.environ | proxies | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hub")}, requests
    server.shutdown()
    server.server_close()


def ingest_from_hub(environment: dict, address: str, out: Path) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "robolearn.cli", "ingest", "--path", address, "--out", str(out), "--format", "diffusion_policy_zarr"]
    return subprocess.run(words, env=environment, capture_output=True, text=True)


def test_a_dataset_comes_from_the_hub(hub, tmp_path):
    environment, requests = hub
    done = ingest_from_hub(environment, "hf://anna/pusht@v1", tmp_path / "out.zarr")
    assert done.returncode == 0, done.stderr
    store = EpisodeStore.open(tmp_path / "out.zarr")
    assert store.lengths.tolist() == [6, 4]
    assert store.provenance["import"]["from"] == "hf://anna/pusht@v1" and store.provenance["commit"] == COMMIT
    count = len(requests)
    again = ingest_from_hub(environment, "hf://anna/pusht@v1", tmp_path / "out.zarr")
    assert again.returncode == 0 and "already complete" in again.stderr and len(requests) == count
    other = ingest_from_hub(environment, "hf://anna/pusht", tmp_path / "other.zarr")  # the same commit is in the cache
    assert other.returncode == 0 and not any("resolve" in path for path in requests[count:])


def test_without_a_network_a_folder_works_too(hub, tmp_path):
    environment, _ = hub
    for address, change, why in (
        ("hf://anna/lost", {}, "404"),
        ("hf://anna/pusht", {"HF_ENDPOINT": "http://127.0.0.1:1"}, "refused"),
        ("hf://anna/pusht", {"HF_HUB_OFFLINE": "1"}, "cannot be downloaded"),
    ):
        done = ingest_from_hub(environment | change, address, tmp_path / "out.zarr")
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(f"robolearn: error: {address}: cannot be downloaded: ") and why in done.stderr
        assert done.stderr.endswith("a downloaded folder works too: --path FOLDER\n")
    assert not (tmp_path / "out.zarr").exists()


def test_the_hubs_links_to_its_own_blobs_are_no_way_out(tmp_path):
    folder, blob = tmp_path / "datasets--a--b" / "snapshots" / COMMIT / "meta", tmp_path / "datasets--a--b" / "blobs" / "1"
    for path in (folder, blob.parent):
        path.mkdir(parents=True)
    blob.write_text("x")
    (folder / "info.json").symlink_to("../../../blobs/1")
    (folder / "passwd").symlink_to("/etc/passwd")
    for root, name in ((folder, "info.json"), (folder.parent, "meta/info.json")):
        assert inside(root, name).read_text() == "x"
        with pytest.raises(UserError, match="leads out of"):
            inside(root, name.replace("info.json", "passwd"))


def test_an_address_is_checked_before_anything_is_asked() -> None:
    for address in ("hf://a", "hf://a/b/c", "hf://a/../b", "hf:///b", "hf://a/b@", "hf://a b/c"):
        with pytest.raises(UserError, match="expected hf://owner/name"):
            download(address)
