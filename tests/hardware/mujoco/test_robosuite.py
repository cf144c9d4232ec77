"""The simulated Panda keeps the contracts of any body, and what the simulator adds to them."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.mujoco.robosuite import ENVIRONMENTS, assemble, spec, start
from hardware.robot import SafeRobot
from hardware.testing import ArmContract, LimitProbe, RobotContract
from hardware.types import Arm, Clock, Command, HardwareError, Source


@cache
def scene():
    return start("Lift")  # seconds: once for all tests


def robot_of(**options) -> SafeRobot:
    return assemble(RobotConfig(body="robosuite:Lift", **options), scene())


def fly(robot: SafeRobot, action: list[float], steps: int):
    observation = robot.observe()
    for _ in range(steps):
        robot.send(Command(observation.time, np.array(action, np.float32), Source.SCRIPTED))
        observation = robot.observe()
    return observation


class TestArm(ArmContract):
    def make(self) -> tuple[Arm, Clock]:
        robot = robot_of(cameras=())
        robot.world.reset(np.random.default_rng(0))
        return robot.arm, robot.clock


class TestBody(RobotContract):
    def make(self) -> SafeRobot:
        return robot_of()


class TestBodyAt20Hz(RobotContract):
    def make(self) -> SafeRobot:
        return robot_of(rate_hz=20.0, cameras=("wrist",), image_size=32)


class TestBodyThatTurns(RobotContract):
    def make(self) -> SafeRobot:
        return assemble(RobotConfig(body="robosuite:Lift:pose", cameras=("wrist",), image_size=32), scene())


def test_a_body_that_turns_says_so_and_turns_by_what_it_is_told_about_the_worlds_axes():
    turning = RobotConfig(body="robosuite:Lift:pose", cameras=())
    assert spec(turning).action.names == ("dx", "dy", "dz", "rx", "ry", "rz", "gripper")
    assert spec(turning).diff(spec(RobotConfig(cameras=())))
    with assemble(turning, scene()) as robot:
        robot.reset(np.random.default_rng(0))
        before = _axes(robot.observe())
        assert np.linalg.det(before) == pytest.approx(1.0, abs=1e-6)
        seen = fly(robot, [0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 1.0], 8)
        seen = fly(robot, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], 5)
        cosine, sine = np.cos(0.4), np.sin(0.4)
        about_z = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
        np.testing.assert_allclose(_axes(seen), about_z @ before, atol=0.02)
        assert not robot.governor.interventions


def _axes(observation) -> np.ndarray:
    x, y = observation.state["ee_rot6d"].reshape(2, 3).astype(np.float64)
    return np.stack([x, y, np.cross(x, y)], axis=1)


def test_the_spec_is_known_without_the_simulator_and_true_of_it():
    robot = robot_of()
    assert spec(RobotConfig()) == robot.spec == hardware.spec_of(RobotConfig())
    np.testing.assert_allclose(robot.spec.state["joint_pos"].low, robot.arm.spec.q_min)
    np.testing.assert_allclose(robot.spec.state["joint_pos"].high, robot.arm.spec.q_max)
    assert robot.spec.cameras == {"agentview": (84, 84), "wrist": (84, 84)}
    assert robot.spec.action.names == ("dx", "dy", "dz", "gripper")


def test_a_faster_decision_moves_less_so_that_the_speed_is_the_same():
    slow, fast = spec(RobotConfig(rate_hz=10.0)), spec(RobotConfig(rate_hz=20.0))
    assert slow.action.high[0] == pytest.approx(2 * fast.action.high[0])


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (RobotConfig(body="robosuite:Lfit"), ["robosuite:Lfit", "robosuite:Lift"]),
        (RobotConfig(body="robosuite:Lift:posse"), ["robosuite:Lift:posse", ":pose"]),
        (RobotConfig(cameras=("overhead",)), ["overhead", "agentview", "wrist"]),
        (RobotConfig(image_size=8), ["8 px", "16 to 2048"]),
    ],
)
def test_a_wrong_config_is_one_line_with_the_valid_choices(config, parts):
    with pytest.raises(HardwareError) as error:
        hardware.open(config)
    assert "\n" not in str(error.value)
    assert all(part in str(error.value) for part in parts)


@pytest.mark.skipif(ctypes.util.find_library("OSMesa") is not None, reason="libOSMesa is installed: nothing is missing")
def test_a_missing_opengl_library_is_one_line_naming_the_package():
    code = "import hardware; hardware.open(hardware.RobotConfig())"
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"} | {"MUJOCO_GL": "osmesa"}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("hardware.types.HardwareError: cameras: no off-screen OpenGL")
    assert "apt-get install libosmesa6" in last


@pytest.mark.slow
def test_opening_says_nothing():
    code = "import hardware, numpy\nwith hardware.open(hardware.RobotConfig(image_size=16)) as robot: robot.observe()"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (run.stdout, run.stderr) == ("", "")


def test_the_same_seed_gives_the_same_scene_and_pictures_another_seed_another():
    with robot_of() as robot:
        seen, cubes = [], []
        for seed in (1, 2, 1):
            robot.reset(np.random.default_rng(seed))
            seen.append(robot.observe())
            cubes.append(robot.world.privileged()["cube_pos"])
        np.testing.assert_array_equal(cubes[0], cubes[2])
        for name in robot.spec.cameras:
            np.testing.assert_array_equal(seen[0].images[name], seen[2].images[name])
            assert (seen[0].images[name] != seen[1].images[name]).any()
        assert np.abs(cubes[0] - cubes[1]).max() > 1e-3


def test_it_goes_where_the_deltas_add_up_to_and_stays_there():
    with robot_of(cameras=()) as robot:
        robot.reset(np.random.default_rng(0))
        start_pos = robot.observe().state["ee_pos"]
        fly(robot, [0.0075, 0.015, -0.01, 1.0], 8)
        there = fly(robot, [0.0, 0.0, 0.0, 1.0], 5).state["ee_pos"]
        np.testing.assert_allclose(there - start_pos, [0.06, 0.12, -0.08], atol=2e-3)
        later = fly(robot, [0.0, 0.0, 0.0, 1.0], 10).state["ee_pos"]
        np.testing.assert_allclose(later, there, atol=5e-4)  # gravity is compensated: no sag


def test_the_servos_follow_a_steady_motion_closely():
    with robot_of(cameras=()) as robot:
        robot.reset(np.random.default_rng(0))
        fly(robot, [0.0, 0.015, 0.0, 1.0], 8)
        assert np.abs(robot.governor.setpoint.q - robot.arm.read().q).max() < 0.01


def test_the_gripper_opens_and_closes():
    with robot_of(cameras=()) as robot:
        robot.reset(np.random.default_rng(0))
        assert fly(robot, [0, 0, 0, 0.0], 8).state["gripper"] < 0.05
        assert fly(robot, [0, 0, 0, 1.0], 8).state["gripper"] > 0.95
        assert fly(robot, [0, 0, 0, 0.5], 8).state["gripper"] == pytest.approx(0.5, abs=0.05)


def test_full_speed_into_every_wall_and_the_table_breaks_no_limit():
    with robot_of(cameras=()) as robot:
        probe = LimitProbe.attach(robot)
        robot.reset(np.random.default_rng(0))
        rng = np.random.default_rng(5)
        table = robot.world.scene.model.geom("table_collision").id
        touched = 0
        for _ in range(40):
            fly(robot, [*rng.choice([-0.015, 0.015], 3), 1.0], 4)
            contacts = robot.world.scene.data.contact
            touched += sum(table in (c.geom1, c.geom2) and "cube" not in _names(c) for c in contacts)
        assert probe.setpoints > 1000
        assert not probe.violations
        assert robot.governor.interventions["workspace"] > 0
        assert touched == 0  # the arm never hit the table
        assert robot.stopped is None


def _names(contact) -> str:
    model = scene().model
    return model.geom(contact.geom1).name + model.geom(contact.geom2).name


def test_success_and_reward_are_robosuites():
    with robot_of(cameras=()) as robot:
        robot.reset(np.random.default_rng(0))
        assert not robot.world.success()
        far = robot.world.reward()
        fly(robot, [0.008, 0.0, -0.015, 1.0], 9)
        assert far < robot.world.reward() < 1.0
        data = scene().data
        qpos = data.qpos.copy()
        qpos[scene().model.joint("cube_joint0").qposadr[0] + 2] = 0.845  # robosuite: 4 cm above the table
        robot.world.restore(qpos, data.qvel.copy())
        robot.anchor()
        assert robot.world.success()
        assert robot.world.reward() == 1.0


def test_a_diverged_simulation_is_a_fault_until_reset(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log where it stands
    with robot_of(cameras=()) as robot:
        robot.reset(np.random.default_rng(0))
        robot.observe()
        scene().data.qvel[scene().dof_index] = 1e12
        robot.observe()
        robot.observe()
        assert "diverged" in (robot.stopped or "")
        robot.reset(np.random.default_rng(0))
        assert robot.stopped is None
        assert np.isfinite(robot.observe().state["joint_pos"]).all()


def test_a_setpoint_is_refused_rather_than_clipped():
    arm = robot_of(cameras=()).arm
    for q, gripper in ((np.zeros(6), 0.5), (np.full(7, np.nan), 0.5), (np.zeros(7), 1.5)):
        with pytest.raises(HardwareError, match="setpoint"):
            arm.write(q, gripper)


@pytest.mark.slow
def test_the_physics_is_robosuites_but_for_motors_and_gravity_on_the_arm():
    from robosuite.environments.base import make

    theirs = make("Lift", robots="Panda", use_camera_obs=False, has_offscreen_renderer=False, seed=0).sim.model._model
    ours = scene().model
    for name in ("body_mass", "body_inertia", "body_ipos", "dof_damping", "dof_armature", "dof_frictionloss", "jnt_range"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name), err_msg=name)
    solid = ours.geom_contype > 0
    for name in ("geom_friction", "geom_size", "geom_solref", "geom_contype", "geom_conaffinity"):
        np.testing.assert_allclose(getattr(ours, name)[solid], getattr(theirs, name)[solid], err_msg=name)
    assert ours.opt.timestep == theirs.opt.timestep
    np.testing.assert_array_equal(ours.actuator_forcerange[:7], theirs.actuator_ctrlrange[:7])  # the torques robosuite allows
    assert ours.nmeshface < 0.35 * theirs.nmeshface


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["Stack", "Door", "NutAssemblySquare", "PickPlaceCan"])
def test_the_other_tasks_open_too(environment):
    assert environment in ENVIRONMENTS
    with hardware.open(RobotConfig(body=f"robosuite:{environment}", image_size=32)) as robot:
        robot.reset(np.random.default_rng(0))
        observation = robot.observe()
        robot.send(Command(observation.time, np.array([0, 0, 0.01, 1.0], np.float32), Source.SCRIPTED))
        robot.observe()
        assert 0.0 <= robot.world.reward() < 1.0
        assert not robot.world.success()
        assert not robot.governor.interventions
