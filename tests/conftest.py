"""Every function of robolearn checks its types and array shapes while the tests run."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from types import ModuleType

# Read once by the libraries below, so set before anything imports them: no window, and small nets are quicker on one thread.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

# The hook takes a checker by name only. This one lets an int stand for a float, as every static checker does.
checker = ModuleType("robolearn_checker")
checker.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules["robolearn_checker"] = checker
install_import_hook("robolearn", "robolearn_checker.check")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has what it starts in the background, and all that this starts
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("robolearn", derandomize=True, database=None, deadline=None)
settings.load_profile("robolearn")


@pytest.fixture(autouse=True)
def same_priority():
    """SVT-AV1, where a test calls it itself and root runs it, makes this process a real-time one: all others would starve."""
    yield
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        for task in os.listdir("/proc/self/task"):
            with suppress(ProcessLookupError):  # it ended
                os.sched_setscheduler(int(task), os.SCHED_OTHER, os.sched_param(0))
