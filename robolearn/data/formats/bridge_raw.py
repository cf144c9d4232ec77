"""BridgeData V2 as it was recorded (Walke et al. 2023): folders of `<date>/raw/traj_group*/traj*` with pickles and JPEG images.

A trajectory has T images and states and the T-1 actions between them, so the last observation makes no row. Until 2021-07-23 the
cameras lagged by one step: there the first observation and the last action go too, as in the authors' own conversion
(bridgedata_raw_to_numpy). Actions are the commands; the authors' training puts the motion that was reached in their place.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import RobotSpec, Source
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.data.formats._image import decode_images, image_size
from robolearn.data.formats._oxe import BRIDGE_ACTION, BRIDGE_RATE_HZ, BRIDGE_STATE
from robolearn.data.formats._pickle import load, numbers
from robolearn.data.formats._reader import Options, Reader, chosen_cameras, episode, inside

LAG_UNTIL = datetime(2021, 7, 23)
MAX_TEXT_BYTES = 1 << 16
MAX_FOLDERS = 200  # that matches() looks into before it gives up
_DEPTH = 8  # bridgedata_raw/<dataset>/<kitchen>/<task>/<id>/<date>/raw/traj_group/traj
_FILES = ("obs_dict.pkl", "policy_out.pkl")


def matches(path: Path) -> bool:
    """A folder that is or holds, at whatever depth the data are cut out, a trajectory's folder."""
    ahead = [(path, 0)] if path.is_dir() else []
    for _ in range(MAX_FOLDERS):
        if not ahead:
            break
        folder, depth = ahead.pop()
        with os.scandir(folder) as entries:
            names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        if set(_FILES) <= names.keys():
            return True
        if depth < _DEPTH:  # the first folder's first folder and so on: whole data are too wide to look at level by level
            ahead += [(folder / name, depth + 1) for name in sorted(names, reverse=True) if names[name] and not name.startswith(".")]
    return False


def read(path: Path, options: Options) -> Reader:
    """Every trajectory below `path`. UserError: none that is whole, a pickle that holds more than data, damaged images."""
    return _Bridge(path, options)


@dataclass(frozen=True)
class _Trajectory:
    folder: Path
    cameras: tuple[str, ...]  # "images0", ...

    @property
    def recorded(self) -> tuple[Path, datetime] | None:
        """(the dated folder, its date); None: it was cut out from below it."""
        for parent in self.folder.absolute().parents[:4]:
            try:
                return parent, datetime.strptime(parent.name, "%Y-%m-%d_%H-%M-%S")
            except ValueError:
                continue
        return None


class _Bridge:
    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        notes: list[str] = []
        every = _find(path, notes)
        having = Counter(camera for one in every for camera in one.cameras)
        if not every:
            raise UserError(f"no folder with {' and '.join(_FILES)}")
        cameras = chosen_cameras(sorted(having, key=_number), options)
        if options.cameras is None:
            some = [camera for camera in cameras if having[camera] < len(every)]
            cameras = [camera for camera in cameras if camera not in some]
            for camera in some:
                notes.append(f"left out: {camera}, which {having[camera]} of {len(every)} trajectories have; name it in cameras for those")
        self.found = [one for one in every if set(cameras) <= set(one.cameras)]
        if len(self.found) < len(every):
            notes.append(f"left out: {len(every) - len(self.found)} of {len(every)} trajectories, which lack one of {', '.join(cameras)}")
        if undated := sum(one.recorded is None for one in self.found):
            notes.append(f"{undated} trajectories lie in no dated folder: that their cameras lagged (before 2021-07-23) is not assumed")
        notes.append("success and reward are not recorded; depth, tactile images, joint angles and efforts are left out")
        notes.append("action: the commanded deltas, not the reached ones that the authors' training puts in their place")
        self.notes: Sequence[str] = notes
        self.by_stamps = options.rate_hz is None
        self.spec = RobotSpec(
            name="bridge_dataset",  # the RLDS release's name: the same robot and the same numbers
            cameras={camera: self._size(self.found[0], camera) for camera in cameras},
            state={"state": BRIDGE_STATE},
            action=BRIDGE_ACTION,
            action_mode="ee_delta",
            rate_hz=options.rate_hz or BRIDGE_RATE_HZ,
        )

    def __len__(self) -> int:
        return len(self.found)

    def close(self) -> None:
        """Nothing is held open."""

    def __getitem__(self, index: int) -> Episode:
        one = self.found[index]
        where = one.folder.relative_to(self.path).as_posix()
        seen, policy = (load(inside(self.path, f"{where}/{name}"), f"{where}/{name}") for name in _FILES)
        if not isinstance(seen, dict) or not isinstance(policy, list) or not policy:
            raise UserError(f"{where}: expected a dict in {_FILES[0]} and a list in {_FILES[1]}")
        state = numbers(seen.get("full_state"), f"{where}: full_state")
        asked = [step.get("actions") if isinstance(step, dict) else step for step in policy]
        action = numbers(asked, f"{where}: actions")
        if state.shape[1:] != (7,) or action.shape[1:] != (7,) or len(state) != len(action) + 1:
            raise UserError(f"{where}: full_state {state.shape}, actions {action.shape}; expected (T, 7) and (T - 1, 7)")
        recorded = one.recorded
        lag = int(recorded is not None and recorded[1] < LAG_UNTIL)
        rows = slice(lag, len(state) - 1)
        if rows.stop <= rows.start:
            raise UserError(f"{where}: {len(action)} action; the camera's lag leaves no row")
        stamps = numbers(seen["time_stamp"], f"{where}: time_stamp") if self.by_stamps and "time_stamp" in seen else None
        time, clock = _time(stamps, len(state), self.spec.rate_hz)
        images = {}
        for camera in self.spec.cameras:
            files = self._files(one, camera, len(state), where)
            images[camera] = decode_images(files[rows], self.spec.cameras[camera], f"{where}/{camera}")
        collected = _json(recorded[0] / "collection_metadata.json") if recorded else {}
        instructions = _instructions(one.folder / "lang.txt")
        scripted = any("scripted" in str(text).lower() for text in (one.folder.absolute(), collected.get("policy_desc", "")))
        return episode(
            self.spec,
            time=time[rows] - time[rows][0],
            action=action[: len(action) - lag],
            state={"state": state[rows]},
            images=images,
            source=Source.SCRIPTED if scripted else Source.HUMAN,
            meta={
                "task": recorded[0].parent.parent.name if recorded else one.folder.name,
                "instruction": instructions[0] if instructions else None,
                **({"instructions": instructions} if len(instructions) > 1 else {}),
                "success": None,
                "operator": "scripted" if scripted else "human",
                "collection": collected,
                "origin": {"file": where, "recorded": recorded[1].isoformat() if recorded else None},
                "computed": clock + ("; first observation and last action dropped: the camera lagged" if lag else ""),
            },
        )

    def _files(self, one: _Trajectory, camera: str, count: int, where: str) -> list[Path]:
        here = {name for name in os.listdir(one.folder / camera) if re.fullmatch(r"im_[0-9]+\.jpg", name)}
        names = [f"im_{step}.jpg" for step in range(count)]
        if here != set(names):
            raise UserError(f"{where}/{camera}: {len(here)} images; expected im_0.jpg to im_{count - 1}.jpg, one for each state")
        return [inside(self.path, (one.folder / camera / name).relative_to(self.path)) for name in names]

    def _size(self, one: _Trajectory, camera: str) -> tuple[int, int]:
        relative = (one.folder / camera / "im_0.jpg").relative_to(self.path)
        return image_size(inside(self.path, relative), relative.as_posix())


def _find(path: Path, notes: list[str]) -> list[_Trajectory]:
    found: list[_Trajectory] = []
    lmdb = broken = 0
    for folder, folders, files in os.walk(path):
        if "lmdb" in Path(folder).relative_to(path).as_posix():
            folders.clear()
            lmdb += 1
            continue
        if cameras := sorted((name for name in folders if re.fullmatch(r"images[0-9]{1,4}", name)), key=_number):
            folders.clear()
            whole = set(_FILES) <= set(files)
            broken += not whole
        else:
            whole = set(_FILES) <= set(files)
        if whole:
            found.append(_Trajectory(Path(folder), tuple(cameras)))
    if lmdb:
        notes.append(f"left out: {lmdb} folders named lmdb, as in the authors' conversion")
    if broken:
        notes.append(f"left out: {broken} trajectories without {' or '.join(_FILES)}")
    return sorted(found, key=lambda one: [_natural(part) for part in one.folder.parts])


def _natural(name: str) -> list[tuple[int, str]]:
    """traj2 before traj10."""
    return [(int(digits or -1), text) for digits, text in re.findall(r"([0-9]{1,18})|([^0-9]+)", name)]


def _number(camera: str) -> int:
    return int(camera.removeprefix("images"))


def _time(stamps: np.ndarray | None, count: int, rate_hz: float) -> tuple[np.ndarray, str]:
    """float64 (count,) [s], and where it is from: the recorded stamps [s], unless there are none or they go back."""
    if stamps is not None:
        time = stamps.astype(np.float64).ravel()
        if len(time) == count and np.isfinite(time).all() and (np.diff(time) > 0).all():
            return time, "time starts at 0"
    return np.arange(count) / rate_hz, "time from the rate"


def _instructions(file: Path) -> list[str]:
    """One line for each person who described it; lines on how sure they were are dropped."""
    lines = _text(file).splitlines()
    return list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.lower().lstrip().startswith("confidence")))


def _json(file: Path) -> dict[str, Any]:
    """The single values of a small JSON object; empty where there is none."""
    try:
        data = json.loads(_text(file) or "{}")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file.name}: no JSON ({error})") from error
    return {k: v for k, v in data.items() if isinstance(v, str | int | float)} if isinstance(data, dict) else {}


def _text(file: Path) -> str:
    if not file.is_file():
        return ""
    with file.open("rb") as stream:
        return stream.read(MAX_TEXT_BYTES).decode("utf8", "replace")
