"""Cameras of a MuJoCo scene, for speed: one OpenGL context for all of them, and only what a camera can see is drawn."""

from __future__ import annotations

import atexit

import mujoco
import numpy as np

from hardware.mujoco.gl import gl_context
from hardware.types import HardwareError

VISUAL_GROUP = 1  # robosuite: group 0 collides, group 1 is looked at
_HIDDEN_GROUP = 5  # never drawn


class Renderer:
    """Draws a scene's cameras into uint8 (H, W, 3) RGB, upright.

    Against MuJoCo's defaults (and robosuite's): no multisampling, no mirror images (every reflecting table leg draws the
    scene once more), and geoms whose bounding box lies outside the picture are left out, which changes no pixel.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, size: tuple[int, int]) -> None:
        self.size = size
        self._model, self._data = model, data
        self._gl = None
        self._visual = np.flatnonzero(model.geom_group == VISUAL_GROUP)
        self._pixels = np.empty((*size, 3), np.uint8)
        self._viewport = mujoco.MjrRect(0, 0, size[1], size[0])
        self._perturb, self._camera, self._option = mujoco.MjvPerturb(), mujoco.MjvCamera(), mujoco.MjvOption()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._option.geomgroup[:] = 0
        self._option.geomgroup[VISUAL_GROUP] = 1
        self._option.sitegroup[:] = 0

    def open(self) -> None:
        """Make the OpenGL context. Raises HardwareError where the system has none. Again: nothing."""
        if self._gl is not None:
            return
        height, width = self.size
        quality, buffer = self._model.vis.quality, self._model.vis.global_
        quality.offsamples, quality.shadowsize = 0, 256  # robosuite's light casts no shadow: the map only takes memory
        buffer.offheight, buffer.offwidth = height, width
        self._gl = gl_context(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, maxgeom=self._model.ngeom + 100)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        atexit.register(self.close)  # before EGL itself is taken down

    def render(self, camera: int) -> np.ndarray:
        """The picture of camera number `camera` of the scene as it stands: uint8 (H, W, 3), a fresh array."""
        if self._gl is None:
            raise HardwareError("cameras: not open; connect the robot first")
        self._gl.make_current()  # another scene's may be
        self._camera.fixedcamid = camera
        self._model.geom_group[self._visual[~self._seen(camera)]] = _HIDDEN_GROUP
        mujoco.mjv_updateScene(self._model, self._data, self._option, self._perturb, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        self._model.geom_group[self._visual] = VISUAL_GROUP
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._pixels, None, self._viewport, self._context)
        return self._pixels[::-1].copy()  # OpenGL's first row is the lowest

    def _seen(self, camera: int) -> np.ndarray:
        """bool (visual geoms,): does the box around the geom reach into the camera's pyramid of sight? Planes always do."""
        model, data, ids = self._model, self._data, self._visual
        half_height = np.radians(model.cam_fovy[camera]) / 2
        half_width = np.arctan(np.tan(half_height) * self.size[1] / self.size[0])
        (ch, sh), (cw, sw) = ((np.cos(angle), np.sin(angle)) for angle in (half_height, half_width))
        outward = np.array([[cw, 0, sw], [-cw, 0, sw], [0, ch, sh], [0, -ch, sh]])  # the four sides; the camera looks along -z
        outward = outward @ data.cam_xmat[camera].reshape(3, 3).T
        turned = data.geom_xmat[ids].reshape(-1, 3, 3)
        centre = data.geom_xpos[ids] + (turned @ model.geom_aabb[ids, :3, None])[..., 0]
        reach = (np.abs(outward @ turned) @ model.geom_aabb[ids, 3:, None])[..., 0]
        inside = (centre - data.cam_xpos[camera]) @ outward.T <= reach
        return inside.all(axis=1) | (model.geom_type[ids] == mujoco.mjtGeom.mjGEOM_PLANE)

    def close(self) -> None:
        """Free the OpenGL context. Again: nothing."""
        if self._gl is not None:
            atexit.unregister(self.close)
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._gl = None
