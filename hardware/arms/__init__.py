"""Real arms, one file per family. A seventh is one more file here with a FAMILY in it; nothing else has to know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from hardware.arms.model import ArmModel
from hardware.calibration import Calibration
from hardware.types import Arm, HardwareError


@dataclass(frozen=True)
class Family:
    """What one vendor's SDK can drive. Importing its file imports no SDK; `drive(...).connect()` does, and says which extra is missing."""

    models: Mapping[str, ArmModel]
    """name -> the arm; names are unique among all families and are what a user types: ur5e, so101."""
    drive: Callable[[ArmModel, str, Calibration | None], Arm]
    """(the arm, its address, how its readings become joints) -> a driver, not yet connected."""
    double: str
    """The module whose `serve` speaks the arm's protocol in its place, e.g. hardware.doubles.ur."""
    address: str
    """What an address looks like, for messages: 192.168.1.10, /dev/ttyACM0, can0."""


@cache
def families() -> dict[str, Family]:
    """File name -> family, of every file in this folder that has one."""
    found = {}
    for module in iter_modules(__path__):
        family = getattr(import_module(f"{__name__}.{module.name}"), "FAMILY", None)
        if family is not None:
            found[module.name] = family
    return found


def find(name: str) -> tuple[Family, ArmModel]:
    """An arm by the name a user types. Raises HardwareError with all names."""
    for family in families().values():
        if name in family.models:
            return family, family.models[name]
    raise HardwareError(f"arm: {name!r}; valid: {', '.join(names())}")


def names() -> list[str]:
    """Of all arms."""
    return sorted(model for family in families().values() for model in family.models)


def drive(name: str, address: str, calibration: Calibration | None = None) -> Arm:
    """The driver of an arm, not yet connected."""
    family, model = find(name)
    if not address:
        raise HardwareError(f"arm {name}: no address; one looks like {family.address}")
    return family.drive(model, address, calibration)
