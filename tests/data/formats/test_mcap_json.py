"""JSON logs and lying chunks: made by the mcap package's writer, after Foxglove's definitions."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import read
from robolearn.data.testing import ReaderContract

START_NS = 1_700_000_000 * 10**9


def json_log(path: Path, rows: int = 4, compression: str = "ZSTD", extra: dict[str, Any] | None = None, **writer_options: Any) -> Path:
    """By mcap's writer, as Foxglove's SDK lays out JSON channels (schema encoding "jsonschema")."""
    from mcap.writer import CompressionType, Writer
    from PIL import Image

    with path.open("wb") as file:
        writer = Writer(file, compression=CompressionType[compression], **writer_options)
        writer.start()
        channels = {}
        for topic, schema in (("/cam", "foxglove.CompressedImage"), ("/raw", "foxglove.RawImage"), ("/arm", "Arm"), ("/target", "Target")):
            number = writer.register_schema(schema, "jsonschema", b'{"type": "object"}')
            channels[topic] = writer.register_channel(topic, "json", number)
        channels["/blob"] = writer.register_channel("/blob", "protobuf", writer.register_schema("x.Blob", "protobuf", b""))
        for row in range(rows):
            ns = START_NS + row * 50_000_000
            time = {"sec": ns // 10**9, "nsec": ns % 10**9}
            picture = io.BytesIO()
            Image.fromarray(np.full((4, 6, 3), row * 10, np.uint8)).save(picture, "PNG")
            messages = {
                "/arm": {"timestamp": time, "joints": {"q": [row, row + 0.5]}, "gripper": row % 2 == 0, "mode": "auto"},
                "/cam": {"timestamp": time, "frame_id": "", "format": "png", "data": base64.b64encode(picture.getvalue()).decode()},
                "/raw": {"timestamp": time, "width": 2, "height": 1, "encoding": "rgb8", "step": 6}
                | {"data": base64.b64encode(bytes([row] * 6)).decode()},
                "/target": {"timestamp": time, "x": row * 2.0},
                "/blob": {},
            } | (extra or {})
            for topic, message in messages.items():
                writer.add_message(channels[topic], ns, json.dumps(message).encode(), ns)
        writer.finish()
    return path


class TestJson(ReaderContract):
    format, episodes = "mcap_log", 1

    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "in").mkdir()
        return json_log(tmp_path / "in" / "cup.mcap")


def test_json_is_read_by_what_it_holds(tmp_path):
    reader = read(json_log(tmp_path / "cup.mcap"))
    assert dict(reader.spec.cameras) == {"cam": (4, 6), "raw": (1, 2)} and reader.spec.rate_hz == 20
    assert reader.spec.state["arm"].names == ("joints.q.0", "joints.q.1", "gripper") and set(reader.spec.state) == {"arm"}
    (episode,) = reader
    check_episode(episode, reader.spec)
    np.testing.assert_array_equal(episode.state["arm"], [[0, 0.5, 1], [1, 1.5, 0], [2, 2.5, 1], [3, 3.5, 0]])
    np.testing.assert_array_equal(episode.action[:, 0], [0, 2, 4, 6])
    np.testing.assert_array_equal(episode.images["cam"][:, 0, 0, 0], [0, 10, 20, 30])
    np.testing.assert_array_equal(episode.images["raw"][:, 0, 1, 2], [0, 1, 2, 3])
    assert any("/blob (x.Blob as protobuf)" in note for note in reader.notes)


@pytest.mark.parametrize("compression", ["NONE", "LZ4", "ZSTD"])
@pytest.mark.parametrize("chunked", [True, False])
def test_every_layout_of_the_file(tmp_path, compression, chunked):
    from mcap.writer import IndexType

    plain = read(json_log(tmp_path / "plain.mcap"))[0]
    bare = {"use_chunking": chunked, "index_types": IndexType.NONE, "repeat_channels": False, "repeat_schemas": False}
    other = read(json_log(tmp_path / "bare.mcap", compression=compression, use_statistics=False, **bare))[0]
    np.testing.assert_array_equal(other.images["cam"], plain.images["cam"])
    np.testing.assert_array_equal(other.action, plain.action)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"/arm": {"q": [0.0] * 1001}}, "/arm is left out: a json message has 1001 names for 1001 numbers; at most 1000 are read"),
        ({"/arm": {"q": float("nan")}}, "/arm is left out: it holds NaN or inf"),
        ({"/arm": [1, 2]}, None),
        ({"/cam": {"timestamp": {"sec": 0, "nsec": 0}, "format": "jpeg", "data": ""}}, "/cam is left out: its first picture is not a JPEG"),
    ],
)
def test_json_that_is_of_no_use(tmp_path, extra, message):
    reader = read(json_log(tmp_path / "cup.mcap", extra=extra))
    check_episode(reader[0], reader.spec)
    assert message is None or any(note.startswith(message) for note in reader.notes), reader.notes


def test_json_that_is_damaged(tmp_path):
    with pytest.raises(UserError, match=r"cup.mcap: damaged \(KeyError: 'timestamp'\)"):
        read(json_log(tmp_path / "cup.mcap", extra={"/cam": {"data": ""}}))


# Files that are damaged, or lie -------------------------------------------------------------------------------------------------


def test_a_log_that_was_cut_off_says_what_to_do(tmp_path, arm_log, write_mcap):
    path = write_mcap(tmp_path / "cup.mcap", arm_log())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cup.mcap is cut off; `mcap recover` saves what there is"):
        read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"uncompressed_size": 1 << 40}, "a chunk claims 1099511627776 bytes; at most 268435456 are read"),
        ({"uncompressed_size": 10}, "crc validation failed in Chunk"),
        ({"uncompressed_size": 1 << 20}, "a chunk holds .* bytes; it claims 1048576"),
        ({"uncompressed_crc": 1}, "crc validation failed in Chunk"),
        ({"compression": "xz"}, "a chunk is compressed by 'xz'; valid: zstd, lz4, none"),
        ({"compression": "lz4"}, "damaged"),
        ({"compression": "zstd", "data": b"\x28\xb5\x2f\xfd" + bytes(20)}, "a chunk holds|damaged"),
    ],
)
def test_a_chunk_that_lies(tmp_path, monkeypatch, change, message):
    from mcap.records import Chunk

    wrote = Chunk.write
    monkeypatch.setattr(Chunk, "write", lambda chunk, stream: wrote(replace(chunk, **change), stream))
    path = json_log(tmp_path / "cup.mcap")
    monkeypatch.undo()
    with pytest.raises(UserError, match=message) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_chunk_that_unpacks_to_more_than_it_says_is_stopped(tmp_path, monkeypatch):
    """256 MB of zeros in 8 KB, said to be as large as the chunk was."""
    import zstandard
    from mcap.records import Chunk

    wrote, bomb = Chunk.write, zstandard.compress(bytes(1 << 28))
    monkeypatch.setattr(Chunk, "write", lambda chunk, stream: wrote(replace(chunk, data=bomb), stream))
    path = json_log(tmp_path / "cup.mcap")
    monkeypatch.undo()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="crc validation failed"):
            read(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()
