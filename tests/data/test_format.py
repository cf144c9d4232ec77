"""docs/dataset-format.md against other people's Zarr, old versions, and damage."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.episode import Stream
from robolearn.data.layout import to_json
from robolearn.data.store import EpisodeStore


@pytest.fixture
def rich(spec, make_episode):
    """(spec with a stream, an episode with stamps and samples)."""
    with_stream = replace(spec, streams={"force": spec.action})

    def make(rows: int, seed: int = 0):
        episode, rng = make_episode(rows, seed), np.random.default_rng(seed)
        time = np.sort(rng.uniform(0, 60, 9000 + seed))
        stream = Stream(time, rng.normal(size=(len(time), 3)).astype(np.float32))
        return replace(episode, image_time={"front": episode.time - 0.01}, streams={"force": stream})

    return with_stream, make


def test_stamps_and_streams_come_back(tmp_path, rich, assert_same):
    spec, make = rich
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(make(20))
        store.extend([make(7, 1), make(300, 2), make(5, 3)])
    opened = EpisodeStore.open(store.path)
    assert opened.spec == spec
    for index, episode in enumerate([make(20), make(7, 1), make(300, 2), make(5, 3)]):
        found = opened[index]
        assert_same(found, episode)
        assert list(found.image_time) == ["front"]
        np.testing.assert_array_equal(found.image_time["front"], episode.image_time["front"])
        np.testing.assert_array_equal(found.streams["force"].time, episode.streams["force"].time)
        np.testing.assert_array_equal(found.streams["force"].values, episode.streams["force"].values)
    assert len(list((store.path / "reward").glob("c.*"))) == 3  # the three that came together share files


@pytest.mark.parametrize("library", ["zarr", "tensorstore"])
def test_other_zarr_libraries_read_every_array(tmp_path, rich, library):
    spec, make = rich
    episode = make(300)
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(make(3, 5))
        store.append(episode)
    line = json.loads((store.path / "episodes.jsonl").read_text().splitlines()[1])

    def read(name: str, start: int, length: int) -> np.ndarray:
        if library == "zarr":
            import zarr

            return np.asarray(zarr.open_array(str(store.path / name), mode="r")[start : start + length])
        import tensorstore

        kvstore = {"driver": "file", "path": f"{store.path}/{name}/"}
        return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True).result()[start : start + length].read().result()

    rows = (line["start"], line["length"])
    for name in ("time", "action", "requested_action", "reward", "terminal", "source"):
        np.testing.assert_array_equal(read(name, *rows), getattr(episode, name))
    np.testing.assert_array_equal(read("state/grip", *rows), episode.state["grip"])
    np.testing.assert_array_equal(read("images/wrist", *rows), episode.images["wrist"])
    np.testing.assert_array_equal(read("image_time/front", *rows), episode.image_time["front"])
    np.testing.assert_array_equal(read("streams/force/values", *line["streams"]["force"]), episode.streams["force"].values)


@pytest.mark.parametrize("chosen", ["jpegxl", "jpeg:95", "h264", "zstd:9"])
def test_each_camera_has_its_compression(tmp_path, spec, make_episode, chosen):
    episodes = [make_episode(37), make_episode(5, 1)]
    with EpisodeStore.create(tmp_path / "d.zarr", spec, compression={"front": chosen}) as store:
        store.extend(episodes)
        store.append(make_episode(20, 2))
    opened = EpisodeStore.open(store.path)
    for index, episode in enumerate([*episodes, make_episode(20, 2)]):
        np.testing.assert_array_equal(opened[index].images["wrist"], episode.images["wrist"])
        assert opened[index].images["front"].shape == episode.images["front"].shape
    rows = np.array([41, 3, 61, 0, 37, 36])
    whole = np.concatenate([opened[i].images["front"] for i in range(3)])
    np.testing.assert_array_equal(opened.frames("front", rows), whole[rows])
    with pytest.raises(UserError, match="compression: no camera 'left'; valid: front, wrist"):
        EpisodeStore.create(tmp_path / "e.zarr", spec, compression={"left": "zstd"})


@pytest.fixture
def version_1(tmp_path, spec):
    """A store as robolearn 0.1 wrote it, made with zarr-python after version 1 of docs/dataset-format.md."""
    import zarr

    def write(episodes):
        path = tmp_path / "old.zarr"
        plain = {k: v for k, v in spec.to_dict().items() if k != "streams"}
        attributes = {"format": "robolearn", "format_version": 1, "spec": to_json(plain), "shard_rows": 256, "provenance": {"by": "0.1"}}
        group = zarr.create_group(str(path), zarr_format=3, attributes=attributes)
        rows = 256 * len(episodes)

        def put(name, parts, frames=False):
            tail = parts[0].shape[1:]
            layout = {"chunks": (1, *tail), "shards": (256, *tail)} if frames else {"chunks": (256, *tail)}
            array = group.create_array(
                name,
                shape=(rows, *tail),
                dtype=parts[0].dtype,
                compressors=[{"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
                fill_value=0,
                chunk_key_encoding={"name": "default", "separator": "."},
                **layout,
            )
            for number, part in enumerate(parts):
                array[256 * number : 256 * number + len(part)] = part

        for name in ("time", "action", "requested_action", "reward", "terminal", "source"):
            put(name, [getattr(e, name) for e in episodes])
        for name in spec.state:
            put(f"state/{name}", [e.state[name] for e in episodes])
        for name in spec.cameras:
            put(f"images/{name}", [e.images[name] for e in episodes], frames=True)
        lines = [{"start": 256 * i, "length": len(e), "meta": dict(e.meta)} for i, e in enumerate(episodes)]
        (path / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


def test_version_1_is_read_and_not_written(version_1, spec, make_episode, assert_same):
    black = make_episode(40, 1)
    for frames in black.images.values():
        frames[10:20] = 0  # version 1 left chunks of zeros out
    episodes = [make_episode(30), replace(black, reward=np.zeros(40, np.float32))]
    path = version_1(episodes)
    opened = EpisodeStore.open(path)
    assert opened.version == 1 and opened.spec == spec and opened.provenance == {"by": "0.1"}
    for index, episode in enumerate(episodes):
        assert_same(opened[index], episode)
    np.testing.assert_array_equal(opened.lowdim("reward")[30:], 0)
    with pytest.raises(UserError, match="format_version 1 is read, not written; robolearn edit .* makes a new one"):
        EpisodeStore.open(path, "a")


def test_a_deleted_file_is_damage_and_not_darkness(tmp_path, spec, make_episode):
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(make_episode(40))
    (store.path / "reward" / "c.0").unlink()
    with pytest.raises(UserError, match=r"d.zarr/reward: damaged: the file is missing \(c.0\)"):
        EpisodeStore.open(store.path).lowdim("reward")
    (store.path / "images" / "wrist" / "c.0.0.0.0").unlink()
    with pytest.raises(UserError, match=r"images/wrist: damaged: the file or a chunk of it is missing \(c.0.0.0.0, chunk 3\)"):
        EpisodeStore.open(store.path).frames("wrist", np.array([3]))


def test_a_flipped_bit_in_a_picture_is_found_by_reading_the_episode(tmp_path, spec, make_episode):
    with EpisodeStore.create(tmp_path / "d.zarr", spec) as store:
        store.append(make_episode(40))
    path = store.path / "images" / "front" / "c.0.0.0.0"
    data = bytearray(path.read_bytes())
    data[300] ^= 4
    path.write_bytes(data)
    with pytest.raises(UserError, match="images/front: damaged: its checksum does not match"):
        EpisodeStore.open(store.path).read(0)


def test_importing_datasets_loads_no_torch():
    code = "import sys, robolearn.data; print(sorted({'torch', 'zarr', 'tensorstore', 'h5py', 'scipy', 'mujoco'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
