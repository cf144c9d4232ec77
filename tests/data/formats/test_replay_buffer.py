"""Any replay buffer but Push-T's: made as ReplayBuffer.save_to_store lays it out (diffusion_policy/common/replay_buffer.py)."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.episode import check_episode
from robolearn.data.formats import Options, locate, read, write
from robolearn.data.testing import ReaderContract


def jpeg2k(level: int = 0):
    """The codec of Diffusion Policy's image caches, by its own name and with the settings that its class writes."""
    from imagecodecs.numcodecs import Jpeg2k

    return Jpeg2k(level=level, reversible=True)


def real_buffer(path: Path, ends=(5, 8), compressor=None, image_chunk=1, store=None, **columns) -> Path:
    """The columns that Diffusion Policy's real robot records, two cameras beside them. None leaves one out."""
    import zarr

    rng = np.random.default_rng(1)
    rows = int(ends[-1])
    data = {
        "action": rng.normal(size=(rows, 6)),
        "camera_0": rng.integers(0, 256, (rows, 16, 12, 3)).astype(np.uint8),
        "camera_1": rng.integers(0, 256, (rows, 16, 12, 3)).astype(np.uint8),
        "robot_eef_pose": rng.normal(size=(rows, 6)),
        "stage": np.arange(rows) // 3,
        "timestamp": 1.6e9 + np.arange(rows) * 0.05,
    } | columns
    group = zarr.create_group(str(path) if store is None else store, zarr_format=2)
    for key, value in data.items():
        if value is not None:
            picture = key.startswith("camera")
            chunks = (image_chunk if picture else rows, *value.shape[1:])
            config = {"write_empty_chunks": True}  # zarr 2, which Diffusion Policy needs, always does
            group.create_array(f"data/{key}", data=value, chunks=chunks, compressors=compressor if picture else None, config=config)
    group.create_array("meta/episode_ends", data=np.asarray(ends, np.int64), compressors=None)
    return path


def zipped(folder: Path, path: Path, inside: str = "", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for member in sorted(p for p in folder.rglob("*") if p.is_file()):
            file.write(member, inside + str(member.relative_to(folder)))
    return path


class TestAnyBuffer(ReaderContract):
    format, episodes = "diffusion_policy_zarr", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "in").mkdir()
        return real_buffer(tmp_path / "in" / "replay_buffer.zarr", compressor=jpeg2k())


class TestZip(ReaderContract):
    format, episodes = "diffusion_policy_zarr", 2

    @pytest.fixture
    def dataset(self, tmp_path):
        (tmp_path / "in").mkdir()
        return zipped(real_buffer(tmp_path / "replay_buffer.zarr", image_chunk=3), tmp_path / "in" / "dataset.zarr.zip")


def test_any_buffer_is_read_as_it_is(tmp_path):
    import zarr

    path = real_buffer(tmp_path / "cup.zarr", compressor=jpeg2k(), keypoint=np.arange(8 * 9 * 2, dtype=np.float32).reshape(8, 9, 2))
    raw = zarr.open_group(str(path), mode="r")
    reader = read(path)
    spec = reader.spec
    assert dict(spec.cameras) == {"camera_0": (16, 12), "camera_1": (16, 12)}
    assert {name: part.dim for name, part in spec.state.items()} == {"keypoint": 18, "robot_eef_pose": 6, "stage": 1}
    assert spec.rate_hz == 20 and spec.action.names[0] == "action.0" and set(spec.action.units) == {""}
    first, second = reader
    for episode, rows in ((first, slice(0, 5)), (second, slice(5, 8))):
        check_episode(episode, spec)
        for name in ("action", "robot_eef_pose"):
            got = episode.action if name == "action" else episode.state[name]
            np.testing.assert_array_equal(got, np.asarray(raw[f"data/{name}"][rows], np.float32))
        np.testing.assert_array_equal(episode.state["keypoint"], raw["data/keypoint"][rows].reshape(-1, 18))
        np.testing.assert_allclose(episode.time, np.arange(len(episode)) * 0.05, atol=1e-6)
    recorded = np.random.default_rng(1)
    recorded.normal(size=(8, 6))
    np.testing.assert_array_equal(first.images["camera_0"], recorded.integers(0, 256, (8, 16, 12, 3)).astype(np.uint8)[:5])
    assert second.meta == {"task": "cup", "success": None, "operator": "unknown", "origin": {"file": "cup.zarr", "episode": 1}}
    assert any("units" in note and "not recorded" in note for note in reader.notes)


@pytest.mark.parametrize("where", ["", "cup.zarr/"])
def test_a_zip_is_read_in_place(tmp_path, where):
    folder = real_buffer(tmp_path / "cup.zarr")
    expected = read(folder)[1]
    path = zipped(folder, tmp_path / "cup.zarr.zip", where, zipfile.ZIP_DEFLATED)
    before = sorted(tmp_path.rglob("*"))
    got = read(path)[1]
    np.testing.assert_array_equal(got.images["camera_1"], expected.images["camera_1"])
    np.testing.assert_array_equal(got.action, expected.action)
    assert sorted(tmp_path.rglob("*")) == before


def test_umis_jpeg_xl_is_decoded(tmp_path):
    """UMI's class of this codec writes settings that today's imagecodecs does not take."""
    import imagecodecs

    path = real_buffer(tmp_path / "dataset.zarr", compressor=jpeg2k())
    first = read(path)[0].images["camera_0"]
    metadata = path / "data" / "camera_0" / ".zarray"
    meta = json.loads(metadata.read_text())
    meta["compressor"] = {"id": "imagecodecs_jpegxl", "animation": None, "effort": None, "lossless": True, "numthreads": 1}
    metadata.write_text(json.dumps(meta))
    for row, frame in enumerate(first):
        (path / "data" / "camera_0" / f"{row}.0.0.0").write_bytes(imagecodecs.jpegxl_encode(frame, lossless=True))
    np.testing.assert_array_equal(read(path)[0].images["camera_0"], first)


@pytest.mark.parametrize("codec", ["blosc", "zstd", "lz4", "zlib", "gzip", "bz2"])
def test_each_codec_of_numbers_is_decoded(tmp_path, codec):
    import numcodecs

    names = {"blosc": "Blosc", "zstd": "Zstd", "lz4": "LZ4", "zlib": "Zlib", "gzip": "GZip", "bz2": "BZ2"}
    plain = read(real_buffer(tmp_path / "plain.zarr"))[1]
    packed = read(real_buffer(tmp_path / "packed.zarr", compressor=getattr(numcodecs, names[codec])(), image_chunk=3))[1]
    np.testing.assert_array_equal(packed.images["camera_1"], plain.images["camera_1"])


def test_pictures_in_other_forms(tmp_path):
    levels = np.random.default_rng(2).integers(0, 256, (8, 16, 12, 3))
    path = real_buffer(
        tmp_path / "cup.zarr",
        camera_0=(levels / 255).astype(np.float32),
        camera_1=levels.astype(np.float32),
        camera_first=np.moveaxis(levels, 3, 1).astype(np.uint8),
        camera_grey=levels[..., :1].astype(np.uint8),
        camera_rgba=np.concatenate([levels, levels[..., :1]], 3).astype(np.uint8),
        depth=np.zeros((8, 64, 48), np.uint16),
        points=np.zeros((8, 512, 6), np.float32),
    )
    reader = read(path)
    assert set(reader.spec.cameras.values()) == {(16, 12)} and len(reader.spec.cameras) == 5
    images = reader[0].images
    for name in ("camera_0", "camera_1", "camera_first", "camera_rgba"):
        np.testing.assert_array_equal(images[name], levels[:5], err_msg=name)
    np.testing.assert_array_equal(images["camera_grey"], np.repeat(levels[:5, ..., :1], 3, 3))
    left_out = [note for note in reader.notes if "left out" in note]
    assert len(left_out) == 3 and "data/depth uint16" in left_out[0] and "data/points" in left_out[1] and "fourth channel" in left_out[2]


def test_pictures_beyond_white_are_refused(tmp_path):
    grey = np.full((8, 16, 12, 3), 0.5, np.float32)
    grey[6] = 1.5
    reader = read(real_buffer(tmp_path / "cup.zarr", camera_0=grey))
    assert (reader[0].images["camera_0"] == 128).all()
    with pytest.raises(UserError, match=r"episode 1: data/camera_0 leaves 0..1 \[grey levels\]"):
        _ = reader[1]


def test_without_an_action_the_next_state_is_assumed(tmp_path):
    """UMI's buffers have none."""
    reader = read(real_buffer(tmp_path / "cup.zarr", action=None, timestamp=None))
    episode = reader[0]
    state = np.concatenate([episode.state["robot_eef_pose"], episode.state["stage"]], 1)
    np.testing.assert_array_equal(episode.action, np.concatenate([state[1:], state[-1:]]))
    assert reader.spec.action.names[-1] == "stage.0" and episode.meta["computed"] == "action: the next row's state"
    assert any("assumed to be the next row's state" in note for note in reader.notes)
    assert any("10 Hz is assumed" in note for note in reader.notes) and reader.spec.rate_hz == 10
    assert read(tmp_path / "cup.zarr", options=Options(rate_hz=20)).spec.rate_hz == 20


def test_a_lost_chunk_is_told(tmp_path):
    path = real_buffer(tmp_path / "cup.zarr")
    assert not any("chunks are not in the store" in note for note in read(path).notes)
    (path / "data" / "camera_0" / "2.0.0.0").unlink()
    reader = read(path)
    assert "data/camera_0: 1 chunks are not in the store and read as its fill value, 0" in reader.notes
    assert (reader[0].images["camera_0"][2] == 0).all() and reader[0].images["camera_0"][1].any()


class Trap:
    """A pickle of this makes a folder, wherever it is loaded."""

    def __reduce__(self):
        return os.mkdir, (os.environ["ROBOLEARN_TEST_TRAP"],)


def test_no_code_in_a_file_is_run(tmp_path, monkeypatch):
    import pickle

    monkeypatch.setenv("ROBOLEARN_TEST_TRAP", str(tmp_path / "sprung"))
    path = real_buffer(tmp_path / "cup.zarr")
    metadata = path / "data" / "action" / ".zarray"
    meta = json.loads(metadata.read_text())
    (path / "data" / "action" / "0.0").write_bytes(pickle.dumps([Trap()]))
    for change, message in (
        ({"dtype": "|O", "filters": [{"id": "pickle", "protocol": 4}]}, "data/action: dtype '|O'; valid: numbers"),
        ({"filters": [{"id": "pickle", "protocol": 4}]}, "data/action: filters .*pickle.*; valid: no filter"),
        ({"compressor": {"id": "pickle", "protocol": 4}}, "data/action: codec 'pickle'; valid: no filter, and None, blosc"),
    ):
        metadata.write_text(json.dumps(meta | change))
        with pytest.raises(UserError, match=message.replace("|", r"\|")):
            read(path)[0]
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunks": [1 << 40, 6]}, r"data/action chunk has shape .* GiB; an episode may have 8"),
        ({"shape": [8, -6]}, r"data/action/.zarray: damaged Zarr v2 metadata: sizes"),
        ({"chunks": [0, 6]}, r"data/action/.zarray: shape \(8, 6\) in chunks \(0, 6\)"),
        ({"shape": [8]}, r"shape \(8,\) in chunks \(8, 6\)"),
        ({"dtype": "<f4,<f4"}, "dtype '<f4,<f4'; valid: numbers"),
        ({"order": "Z"}, "order 'Z'; expected rows, and order C or F"),
        ({"shape": None}, "damaged Zarr v2 metadata: sizes None"),
        ({"compressor": {"id": "blosc"}}, r"unreadable: data/action/0.0: Blosc header does not fit 384 bytes that hold 384"),
        ({"compressor": {"id": "lz4"}}, "unreadable: data/action/0.0: LZ4 header does not say 384 bytes"),
        ({"compressor": {"id": "imagecodecs_jpeg2k"}}, "unreadable: data/action/0.0: JPEG 2000 of .* does not fit a chunk of 384 bytes"),
    ],
)
def test_metadata_that_lies_is_refused(tmp_path, change, message):
    path = real_buffer(tmp_path / "cup.zarr")
    metadata = path / "data" / "action" / ".zarray"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | change))
    with pytest.raises(UserError, match=message):
        _ = read(path)[0]


def test_a_picture_that_claims_to_be_huge_is_not_allocated(tmp_path):
    path = real_buffer(tmp_path / "cup.zarr", compressor=jpeg2k())
    chunk = path / "data" / "camera_0" / "1.0.0.0"
    data = bytearray(chunk.read_bytes())
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 8] = b"\x00\x01\x00\x00" * 2
    chunk.write_bytes(data)
    with pytest.raises(
        UserError, match="unreadable: data/camera_0/1.0.0.0: JPEG 2000 of 65536 x 65536 x 3 does not fit a chunk of 576 bytes"
    ):
        _ = read(path)[0]


def test_an_array_cut_into_single_numbers_does_not_hang(tmp_path):
    path = real_buffer(tmp_path / "cup.zarr")
    metadata = path / "data" / "camera_0" / ".zarray"
    meta = json.loads(metadata.read_text()) | {"shape": [8, 4000, 4000, 3], "chunks": [1, 1, 1, 1]}
    metadata.write_text(json.dumps(meta))
    with pytest.raises(UserError, match=r"data/camera_0 is cut into chunks \(1, 1, 1, 1\)"):
        _ = read(path)[0]


def test_nothing_outside_is_read(tmp_path):
    path = real_buffer(tmp_path / "cup.zarr")
    (tmp_path / "secret").write_bytes(bytes(8 * 6 * 8))
    chunk = path / "data" / "action" / "0.0"
    chunk.unlink()
    chunk.symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="'data/action/0.0' leads out of .*; refused"):
        _ = read(path)[0]
    shutil.rmtree(path / "data" / "action")
    (path / "data" / "action").symlink_to(path / "data")  # a cycle
    with pytest.raises(UserError, match="data/action is no array: it has no .zarray"):
        read(path)


def test_a_zip_that_leads_out_or_lies_is_refused(tmp_path):
    folder = real_buffer(tmp_path / "cup.zarr")
    path = zipped(folder, tmp_path / "a.zarr.zip")
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("data/../../escaped", b"")
    with pytest.raises(UserError, match="'data/../../escaped' in the zip leads out of it; refused"):
        read(path)
    (folder / "data" / "action" / "0.0").write_bytes(bytes(1 << 22))  # packs to 4 KB
    with pytest.raises(UserError, match="data/action/0.0 has 4194304 bytes; at most 66304 are plausible"):
        _ = read(zipped(folder, tmp_path / "b.zarr.zip", "", zipfile.ZIP_DEFLATED))[0]


@pytest.mark.parametrize("name", ["made.zarr", "made.zarr.zip"])
def test_what_is_written_reads_the_same(pusht_zarr, tmp_path, name):
    import zarr

    pusht = read(pusht_zarr(ends=(6, 10)))
    path = tmp_path / "out" / name
    path.parent.mkdir()
    write(path, pusht, "diffusion_policy_zarr")
    assert [p.name for p in path.parent.iterdir()] == [name] and locate(path) == (path, "diffusion_policy_zarr")
    again = read(path)
    assert len(again) == 2 and again.spec.rate_hz == 10
    for old, new in zip(pusht, again, strict=True):
        check_episode(new, again.spec)
        np.testing.assert_array_equal(new.images["image"], old.images["image"])
        np.testing.assert_array_equal(new.state["block_pose"], old.state["block_pose"])
        np.testing.assert_array_equal(new.action, old.action)
        np.testing.assert_allclose(new.time, old.time)
    # What ReplayBuffer asserts of a store when it opens one, and copies by name.
    store = zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else str(path)
    root = zarr.open_group(store, mode="r", zarr_format=2)
    assert root["meta/episode_ends"][:].tolist() == [6, 10] and root["meta/episode_ends"].dtype == np.int64
    assert sorted(root["data"]) == ["action", "agent_pos", "block_pose", "image", "timestamp"]
    for array in dict(root["data"].members()).values():
        assert array.shape[0] == 10 and array.chunks[1:] == array.shape[1:]
        assert array.compressors[0].codec_id == "blosc"


def test_names_that_collide_cannot_be_written(tmp_path):
    dataset = read(real_buffer(tmp_path / "cup.zarr"))
    dataset.spec = replace(dataset.spec, cameras={"stage": (16, 12)})
    with pytest.raises(UserError, match=r"cameras \['stage'\] and states .* share a name"):
        write(tmp_path / "out.zarr", dataset, "diffusion_policy_zarr")
    assert not list(tmp_path.glob("*out*"))
