from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def pusht_zarr(tmp_path):
    """Write a Push-T replay buffer in Zarr v2: rows as recorded, images float32 that hold grey levels. Returns its path."""
    import zarr

    def write(ends=(6, 10), name="pusht.zarr", **columns) -> Path:
        rng = np.random.default_rng(0)
        rows = int(ends[-1])
        state = np.concatenate([rng.uniform(50, 450, (rows, 4)), rng.uniform(0, 6.2, (rows, 1))], 1).astype(np.float32)
        data = {
            "img": rng.integers(0, 256, (rows, 96, 96, 3)).astype(np.float32),
            "state": state,
            "action": rng.uniform(0, 512, (rows, 2)).astype(np.float32),
            "keypoint": np.zeros((rows, 9, 2), np.float32),
        } | columns
        group = zarr.create_group(str(tmp_path / name), zarr_format=2)
        for key, value in data.items():
            if value is not None:
                group.create_array(f"data/{key}", data=value, chunks=(4, *value.shape[1:]))
        group.create_array("meta/episode_ends", data=np.asarray(ends, np.int64))
        return tmp_path / name

    return write


# ROS 2 logs: made, after the definitions in common_interfaces and the recorders' own writers ----------------------------------

START_NS = 1_700_000_000 * 10**9
Message = tuple[str, str, int, dict[str, Any]]  # topic, type, logged [ns], its fields


def header(ns: int) -> dict[str, Any]:
    return {"stamp": {"sec": ns // 10**9, "nanosec": ns % 10**9}, "frame_id": ""}


def png(picture: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def arm_log() -> Callable[..., list[Message]]:
    """An arm for half a second: two cameras, joints, a pose, commands, an instruction. Every number tells when it was measured."""

    def make(seed: int = 0, seconds: float = 0.5, late_ns: int = 2_000_000) -> list[Message]:
        rng = np.random.default_rng(seed)
        log: list[Message] = []

        def at(rate: float, offset: float) -> list[int]:
            return [START_NS + round((offset + i / rate) * 1e9) for i in range(int(seconds * rate))]

        for ns in at(10, 0.020):  # rows of 8 pixels, padded to 32 bytes, as drivers do; blue first
            picture = rng.integers(0, 256, (6, 32)).astype(np.uint8)
            fields = {"height": 6, "width": 8, "encoding": "bgr8", "is_bigendian": 0, "step": 32, "data": picture.tobytes()}
            log.append(("/camera/front/image_raw", "sensor_msgs/msg/Image", ns + late_ns, {"header": header(ns), **fields}))
        for ns in at(20, 0.005):
            data = png(rng.integers(0, 256, (4, 6, 3)).astype(np.uint8))
            fields = {"format": "rgb8; png compressed bgr8", "data": data}
            log.append(("/wrist/image_raw/compressed", "sensor_msgs/msg/CompressedImage", ns + late_ns, {"header": header(ns), **fields}))
        for ns in at(100, 0.0):
            s = (ns - START_NS) / 1e9
            fields = {"name": ["shoulder", "elbow"], "position": [s, -s], "velocity": [1.0, -1.0], "effort": []}
            log.append(("/joint_states", "sensor_msgs/msg/JointState", ns + late_ns, {"header": header(ns), **fields}))
        for ns in at(10, 0.010):
            s = (ns - START_NS) / 1e9
            pose = {"position": {"x": s, "y": 2.0, "z": 3.0}, "orientation": {"x": 0.1, "y": 0.2, "z": 0.3, "w": 0.9}}
            log.append(("/ee_pose", "geometry_msgs/msg/PoseStamped", ns + late_ns, {"header": header(ns), "pose": pose}))
        for ns in at(10, 0.025):
            fields = {"layout": {"dim": [], "data_offset": 0}, "data": [(ns - START_NS) / 1e9, 7.0, 8.0]}
            log.append(("/arm_controller/commands", "std_msgs/msg/Float64MultiArray", ns, fields))
        log.append(("/task_instruction", "std_msgs/msg/String", START_NS, {"data": "put the cup on the plate"}))
        log.append(("/rosout_flag", "std_msgs/msg/Bool", START_NS, {"data": True}))
        return sorted(log, key=lambda message: message[2])

    return make


@pytest.fixture
def write_mcap() -> Callable[..., Path]:
    """By mcap_ros2's writer, as `ros2 bag record -s mcap` lays it out."""
    from mcap.writer import CompressionType
    from mcap_ros2.writer import Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)

    def write(path: Path, log: Sequence[Message], compression: str = "ZSTD", chunk_size: int = 20_000) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            writer = Writer(file, chunk_size=chunk_size, compression=CompressionType[compression])
            schemas = {kind: writer.register_msgdef(kind, store.generate_msgdef(kind, ros_version=2)[0]) for _, kind, _, _ in log}
            for topic, kind, logged, fields in log:
                writer.write_message(topic, schemas[kind], fields, log_time=logged)
            writer.finish()
        return path

    return write


@pytest.fixture
def write_bag() -> Callable[..., Path]:
    """By rosbags' writer, which follows rosbag2."""
    from rosbags.interfaces import Nodetype
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)

    def build(kind: str, fields: dict[str, Any]) -> Any:
        made = {}
        for name, (node, detail) in store.fielddefs[kind][1]:
            value = fields[name]
            if node == Nodetype.NAME:
                value = build(detail, value)
            elif node in (Nodetype.ARRAY, Nodetype.SEQUENCE) and detail[0][0] == Nodetype.BASE and detail[0][1][0] != "string":
                value = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.asarray(value, detail[0][1][0])
            made[name] = value
        return store.types[kind](**made)

    def write(path: Path, log: Sequence[Message], storage: str = "SQLITE3", compression: str = "NONE") -> Path:
        writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage])
        writer.set_compression(CompressionMode[compression], CompressionFormat.ZSTD)
        with writer:
            topics = {topic: kind for topic, kind, _, _ in log}
            connections = {topic: writer.add_connection(topic, kind, typestore=store) for topic, kind in topics.items()}
            for topic, kind, logged, fields in log:
                writer.write(connections[topic], logged, store.serialize_cdr(build(kind, fields), kind))
        return path

    return write
