"""How an arm's raw readings become joint angles: data beside the run, with a hash in every episode, never only in a servo's EEPROM."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from hardware.types import HardwareError


@dataclass(frozen=True)
class Calibration:
    """q[j] = sign[j] * (raw[channel of j] - offset[j]) * scale[j], for joint j of ArmSpec.joints; the gripper goes from closed to open."""

    arm: str
    """The arm's name, so101."""
    channel: tuple[int, ...]
    """Which device each joint is: a servo's or motor's id, or its index in the vendor's list."""
    offset: tuple[float, ...]
    """Raw reading where q = 0."""
    sign: tuple[int, ...]
    """+1 or -1."""
    scale: tuple[float, ...]
    """Radians per raw unit."""
    gripper: int | None = None
    """The gripper's channel; None: it has none, or the vendor's own."""
    gripper_closed: float = 0.0
    """Raw reading closed."""
    gripper_open: float = 1.0
    """Raw reading open."""

    def __post_init__(self) -> None:
        joints = len(self.channel)
        for name in ("offset", "sign", "scale"):
            if len(value := getattr(self, name)) != joints:
                raise HardwareError(f"calibration.{name}: {len(value)} values; expected {joints}, one per channel")
        every = [*self.channel, *(() if self.gripper is None else (self.gripper,))]
        if len(set(every)) != len(every):
            raise HardwareError(f"calibration.channel: {every}; expected each device once")
        if any(s not in (1, -1) for s in self.sign):
            raise HardwareError(f"calibration.sign: {list(self.sign)}; valid: 1, -1")
        numbers = (*self.offset, *self.scale, self.gripper_closed, self.gripper_open)
        if not np.isfinite(numbers).all() or any(s <= 0 for s in self.scale):
            raise HardwareError(f"calibration.scale: {list(self.scale)} rad per unit; expected finite numbers above 0, and finite offsets")
        if self.gripper_closed == self.gripper_open:
            raise HardwareError(f"calibration.gripper_open: {self.gripper_open}, as gripper_closed; expected two readings")

    def angles(self, raw: Sequence[float] | np.ndarray) -> np.ndarray:
        """Joints (J,) [rad] of raw readings (J,), both in the order of `channel`."""
        return np.array(self.sign) * (np.asarray(raw, dtype=np.float64) - self.offset) * self.scale

    def raw(self, q: np.ndarray) -> np.ndarray:
        """Raw readings (J,) of joints (J,) [rad]."""
        return np.array(self.sign) * np.asarray(q, dtype=np.float64) / self.scale + self.offset

    def openness(self, raw: float) -> float:
        """0 closed .. 1 open."""
        return float(np.clip((raw - self.gripper_closed) / (self.gripper_open - self.gripper_closed), 0.0, 1.0))

    def gripper_raw(self, openness: float) -> float:
        return self.gripper_closed + openness * (self.gripper_open - self.gripper_closed)

    @property
    def digest(self) -> str:
        """Twelve hex digits that differ as soon as any number does."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @staticmethod
    def load(path: Path) -> Calibration:
        """Raises HardwareError naming file and field."""
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
            return Calibration(**given)
        except OSError as error:
            raise HardwareError(f"{path}: {error.strerror}; make one with `robolearn calibrate`") from error
        except (ValueError, TypeError, AttributeError) as error:
            names = ", ".join(field.name for field in fields(Calibration))
            raise HardwareError(f"{path}: not a calibration: {error}; fields: {names}") from error
        except HardwareError as error:
            raise HardwareError(f"{path}: {error}") from error

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".part")
        fresh.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
        fresh.replace(path)
