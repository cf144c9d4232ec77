"""The scene around every arm: goals its tool gets to, and cameras that see the ball."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from hardware import arms
from hardware.mujoco.filming import Filming
from hardware.mujoco.stage import BALL, CAMERAS, staged
from hardware.types import HardwareError

SIZE = (84, 84)


def green(picture: np.ndarray) -> np.ndarray:
    red, much, blue = np.moveaxis(picture.astype(int), -1, 0)
    return much > np.maximum(red, blue) + 60


@pytest.mark.parametrize("name", arms.names())
def test_it_stands_on_a_table_and_has_somewhere_to_go(name: str) -> None:
    stage = staged(name)
    model, home = stage.arm.compile(), stage.arm.spec.home
    data = mujoco.MjData(model)
    data.qpos[[model.joint(joint).qposadr[0] for joint in stage.arm.spec.joints]] = home
    mujoco.mj_forward(model, data)
    assert data.ncon == 0
    assert {model.camera(number).name for number in range(model.ncam)} == set(CAMERAS)
    np.testing.assert_allclose(data.site("tool").xpos, stage.tool(home), atol=1e-9)
    assert stage.goals.low[2] > 0.03
    assert 0.01 <= stage.near <= 0.03 + 1e-9
    assert stage.least > 3 * stage.near
    rng = np.random.default_rng(0)
    for goal in [stage.draw(rng) for _ in range(5)]:
        q, way = home, goal - stage.tool(home)
        assert np.linalg.norm(way) >= stage.least
        assert not stage.reached(home, goal)
        for _ in range(20):
            q, _ = stage.kinematics.target(np.append(way / 20, 0.0), q, 0.0)
        assert stage.way(q, goal) < 1e-3
        assert stage.reached(q, goal)
        assert stage.reward(home, goal) < stage.reward(q, goal) == 1.0


@pytest.mark.parametrize("name", ["ur5e", "so101"])
def test_both_cameras_see_the_ball_at_the_tool_and_one_sees_nearly_every_goal(name: str) -> None:
    stage = staged(name)
    filming, home, rng = Filming(stage.arm), stage.arm.spec.home, np.random.default_rng(1)
    filming.open(SIZE)
    try:
        goals = [stage.draw(rng) for _ in range(40)]
        seen = [max(green(filming.picture(camera, SIZE, home, goal)).sum() for camera in CAMERAS) >= 8 for goal in goals]
        assert np.mean(seen) >= 0.9  # behind the hand no camera sees it
        ahead = stage.tool(home) + [0.0, 0.0, -0.03]
        for camera in CAMERAS:
            assert green(filming.picture(camera, SIZE, home, ahead)).sum() >= 8, camera
    finally:
        filming.close()


def test_noise_makes_every_picture_another_and_a_seed_the_same() -> None:
    stage = staged("so101")
    filming, home = Filming(stage.arm), stage.arm.spec.home
    goal = stage.draw(np.random.default_rng(0))
    filming.open(SIZE)
    try:
        filming.reseed(1)
        first, second = (filming.picture("front", SIZE, home, goal) for _ in range(2))
        assert 0 < np.abs(first.astype(int) - second).max() <= 4
        filming.reseed(1)
        np.testing.assert_array_equal(filming.picture("front", SIZE, home, goal), first)
    finally:
        filming.close()


def test_the_ball_is_for_looking_only() -> None:
    stage = staged("ur5e")
    model = stage.arm.compile()
    data = mujoco.MjData(model)
    data.qpos[[model.joint(joint).qposadr[0] for joint in stage.arm.spec.joints]] = stage.arm.spec.home
    data.mocap_pos[model.body(BALL).mocapid[0]] = stage.tool(stage.arm.spec.home) + [0.0, 0.0, 0.05]
    mujoco.mj_forward(model, data)
    assert data.ncon == 0


def test_an_unknown_arm() -> None:
    with pytest.raises(HardwareError, match="arm: 'r2d2'; valid: .*so101"):
        staged("r2d2")
