"""Open-loop nearest neighbour, a baseline of TOTO (Zhou et al., ICRA 2023): the rest of the demonstration that was most like this."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Batch, Obs
from robolearn.models.memory import Memory
from robolearn.policies.chunk import ChunkConfig
from robolearn.policies.vinn import APART, NearestPolicy


@dataclass(frozen=True)
class ReplayConfig(ChunkConfig):
    """How alike two situations are. To replay open loop, evaluate with `chunk` = horizon."""

    history: int = 1
    horizon: int = 300  # the rows of the longest demonstration, or of the longest episode to be flown
    state_weight: float = 1.0  # of the state's mean squared difference in the squared distance
    image_weight: float = 1.0  # of the image features'
    goal_weight: float = 1.0  # of the goal's

    def build(self, spec: RobotSpec) -> ReplayPolicy:
        return ReplayPolicy(self, spec)


class ReplayPolicy(NearestPolicy):
    """act() goes on as the demonstration of the nearest row did, to its end, and then stays: it repeats the last action, or moves by
    nothing where actions say how far to go; grippers keep what they were told last.

    Of several samples the k-th follows the k-th nearest row.
    """

    steps: Tensor  # (A,) which numbers of an action are

    def __init__(self, config: ReplayConfig, spec: RobotSpec):
        super().__init__(config, spec, (config.state_weight, config.image_weight, config.goal_weight))
        # One action for each row, in physical units, not one chunk: those that follow it are the next rows'.
        self.register_buffer("steps", torch.from_numpy(self.spec.steps), persistent=False)
        dims = {"key": self.cond_dim, "state": self.spec.state_dim, "action": self.spec.action.dim}
        self.memory = Memory({name: (dim,) for name, dim in dims.items()} | {"left": (), "counts": ()})

    @torch.no_grad()
    def memorize(self, batch: Batch) -> None:
        """UserError unless the windows come row by row, whole episodes: what follows one in memory is its future."""
        self.eval()
        left = (~batch.pad).sum(1).float()
        before = torch.cat([self.memory["left"][-1:].to(left), left])
        follows = (before[1:] == before[:-1] - 1) | (before[:-1] == 1) | ((before[:-1] == self.horizon) & (before[1:] == self.horizon))
        if not follows.all():
            raise UserError("replay: the windows are not one for each row, in order")
        row = {"state": batch.obs.state[:, -1], "action": batch.action[:, 0], "counts": self.counts(batch)[:, 0]}
        self.memory.append(key=self.key(self.condition(batch.obs)), left=left, **row)

    def errors(self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"]) -> Float[Tensor, "B H"]:
        """Distance to what it would answer had it not seen this very window."""
        return (self._follow(cond, 1, APART)[:, 0] - action).abs().mean(-1)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        return self._follow(cond, n)

    def _follow(self, cond: Tensor, n: int, least: float = 0.0) -> Float[Tensor, "B n H A"]:
        counts = self.memory["counts"] > 0
        most = 1 if n == 1 else min(n, int(counts.sum()))  # asked of a GPU, and of a program that is exported, only where it matters
        rows = self.memory.nearest(self.key(cond), most, least, counts)[1]
        rows = rows[:, torch.arange(n) % rows.shape[1]].unsqueeze(-1)
        ahead = torch.arange(self.horizon, device=rows.device)
        ahead = torch.minimum(ahead, self.memory["left"][rows].long() - 1).minimum(len(self.memory) - 1 - rows)
        taught = ((~counts[rows + ahead]).cumsum(-1) == 0).sum(-1, keepdim=True)  # a demonstration ends before a row that is weighted away
        held = torch.minimum(ahead, taught - 1)
        chunks = self.memory["action"][rows + held]
        over = torch.arange(self.horizon, device=rows.device) > held
        chunks = torch.where(over.unsqueeze(-1) & self.steps, 0.0, chunks).flatten(0, 1)
        return self.inside(chunks, Obs({}, self.memory["state"][rows].flatten(0, 1))).unflatten(0, (-1, n))
