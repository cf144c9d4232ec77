"""What the stage's cameras see: drawn from joints and a goal, with a sensor's noise."""

from __future__ import annotations

import mujoco
import numpy as np

from hardware.arms.model import ArmModel
from hardware.mujoco.render import Renderer

NOISE = 2  # grey levels at most, uniform: without any, a still scene would be taken for a camera that hangs


class Filming:
    """Cameras of an arm on its stage; the same for a simulated body and for the streams of a double."""

    def __init__(self, arm: ArmModel, seed: int = 0) -> None:
        self._model = arm.compile()
        self._data = mujoco.MjData(self._model)
        self._qpos = [self._model.joint(joint).qposadr[0] for joint in arm.spec.joints]
        self._renderers: dict[tuple[int, int], Renderer] = {}
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Of the noise."""
        self._rng = np.random.default_rng(seed)

    def open(self, size: tuple[int, int]) -> None:
        """For pictures of this height and width [px]. Again: nothing. Raises HardwareError where there is no OpenGL."""
        self._renderers.setdefault(size, Renderer(self._model, self._data, size)).open()

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()

    def picture(self, camera: str, size: tuple[int, int], q: np.ndarray, goal: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) RGB: the arm at rest with joints at q (J,) [rad], the ball at goal (3,) [m]."""
        data = self._data
        data.qpos[self._qpos], data.mocap_pos[0] = q, goal
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_camlight(self._model, data)
        drawn = self._renderers[size].render(self._model.camera(camera).id)
        noise = self._rng.integers(-NOISE, NOISE, drawn.shape, np.int16, endpoint=True)
        return np.clip(drawn + noise, 0, 255).astype(np.uint8)
