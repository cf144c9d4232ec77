"""Rows that were seen, kept to be looked up: what a network is to a policy without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class Memory(nn.Module):
    """Columns of equal length, float32, that grow by `append`; part of the state_dict, and loaded in whatever length they were saved.

    columns: name -> shape of one row. "key" is the one that is searched; it needs one axis.
    """

    def __init__(self, columns: Mapping[str, tuple[int, ...]]):
        super().__init__()
        self.columns, self.size = dict(columns), 0
        for name, shape in self.columns.items():
            self.register_buffer(name, torch.zeros(0, *shape))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, name: str) -> Tensor:
        """A column, (N, ...)."""
        return getattr(self, name)[: self.size]

    def append(self, **rows: Tensor) -> None:
        """More rows, all columns at once."""
        size = self.size + len(rows["key"])
        for name in self.columns:
            held = getattr(self, name)
            if size > len(held):  # twice the room, so that growing row by row costs no more than a few copies
                grown = held.new_empty((max(size, 2 * len(held)), *held.shape[1:]))
                grown[: self.size] = held[: self.size]
                setattr(self, name, grown)
            getattr(self, name)[self.size : size] = rows[name].detach()
        self.size = size

    def nearest(
        self, query: Float[Tensor, "B D"], count: int, least: float = 0.0, among: Bool[Tensor, " N"] | None = None
    ) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
        """Euclidean distance and row of the `count` keys next to each query, nearest first; fewer where fewer are kept.

        Keys nearer than `least`, and those not `among` the wanted, are infinitely far. RuntimeError where nothing is kept.
        """
        if not self.size:
            raise RuntimeError("memory: nothing is kept; train the policy first")
        # Not by matrix products: what equals its query would come out up to 1e-3 away.
        if torch.compiler.is_exporting():  # ONNX has no such cdist
            distance = torch.linalg.vector_norm(query.float().unsqueeze(1) - self["key"], dim=-1)
        else:
            distance = torch.cdist(query.float(), self["key"], compute_mode="donot_use_mm_for_euclid_dist")
        distance = distance.masked_fill(distance < least, torch.inf)
        if among is not None:
            distance = distance.masked_fill(~among, torch.inf)
        found = distance.topk(min(count, self.size), largest=False)
        return found.values, found.indices

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self.columns:
            destination[prefix + name] = destination[prefix + name][: self.size]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any, **kwargs: Any) -> None:
        saved = {name: state_dict.get(prefix + name) for name in self.columns}
        lengths = {len(rows) for name, rows in saved.items() if rows is not None and tuple(rows.shape[1:]) == self.columns[name]}
        if len(lengths) == 1:  # anything else is left to fail as weights of another shape do
            self.size = lengths.pop()
            for name, shape in self.columns.items():
                setattr(self, name, getattr(self, name).new_zeros((self.size, *shape)))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
