"""Datasets: episodes in a Zarr store, and training windows read from it. numpy only; `loader` and `tensors` make torch of it."""

from robolearn.data.episode import Episode, Stream
from robolearn.data.sampling import Sampler
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import Windows, split

__all__ = ["Episode", "EpisodeStore", "Sampler", "Stream", "Windows", "split"]
