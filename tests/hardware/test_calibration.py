"""Raw readings and joint angles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.calibration import Calibration
from hardware.types import HardwareError

STS = Calibration("so101", (1, 2, 3), (2048.0, 1000.0, 3000.0), (1, -1, 1), (2 * np.pi / 4096,) * 3, 6, 2048.0, 3000.0)


@given(st.lists(st.floats(-3, 3), min_size=3, max_size=3), st.floats(0, 1))
def test_there_and_back(q: list[float], openness: float) -> None:
    np.testing.assert_allclose(STS.angles(STS.raw(np.array(q))), q, atol=1e-9)
    assert STS.openness(STS.gripper_raw(openness)) == pytest.approx(openness)


def test_files_and_hashes(tmp_path: Path) -> None:
    STS.save(tmp_path / "new" / "so101.json")
    assert Calibration.load(tmp_path / "new" / "so101.json") == STS
    assert replace(STS, offset=(2048.0, 1000.0, 3000.1)).digest != STS.digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sign": (1, 0, 1)}, "calibration.sign: .* valid: 1, -1"),
        ({"offset": (0.0,)}, "calibration.offset: 1 values; expected 3"),
        ({"scale": (1.0, -1.0, 1.0)}, "calibration.scale"),
        ({"offset": (0.0, np.nan, 0.0)}, "finite"),
        ({"gripper": 2}, "each device once"),
        ({"gripper_open": 2048.0}, "two readings"),
    ],
)
def test_what_is_no_calibration(change: dict, message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        replace(STS, **change)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not a calibration"), ('{"arms": 1}', "fields: arm, channel"), ("[]", "not a calibration")]
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(HardwareError, match=rf"c\.json: .*{message}"):
        Calibration.load(tmp_path / "c.json")


def test_an_absent_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(HardwareError, match="robolearn calibrate"):
        Calibration.load(tmp_path / "c.json")
