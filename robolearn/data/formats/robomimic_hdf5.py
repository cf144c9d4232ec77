"""robomimic's datasets (Mandlekar et al. 2021): one HDF5 file, data/demo_<n>/{obs, actions, rewards, dones}, mask/<filter key>.

Layout and conventions: robomimic's documentation, "Dataset Structure" and "Data Conventions". Files written here hold beside them
what robomimic has no place for, in attributes and groups it passes over, so that reading them back loses nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode, Stream
from robolearn.data.formats._hdf5 import Group, open_hdf5, read_rgb, rgb_size, root_has
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode
from robolearn.data.formats._robomimic_environment import Environment
from robolearn.data.formats._robomimic_write import OWN, image_key, splits_of, write
from robolearn.data.formats.robosuite_hdf5 import is_raw

__all__ = ["matches", "read", "write"]

RATE_HZ = 20.0  # robosuite's default control_freq, and that of all of robomimic's own datasets


def matches(path: Path) -> bool:
    return root_has(path, _is_robomimic)


def _is_robomimic(root: Group) -> bool:
    if "data" not in root or is_raw(data := root.group("data")):
        return False
    demos = _demos(data)
    return bool(demos) and ("env_args" in data.attributes() or f"{demos[0]}/obs" in data)


def read(path: Path, options: Options) -> Reader:
    """Demonstrations with observations. UserError: damaged, or simulator states only."""
    with open_hdf5(path) as root:
        data = root.group("data")
        demos = _demos(data)
        if not demos:
            raise UserError("data holds no demo_<n>")
        if f"{demos[0]}/obs" not in data:
            raise UserError(
                f"data/{demos[0]} has no obs, only simulator states; extract observations first: "
                "python -m robomimic.scripts.dataset_states_to_obs --dataset FILE --output_name OUT.hdf5 --done_mode 2"
            )
        return (_Own if OWN in data.attributes() else _Foreign)(path, demos, root, options)


class _File:
    spec: RobotSpec
    notes: Sequence[str]

    def __init__(self, path: Path, demos: list[str], root: Group) -> None:
        self.path, self.demos = path, demos
        self._splits: dict[str, list[str]] = {}  # demo -> the filter keys that list it
        for key in root.group("mask").names() if "mask" in root else ():
            for demo in root.text(f"mask/{key}"):
                self._splits.setdefault(demo, []).append(key)

    def __len__(self) -> int:
        return len(self.demos)

    def __getitem__(self, index: int) -> Episode:
        name = self.demos[index]
        with open_hdf5(self.path) as root:
            return self._read(root.group(f"data/{name}"), name, self._splits.get(name, []))

    def _read(self, demo: Group, name: str, splits: list[str]) -> Episode:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is held open."""


class _Foreign(_File):
    """What robomimic and its friends write; env_args is all that tells what the numbers are."""

    def __init__(self, path: Path, demos: list[str], root: Group, options: Options) -> None:
        super().__init__(path, demos, root)
        self.env = Environment.of(root.group("data").attributes())
        self.source = Source.POLICY if "mg" in path.parts else Source.HUMAN
        obs = root.group(f"data/{demos[0]}/obs")
        cameras, state, left_out = {}, {}, []
        for name in obs.names():
            dataset = None if obs.is_group(name) else obs.dataset(name)
            if dataset is not None and dataset.ndim == 4 and (size := rgb_size(dataset)):
                cameras[name] = size
            elif dataset is None or dataset.dtype.kind not in "fiub" or dataset.ndim not in (1, 2) or name.startswith("lang_emb"):
                left_out.append(name)
            else:
                state[name] = self.env.state_spec(name, dataset.shape[1] if dataset.ndim == 2 else 1)
        chosen = {name: cameras[name] for name in chosen_cameras(list(cameras), options)}
        rate = options.rate_hz or self.env.rate_hz
        action, mode = self.env.action_spec(math.prod(root.dataset(f"data/{demos[0]}/actions").shape[1:]))
        self.spec = RobotSpec(f"robomimic:{self.env.name}", chosen, state, action, mode, rate or RATE_HZ)
        self._xyzw = [name for name, part in state.items() if self.env.is_quaternion(name, part.dim)]
        notes = [
            "next_obs (obs, one row later) and states (the simulator's own) left out",
            "terminal where the last row is both done and a success: robomimic also sets done where a recording ends",
            "taken as a policy's: it lies in mg, machine-generated" if self.source is Source.POLICY else "operator unknown, taken as human",
        ]
        if left_out:
            notes.append(f"left out, neither colour images nor vectors: {', '.join(left_out)}")
        if self._xyzw:
            notes.append(f"quaternions turned from robosuite's xyzw to wxyz: {', '.join(self._xyzw)}")
        if mode == "unknown":
            notes.append("actions as recorded, in [-1, 1] by robomimic's convention; env_args does not say what they are")
        if rate is None:
            notes.append(f"{RATE_HZ:g} Hz assumed: env_args has no control_freq")
        self.notes: Sequence[str] = notes

    def _read(self, demo: Group, name: str, splits: list[str]) -> Episode:
        action = demo.array("actions", ndim=2)
        state = {key: _columns(demo.array(f"obs/{key}")) for key in self.spec.state}
        for key in self._xyzw:
            state[key] = state[key][:, [3, 0, 1, 2]]
        reward = demo.array("rewards").reshape(-1) if "rewards" in demo else np.zeros(len(action))
        done = demo.array("dones").reshape(-1) if "dones" in demo else np.zeros(len(action))
        success = self.env.success(reward) if "rewards" in demo else None
        meta = {
            "task": self.env.name,
            "instruction": _instruction(demo.attributes()),
            "success": success,
            "operator": "policy" if self.source is Source.POLICY else "unknown",
            "origin": {"file": self.path.name, "demo": name},
            "computed": "time from the rate",
        }
        return episode(
            self.spec,
            action=_columns(action),
            state=state,
            images={key: read_rgb(demo.dataset(f"obs/{key}"), size) for key, size in self.spec.cameras.items()},
            reward=reward,
            terminal=bool(done[-1:].any() and self.env.success(reward[-1:])),
            source=self.source,
            meta=meta | ({"splits": splits} if splits else {}),
        )


class _Own(_File):
    """What was written here: everything comes back as it was."""

    def __init__(self, path: Path, demos: list[str], root: Group, options: Options) -> None:
        super().__init__(path, demos, root)
        try:
            spec = RobotSpec.from_dict(json.loads(root.group("data").attributes()[OWN])["spec"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"data's attribute {OWN} is damaged ({type(error).__name__}: {error})") from error
        chosen = {name: spec.cameras[name] for name in chosen_cameras(list(spec.cameras), options)}
        self.spec = replace(spec, cameras=chosen, rate_hz=options.rate_hz or spec.rate_hz)
        asked = f"{self.spec.rate_hz:g} Hz as asked for; the file says {spec.rate_hz:g} Hz, and time is the recorded one"
        self.notes: Sequence[str] = [asked] if self.spec.rate_hz != spec.rate_hz else []

    def _read(self, demo: Group, name: str, splits: list[str]) -> Episode:
        own, cameras = demo.group(OWN), self.spec.cameras
        try:
            meta = dict(json.loads(str(own.attributes()["meta"])))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{own.name}: its meta is damaged ({error})") from error
        if set(splits) != set(splits_of(meta)):  # somebody split it anew, with robomimic's split_train_val
            meta["splits"] = splits
        return Episode(
            time=own.array("time"),
            images={key: read_rgb(demo.dataset(f"obs/{image_key(key)}"), size) for key, size in cameras.items()},
            state={key: demo.array(f"obs/{key}") for key in self.spec.state},
            action=own.array("action"),
            requested_action=own.array("requested_action"),
            reward=demo.array("rewards"),
            terminal=own.array("terminal").astype(bool),
            source=own.array("source"),
            meta=meta,
            image_time={key: own.array(f"image_time/{key}") for key in cameras if f"image_time/{key}" in own},
            streams={key: Stream(own.array(f"streams/{key}/time"), own.array(f"streams/{key}/values")) for key in self.spec.streams},
        )


def _demos(data: Group) -> list[str]:
    return [name for name in data.names() if name.startswith("demo_") and data.is_group(name)]


def _columns(values: np.ndarray) -> np.ndarray:
    """(T,) or (T, ...) as (T, D)."""
    return values.reshape(len(values), math.prod(values.shape[1:]))


def _instruction(attributes: dict[str, Any]) -> str | None:
    """robomimic 0.5 and RoboCasa keep it in the demo's ep_meta, as JSON."""
    try:
        lang = json.loads(attributes.get("ep_meta", "{}")).get("lang")
    except (AttributeError, TypeError, ValueError):
        return None
    return lang if isinstance(lang, str) else None
