"""LeRobot's dataset, written and read through its public calls. --variant video (its default) or image.

Read as its training script reads: uint8 images, spawned workers. Without FFmpeg's libraries it decodes video with PyAV instead of
torchcodec; `versions` says which one ran.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import demos
import numpy as np
from series import Case, Contestant, loader, serve


class LeRobot(Contestant):
    name = "lerobot"

    def __init__(self, data: Path, variant: str) -> None:
        super().__init__(data, variant)
        # Its Arrow cache lies beside the dataset: it is part of what is read, and is measured with it.
        os.environ |= {"HF_HOME": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
        from lerobot.datasets.lerobot_dataset import LeRobotDataset  # pyright: ignore[reportMissingImports]
        from lerobot.utils.import_utils import get_safe_default_video_backend  # pyright: ignore[reportMissingImports]

        self._dataset = LeRobotDataset
        decoder = {"decoder": get_safe_default_video_backend()} if variant == "video" else {}
        self.versions = {name: version(name) for name in ("lerobot", "torch")} | decoder

    def prepare(self) -> dict[str, Any]:
        features = {
            "observation.state": {"dtype": "float32", "shape": (sum(demos.STATE.values()),), "names": None},
            "action": {"dtype": "float32", "shape": (demos.ACTION,), "names": None},
        }
        for camera in demos.CAMERAS:
            features[_key(camera)] = {"dtype": self.variant, "shape": (84, 84, 3), "names": ["height", "width", "channels"]}
        root, video = self.folder / "demos", self.variant == "video"
        dataset = self._dataset.create("local/demos", demos.RATE_HZ, features, root=root, use_videos=video)
        for episode in demos.episodes(self.data):
            state = np.concatenate([episode[name] for name in demos.STATE], axis=1)
            for t in range(len(state)):
                frame = {"observation.state": state[t], "action": episode["actions"][t], "task": "demos"}
                dataset.add_frame(frame | {_key(camera): episode[camera][t] for camera in demos.CAMERAS})
            dataset.save_episode()
        dataset.finalize()
        return {}

    def batches(self, case: Case, workers: int) -> Iterator[Any]:
        past = [-i / demos.RATE_HZ for i in reversed(range(case.history))]
        ahead = [i / demos.RATE_HZ for i in range(case.horizon)]
        windows = {_key(camera): past for camera in demos.CAMERAS} | {"observation.state": past, "action": ahead}
        uint8 = {"return_uint8": True} if "return_uint8" in inspect.signature(self._dataset.__init__).parameters else {}
        dataset = self._dataset("local/demos", root=self.folder / "demos", delta_timestamps=windows, **uint8)
        return loader(dataset, workers, multiprocessing_context="spawn")


def _key(camera: str) -> str:
    return f"observation.images.{camera}"


if __name__ == "__main__":
    serve(LeRobot)
