"""A double on a scene: seen by cameras, driven through its vendor's SDK, judged by what is true."""

from __future__ import annotations

import http.client
import time

import numpy as np
import pytest

import hardware
from hardware import RealConfig, RobotConfig
from hardware.cameras import CameraConfig
from hardware.doubles import Double, launch
from hardware.types import Command, HardwareError, Source

pytest.importorskip("rtde_control")


@pytest.fixture(scope="module")
def double():
    with launch("ur5e", scene="reach", size=(48, 64)) as double:
        yield double


def camera(double: Double, name: str):
    return CameraConfig(source=double.cameras[name], size=(48, 64)).open(name)


def column_of_ball(picture: np.ndarray) -> float:
    red, green, blue = np.moveaxis(picture.astype(int), -1, 0)
    found = np.nonzero(green > np.maximum(red, blue) + 60)[1]
    return float(found.mean()) if len(found) >= 4 else np.nan


def test_its_cameras_show_the_ball_where_it_is_hung(double: Double) -> None:
    assert set(double.cameras) == {"front", "wrist"}
    front = camera(double, "front")
    front.open()
    try:
        columns = []
        for y in (0.0, 0.27):
            double.place_goal(np.array([0.5, y, 0.2]))
            shown = front.time + 0.2  # drawn, sent and read since then, however busy the machine is
            while front.time < shown:
                time.sleep(0.01)
            columns.append(column_of_ball(front.read()))
        assert columns[1] > columns[0] + 10  # the camera faces the arm
    finally:
        front.close()


def test_what_no_camera_is_called(double: Double) -> None:
    host = double.cameras["front"].split("/")[2]
    asking = http.client.HTTPConnection(host, timeout=10)
    asking.request("GET", "/top")
    answer = asking.getresponse()
    assert (answer.status, answer.reason) == (404, "cameras here: front, wrist")
    asking.close()


def test_a_pilot_reaches_the_goal_through_the_vendors_sdk_from_cameras(double: Double) -> None:
    """Three seconds of a real arm's loop."""
    cameras = {name: CameraConfig(source=address, size=(48, 64)) for name, address in double.cameras.items()}
    arm = RealConfig(address=double.address, actions="ee_delta", cameras=cameras)
    goal = double.stage.draw(np.random.default_rng(3))
    double.place_goal(goal)
    with hardware.open(RobotConfig("ur5e", arm=arm)) as robot:
        robot.reset(np.random.default_rng(0))
        assert not double.reached
        for _ in range(60):
            observation = robot.observe()
            assert observation.images["wrist"].shape == (48, 64, 3)
            if double.reached:
                break
            step = np.clip(0.3 * (goal - observation.state["ee_pos"]), -0.015, 0.015)
            robot.send(Command(observation.time, np.append(step, 1.0).astype(np.float32), Source.SCRIPTED))
        assert double.reached
        assert robot.stopped is None
    assert double.panel.contacts == 0


def test_there_is_one_scene() -> None:
    with pytest.raises(HardwareError, match="double of so101: scene 'kitchen'; valid: reach, or none"):
        launch("so101", scene="kitchen")
