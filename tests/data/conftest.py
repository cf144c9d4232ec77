from __future__ import annotations

import math

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec, Source
from robolearn.data.episode import Episode


@pytest.fixture
def spec():
    """Two cameras of different shape, two states, a limit that is infinite."""
    two = ArraySpec(("a", "b"), ("rad", "rad/s"), (-1.0, -math.inf), (1.0, math.inf))
    one = ArraySpec(("grip",), ("1",), (0.0,), (1.0,))
    action = ArraySpec(("x", "y", "z"), ("m", "m", "m"), (-1.0,) * 3, (1.0,) * 3)
    return RobotSpec("test arm", {"front": (12, 16), "wrist": (8, 8)}, {"q": two, "grip": one}, action, "ee_delta", 20.0)


@pytest.fixture
def make_episode(spec):
    """make_episode(rows, seed): noise in every array, so that no row equals another."""

    def make(rows: int, seed: int = 0, **meta) -> Episode:
        rng = np.random.default_rng(seed)

        def noise(*shape: int) -> np.ndarray:
            return rng.normal(size=(rows, *shape)).astype(np.float32)

        terminal = np.zeros(rows, bool)
        terminal[-1] = bool(meta.get("success", False))
        return Episode(
            time=np.cumsum(rng.uniform(0.04, 0.06, rows)),
            images={name: rng.integers(0, 256, (rows, *size, 3), dtype=np.uint8) for name, size in spec.cameras.items()},
            state={name: noise(part.dim) for name, part in spec.state.items()},
            action=noise(3),
            requested_action=noise(3),
            reward=noise(),
            terminal=terminal,
            source=rng.choice([Source.SCRIPTED, Source.HUMAN], rows).astype(np.uint8),
            meta={"seed": seed, **meta},
        )

    return make


@pytest.fixture
def assert_same():
    """Two episodes, equal bit for bit."""

    def check(one: Episode, other: Episode) -> None:
        for name in ("time", "action", "requested_action", "reward", "terminal", "source"):
            mine, theirs = getattr(one, name), getattr(other, name)
            assert mine.dtype == theirs.dtype, name
            np.testing.assert_array_equal(mine, theirs, err_msg=name)
        for kind in ("images", "state"):
            assert list(getattr(one, kind)) == list(getattr(other, kind))
            for name, value in getattr(one, kind).items():
                np.testing.assert_array_equal(value, getattr(other, kind)[name], err_msg=f"{kind}.{name}")
        assert dict(one.meta) == dict(other.meta)

    return check
