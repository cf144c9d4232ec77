from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def pusht_zarr(tmp_path):
    """Write a Push-T replay buffer in Zarr v2: rows as recorded, images float32 that hold grey levels. Returns its path."""
    import zarr

    def write(ends=(6, 10), name="pusht.zarr", **columns) -> Path:
        rng = np.random.default_rng(0)
        rows = int(ends[-1])
        state = np.concatenate([rng.uniform(50, 450, (rows, 4)), rng.uniform(0, 6.2, (rows, 1))], 1).astype(np.float32)
        data = {
            "img": rng.integers(0, 256, (rows, 96, 96, 3)).astype(np.float32),
            "state": state,
            "action": rng.uniform(0, 512, (rows, 2)).astype(np.float32),
            "keypoint": np.zeros((rows, 9, 2), np.float32),
        } | columns
        group = zarr.create_group(str(tmp_path / name), zarr_format=2)
        for key, value in data.items():
            if value is not None:
                group.create_array(f"data/{key}", data=value, chunks=(4, *value.shape[1:]))
        group.create_array("meta/episode_ends", data=np.asarray(ends, np.int64))
        return tmp_path / name

    return write
