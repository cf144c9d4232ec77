"""What is left out of a picture changes no pixel; what is in the scene is in the picture."""

from __future__ import annotations

import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from hardware import RobotConfig
from hardware.mujoco.robosuite import assemble, start
from hardware.types import Command, HardwareError, Source


@cache
def robot():
    return assemble(RobotConfig(cameras=("agentview", "wrist", "sideview", "birdview")), start("Lift"))


def red(image: np.ndarray) -> np.ndarray:
    colours = image.astype(int)
    return (colours[..., 0] > 90) & (colours[..., 1:].max(axis=-1) < 80)


def test_leaving_out_what_is_not_seen_changes_no_pixel(monkeypatch):
    with robot() as panda:
        renderer = panda.cameras["wrist"]._renderer
        observation, rng = None, np.random.default_rng(3)
        left_out = 0
        for seed in range(4):
            panda.reset(np.random.default_rng(seed))
            observation = panda.observe()
            for _ in range(5):
                action = np.append(rng.uniform(-0.025, 0.025, 3), 1.0).astype(np.float32)
                panda.send(Command(observation.time, action, Source.SCRIPTED))
                observation = panda.observe()
            drawn = {name: camera.read() for name, camera in panda.cameras.items()}
            left_out += sum((~renderer._seen(camera._camera)).sum() for camera in panda.cameras.values())
            with monkeypatch.context() as patch:
                patch.setattr(renderer, "_seen", lambda camera: np.ones(len(renderer._visual), bool))
                for name, camera in panda.cameras.items():
                    np.testing.assert_array_equal(camera.read(), drawn[name], err_msg=name)
        assert left_out > 100


def test_pictures_are_upright_and_show_the_cube_where_it_is():
    with robot() as panda:
        panda.reset(np.random.default_rng(0))
        world = panda.world
        qpos = world.scene.data.qpos.copy()
        address = world.scene.model.joint("cube_joint0").qposadr[0]
        columns = []
        for y in (-0.1, 0.1):
            qpos[address : address + 3] = (0.0, y, 0.82)
            world.restore(qpos, np.zeros(world.scene.model.nv))
            rows, column = np.nonzero(red(panda.cameras["agentview"].read()))
            assert 4 <= len(rows) <= 120
            columns.append(column.mean())
        assert columns[0] < columns[1] - 15  # agentview faces the robot: world +y is to the right
        wrist = panda.cameras["wrist"].read()
        assert (wrist[-10:] < 90).mean() > 0.5  # the hand is at the lower edge


def test_every_frame_is_a_fresh_array():
    with robot() as panda:
        panda.reset(np.random.default_rng(0))
        first = panda.cameras["wrist"].read()
        kept = first.copy()
        panda.cameras["agentview"].read()
        np.testing.assert_array_equal(first, kept)
        assert first.flags.c_contiguous
        assert first.dtype == np.uint8


def test_a_closed_camera_says_so_and_opens_again():
    panda = robot()
    with panda:
        panda.reset(np.random.default_rng(0))
        before = panda.cameras["agentview"].read()
    with pytest.raises(HardwareError, match="not open"):
        panda.cameras["agentview"].read()
    with panda:
        panda.reset(np.random.default_rng(0))
        np.testing.assert_array_equal(panda.cameras["agentview"].read(), before)


def test_what_torch_loads_later_does_not_crash_a_process_that_has_drawn() -> None:
    """Mesa's LLVM and Triton's: whichever came second took the process down."""
    pytest.importorskip("triton", reason="torch came without Triton")
    code = """
import numpy as np, hardware
with hardware.open(hardware.RobotConfig(body="robosuite:Lift")) as robot:
    robot.reset(np.random.default_rng(0))
    assert robot.observe().images["agentview"].any()
import torch._dynamo
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["alive"]), done.stderr[-2000:]
