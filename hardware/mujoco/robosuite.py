"""robosuite's tasks on a Panda as a body: `robosuite:Lift` and its siblings; `robosuite:Lift:pose`, too, where the tool turns as well, and
`robosuite:Lift:state`, whose state says what a camera would show."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from hardware.clock import SimClock
from hardware.governor import Governor, Limits
from hardware.kinematics import Box
from hardware.loop import ArmLoop
from hardware.mujoco.gl import missing_gl
from hardware.robot import SafeRobot
from hardware.types import ArmState, ArraySpec, HardwareError, RobotSpec

if TYPE_CHECKING:
    from hardware import RobotConfig
    from hardware.mujoco.render import Renderer
    from hardware.mujoco.scene import Scene

NUTS = ("NutAssembly", "NutAssemblySquare", "NutAssemblyRound")
ENVIRONMENTS = ("Lift", "Stack", "Reach", "Push", "Door", *NUTS, "PickPlace", "PickPlaceCan", "PickPlaceMilk")
# All on the small table: what a camera shows there, and so what the state of `:state` says the position of.
TABLE = {"Lift": ("cube",), "Stack": ("cubeA", "cubeB"), "Reach": ("goal",), "Push": ("cube", "goal")}
WRIST = "robot0_eye_in_hand"  # robosuite's name for what is called `wrist` here
CAMERAS = ("agentview", "wrist", "frontview", "sideview", "birdview", "robotview")
TOOL_SITE = "gripper0_right_grip_site"
# m/s per axis at most. Even wall-to-wall reversals then stay within what the joints can accelerate, so the tool keeps to its
# path within 15 mm (at 0.25 m/s joints saturate one by one and it strays by 10 cm). Lift's whole way takes 1.3 s.
SPEED = 0.15
TURN = 0.6  # rad/s about each axis at most
SETTLE_S = 0.3  # after a reset: objects come to rest, the gripper opens
TRACKING_ERROR = 0.25  # rad between target and measured joint: free motion at full speed needs 0.15
WORKSPACE_TOLERANCE = 0.02  # m
# For the tool centre. The table top is at 0.8 m; the tilted hand's fingertips end 10 mm below the tool centre.
TABLE_BOX = Box(np.array([-0.22, -0.22, 0.825]), np.array([0.14, 0.22, 1.12]))  # all of it within reach
ROOM_BOX = Box(np.array([-0.40, -0.60, 0.825]), np.array([0.35, 0.60, 1.30]))


class RobosuiteWorld:
    """What only the simulator knows: a new start, the reward, success, where things are."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene

    def reset(self, rng: np.random.Generator) -> None:
        """robosuite's own placement and joint noise, drawn from `rng`; then a moment to settle, the gripper open."""
        env = self.scene.env
        # The environment, its samplers and its robot share one generator: give that one a new state.
        env.rng.bit_generator.state = np.random.default_rng(int(rng.integers(2**63))).bit_generator.state
        env.reset()
        self.scene.hold()
        self.scene.control(self.scene.data.qpos[self.scene.qpos_index], 1.0)
        self.scene.advance(SETTLE_S)

    def reward(self) -> float:
        """The environment's shaped reward, 0..1; Lift: reaching, grasping, and 1.0 once lifted."""
        return float(self.scene.env.reward(None))

    def success(self) -> bool:
        return bool(self.scene.env._check_success())

    def privileged(self) -> dict[str, np.ndarray]:
        """`<object>_pos` (3,) [m] and `<object>_quat` (4,) wxyz of each object (or `goal`), `<peg>_pos` of pegs, `tool_pos` (3,) [m]."""
        data = self.scene.data
        state = {"tool_pos": data.site(TOOL_SITE).xpos.copy()}
        if self.scene.name in NUTS:
            state |= {f"{peg}_pos": data.body(peg).xpos.copy() for peg in ("peg1", "peg2")}
        for thing in self.scene.env.model.mujoco_objects:
            body = data.body(thing.root_body)
            state[f"{thing.name}_pos"], state[f"{thing.name}_quat"] = body.xpos.copy(), body.xquat.copy()
        return state

    def restore(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        """Put the scene, but for a goal, into a recorded state: qpos (nq,), qvel (nv,) in the model's order. Then call robot.anchor()."""
        import mujoco

        self.scene.data.qpos[:], self.scene.data.qvel[:] = qpos, qvel
        mujoco.mj_forward(self.scene.model, self.scene.data)
        self.scene.hold()


class SceneCamera:
    """One named camera of the scene."""

    def __init__(self, renderer: Renderer, camera: int) -> None:
        self._renderer, self._camera, self.size = renderer, camera, renderer.size

    def open(self) -> None:
        """The OpenGL context that all cameras of the scene share. Raises HardwareError."""
        self._renderer.open()

    def close(self) -> None:
        self._renderer.close()

    def read(self) -> np.ndarray:
        return self._renderer.render(self._camera)


def spec(config: RobotConfig) -> RobotSpec:
    """Known without starting the simulator."""
    environment, variant = _variant(config)
    turns, shown = variant == "pose", TABLE[environment] if variant == "state" else ()
    cameras = (() if shown else ("agentview", "wrist")) if config.cameras is None else config.cameras
    for name in cameras:
        if name not in CAMERAS:
            raise HardwareError(f"RobotConfig.cameras: {name!r}; valid: {', '.join(CAMERAS)}")
    size = 84 if config.image_size is None else config.image_size
    if not 16 <= size <= 2048:
        raise HardwareError(f"RobotConfig.image_size: {size} px; valid: 16 to 2048")
    rate = 10.0 if config.rate_hz is None else config.rate_hz
    step, turn = SPEED / rate, TURN / rate
    joints = tuple(f"joint{i}" for i in range(1, 8))
    low, high = (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973), (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973)
    room = ArraySpec(("x", "y", "z"), ("m",) * 3, tuple(ROOM_BOX.low.tolist()), tuple(ROOM_BOX.high.tolist()))
    anywhere = ArraySpec(("x", "y", "z"), ("m",) * 3, (-0.5, -0.6, 0.0), (0.5, 0.6, 1.3))  # what is on it may fall off
    axes = ArraySpec(("r11", "r21", "r31", "r12", "r22", "r32"), ("1",) * 6, (-1.0,) * 6, (1.0,) * 6)
    moves = {"dx": ("m", step), "dy": ("m", step), "dz": ("m", step)} | (dict.fromkeys(("rx", "ry", "rz"), ("rad", turn)) if turns else {})
    units, most = zip(*moves.values(), strict=True)
    return RobotSpec(
        name=f"robosuite:{environment}{variant and ':' + variant}",
        cameras=dict.fromkeys(cameras, (size, size)),
        state={
            "joint_pos": ArraySpec(joints, ("rad",) * 7, low, high),
            "ee_pos": room,
            **({"ee_rot6d": axes} if turns else {}),
            "gripper": ArraySpec(("opening",), ("1",), (0.0,), (1.0,)),
            **{f"{thing}_pos": anywhere for thing in shown},
        },
        action=ArraySpec((*moves, "gripper"), (*units, "1"), (*(-one for one in most), 0.0), (*most, 1.0)),
        action_mode="ee_delta",
        rate_hz=rate,
    )


def build(config: RobotConfig) -> SafeRobot:
    """Start the simulator. Raises HardwareError: an unknown task or camera, no OpenGL."""
    spec(config)  # what is wrong with it is said before the simulator starts
    return assemble(config, start(_variant(config)[0]))


def _variant(config: RobotConfig) -> tuple[str, str]:
    """The environment, and "pose", "state" or "" (see the module). Raises HardwareError."""
    environment, _, variant = (config.variant or "Lift").partition(":")
    if environment not in ENVIRONMENTS or variant not in ("", "pose", *(("state",) if environment in TABLE else ())):
        valid = ", ".join(f"robosuite:{e}" for e in ENVIRONMENTS)
        more = f"each with :pose where the tool turns as well; {', '.join(TABLE)} with :state where the state holds what cameras show"
        raise HardwareError(f"RobotConfig.body: {config.body!r}; valid: {valid}, {more}")
    return environment, variant


def start(environment: str) -> Scene:
    """Load MuJoCo and robosuite, compile the scene: seconds. Raises HardwareError where OpenGL is missing."""
    try:
        import mujoco  # noqa: F401  (loads OpenGL)
    except (ImportError, AttributeError, OSError) as error:
        raise missing_gl() from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations among robosuite's dependencies: nothing a user could mend
        from hardware.mujoco.scene import Scene

        return Scene(environment)


def assemble(config: RobotConfig, scene: Scene) -> SafeRobot:
    """Arm, cameras, kinematics and governor around a scene."""
    from hardware.mujoco.arm import MujocoArm
    from hardware.mujoco.kinematics import EeDelta, EePoseDelta
    from hardware.mujoco.render import Renderer

    robot_spec = spec(config)
    clock = SimClock(scene.advance)
    cameras = {}
    if robot_spec.cameras:
        renderer = Renderer(scene.model, scene.data, next(iter(robot_spec.cameras.values())))
        cameras = {name: SceneCamera(renderer, scene.model.camera(_robosuite_name(name)).id) for name in robot_spec.cameras}
    arm = MujocoArm(scene, clock)
    environment, variant = _variant(config)
    kinematics = (EePoseDelta if variant == "pose" else EeDelta)(scene.model, scene.joint_ids, TOOL_SITE, scene.home)
    box = TABLE_BOX if environment in TABLE else ROOM_BOX
    own = Limits(box, WORKSPACE_TOLERANCE, position_margin=0.02, tracking_error=np.full(7, TRACKING_ERROR))
    limits, world = config.limits(own), RobosuiteWorld(scene)
    governor = Governor(arm.spec, limits, robot_spec.action, kinematics, 1.0 / robot_spec.rate_hz)

    def read_state(state: ArmState) -> dict[str, np.ndarray]:
        seen = {"joint_pos": state.q, "ee_pos": kinematics.position(state.q), "gripper": np.array([state.gripper])}
        if isinstance(kinematics, EePoseDelta):
            seen["ee_rot6d"] = kinematics.rotation(state.q).T[:2].reshape(6)
        return seen if variant != "state" else seen | world.privileged()

    return SafeRobot(robot_spec, ArmLoop(arm, clock, governor), cameras, read_state, world)


def _robosuite_name(camera: str) -> str:
    return {"wrist": WRIST, "robotview": "robot0_robotview"}.get(camera, camera)
