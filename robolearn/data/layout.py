"""What lies where in a dataset on disk: the arrays, the attributes, the journal (docs/dataset-format.md)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec
from robolearn.core.errors import UserError

FORMAT = "robolearn"
FORMAT_VERSION = 1
SHARD_ROWS = 256
JOURNAL = "episodes.jsonl"
UNITS = {
    "time": "s, monotonic within an episode",
    "images": "uint8 RGB, (row, height, width, channel)",
    "state": "spec.state.<name>.units",
    "action": "spec.action.units, as executed",
    "requested_action": "spec.action.units, as asked for",
    "reward": "1",
    "terminal": "bool",
    "source": "0 none, 1 scripted, 2 human, 3 policy, 4 planner, 5 replay",
}
SCALARS = {"time": "float64", "reward": "float32", "terminal": "bool", "source": "uint8"}


def arrays(spec: RobotSpec, shard_rows: int) -> dict[str, dict[str, Any]]:
    """Every array of a store -> the arguments zarr creates it with."""

    def array(dtype: str, shape: tuple[int, ...], dimensions: tuple[str, ...], frames: bool = False) -> dict[str, Any]:
        chunks = {"chunks": (1, *shape), "shards": (shard_rows, *shape)} if frames else {"chunks": (shard_rows, *shape)}
        return chunks | {
            "shape": (0, *shape),
            "dtype": dtype,
            "compressors": [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
            "fill_value": 0,
            # one folder for each array, not one for each chunk
            "chunk_key_encoding": {"name": "default", "separator": "."},
            "dimension_names": ("time", *dimensions),
        }

    layout = {name: array(dtype, (), ()) for name, dtype in SCALARS.items()}
    layout |= {name: array("float32", (spec.action.dim,), ("element",)) for name in ("action", "requested_action")}
    layout |= {f"state/{name}": array("float32", (part.dim,), ("element",)) for name, part in spec.state.items()}
    for name, size in spec.cameras.items():
        layout[f"images/{name}"] = array("uint8", (*size, 3), ("height", "width", "channel"), frames=True)
    return layout


def read_attributes(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise UserError(f"{path}: no such store; robolearn ingest or teleop makes one")
    try:
        attributes = json.loads((path / "zarr.json").read_text())["attributes"]
    except (OSError, ValueError, KeyError, TypeError):
        attributes = {}
    if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
        raise UserError(
            f"{path}: not a robolearn store (zarr.json has no attribute format = {FORMAT!r}); robolearn ingest converts other formats"
        )
    version = attributes.get("format_version")
    if version != FORMAT_VERSION:
        raise UserError(f"{path}: format_version {version}; this robolearn reads version {FORMAT_VERSION}: install a newer one")
    return attributes


def read_journal(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The finished episodes, and the journal's length in bytes up to there. A torn last line is no episode."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from error
    episodes, done = [], 0
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        try:
            episode = json.loads(line)
            if not line.endswith(b"\n") or not _is_episode(episode):
                raise ValueError("incomplete")
        except (ValueError, TypeError) as error:
            if done + len(line) == len(content):
                break
            raise ValueError(f"{path.name}: line {number} is damaged") from error
        episodes.append(episode)
        done += len(line)
    return episodes, done


def _is_episode(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("meta"), dict):
        return False
    start, length = line.get("start"), line.get("length")
    return isinstance(start, int) and isinstance(length, int) and start >= 0 and length > 0


def to_json(value: Any) -> Any:
    """JSON has no infinity; Zarr spells it "Infinity", and so do we."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [to_json(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: from_json(v) for k, v in value.items()}
    if isinstance(value, list):
        return [from_json(v) for v in value]
    return float(value) if value in ("NaN", "Infinity", "-Infinity") else value
