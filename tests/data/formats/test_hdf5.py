"""What an HDF5 file may name and claim, and what of it is believed."""

from __future__ import annotations

import io
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from robolearn.core.errors import UserError
from robolearn.data.formats._hdf5 import is_encoded, open_hdf5, read_rgb, rgb_size, root_has


@pytest.fixture
def secret(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["x"] = np.arange(4.0)
    return tmp_path / "secret.h5"


@pytest.fixture
def hostile(tmp_path, secret):
    (tmp_path / "raw.bin").write_bytes(bytes(32))
    with h5py.File(tmp_path / "hostile.h5", "w") as file:
        file["a/b"] = np.arange(4.0)
        file["soft"] = h5py.SoftLink("/a/b")
        file["relative"] = h5py.SoftLink("a/./b")
        file["to_link"] = h5py.SoftLink("/abroad/x")
        file["round"], file["about"] = h5py.SoftLink("/about"), h5py.SoftLink("/round")
        file["dangling"] = h5py.SoftLink("/nowhere")
        file["abroad"] = h5py.ExternalLink(str(secret), "/")
        file.create_dataset("stored_abroad", shape=(4,), dtype="f8", external=[(str(tmp_path / "raw.bin"), 0, 32)])
        layout = h5py.VirtualLayout(shape=(4,), dtype="f8")
        layout[:] = h5py.VirtualSource(str(secret), "x", shape=(4,))
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset("absurd", shape=(1 << 50, 1 << 10), dtype="f8", chunks=(1, 1024))
        file.create_dataset("never_written", shape=(1 << 28,), dtype="f4", chunks=(1024,))
        file.create_dataset("one_chunk", shape=(1 << 31,), dtype="u1", chunks=(1 << 31,), compression="gzip")
        file.create_dataset("scattered", shape=(1 << 24,), dtype="u1", chunks=(6,))[:6] = 1
        file["record"] = np.zeros(3, dtype=[("x", "f4"), ("y", "i4")])
        file["references"] = np.array([file["a"].ref], dtype=h5py.ref_dtype)
        file["names"] = np.array(["demo_1", "demo_2"], dtype="S")
        file["empty"] = h5py.Empty("f4")
        file["a/self"] = file["a"]
    return tmp_path / "hostile.h5"


def test_links_inside_the_file_are_followed(hostile):
    with open_hdf5(hostile) as root:
        for path in ("a/b", "soft", "relative", "a/self/self/b", "/a//b"):
            np.testing.assert_array_equal(root.array(path), np.arange(4.0))
        assert "dangling" not in root and "a/.." not in root and "a/b/c" not in root
        assert root.text("names") == ["demo_1", "demo_2"]
        np.testing.assert_array_equal(root.array("a/b", slice(1, 3)), [1.0, 2.0])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("abroad", "/abroad: a link to another file; refused"),
        ("abroad/x", "/abroad/x: a link to another file; refused"),
        ("to_link", "/to_link: a link to another file; refused"),
        ("round", "/round: a link that leads back to itself"),
        ("dangling", "/dangling: missing; / holds a, "),
        ("stored_abroad", "/stored_abroad: its values lie in other files; refused"),
        ("virtual", "/virtual: its values lie in other files; refused"),
        ("absurd", r"/absurd: shape \(1125899906842624, 1024\) claims \d+ bytes, 0 are stored; refused"),
        ("never_written", "/never_written: shape .* claims 1073741824 bytes, 0 are stored"),
        ("one_chunk", "/one_chunk: shape .* claims 2147483648 bytes"),
        ("scattered", "/scattered: shape .* claims 2796203 chunks, 1 are stored"),
        ("record", "/record: is .*'x'.*; expected numbers"),
        ("references", "/references: is object; expected numbers"),
        ("names", r"/names: is \|S6; expected numbers"),
        ("a", "/a: is no dataset"),
        ("empty", "/empty: is empty"),
    ],
)
def test_what_is_refused(hostile, path, message):
    with open_hdf5(hostile) as root, pytest.raises(UserError, match=message) as caught:
        root.array(path)
    assert "\n" not in str(caught.value)


def test_dimensions_and_groups_are_asked_for(hostile):
    with open_hdf5(hostile) as root:
        with pytest.raises(UserError, match=r"/a/b: has shape \(4,\); expected 2 dimensions"):
            root.array("a/b", ndim=2)
        with pytest.raises(UserError, match="/soft: is no group"):
            root.group("soft")
        with pytest.raises(UserError, match="/a/b: is float64 .*; expected a list of strings"):
            root.text("a/b")


def test_a_slice_is_weighed_before_it_is_read(tmp_path, monkeypatch):
    """A large file of many episodes is fine as long as one of them fits."""
    monkeypatch.setattr("robolearn.data.formats._reader.MAX_EPISODE_BYTES", 1 << 20)
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["x"] = np.zeros((1 << 20, 1), np.float32)
    with open_hdf5(tmp_path / "flat.h5") as root:
        assert root.array("x", slice(5, 1000)).shape == (995, 1)
        with pytest.raises(UserError, match=r"/x has shape \(1048576, 1\), 0.0 GiB"):
            root.array("x")


def test_attributes_are_json(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        group = file.create_group("g")
        group.attrs.update({"text": "é", "bytes": np.bytes_("ab"), "count": np.int64(3), "flag": np.True_, "list": ["a", "b"]})
        group.attrs["rows"] = np.eye(2)
        group.attrs["reference"], group.attrs["empty"] = file.ref, h5py.Empty("f4")
        group.attrs["record"] = np.zeros(1, dtype=[("x", "f4")])[0]
    with open_hdf5(tmp_path / "a.h5") as root:
        assert root.group("g").attributes() == {
            "text": "é", "bytes": "ab", "count": 3, "flag": True, "list": ["a", "b"], "rows": [[1, 0], [0, 1]],
        }  # fmt: skip


ATTRIBUTES = """
import sys
from pathlib import Path
from robolearn.data.formats._hdf5 import open_hdf5
with open_hdf5(Path(sys.argv[1])) as root:
    print(sorted(root.attributes()))
"""


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ("heap", "['count']"),  # libhdf5 2.0 walks a heap with a piece of 0 bytes for ever
        ("type", "['count', 'other']"),  # and crashes where something of variable length is neither text nor a sequence
    ],
)
def test_what_libhdf5_cannot_read_is_left_out(tmp_path, what, found):
    """In a process of its own: it would hang or crash."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["count"] = 3
        file.attrs["text"], file.attrs["other"] = "variable length", "another"
    data = bytearray((tmp_path / "a.h5").read_bytes())
    if what == "heap":
        heap = data.index(b"GCOL")
        first = heap + 16
        data[first + 8 : first + 16] = (8).to_bytes(8, "little")  # the first piece ends too early, the next begins inside its text
        data[first + 24 : first + 40] = bytes(16)  # free space, 0 bytes of it
    else:
        kind = data.index(b"text") + 8  # the name, padded to 8 bytes, comes before the type
        assert data[kind] == 0x19 and data[kind + 1] & 15 == 1  # variable length, of text
        data[kind + 1] = 0xBC  # neither text nor a sequence
    (tmp_path / "a.h5").write_bytes(data)
    command = [sys.executable, "-c", ATTRIBUTES, str(tmp_path / "a.h5")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, found), done.stderr[-2000:]


def test_a_damaged_type_is_refused_before_it_is_read(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("x", (2,), dtype=h5py.vlen_dtype(np.uint8))
        dataset[0] = dataset[1] = np.arange(5, dtype=np.uint8)
        kind = dataset.id.get_type().encode()[2:10]
    data = bytearray((tmp_path / "a.h5").read_bytes())
    data[data.index(kind) + 1] = 0xBC  # neither text nor a sequence: libhdf5 2.0 would crash
    (tmp_path / "a.h5").write_bytes(data)
    with open_hdf5(tmp_path / "a.h5") as root, pytest.raises(UserError, match="/x: its type is damaged"):
        root.dataset("x")


def test_names_are_in_the_order_of_their_numbers_and_may_not_be_paths(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name in ("demo_10", "demo_2", "demo_1"):
            file.create_group(f"good/{name}")
        file.create_group("bad")
        file.create_group("evil")
        h5py.h5g.create(file["bad"].id, b"..")
        file["evil"].create_group("two\nlines")
    with open_hdf5(tmp_path / "a.h5") as root:
        assert root.group("good").names() == ["demo_1", "demo_2", "demo_10"]
        for group in ("bad", "evil"):
            with pytest.raises(UserError, match="holds an object named .*; refused") as caught:
                root.group(group).names()
            assert "\n" not in str(caught.value)


def test_a_file_that_is_none(tmp_path, secret):
    whole = secret.read_bytes()
    for data in (b"", b"hello", whole[:100], whole[:-8]):
        (tmp_path / "broken.h5").write_bytes(data)
        with pytest.raises(UserError, match=r"broken.h5: not a whole HDF5 file \(.*\)") as caught, open_hdf5(tmp_path / "broken.h5"):
            pass
        assert "\n" not in str(caught.value)
        assert not root_has(tmp_path / "broken.h5", lambda root: True)
    with pytest.raises(UserError, match="nowhere.h5: no such file"), open_hdf5(tmp_path / "nowhere.h5"):
        pass
    assert root_has(secret, lambda root: "x" in root)
    assert not root_has(secret, lambda root: bool(root.group("y")))  # matches never raises
    assert not root_has(tmp_path, lambda root: True)


def test_an_unknown_compression_says_what_to_do(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((4,))
        plan.set_filter(32999, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((8,))
        h5py.h5d.create(file.id, b"y", h5py.h5t.IEEE_F32LE, space, plan)
    with open_hdf5(tmp_path / "a.h5") as root, pytest.raises(UserError, match="/y: compressed with filter 32999 .*; rewrite it: h5repack"):
        root.array("y")


def jpeg(frame: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=95)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def test_frames_raw_padded_and_of_any_length(tmp_path):
    frames = np.zeros((3, 32, 40, 3), np.uint8) + np.array([200, 100, 20], np.uint8)
    frames[1, :, 20:] = 30  # the second JPEG is longer
    coded = [jpeg(frame) for frame in frames]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["raw"] = frames
        file["padded"] = np.stack([np.pad(c, (0, 2000 - len(c))) for c in coded])
        ragged = file.create_dataset("ragged", (3,), dtype=h5py.vlen_dtype(np.uint8))
        for i, c in enumerate(coded):
            ragged[i] = c
        file["bytes"] = np.array([c.tobytes() for c in coded], dtype="S2000")
        file["depth"] = np.zeros((3, 32, 40), np.uint16)
        file["floats"] = np.zeros((3, 32, 40, 3), np.float32)
        file["numbers"] = np.zeros((3, 6), np.uint8)
    with open_hdf5(tmp_path / "a.h5") as root:
        expected = read_rgb(root.dataset("padded"), (32, 40))
        assert np.abs(expected.astype(int) - frames).mean() < 2
        for name in ("raw", "padded", "ragged", "bytes"):
            dataset = root.dataset(name)
            assert rgb_size(dataset) == (32, 40) and is_encoded(dataset) == (name != "raw")
            reference = frames if name == "raw" else expected
            np.testing.assert_array_equal(read_rgb(dataset, (32, 40)), reference)
            np.testing.assert_array_equal(read_rgb(dataset, (32, 40), slice(1, 3)), reference[1:])
        for name in ("depth", "floats", "numbers"):
            assert rgb_size(root.dataset(name)) is None
        with pytest.raises(UserError, match="/padded 0 is 32x40 px"):
            read_rgb(root.dataset("padded"), (32, 32))
        with pytest.raises(UserError, match=r"/raw: is uint8 \(3, 32, 40, 3\); expected uint8 \(T, 30, 40, 3\)"):
            read_rgb(root.dataset("raw"), (30, 40))
        with pytest.raises(UserError, match="/numbers 0 is not a JPEG or PNG"):
            read_rgb(root.dataset("numbers"), (32, 40))
