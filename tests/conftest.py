"""Every function of robolearn checks its types and array shapes while the tests run."""

from __future__ import annotations

import os

# Read once by the libraries below, so set before anything imports them: no window, and small nets are quicker on one thread.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("robolearn", "beartype.beartype")

settings.register_profile("robolearn", derandomize=True, database=None, deadline=None)
settings.load_profile("robolearn")
