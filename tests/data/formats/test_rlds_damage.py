"""RLDS files that are broken; they are made by rlds_files.py."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from robolearn.core.errors import UserError
from robolearn.data.formats import Options, read
from robolearn.data.formats._tfrecord import parse_example, records
from tests.data.formats.rlds_files import (
    FLAG,
    encoded,
    example,
    folder,
    image,
    masked,
    pixels,
    sequence,
    simple,
    simple_features,
    sized,
    steps_of,
    tensor,
    varint,
    write,
)


def test_a_message_may_be_packed_or_not_and_hold_what_we_do_not_know():
    floats = b"".join(varint(1 << 3 | 5) + struct.pack("<f", v) for v in (1.5, -2.0))
    ints = b"".join(varint(1 << 3) + varint(v) for v in (3, -1, 2**40))
    unknown = varint(9 << 3) + varint(5) + sized(15, b"x") + varint(7 << 3 | 1) + bytes(8)
    entries = [sized(1, b"f") + sized(2, sized(2, floats)), sized(1, b"i") + sized(2, sized(3, ints)), sized(1, b"none")]
    parsed = parse_example(unknown + sized(1, b"".join(sized(1, e) for e in entries)))
    assert parsed["f"].tolist() == [1.5, -2.0] and parsed["i"].tolist() == [3, -1, 2**40] and parsed["none"] == []
    numbers = np.random.default_rng(0).integers(-(2**63), 2**63 - 1, 500)
    numbers[:3] = 0, -(2**63), 2**63 - 1
    np.testing.assert_array_equal(parse_example(example({"n": numbers}))["n"], numbers)
    for bad in (
        b"\x0b",
        sized(1, b"\xff" * 12),
        sized(1, b"\x0a\x7f"),
        sized(1, sized(1, sized(1, b"f") + sized(2, sized(3, sized(1, b"\xff"))))),
    ):
        with pytest.raises((ValueError, IndexError)):
            parse_example(bad)


def test_checksums_are_checked(tmp_path):
    path = write(tmp_path / "d", {"train": [[steps_of(0), steps_of(1)]]})
    file = path / "toy_arm-train.tfrecord-00000-of-00001"
    whole = file.read_bytes()
    second = records(file)[1].offset
    for at, message in (
        (second + 50, rf"episode 1: {file.name}: the record at byte {second} is damaged \(crc32c\)"),
        (second - 12, rf"{file.name}: no TFRecord at byte {second - 12} \(crc32c of the length of record 1\)"),
    ):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(UserError, match=message):
            list(read(path, options=Options(cameras=())))
    for end, message in ((-5, "cut off at byte .*, in record 1"), (second - 6, "cut off at byte .*, in the header of record 1")):
        file.write_bytes(whole[:end])
        with pytest.raises(UserError, match=message):
            read(path)
    file.write_bytes(whole[: second - 12])
    with pytest.raises(UserError, match=r"holds 1 records; dataset_info.json says 2"):
        read(path)
    length = struct.pack("<Q", 1 << 60)
    file.write_bytes(length + struct.pack("<I", masked(length)))
    with pytest.raises(UserError, match=r"in record 0 \(1152921504606846976 bytes"):
        read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps/action": np.zeros((4, 3))}, r"steps/action has 12 values; features.json and 4 steps need \(4, 2\)"),
        ({"steps/action": [b"x"] * 4}, r"steps/action has 4 values; features.json"),
        ({"steps/observation/image_0": [b"x"] * 4}, "steps/observation/image_0 0 is not a JPEG or PNG image"),
        ({"steps/observation/image_0": [encoded(pixels(0, 1)[0], "JPEG")[:-90]] * 4}, "steps/observation/image_0 0 is damaged"),
        ({"steps/observation/image_0": [encoded(np.zeros((9, 10, 3), np.uint8))] * 4}, "image_0 0 is 9x10 px; expected 8x10"),
        ({"steps/observation/image_0": np.zeros(4)}, "image_0 has 4 values; the episode has 4 steps"),
        ({"steps/is_first": np.zeros(0, np.int64)}, "steps"),
    ],
)  # fmt: skip
def test_a_record_that_breaks_features_json_is_one_line(tmp_path, change, message):
    path = write(tmp_path / "d", {"train": [[steps_of(0) | change]]})
    with pytest.raises(UserError, match=message) as error:
        read(path, options=Options(cameras=("image_0",)))[0]
    assert str(error.value).startswith(f"{path}: episode 0: ") and "\n" not in str(error.value)


def test_a_record_without_a_field_is_one_line(tmp_path):
    episode = steps_of(0)
    del episode["steps/action"]
    with pytest.raises(UserError, match="episode 0: the record has no steps/action; features.json says it has"):
        read(write(tmp_path / "d", {"train": [[episode]]}), options=Options(cameras=()))[0]


def test_a_zlib_bomb_does_not_go_off(tmp_path):
    features = simple_features(observation=folder(x=tensor("float32", 2, encoding="zlib")))
    bomb = simple() | {"steps/observation/x": [zlib.compress(bytes(50 << 20))] * 3}
    with pytest.raises(UserError, match="a tensor unpacks to more than the 8 bytes of its shape"):
        read(write(tmp_path / "d", {"train": [[bomb]]}, features))[0]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"steps": sequence(folder(is_last=FLAG))}, r"features.json: no steps/action of numbers; it has steps/is_last"),
        (simple_features(action=tensor("float32", 10**15)), "no steps/action of numbers"),
        (simple_features(action=tensor("float32", -1)), "no steps/action of numbers"),
        (simple_features(observation=folder(i=image(10**6, 10**6, 3))), r"has shape \(3, 1000000, 1000000, 3\), 8381.9 GiB"),
        (simple_features(observation=folder(i=tensor("uint8", 10**6, 10**6, 3))), r"8381.9 GiB|67055.2 GiB"),
    ],
)
def test_absurd_features_are_refused(tmp_path, features, message):
    episode = simple() | {"steps/observation/i": [encoded(np.full((8, 10, 3), 5, np.uint8))] * 3}
    with pytest.raises(UserError, match=message):
        read(write(tmp_path / "d", {"train": [[episode]]}, features))[0]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        (
            "features.json",
            '{"steps": "tensorflow_datasets"}',
            "features.json: no featuresDict at the top; only what TFDS 4.5 and later write",
        ),
        ("features.json", '"tensorflow_datasets" "steps"', "features.json: no JSON"),
        ("features.json", "[" * 100_000 + '"tensorflow_datasets" "steps"', "features.json: no JSON"),
        ("dataset_info.json", "[]", "dataset_info.json: holds a list; expected an object"),
        ("dataset_info.json", '{"fileFormat": "array_record"}', "fileFormat 'array_record'; only tfrecord is read"),
        ("dataset_info.json", '{"name": "x"}', "no tfrecord file of any split is here"),
    ],
)
def test_metadata_that_cannot_be_read_is_one_line(tmp_path, file, text, message):
    path = write(tmp_path / "d", {"train": [[steps_of(0)]]})
    (path / file).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        read(path, "rlds_tfrecord")
    assert "\n" not in str(error.value)
