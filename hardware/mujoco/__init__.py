"""The simulator as one more body. Nothing here is imported before such a body is opened: MuJoCo and robosuite take seconds."""

import logging
import os

os.environ.setdefault("MUJOCO_GL", "egl")  # off-screen; MuJoCo reads it when first imported
# robosuite reports at import which optional parts are absent; none is needed here.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
