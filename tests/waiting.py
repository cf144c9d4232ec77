"""What happens soon, on a machine that may be busy."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def until(what: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Its first true answer. AssertionError where there is none in time [s]."""
    ends = time.monotonic() + seconds
    while not (answer := what()):
        assert time.monotonic() < ends, f"not within {seconds:g} s"
        time.sleep(0.005)
    return answer
