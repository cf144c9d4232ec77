"""robomimic's SequenceDataset over its HDF5 layout, uncompressed. --variant none or low_dim: what it caches in RAM.

Its windows look ahead and hold history + horizon - 1 frames; the sequence case asks it for as many frames as actions.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import demos
from series import Case, Contestant, loader, serve


class Robomimic(Contestant):
    name = "robomimic"

    def __init__(self, data: Path, variant: str) -> None:
        super().__init__(data, variant)
        import robomimic.utils.obs_utils as observations  # pyright: ignore[reportMissingImports]
        from robomimic.utils.dataset import SequenceDataset  # pyright: ignore[reportMissingImports]

        observations.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": list(demos.STATE), "rgb": list(demos.CAMERAS)}})
        self._dataset, self.versions = SequenceDataset, {name: version(name) for name in ("robomimic", "torch", "h5py")}

    def prepare(self) -> dict[str, Any]:
        self.folder.mkdir()
        demos.write_hdf5(self.data, self.folder / "demos.hdf5")
        return {}

    def batches(self, case: Case, workers: int) -> Iterator[Any]:
        dataset = self._dataset(
            hdf5_path=str(self.folder / "demos.hdf5"),
            obs_keys=(*demos.CAMERAS, *demos.STATE),
            dataset_keys=("actions", "rewards", "dones"),
            frame_stack=1 if case.history == case.horizon else case.history,
            seq_length=case.horizon,
            pad_frame_stack=True,
            pad_seq_length=True,
            hdf5_cache_mode=None if self.variant == "none" else self.variant,
            hdf5_use_swmr=True,
            load_next_obs=False,
        )
        return loader(dataset, workers)


if __name__ == "__main__":
    serve(Robomimic)
