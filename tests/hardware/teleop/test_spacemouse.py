"""SpaceMouse: the mapping, the queue of reports, the ways it can be absent. The device object is a double of pyspacemouse's."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from hardware.teleop.operator import shape
from hardware.teleop.spacemouse import DEADZONE, SILENT_S, SpaceMouse
from hardware.testing import PilotContract
from hardware.types import ArraySpec, HardwareError, Observation, RobotSpec

STEP = 0.02
ACTION = ArraySpec(("dx", "dy", "dz", "gripper"), ("m", "m", "m", "1"), (-STEP, -STEP, -STEP, 0.0), (STEP, STEP, STEP, 1.0))
SPEC = RobotSpec("arm", {}, {}, ACTION, "ee_delta", 10.0)
NOW = Observation(0.0, {}, {})


@dataclass
class State:
    t: float = 0.0
    x: float = 0.0
    y: float = 0.0
    z: float = 0.0
    roll: float = 0.0
    pitch: float = 0.0
    yaw: float = 0.0
    buttons: list[int] = field(default_factory=lambda: [0, 0])


class Device:
    """Like pyspacemouse's: one mutable state, one queued report consumed by each read."""

    def __init__(self):
        self.state, self.queue, self.closed = State(), [], False

    def read(self):
        if self.queue:
            for name, value in self.queue.pop(0).items():
                setattr(self.state, name, value)
            self.state.t += 0.001
        return self.state

    def close(self):
        self.closed = True


class TestContract(PilotContract):
    def make(self):
        return SpaceMouse(SPEC, device=Device()), SPEC, NOW


def test_shape_is_still_in_the_dead_zone_continuous_and_full_at_the_stop():
    assert not shape(np.array([DEADZONE, -DEADZONE, 0.0]), DEADZONE).any()
    assert 0 < shape(np.array([DEADZONE + 1e-3, 0, 0]), DEADZONE)[0] < 1e-3
    np.testing.assert_allclose(shape(np.array([1.0, -1.0, 1.3]), DEADZONE), [1, -1, 1])


def test_turning_the_cap_turns_a_body_that_turns():
    most = (STEP, STEP, STEP, 0.05, 0.05, 0.05)
    names, units = ("dx", "dy", "dz", "rx", "ry", "rz", "gripper"), (*["m"] * 3, *["rad"] * 3, "1")
    device = Device()
    with SpaceMouse(replace(SPEC, action=ArraySpec(names, units, (*(-m for m in most), 0.0), (*most, 1.0))), device=device) as mouse:
        mouse.reset()
        device.queue = [{"roll": -1.0, "pitch": DEADZONE, "yaw": 1.0}]
        np.testing.assert_allclose(mouse.decide(NOW).action, [0, 0, 0, -0.05, 0, 0.05, 1], atol=1e-7)


def test_a_cap_that_went_out_of_range_deflected_moves_nothing_until_it_reports_again():
    device = Device()
    with SpaceMouse(SPEC, device=device) as mouse:
        device.queue = [{"x": 1.0}]
        mouse.reset()
        assert not mouse.decide(NOW).action[:3].any(), "that was before the episode"
        device.queue = [{"x": 1.0}]  # held still: the same report again
        moves = [bool(mouse.decide(replace(NOW, time=time)).action[0]) for time in (0.1, 0.2, 0.09 + SILENT_S, 0.4, 0.5)]
        assert moves == [True, True, True, False, False]
        device.queue = [{"x": -1.0}]
        assert mouse.decide(replace(NOW, time=0.6)).action[0] < 0


def test_the_newest_report_steers_and_buttons_act_once():
    device = Device()
    with SpaceMouse(SPEC, device=device) as mouse:
        mouse.reset()
        device.queue = [{"x": 0.3}, {"x": -0.5}, {"x": 1.0, "z": -1.0}]
        np.testing.assert_allclose(mouse.decide(NOW).action, [STEP, 0, -STEP, 1], atol=1e-7)
        device.queue = [{"x": 0.0, "z": 0.0, "buttons": [1, 0]}]
        assert mouse.decide(NOW).action[3] == 0
        assert mouse.decide(NOW).action[3] == 0, "a held button toggles once"
        device.queue = [{"buttons": [0, 1]}]
        mouse.decide(NOW)
        assert mouse.verdict == "success"
    assert device.closed


def test_reports_queued_between_episodes_are_not_flown():
    device = Device()
    with SpaceMouse(SPEC, device=device) as mouse:
        device.queue = [{"x": 1.0}] * 5 + [{"x": 0.0}]
        mouse.reset()
        assert not mouse.decide(NOW).action[:3].any()


def test_no_device_is_one_line():
    pytest.importorskip("pyspacemouse")
    with pytest.raises(HardwareError) as caught, SpaceMouse(SPEC):
        pass
    assert str(caught.value).startswith("spacemouse: ") and "\n" not in str(caught.value)


def test_no_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyspacemouse", None)
    with pytest.raises(HardwareError, match=r"robolearn\[spacemouse\]"), SpaceMouse(SPEC):
        pass


def test_unplugged_is_said():
    device = Device()
    pilot = SpaceMouse(SPEC, device=device)
    pilot.reset()

    def gone():
        raise OSError("read error")

    device.read = gone
    with pytest.raises(HardwareError, match=r"spacemouse: it is gone \(read error\)"):
        pilot.decide(NOW)
