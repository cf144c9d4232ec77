"""The commands of docs/first-arm.md are commands: each verb takes its options. What they do is tested with the verbs, against doubles."""

from __future__ import annotations

import shlex
import shutil
from importlib import import_module
from pathlib import Path

import pytest

import hardware
from hardware import RobotConfig, arms
from robolearn import cli

ROOT = Path(__file__).parents[1]
LINES = [line.strip() for line in (ROOT / "docs/first-arm.md").read_text().splitlines() if line.startswith("    robolearn ")]


def test_there_are_some() -> None:
    assert {line.split()[1] for line in LINES} >= {"emulate", "calibrate", "teleop", "inspect", "deploy"}


@pytest.mark.parametrize("line", LINES)
def test_its_verb_takes_it(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "configs/robots/so101.yaml", "my-arm.yaml")  # as the page says
    shutil.copytree(ROOT / "configs", "configs")
    _, verb, *words = shlex.split(line)
    config = cli.parse(verb, import_module(f"robolearn.experiments.{verb}").Config, words)
    robot = getattr(config, "robot", None)
    if isinstance(robot, RobotConfig):
        assert robot.body in arms.names()
        assert hardware.spec_of(robot).cameras
