"""Episodes of a white square that an action pushes about, seen by two cameras; the square's place is the state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardware.types import ArraySpec, RobotSpec
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

PLACE = ArraySpec(("x", "y"), ("px", "px"), (0.0, 0.0), (24.0, 24.0))
PUSH = ArraySpec(("dx", "dy"), ("px", "px"), (-3.0, -3.0), (3.0, 3.0))
SPEC = RobotSpec("pusher", {"top": (24, 24), "side": (16, 20)}, {"place": PLACE}, PUSH, "ee_delta", 10.0)


def pushed(rows: int, seed: int) -> Episode:
    """The square goes from one place to another and stays inside."""
    rng = np.random.default_rng(seed)
    background = np.random.default_rng(99).integers(60, 120, (24, 24, 3)).astype(np.uint8)
    place = np.linspace(rng.uniform(0, 18, 2), rng.uniform(0, 18, 2), rows + 1) + rng.normal(0, 0.3, (rows + 1, 2))
    place = np.clip(place, 0, 19).astype(np.float32)
    top = np.repeat(background[None], rows, 0)
    for frame, (x, y) in zip(top, place[:-1].round().astype(int), strict=True):
        frame[y : y + 5, x : x + 5] = 255
    push = np.diff(place, axis=0)
    return Episode(
        time=np.arange(rows) * 0.1,
        images={"top": top, "side": np.ascontiguousarray(top[:, 4:20, 2:22])},
        state={"place": place[:-1]},
        action=push,
        requested_action=push,
        reward=np.zeros(rows, np.float32),
        terminal=np.zeros(rows, bool),
        source=np.full(rows, 1, np.uint8),
        meta={"seed": seed, "success": True},
    )


@pytest.fixture(scope="session")
def pushing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve episodes of 10 to 21 rows."""
    path = tmp_path_factory.mktemp("pushing") / "pushing.zarr"
    with EpisodeStore.create(path, SPEC) as store:
        store.extend([pushed(10 + i, i) for i in range(12)])
    return path
