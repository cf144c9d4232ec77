"""RLDS episodes (Ramos et al. 2021) as TFDS writes them, Open X-Embodiment's among them: TFRecord, read without TensorFlow.

An episode is a sequence of steps. By RLDS, action, reward and discount of a step flagged is_last mean nothing: that step only shows where
the last action led. Its row is therefore left out (an episode of one step keeps it), and is_terminal and the reward that most Open X
datasets put there go to the row before, whose action earned them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats import _oxe, _tfds
from robolearn.data.formats._image import decode_images, image_size
from robolearn.data.formats._json import read_object
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, inside, vector
from robolearn.data.formats._tfds import Feature, Split
from robolearn.data.formats._tfrecord import Record, Values, parse_example

ASSUMED_RATE_HZ = 10.0
MAX_VECTOR = 512  # numbers; larger ones are clouds, maps, features of images
BLACK_SEARCH_BYTES = 1 << 26  # of records, when a camera is suspected to be black throughout
_FLAGS = ("is_first", "is_last", "is_terminal", "reward", "discount")
_SOURCES = {"scripted": Source.SCRIPTED, "policy": Source.POLICY}
_OBSERVATION, _METADATA = "steps/observation/", "episode_metadata/"


def matches(path: Path) -> bool:
    return _tfds.is_rlds(path)


def read(path: Path, options: Options) -> Reader:
    """All splits that are here, train first; an episode that a split repeats from another is left out. UserError: damaged, no action."""
    return _Rlds(path, options)


class _Rlds:
    def __init__(self, path: Path, options: Options) -> None:
        info = read_object(inside(path, "dataset_info.json"))
        self.name = str(info.get("name") or path.parent.name)
        self.features = _tfds.read_features(path)
        self.left_out: dict[str, str] = {}  # feature -> why
        self.notes: Sequence[str] = []
        self.counted = [key for key, feature in self.features.items() if key.startswith("steps/") and feature.once]
        self.state, self.cameras, self.texts = self._observations()
        keys, mode = _oxe.action_of(self.name)
        self.action = [key for key in keys or self._called_action() if key in self.features and _is_vector(self.features[key])]
        if not self.action:
            raise UserError(f"features.json: no steps/action of numbers; it has {', '.join(self.features)[:300]}")
        splits, notes = _tfds.read_splits(path, info)
        self.records = _without_repeats(splits, notes)
        if not self.records:
            raise UserError("no tfrecord file of any split is here")
        chosen = chosen_cameras(list(self.cameras), options)
        if options.cameras is None:
            chosen = [camera for camera in chosen if not self._is_black(camera)]
        self.cameras = {camera: self.cameras[camera] for camera in chosen}
        rate = options.rate_hz or _oxe.rate_of(self.name)
        if rate is None:
            notes.append(f"rate: not recorded, and {self.name} is not known here; {ASSUMED_RATE_HZ:g} Hz is assumed (rate_hz)")
        elif options.rate_hz is None:
            notes.append(f"rate: not recorded; {rate:g} Hz is what Open X-Embodiment says of {self.name}")
        self.spec = RobotSpec(
            name=self.name,
            cameras={camera: self._size(key) for camera, key in self.cameras.items()},
            state={name: self._vector((key,), name) for name, key in self.state.items()},
            action=self._vector(self.action, "action"),
            action_mode=mode,
            rate_hz=rate or ASSUMED_RATE_HZ,
        )
        self.notes = (*notes, *self._describe())

    def __len__(self) -> int:
        return len(self.records)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        split, record = self.records[index]
        example = parse_example(record.read())
        steps = next((len(example[key]) for key in self.counted if key in example), 0)
        flags = {name: self._flag(name, example, steps) for name in _FLAGS}
        if not steps:
            raise UserError("the record has no step")
        rows = steps - 1 if steps > 1 and flags["is_last"][-1] else steps
        action = [self._numbers(key, example, steps).reshape(steps, -1)[:rows] for key in self.action]
        reward = flags["reward"].astype(np.float32)
        final = reward[-1:].sum()
        if rows < steps:
            reward[rows - 1 : rows] += final
        metadata = self._metadata(example)
        file_path = str(metadata.get("file_path", ""))
        operator = _oxe.operator_of(self.name, file_path)
        instructions = self._instructions(example, steps)
        return episode(
            self.spec,
            action=np.concatenate(action, 1),
            state={name: self._numbers(key, example, steps).reshape(steps, -1)[:rows] for name, key in self.state.items()},
            images={camera: self._frames(camera, key, example, steps)[:rows] for camera, key in self.cameras.items()},
            reward=reward[:rows],
            terminal=bool(flags["is_terminal"][-1:].any()),
            source=_SOURCES.get(operator, Source.HUMAN),
            meta={
                "task": self.name,
                "instruction": instructions[0] if instructions else None,
                **({"instructions": instructions} if len(instructions) > 1 else {}),
                "success": _success(file_path, float(final)),
                "operator": operator,
                "split": split,
                "episode_metadata": metadata,
                "origin": {"file": record.file.name, "byte": record.offset},
                "computed": "time from the rate; terminal and the last reward moved from the step without an action"
                if rows < steps
                else "time from the rate",
            },
        )

    # What the features mean --------------------------------------------------------------------------------------------------

    def _observations(self) -> tuple[dict[str, str], dict[str, str], list[str]]:
        """(state name -> feature, camera -> feature, the features that are instructions)."""
        state: dict[str, str] = {}
        cameras: dict[str, str] = {}
        texts: list[str] = []
        for key, feature in self.features.items():
            if not key.startswith("steps/"):
                continue
            leaf, name = key.rpartition("/")[2], re.sub(r"\W+", "_", key.removeprefix(_OBSERVATION))
            if "instruction" in leaf and "embedding" not in leaf and _is_words(feature):
                texts.append(key)  # Language Table spells it in code points
            elif not key.startswith(_OBSERVATION):
                continue
            elif reason := _unwanted(leaf, feature):
                self.left_out[key] = reason
            elif name in state or name in cameras:
                self.left_out[key] = "a name twice"
            elif _is_picture(feature):
                cameras[name] = key
            else:
                state[name] = key
        return state, cameras, texts

    def _called_action(self) -> list[str]:
        return [key for key in self.features if key == "steps/action" or key.startswith("steps/action/")]

    def _describe(self) -> list[str]:
        used = {*self.action, *self.texts, *self.state.values(), *self.left_out, *(f"steps/{flag}" for flag in _FLAGS)}
        for key in self.features:
            if key.startswith("steps/") and not key.startswith(_OBSERVATION) and key not in used:
                self.left_out[key] = "an embedding" if "embedding" in key else "not an observation"
        notes = []
        for reason in dict.fromkeys(self.left_out.values()):
            keys = [key.removeprefix("steps/") for key, why in self.left_out.items() if why == reason]
            notes.append(f"left out ({reason}): {', '.join(keys)}")
        notes.append("the step flagged is_last has no action and no row; its reward and is_terminal are the row's before")
        notes.append("success: a file_path with /success/ or /failure/, else true where the last reward is above 0, else unknown")
        if _oxe.operator_of(self.name, "") == "unknown":
            notes.append("who acted is not recorded: rows count as human")
        return notes

    def _vector(self, keys: Sequence[str], name: str) -> ArraySpec:
        parts = []
        for key in keys:
            dim = self.features[key].dim
            label = name if len(keys) == 1 else key.rpartition("/")[2]
            parts.append(_oxe.vector_of(self.name, key, dim) or vector((label,) if dim == 1 else dim, prefix=f"{label}_"))
        return ArraySpec(*(sum((getattr(part, field) for part in parts), ()) for field in ("names", "units", "low", "high")))

    # One record --------------------------------------------------------------------------------------------------------------

    def _numbers(self, key: str, example: dict[str, Values], steps: int) -> np.ndarray:
        return _tfds.numbers(key, self.features[key], example, steps)

    def _flag(self, name: str, example: dict[str, Values], steps: int) -> np.ndarray:
        key = f"steps/{name}"
        return self._numbers(key, example, steps).reshape(steps) if key in self.features else np.zeros(steps, bool)

    def _frames(self, camera: str, key: str, example: dict[str, Values], steps: int) -> np.ndarray:
        if self.features[key].kind == "tensor":
            return self._numbers(key, example, steps)
        return decode_images(_tfds.byte_strings(key, example, steps), self.spec.cameras[camera], key)

    def _instructions(self, example: dict[str, Values], steps: int) -> list[str]:
        """The texts that the steps have, each once."""
        found: dict[str, None] = {}
        for key in self.texts:
            if self.features[key].kind == "text":
                found |= dict.fromkeys(_tfds.text(value) for value in dict.fromkeys(_tfds.byte_strings(key, example, steps)))
            else:
                codes = self._numbers(key, example, steps).reshape(steps, -1)
                found |= dict.fromkeys("".join(chr(c) for c in row if 0 < c < 0x110000).strip() for row in np.unique(codes, axis=0))
        return [words for words in found if words]

    def _metadata(self, example: dict[str, Values]) -> dict[str, Any]:
        """Single numbers and short texts beside the steps."""
        found: dict[str, Any] = {}
        for key, feature in self.features.items():
            if key.startswith(_METADATA) and not feature.shape and len(values := example.get(key, ())) == 1:
                value = values[0]
                name = key.removeprefix(_METADATA)
                found[name] = _tfds.text(value)[:1000] if isinstance(value, memoryview) else value.item()
                if feature.dtype == "bool":
                    found[name] = bool(found[name])
        return found

    # Cameras -----------------------------------------------------------------------------------------------------------------

    def _size(self, key: str) -> tuple[int, int]:
        height, width, _ = self.features[key].shape
        if height is None or width is None:
            images = parse_example(self.records[0][1].read()).get(key, [])
            return image_size(images[0] if len(images) else b"", key)
        return height, width

    def _is_black(self, camera: str) -> bool:
        """Every frame of every episode is black: the camera was not there. has_image flags do not tell, they are often wrong."""
        key, searched, known = self.cameras[camera], 0, set()
        if self.features[key].kind != "image":
            return False
        for _, record in self.records:
            searched += record.length
            if searched > BLACK_SEARCH_BYTES:
                return False
            for image in dict.fromkeys(parse_example(record.read()).get(key, [])):
                if image not in known and decode_images([image], image_size(image, key), key).any():
                    return False
                known.add(image)
        self.left_out[key] = "black in every episode"
        return True


def _without_repeats(splits: list[Split], notes: list[str]) -> list[tuple[str, Record]]:
    """(split, record) of all splits but what one repeats from another. The files' own checksums tell which to compare."""
    kept: list[tuple[str, Record]] = []
    seen: dict[tuple[int, int], list[tuple[str, Record]]] = {}
    for split in splits:
        repeated = 0
        for record in split.records:
            alike = [other for name, other in seen.get((record.length, record.crc), []) if name != split.name]
            if any(_digest(other) == _digest(record) for other in alike):
                repeated += 1
                continue
            seen.setdefault((record.length, record.crc), []).append((split.name, record))
            kept.append((split.name, record))
        if repeated:
            notes.append(f"split {split.name}: {repeated} of {len(split.records)} episodes are in another split too; left out")
    return kept


def _unwanted(leaf: str, feature: Feature) -> str:
    """Why an observation is not read; empty: it is."""
    if "embedding" in leaf:
        return "an embedding"
    if "depth" in leaf or (feature.kind == "image" and feature.shape[-1:] != (3,)):
        return "depth, or not RGB"
    if _is_picture(feature):
        return ""
    return "" if _is_vector(feature) else f"not 1 to {MAX_VECTOR} numbers"


def _is_vector(feature: Feature) -> bool:
    return feature.numeric and 0 < feature.dim <= MAX_VECTOR


def _is_picture(feature: Feature) -> bool:
    if feature.kind == "image":
        return feature.dtype == "uint8" and len(feature.shape) == 3
    return feature.numeric and feature.dtype == "uint8" and len(feature.shape) == 3 and feature.shape[-1] == 3


def _is_words(feature: Feature) -> bool:
    return not feature.ragged and (feature.kind == "text" or (feature.numeric and feature.dtype == "int32" and len(feature.shape) == 1))


def _success(file_path: str, last_reward: float) -> bool | None:
    """DROID tells it by the folder only."""
    if "/success/" in file_path or "/failure/" in file_path:
        return "/success/" in file_path
    return True if last_reward > 0 else None


def _digest(record: Record) -> bytes:
    return hashlib.sha256(record.read()).digest()
