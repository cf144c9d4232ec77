"""Off-screen OpenGL, and what to say where a machine has none. Imports nothing that needs it."""

from __future__ import annotations

import importlib
import os
from typing import Any

from hardware import llvm
from hardware.types import HardwareError


def gl_context(width: int, height: int) -> Any:
    """A context of the kind the environment variable MUJOCO_GL names (egl by default). Raises HardwareError."""
    try:
        llvm.tritons_first()
        return importlib.import_module(f"mujoco.{_kind()}").GLContext(width, height)
    except Exception as error:  # PyOpenGL, EGL and the loader each raise their own kinds
        raise missing_gl() from error


def missing_gl() -> HardwareError:
    packages = {"osmesa": "libosmesa6", "glfw": "libglfw3"}.get(_kind(), "libegl1 libgl1-mesa-dri")
    return HardwareError(f"cameras: no off-screen OpenGL (MUJOCO_GL={_kind()}; valid: egl, osmesa); on Debian: apt-get install {packages}")


def _kind() -> str:
    return os.environ.get("MUJOCO_GL") or "egl"
