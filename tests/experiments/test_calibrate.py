"""The calibrate verb: a scripted person moves a double of an SO-101; a real one presses Enter at a pseudo-terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hardware import arms
from hardware.calibration import Calibration
from hardware.doubles import Double, launch
from hardware.types import HardwareError
from robolearn.core.errors import UserError
from robolearn.experiments import calibrate
from robolearn.experiments.calibrate import Config

SDKS = {"so101": "scservo_sdk", "koch": "dynamixel_sdk", "yam": "can"}
feetech = pytest.mark.skipif(find_spec("scservo_sdk") is None, reason="robolearn[feetech] is not installed")


class Scripted:
    """Does what the words ask for; `lazy`: the joint that it hardly moves the first time."""

    def __init__(self, double: Double, lazy: str = "") -> None:
        self.double, self.lazy, self.spec = double, lazy, double.model.spec
        self.asked: list[str] = []

    def do(self, words: str, look: Callable[[], object]) -> None:
        self.asked.append(words)
        if words.startswith("Hold"):
            return
        q, joint = self.double.panel.q, words.split(":")[0]
        if words.startswith("Zero"):
            self.slowly(0.0 * q, 0.5, look)
        elif joint in self.spec.joints:
            place, end = self.spec.joints.index(joint), self.spec.q_min if "other way" in words else self.spec.q_max
            q[:] = 0.0
            q[place] = 0.05 if joint == self.lazy else end[place]
            self.lazy = "" if joint == self.lazy else self.lazy
            self.slowly(q, 0.5, look)
        else:
            self.slowly(q, float(words.startswith("Open")), look)

    def slowly(self, q: np.ndarray, gripper: float, look: Callable[[], object]) -> None:
        start = self.double.panel.q
        open_before = self.double.panel.gripper
        for share in (0.25, 0.5, 0.75, 1.0):
            self.double.place(start + share * (q - start), open_before + share * (gripper - open_before))
            look()


@feetech
def test_a_person_calibrates_an_arm_whose_horns_were_mounted_turned() -> None:
    said = io.StringIO()
    with launch("so101", shift=100, limp=True) as double:
        double.panel.hold = 1  # the person's other hand
        person = Scripted(double, lazy="elbow_flex")
        found = calibrate.calibrate("so101", double.address, person, Console(file=said, width=200))
        assert not double.panel.powered
        np.testing.assert_allclose(found.offset, 2148, atol=1)
        assert found.sign == (1,) * 5 and found.channel == (1, 2, 3, 4, 5) and found.arm == "so101"
        assert (found.gripper_closed, found.gripper_open) == (2034, 3286)
        assert len(person.asked) == 1 + 1 + 2 * 5 + 1 + 2, "the lazy one was asked for again"
        assert "elbow_flex: moved 3 degrees" in said.getvalue() and "lay the arm down" in said.getvalue()
        q = np.array([0.3, -0.4, 0.5, -0.6, 0.7])
        arm = arms.drive("so101", double.address, found)
        arm.connect()
        double.place(q, 0.5)
        state = arm.read()
        arm.close()
        np.testing.assert_allclose(state.q, q, atol=3e-3)
        assert state.gripper == pytest.approx(0.5, abs=2e-3)


@pytest.mark.parametrize("name", ["koch", "yam"])
def test_other_arms_whose_motors_do_not_know_how_they_were_mounted(name: str) -> None:
    pytest.importorskip(SDKS[name])
    model = arms.find(name)[1]
    with launch(name) as double:
        double.panel.hold = 1
        found = calibrate.calibrate(name, double.address, Scripted(double), Console(file=io.StringIO(), width=200))
        assert not double.panel.powered
        q = 0.3 * model.spec.q_max
        double.place(q, 0.4)
        arm = arms.drive(name, double.address, found)
        arm.connect()
        state = arm.read()
        np.testing.assert_allclose(state.q, q, atol=3e-3)
        assert state.gripper == pytest.approx(0.4, abs=2e-3)
        arm.write(state.q, state.gripper)
        arm.close()


@feetech
def test_a_horn_mounted_so_that_the_range_leaves_the_turn_is_refused() -> None:
    with launch("so101", shift=400, limp=True) as double:
        double.panel.hold = 1

        class Careful(Scripted):
            def slowly(self, q: np.ndarray, gripper: float, look: Callable[[], object]) -> None:
                super().slowly(np.clip(q, -2.0, 2.0), gripper, look)  # never over the end of the turn

        person = Careful(double)
        with pytest.raises(HardwareError, match=r"calibration\.offset: wrist_roll would go from 659 to 4300; .*; unscrew that joint"):
            calibrate.calibrate("so101", double.address, person, Console(file=io.StringIO()))


@feetech
def test_at_a_terminal_until_the_input_ends(tmp_path: Path) -> None:
    """Enter, Enter, and then an end: nothing is written."""
    out = tmp_path / "so101.json"
    with launch("so101", limp=True) as double:
        double.panel.hold = 1
        command = [sys.executable, "-m", "robolearn.cli", "calibrate", "--address", double.address, "--out", str(out)]
        ended = subprocess.run(command, input="\n\n", capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2, ended.stderr
    assert "Hold the arm" in ended.stderr and "Zero pose: upper arm upright" in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith("calibrate: the input ended; a person has to press Enter")
    assert not out.exists() and not os.listdir(tmp_path)


def test_the_file_is_written_whole_and_its_hash_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    from hardware.arms.feetech import calibration

    monkeypatch.setattr(calibrate, "calibrate", lambda *_: calibration("so101"))
    out = tmp_path / "new" / "arm.json"
    calibrate.run(Config(address="x", out=out))
    assert Calibration.load(out) == calibration("so101")
    assert f"calibration {calibration('so101').digest}; use it with --robot.arm.calibration" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"arm\.json is there; --overwrite replaces it"):
        calibrate.run(Config(address="x", out=out))
    calibrate.run(Config(address="x", out=out, overwrite=True))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (Config(arm="r2d2"), "arm: 'r2d2'; valid: .*so101"),
        (Config(arm="ur5e"), "arm: ur5e is calibrated by its own controller.*valid: .*gello"),
    ],
)
def test_what_cannot_be_calibrated(config: Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        calibrate.run(config)


def test_no_address_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="arm so101: no address; one looks like /dev/ttyACM0"):
        calibrate.run(Config(out=tmp_path / "x.json"))
