"""Visual imitation by nearest neighbours (VINN; Pari et al., RSS 2022): what was done in the situations most like this one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Batch
from robolearn.models.memory import Memory
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy

APART = 1e-5  # distance under which a remembered situation is the asked one itself


@dataclass(frozen=True)
class VinnConfig(ChunkConfig):
    """How alike two situations are, and who has a say."""

    neighbours: int = 4
    temperature: float = 0.01  # of the weights exp(-distance / temperature), in units of the distance, see `NearestPolicy`
    state_weight: float = 1.0  # of the state's mean squared difference in the squared distance
    image_weight: float = 1.0  # of the image features'
    goal_weight: float = 1.0  # of the goal's

    def build(self, spec: RobotSpec) -> VinnPolicy:
        return VinnPolicy(self, spec)


class NearestPolicy(ChunkPolicy):
    """Looks its answers up in a memory of the training windows.

    weights: of state, image features and goal. The squared distance of two situations is the sum, by weight, of the mean squared
    differences of the three, all normalised: how many numbers a camera is turned into has no say.
    """

    learns_by = "memory"
    memory: Memory
    scale: Tensor

    def __init__(self, config: ChunkConfig, spec: RobotSpec, weights: tuple[float, float, float]):
        super().__init__(config, spec)
        if config.encoder is not None and not config.encoder.frozen:
            raise UserError(f"policy.encoder.tune: '{config.encoder.tune}'; nothing is tuned by looking up, valid: none")
        seen = 0 if self.encoder is None else self.encoder.out_dim
        dims = (self.spec.state_dim, seen, self.row_dim - self.spec.state_dim - seen)
        if min(weights) < 0 or not any(weight * dim for weight, dim in zip(weights, dims, strict=True)):
            names = ("state_weight", "image_weight", "goal_weight")
            given = ", ".join(f"policy.{n}: {w} for {d} numbers" for n, w, d in zip(names, weights, dims, strict=True))
            raise UserError(f"{given}; expected none below 0, and one above 0 that has numbers")
        shares = [torch.full((dim,), (weight / max(dim, 1) / self.history) ** 0.5) for weight, dim in zip(weights, dims, strict=True)]
        self.register_buffer("scale", torch.cat(shares).repeat(self.history), persistent=False)

    def key(self, cond: Float[Tensor, "B T C"]) -> Float[Tensor, "B D"]:
        return cond.flatten(1) * self.scale


class VinnPolicy(NearestPolicy):
    """act() is the neighbours' mean; of several samples the others are one neighbour's chunk each, drawn by weight."""

    config: VinnConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned

    def __init__(self, config: VinnConfig, spec: RobotSpec):
        super().__init__(config, spec, (config.state_weight, config.image_weight, config.goal_weight))
        require_at_least("policy.neighbours", config.neighbours, 1, "windows")
        if not config.temperature > 0:
            raise UserError(f"policy.temperature: {config.temperature}; expected above 0")
        chunk = (self.horizon, self.action_dim)
        self.memory = Memory({"key": (self.cond_dim,), "chunk": chunk, "counts": (self.horizon,)})

    @torch.no_grad()
    def memorize(self, batch: Batch) -> None:
        self.eval()
        counts = self.counts(batch)
        taught = counts.any(1)
        key, chunk = self.key(self.condition(batch.obs)), self.inside(batch.action, batch.obs)
        self.memory.append(key=key[taught], chunk=chunk[taught], counts=counts[taught])

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        """Distance to what it would answer had it not seen this very window."""
        return (self._mean(*self._neighbours(cond, APART)) - action).abs().mean(-1)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        weight, rows = self._neighbours(cond)
        mean = self._mean(weight, rows).unsqueeze(1)
        if n == 1:
            return mean
        drawn = torch.multinomial(weight.cpu(), n - 1, replacement=True, generator=generator).to(rows.device)
        return torch.cat([mean, self.memory["chunk"][rows.gather(1, drawn)]], dim=1)

    def _neighbours(self, cond: Tensor, least: float = 0.0) -> tuple[Float[Tensor, "B k"], Int[Tensor, "B k"]]:
        distance, rows = self.memory.nearest(self.key(cond), self.config.neighbours, least)
        # Kept finite, so that the weights are equal where all are infinitely far.
        return (-distance / self.config.temperature).clamp(min=-1e30).softmax(-1), rows

    def _mean(self, weight: Float[Tensor, "B k"], rows: Int[Tensor, "B k"]) -> Float[Tensor, "B H A"]:
        """An action counts by its neighbour's weight; where none of them counts (all past their episodes' ends), all do."""
        counts = weight.unsqueeze(-1) * self.memory["counts"][rows]
        total = counts.sum(1, keepdim=True)
        share = torch.where(total > 0, counts / total.clamp(min=1e-30), weight.unsqueeze(-1))
        return (share.unsqueeze(-1) * self.memory["chunk"][rows]).sum(1)
