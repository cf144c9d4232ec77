"""A policy asked as it flies: its weights laid out for few rows, its numbers as precise as wanted, on its device."""

from __future__ import annotations

from itertools import chain
from typing import cast

import numpy as np
import torch

from robolearn.core.types import Obs, Policy
from robolearn.models.packed import pack
from robolearn.models.precision import Precision, autocast, halve, has_bfloat16
from robolearn.policies.chunk import ChunkPolicy


class Answers:
    """precision: bfloat16 keeps the policy's weights so; auto: where the processor is quicker at it."""

    def __init__(self, policy: Policy, precision: Precision = "float32") -> None:
        self.policy = policy.eval()
        self.device = next((t.device for t in chain(policy.parameters(), policy.buffers())), torch.device("cpu"))
        self._half = precision == "bfloat16" or (precision == "auto" and has_bfloat16(self.device))
        if self._half:
            halve(policy)
        pack(policy)

    def chunk(self, obs: Obs, decided: np.ndarray) -> np.ndarray:
        """The chunk (H, A) for one observation; decided: its first actions (D, A) are flown whatever it says."""
        obs = obs.to(self.device)
        with torch.no_grad(), autocast(self.device, "bfloat16" if self._half else "float32"):
            if len(decided):
                prefix = torch.from_numpy(decided)[None].to(self.device)
                return cast(ChunkPolicy, self.policy).sample(obs, 1, prefix=prefix)[0, 0].cpu().numpy()
            return self.policy.act(obs)[0].cpu().numpy()
