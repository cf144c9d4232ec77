"""Several stores as one: episodes numbered through, one spec, and where all of it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.core.errors import UserError
from robolearn.data.checks.statistics import state_scale
from robolearn.data.editing.selection import as_text
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore

NAMED = "; --robot NAME gives both one name"
LISTED = 8  # differences of two specs that an error names


class Merged:
    """Read only, and a snapshot: what a recorder appends meanwhile is not seen."""

    def __init__(self, paths: Sequence[str], name: str | None = None) -> None:
        """name: what to call the robot, whatever the stores call it. UserError: no store, an empty one, or specs that differ."""
        self.stores = [EpisodeStore.open(path) for path in paths]
        if not self.stores:
            raise UserError("path: names no store; expected at least one")
        self.spec = replace(self.stores[0].spec, name=name or self.stores[0].spec.name)
        for path, store in zip(paths, self.stores, strict=True):
            if not len(store):
                raise UserError(f"{path}: holds no episode yet")
            if different := self.spec.diff(replace(store.spec, name=name or store.spec.name)):
                more = f"; and {len(different) - LISTED} more" if len(different) > LISTED else ""
                more += NAMED if len(different) == 1 and different[0].startswith("name:") else ""
                raise UserError(f"{path}: its spec differs from that of {paths[0]}: {'; '.join(different[:LISTED])}{more}")
        self._places = [(store, index) for store in self.stores for index in range(len(store))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Episode:
        store, index = self._places[number]
        return store.read(index)

    def meta(self, number: int) -> dict[str, Any]:
        store, index = self._places[number]
        return store.meta(index)

    def length(self, number: int) -> int:
        store, index = self._places[number]
        return store.length(index)

    @property
    def rows(self) -> int:
        return sum(store.rows for store in self.stores)

    @property
    def calibration(self) -> str | None:
        """The calibration's hash where all stores have the same."""
        found = {store.calibration for store in self.stores}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def scale(self) -> np.ndarray:
        """(S,) how far each state ranges, in the store where it ranges furthest; infinite where it never moves."""
        scales = np.stack([state_scale(store) for store in self.stores])
        widest = np.where(np.isfinite(scales), scales, 0.0).max(axis=0)
        return np.where(widest > 0, widest, np.inf)

    def lineage(self) -> list[dict[str, Any]]:
        """Of each store: where it is, a hash of its spec and its journal, and where it came from itself."""
        return [
            {
                "path": store.url if "://" in store.url else str(Path(store.url).absolute()),
                "identity": store.identity(),
                "provenance": store.provenance,
            }
            for store in self.stores
        ]

    def origins(self, numbers: Sequence[int]) -> list[str]:
        """For each store: which of its own episodes these are, e.g. "0-3,7"."""
        return [as_text([index for index_store, index in map(self._places.__getitem__, numbers) if index_store is s]) for s in self.stores]
