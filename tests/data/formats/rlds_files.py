"""Writes RLDS in TFDS folders, byte by byte, from the formats' own definitions: TFRecord framing, example.proto and feature.proto of
TensorFlow, the features.json and dataset_info.json of TFDS 4.9 (its example_serializer flattens steps/a/b)."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path

import google_crc32c
import numpy as np
from PIL import Image


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def sized(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(values) -> bytes:
    """BytesList, FloatList or Int64List, packed as TensorFlow writes them."""
    if isinstance(values, list):
        return sized(1, b"".join(sized(1, v) for v in values))
    flat = np.asarray(values).ravel()
    if flat.dtype.kind == "f":
        return sized(2, sized(1, flat.astype("<f4").tobytes()))
    return sized(3, sized(1, b"".join(varint(int(v)) for v in flat)))


def example(values: dict) -> bytes:
    return sized(1, b"".join(sized(1, sized(1, name.encode()) + sized(2, feature(v))) for name, v in values.items()))


def masked(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


def tensor(dtype: str, *shape: int, encoding: str = "none") -> dict:
    dims = {"dimensions": [str(n) for n in shape]} if shape else {}
    return {"pythonClassName": "tensorflow_datasets.core.features.tensor_feature.Tensor",
            "tensor": {"shape": dims, "dtype": dtype, "encoding": encoding}}  # fmt: skip


def image(*shape: int, encoding: str = "png", dtype: str = "uint8") -> dict:
    return {"pythonClassName": "tensorflow_datasets.core.features.image_feature.Image",
            "image": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype, "encodingFormat": encoding}}  # fmt: skip


TEXT = {"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text", "text": {}}
FLAG, SCALAR = tensor("bool"), tensor("float32")


def folder(**features: dict) -> dict:
    return {"pythonClassName": "tensorflow_datasets.core.features.features_dict.FeaturesDict", "featuresDict": {"features": features}}


def sequence(inner: dict, length: int = -1) -> dict:
    return {"pythonClassName": "tensorflow_datasets.core.features.dataset_feature.Dataset",
            "sequence": {"feature": inner, "length": str(length)}}  # fmt: skip


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return out.getvalue()


FEATURES = {
    "steps": sequence(
        folder(
            observation=folder(
                image_0=image(8, 10, 3),
                image_1=image(8, 10, 3, encoding="jpeg"),
                gone=image(8, 10, 3, encoding="jpeg"),
                depth=image(8, 10, 1),
                state=tensor("float32", 3),
                gripper=tensor("float64"),
                touching=FLAG,
                image_embedding=tensor("float32", 4),
            ),
            action=tensor("float32", 2),
            language_instruction=TEXT,
            language_embedding=tensor("float32", 5),
            is_first=FLAG,
            is_last=FLAG,
            is_terminal=FLAG,
            reward=SCALAR,
            discount=SCALAR,
        )
    ),
    "episode_metadata": folder(episode_id=tensor("int32"), file_path=TEXT, has_image_0=FLAG),
}


def pixels(number: int, steps: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (steps, 8, 10, 3), dtype=np.uint8)


def steps_of(number: int, steps: int = 4, last: bool = True) -> dict:
    """One episode of FEATURES."""
    flags = np.zeros(steps, np.int64)
    first, final = flags.copy(), flags.copy()
    first[0], final[-1] = 1, int(last)
    rng = np.random.default_rng(100 + number)
    frames = pixels(number, steps)
    return {
        "steps/observation/image_0": [encoded(f) for f in frames],
        "steps/observation/image_1": [encoded(np.full((8, 10, 3), 10 * k + 40, np.uint8), "JPEG") for k in range(steps)],
        "steps/observation/gone": [encoded(np.zeros((8, 10, 3), np.uint8), "JPEG")] * steps,
        "steps/observation/depth": [encoded(f[..., 0]) for f in frames],
        "steps/observation/state": rng.normal(size=(steps, 3)),
        "steps/observation/gripper": np.linspace(0, 1, steps),
        "steps/observation/touching": first,
        "steps/observation/image_embedding": rng.normal(size=(steps, 4)),
        "steps/action": rng.normal(size=(steps, 2)),
        "steps/language_instruction": [b"  lift it "] * steps,
        "steps/language_embedding": rng.normal(size=(steps, 5)),
        "steps/is_first": first,
        "steps/is_last": final,
        "steps/is_terminal": final,
        "steps/reward": final.astype(np.float32),
        "steps/discount": np.ones(steps, np.float32),
        "episode_metadata/episode_id": np.array([number]),
        "episode_metadata/file_path": [f"/raw/{number}".encode()],
        "episode_metadata/has_image_0": np.array([0]),
    }


def write(
    path: Path, splits: dict[str, list[list[dict]]], features: dict = FEATURES, name: str = "toy_arm", lengths: dict | None = None
) -> Path:
    """splits: name -> files -> episodes."""
    path.mkdir(parents=True)
    (path / "features.json").write_text(json.dumps(folder(**features)))
    listed = []
    for split, files in splits.items():
        counts = (lengths or {}).get(split, [len(f) for f in files])
        listed.append({"name": split, "shardLengths": [str(n) for n in counts], "numBytes": "1",
                       "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"})  # fmt: skip
        for number, episodes in enumerate(files):
            file = path / f"{name}-{split}.tfrecord-{number:05d}-of-{len(counts):05d}"
            file.write_bytes(b"".join(frame(example(e)) for e in episodes))
    info = {"fileFormat": "tfrecord", "name": name, "splits": listed, "version": "1.0.0"}
    (path / "dataset_info.json").write_text(json.dumps(info))
    return path


def simple(steps: int = 3, **values) -> dict:
    """An episode of what every test needs, and `values`."""
    last = np.eye(steps, dtype=np.int64)[-1]
    return {"steps/is_last": last, "steps/action": np.arange(2.0 * steps).reshape(steps, 2)} | {
        k.replace("__", "/"): v for k, v in values.items()
    }


def simple_features(**more: dict) -> dict:
    return {"steps": sequence(folder(**{"is_last": FLAG, "action": tensor("float32", 2)} | more))}
