"""The shipped robot files: each loads, and builds the body it is for, but for the arm's presence."""

from __future__ import annotations

from pathlib import Path

import pytest

import hardware
from hardware import RobotConfig
from robolearn.core.config import load_config

FILES = sorted((Path(__file__).parents[3] / "configs/robots").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_is_a_robot(path: Path) -> None:
    config = load_config(path, RobotConfig, {})
    assert config.body == path.stem
    spec = hardware.spec_of(config)
    assert config.arm is not None
    assert set(spec.cameras) == set(config.arm.cameras)
