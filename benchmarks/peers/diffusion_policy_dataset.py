"""Diffusion Policy's robomimic image dataset. --variant jpeg2k (its default: frames coded in RAM) or numpy (decoded, in RAM).

Its source tree must be on PYTHONPATH. pytorch3d turns rotations of absolute actions, which are off here: an empty stand-in will do.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import demos
from series import Case, Contestant, loader, serve


class DiffusionPolicy(Contestant):
    name = "diffusion_policy"

    def __init__(self, data: Path, variant: str) -> None:
        super().__init__(data, variant)
        stand_in_for_pytorch3d()
        import zarr
        from diffusion_policy.common.replay_buffer import ReplayBuffer  # pyright: ignore[reportMissingImports]
        from diffusion_policy.dataset.robomimic_replay_image_dataset import (  # pyright: ignore[reportMissingImports]
            RobomimicReplayImageDataset,
        )

        self._zarr, self._buffer, self._dataset = zarr, ReplayBuffer, RobomimicReplayImageDataset
        self.versions = {name: version(name) for name in ("zarr", "torch", "imagecodecs")}

    def prepare(self) -> dict[str, Any]:
        self.folder.mkdir()
        demos.write_hdf5(self.data, self.folder / "demos.hdf5")
        self._open(Case(2, 16))  # leaves its cache, demos.hdf5.zarr.zip
        return {}

    def batches(self, case: Case, workers: int) -> Iterator[Any]:
        dataset = self._open(case)
        if self.variant == "numpy":
            with self._zarr.ZipStore(str(self.folder / "demos.hdf5.zarr.zip"), mode="r") as store:
                dataset.replay_buffer = dataset.sampler.replay_buffer = self._buffer.copy_from_store(store, store=None)
        return loader(dataset, workers)

    def _open(self, case: Case) -> Any:
        obs: dict[str, Any] = {name: {"shape": [3, 84, 84], "type": "rgb"} for name in demos.CAMERAS}
        obs |= {name: {"shape": [width]} for name, width in demos.STATE.items()}
        return self._dataset(
            {"obs": obs, "action": {"shape": [demos.ACTION]}},
            str(self.folder / "demos.hdf5"),
            horizon=case.horizon,
            pad_before=1,
            pad_after=7,
            n_obs_steps=case.history if case.history < case.horizon else None,
            use_cache=True,
        )


def stand_in_for_pytorch3d() -> None:
    package, transforms = types.ModuleType("pytorch3d"), types.ModuleType("pytorch3d.transforms")
    for form in ("axis_angle", "euler_angles", "quaternion", "rotation_6d"):
        for name in (f"{form}_to_matrix", f"matrix_to_{form}"):
            setattr(transforms, name, lambda x: x)
    sys.modules |= {"pytorch3d": package, "pytorch3d.transforms": transforms}


if __name__ == "__main__":
    serve(DiffusionPolicy)
