"""LeRobot's `meta/`: info.json, its features, and what each of them is to us."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import ArraySpec
from robolearn.core.errors import UserError
from robolearn.data.formats._json import read_object
from robolearn.data.formats._reader import inside, vector

OURS = "robolearn"  # what our writers add for the way back: a key of a feature, and features and columns that begin with it
OUR_FEATURES = tuple(f"{OURS}.{name}" for name in ("time", "requested_action", "source"))
INTERVENTION = "complementary_info.is_intervention"  # of HIL-SERL: a person took over from the policy
# LeRobot's own columns of one row; those of other names are observations, actions, or left out.
ROW = ("timestamp", "frame_index", "episode_index", "index", "task_index", "next.reward", "next.done", "next.success", INTERVENTION)
_NUMBERS = re.compile(r"(float|u?int)\d+|bool")
_MAX_WIDTH = 4096  # numbers of one feature in one row; what is wider is no robot's state
_MAX_JSON = 1 << 28  # bytes


@dataclass(frozen=True)
class Info:
    """`meta/info.json`, checked as far as reading needs it."""

    path: Path  # of the dataset
    version: str
    fps: float
    features: dict[str, dict[str, Any]]
    raw: dict[str, Any]

    @property
    def videos(self) -> list[str]:
        return [key for key, feature in self.features.items() if feature["dtype"] == "video"]

    @property
    def numeric(self) -> list[str]:
        return [key for key, feature in self.features.items() if _NUMBERS.fullmatch(feature["dtype"])]

    def file(self, template: str, **values: Any) -> str:
        """The file that `data_path` or `video_path` names for these values. UserError: another placeholder, a way out of the folder."""
        text = self.raw.get(template)

        def filled(found: re.Match[str]) -> str:
            if found[1] not in values:
                raise UserError(f"meta/info.json: {template} has {found[0]}; valid: {', '.join(values)}")
            return f"{values[found[1]]:0{found[2] or 0}d}" if isinstance(values[found[1]], int) else str(values[found[1]])

        if not isinstance(text, str):
            raise UserError(f"meta/info.json: {template} is {text!r}; expected the pattern of a file's name")
        # No str.format: a pattern from a file could ask it for attributes, or for a billion digits.
        name = re.sub(r"\{(\w+)(?::0?(\d)d)?\}", filled, text)
        if {"{", "}"} & set(name) or name.startswith("/") or ".." in name.split("/"):
            raise UserError(f"meta/info.json: {template} {text!r} names no file in the dataset")
        return name

    def locate(self, file: str) -> Path:
        """The file itself. UserError: a link that leads out."""
        return inside(self.path, file)


def version_of(path: Path) -> str:
    """ "v2.1", "v3.0"; empty where `path` is no LeRobot dataset."""
    file = path / "meta" / "info.json"
    if not file.is_file() or file.stat().st_size > _MAX_JSON:
        return ""
    try:
        raw = json.loads(file.read_bytes())
    except RecursionError:
        return ""
    return str(raw["codebase_version"]) if isinstance(raw, dict) and "codebase_version" in raw else ""


def read_info(path: Path) -> Info:
    """UserError: a file that is none, or lacks what every version has."""
    raw = read_object(inside(path, "meta/info.json"))
    features, fps = raw.get("features"), raw.get("fps")
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps < 1e6:
        raise UserError(f"meta/info.json: fps is {fps!r}; expected rows per second above 0 [Hz]")
    if not isinstance(features, dict) or not features:
        raise UserError("meta/info.json: has no features")
    for key, feature in features.items():
        shape = feature.get("shape") if isinstance(feature, dict) else None
        if not isinstance(shape, list) or not isinstance(feature.get("dtype"), str) or any(type(n) is not int or n < 0 for n in shape):
            raise UserError(f"meta/info.json: feature {key!r} has no dtype or no shape of whole numbers")
    return Info(path, str(raw.get("codebase_version")), float(fps), features, raw)


def read_lines(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl file. UserError names the line that is none."""
    if not file.is_file():
        raise UserError(f"{file.parent.name}/{file.name} is not here")
    if file.stat().st_size > _MAX_JSON:
        raise UserError(f"{file.name}: {file.stat().st_size >> 20} MiB; expected at most {_MAX_JSON >> 20}")
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            if not isinstance(value, dict):
                raise UserError(f"{file.parent.name}/{file.name}: line {number} is no JSON object")
            yield value


@dataclass
class Roles:
    """What each feature is to us."""

    cameras: dict[str, str] = field(default_factory=dict)  # name -> feature
    state: dict[str, dict[str, ArraySpec]] = field(default_factory=dict)  # feature -> its parts
    action: dict[str, ArraySpec] = field(default_factory=dict)  # feature -> its numbers; several stand one after the other
    action_mode: str | None = None  # None: not recorded
    notes: list[str] = field(default_factory=list)


def roles_of(info: Info) -> Roles:
    """UserError: an action of no or absurd size, two features of one name."""
    roles, left = Roles(), []
    numeric = {key: math.prod(info.features[key]["shape"]) for key in info.numeric}
    single = next((key for key in ("action", "actions") if key in numeric), None)
    for key, feature in info.features.items():
        if feature["dtype"] in ("video", "image"):
            name = _name(re.sub(r"^observation\.(images\.)?", "", key))
            if _is_depth(key, feature):
                left.append(f"{key} (depth)")
            elif name in roles.cameras:
                raise UserError(f"meta/info.json: {roles.cameras[name]!r} and {key!r} would both be camera {name!r}")
            else:
                roles.cameras[name] = key
        elif key == single or (single is None and key in numeric and re.match(r"actions?\.", key)):
            roles.action[key] = _array(info, key, roles.notes)
            mode = feature[OURS].get("mode") if isinstance(feature.get(OURS), dict) else None
            roles.action_mode = mode if isinstance(mode, str) else roles.action_mode
        elif key == "state" or key.startswith("observation."):
            if not 0 < numeric.get(key, 0) <= _MAX_WIDTH:
                left.append(f"{key} ({feature['dtype']} {tuple(feature['shape'])})")
            else:
                roles.state[key] = _ours(feature, numeric[key]) or {_name(key.removeprefix("observation.")): _array(info, key, roles.notes)}
        elif key not in (*ROW, *OUR_FEATURES):
            left.append(key)
    parts = [name for found in roles.state.values() for name in found]
    if len(set(parts)) != len(parts):
        raise UserError(f"meta/info.json: two features would be the same part of the state: {', '.join(sorted(parts))}")
    if left:
        roles.notes.append(f"left out: {', '.join(left)}")
    return roles


def _name(key: str) -> str:
    """A name that is safe as a folder's."""
    return re.sub(r"[^\w.-]", "_", key).strip(".") or "unnamed"


def _is_depth(key: str, feature: Mapping[str, Any]) -> bool:
    found = [feature[part] for part in ("info", "video_info") if isinstance(feature.get(part), dict)]
    return "depth" in key.lower() or any(bool(part.get("is_depth_map") or part.get("video.is_depth_map")) for part in found)


def _array(info: Info, key: str, notes: list[str]) -> ArraySpec:
    """Names where there are as many as numbers; units are not recorded."""
    feature = info.features[key]
    if (ours := _ours(feature, math.prod(feature["shape"]))) is not None and len(ours) == 1:
        return next(iter(ours.values()))
    if (width := math.prod(feature["shape"])) > _MAX_WIDTH or not width:
        raise UserError(f"meta/info.json: {key} has shape {feature['shape']}; expected 1 to {_MAX_WIDTH} numbers")
    names = list(_leaves(feature.get("names")))
    if len(names) == width and all(isinstance(name, str) for name in names):
        return vector(names)
    if names and len(feature["shape"]) == 1:
        notes.append(f"{key}: its names do not fit its {width} numbers; they are numbered instead")
    return vector(["_".join(map(str, at)) for at in np.ndindex(*feature["shape"])])


def _leaves(names: Any) -> Iterator[Any]:
    """Those of lists in lists, of {"motors": [...]}, and the keys of {name: index} by index."""
    if isinstance(names, dict) and all(type(index) is int for index in names.values()):
        names = sorted(names, key=names.__getitem__)
    if isinstance(names, dict | list):
        for part in names.values() if isinstance(names, dict) else names:
            yield from _leaves(part)
    elif names is not None:
        yield names


def _ours(feature: Mapping[str, Any], width: int) -> dict[str, ArraySpec] | None:
    """What our writers noted of a feature's parts; None where they did not, or where it no longer fits."""
    try:
        parts = {
            _name(name): ArraySpec(
                tuple(map(str, part["names"])),
                tuple(map(str, part["units"])),
                tuple(-math.inf if x is None else float(x) for x in part["low"]),
                tuple(math.inf if x is None else float(x) for x in part["high"]),
            )
            for name, part in feature[OURS]["parts"].items()
        }
    except (LookupError, TypeError, ValueError, AttributeError):
        return None
    return parts if parts and sum(part.dim for part in parts.values()) == width else None
