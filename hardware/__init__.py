"""Bodies: arms, cameras and simulators behind one safety path. `open(RobotConfig(...))` is the only public door."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from types import ModuleType

import numpy as np

from hardware import arms
from hardware.governor import Limits
from hardware.kinematics import Box
from hardware.real import RealConfig
from hardware.robot import SafeRobot
from hardware.types import HardwareError, RobotSpec

_BODIES = {"robosuite": "hardware.mujoco.robosuite", "pusht": "hardware.pusht", "fake": "hardware.fake", "reach": "hardware.reach"}
_REMOTE = "remote"


@dataclass(frozen=True)
class RobotConfig:
    """Which body, and how it is set up. None = the body's own choice."""

    body: str = "robosuite:Lift"
    """a real arm by its name (ur5e, so101, fr3, ...), remote (a robot that another computer serves), reach:<arm> (a real arm in
    simulation, a ball to reach), robosuite:<environment> (Lift), robosuite:<environment>:pose (the tool turns as well),
    robosuite:<environment>:state (no images, the state says where things are), pusht, pusht:state (no images, block pose in the state),
    fake, fake:state"""
    rate_hz: float | None = None
    """decisions per second [Hz]"""
    image_size: int | None = None
    """side of the square camera images [px]; robosuite and reach 84, pusht 96, fake 32"""
    cameras: tuple[str, ...] | None = None
    """which cameras, by name"""
    stale_s: float | None = None
    """stop when no command was admitted for this long [s]"""
    workspace_low: tuple[float, float, float] | None = None
    """lower corner of the end effector's box [m]"""
    workspace_high: tuple[float, float, float] | None = None
    """upper corner of the end effector's box [m]"""
    arm: RealConfig | None = None
    """how a real arm is reached and what it may do; reach:<arm> takes all of it but the address and where pictures come from"""

    @property
    def variant(self) -> str:
        """What follows the colon in `body`: "Lift" of "robosuite:Lift", "" where there is none."""
        return self.body.partition(":")[2]

    def limits(self, body: Limits) -> Limits:
        """The body's own limits with what this config overrides. Raises HardwareError for half a workspace."""
        if (self.workspace_low is None) != (self.workspace_high is None):
            raise HardwareError("RobotConfig: give both workspace_low and workspace_high [m], or neither")
        if self.workspace_low is not None and self.workspace_high is not None:
            low, high = np.array(self.workspace_low), np.array(self.workspace_high)
            if not (low < high).all():
                raise HardwareError(f"RobotConfig.workspace_low: {self.workspace_low} m; not below workspace_high {self.workspace_high}")
            body = replace(body, workspace=Box(low, high))
        return body if self.stale_s is None else replace(body, stale_s=self.stale_s)


def open(config: RobotConfig) -> SafeRobot:
    """Build a body, not yet connected. Raises HardwareError for an unknown one, or one set up with impossible numbers."""
    return _module(config).build(config)


def spec_of(config: RobotConfig) -> RobotSpec:
    """What a body shows and takes, without starting it where the body's module can tell."""
    module = _module(config)
    return module.spec(config) if hasattr(module, "spec") else module.build(config).spec


def in_real_time(body: str) -> bool:
    """Does time pass there while one thinks? Of a remote robot it is taken to."""
    return body == _REMOTE or body in arms.names()


def _module(config: RobotConfig) -> ModuleType:
    if config.body == _REMOTE:
        return import_module("hardware.remote")
    name = config.body.partition(":")[0]
    if (real := name not in _BODIES) and config.body not in (names := arms.names()):
        simulated = "robosuite:<environment>, robosuite:<environment>:pose, robosuite:<environment>:state, reach:<arm>"
        valid = f"{simulated}, pusht, pusht:state, fake, fake:state"
        raise HardwareError(f"RobotConfig.body: {config.body!r}; valid: {valid}; real arms: {', '.join(names)}; remote")
    if config.arm is not None and config.arm.server_key is not None:
        raise HardwareError(f"RobotConfig.arm.server_key: given, but {config.body} is no remote robot; valid: remote")
    if config.arm is not None and not real and name != "reach":
        raise HardwareError(f"RobotConfig.arm: given, but {config.body} is no real arm; valid: {', '.join(arms.names())}")
    for field, value, low, high, unit in (
        ("rate_hz", config.rate_hz, 0.1, 1000.0, "Hz"),
        ("image_size", config.image_size, 8, 2048, "px"),
        ("stale_s", config.stale_s, 0.001, 60.0, "s"),
    ):
        if value is not None and not low <= value <= high:  # nan fails it too: a nan stale_s would switch the stop off
            raise HardwareError(f"RobotConfig.{field}: {value} {unit}; valid: {low:g} to {high:g}")
    return import_module("hardware.real" if real else _BODIES[name])  # only now: a robot computer need not have every simulator
