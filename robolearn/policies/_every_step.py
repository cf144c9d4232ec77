"""Policies that read the history as a sequence and are taught at every step of it: what BC-RNN and BC-Transformer share."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.types import Batch, Metrics, logged
from robolearn.models.gmm import ErrorKind, GmmHead, Head, PointHead, mean_error
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


class EveryStepPolicy(ChunkPolicy):
    """Acts by the output at the newest observation. In training the output at every earlier one answers for the chunk that began there,
    of which all actions are known; what was done is a target only, so that acting needs no past.

    modes: Gaussians of the mixture; 0: a plain regression by `error`.
    """

    sees_past = True

    def __init__(self, config: ChunkConfig, spec: RobotSpec, modes: int, error: ErrorKind):
        super().__init__(config, spec)
        shape, bounded = (self.horizon, self.action_dim), config.units == "range"
        self.head: Head = GmmHead(*shape, modes, bounded) if modes else PointHead(*shape, error, bounded)

    @abstractmethod
    def outputs(self, cond: Float[Tensor, "B T C"]) -> Float[Tensor, "B T P"]:
        """The head's numbers at every step, from the steps up to it."""

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """Mean over all actions of all chunks that began in the history, but for what is padded (with mask_pad) or weighted away."""
        chunks, counts = self._taught(batch)
        loss = mean_error(self.head, self.outputs(self.condition(batch.obs)), chunks, counts)
        return loss, {"loss": logged(loss)}

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        """Of the newest step's chunk; a chunk is judged as a whole, so its actions share the error evenly."""
        real = torch.ones(action.shape[:2], dtype=torch.bool, device=action.device)
        return (self.head.error(self.outputs(cond)[:, -1], action, real) / self.horizon).unsqueeze(1).expand(-1, self.horizon)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        return self.head.draw(self.outputs(cond)[:, -1], n, generator)

    def _taught(self, batch: Batch) -> tuple[Float[Tensor, "B T H D"], Float[Tensor, "B T H"]]:
        """The normalised chunk that began at each step, relative to the state there where actions are relative; how much each counts."""
        past, steps = batch.obs.past, self.history
        if past is None:
            raise ValueError(f"{type(self).__name__} learns from what was done along the history: Obs.past is missing")
        actions = torch.cat([past.action[:, : steps - 1], batch.action], dim=1)
        chunks = self.space.encode(actions.unfold(1, self.horizon, 1).transpose(2, 3), batch.obs.state)
        newest = self.counts(batch)
        counts = torch.cat([newest[:, :1].expand(-1, steps - 1), newest], dim=1).unfold(1, self.horizon, 1)
        # Before the episode's first row stands its copy: what was done later did not follow from it.
        return self.action_norm.normalize(chunks), counts * past.real.unsqueeze(-1)
