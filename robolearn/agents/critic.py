"""What actions are worth: an ensemble of Q heads in one batched product, a moving average of it as the target, and V beside it."""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.agents.axes import Critic, Reduce
from robolearn.models.ema import follow, slow_copy
from robolearn.models.ensemble import EnsembleMlp
from robolearn.models.twohot import TwoHot


class QHeads(nn.Module):
    """Q_i(z, a) of M heads. Actions are normalised to [-1, 1].

    base: the frozen offline heads that a residual critic adds to (SELFI, Hirose et al. 2024); None otherwise.
    """

    spread_range: Tensor
    based: Tensor

    def __init__(self, config: Critic, latent: int, action: int):
        super().__init__()
        self.config = config
        self.twohot = TwoHot.upto(config.bound) if config.loss == "two_hot" else None
        outputs = self.twohot.count if self.twohot else 1
        make = lambda: EnsembleMlp(  # noqa: E731
            config.heads, latent + action, config.width, outputs, zero_last=self.twohot is not None, layer_norm=config.layer_norm
        )
        self.online = make()
        self.target = slow_copy(self.online)
        self.base = slow_copy(self.online) if config.residual else None
        self.register_buffer("based", torch.zeros((), dtype=torch.bool))  # the base counts: online, after `rebase`
        self.register_buffer("spread_range", torch.ones(()))  # 5 to 95 percentile range of Q: what makes penalties dimensionless

    def forward(
        self, z: Float[Tensor, "*N L"], action: Float[Tensor, "*N A"], target: bool = False, heads: Int[Tensor, " M"] | None = None
    ) -> Float[Tensor, "M ..."]:
        """heads: which of them to ask (None: all)."""
        return self._read(self._output(z, action, target, heads), z, action, heads)

    def some(self, generator: torch.Generator) -> Int[Tensor, " M"] | None:
        """`subset` heads drawn at random (Chen et al. 2021, REDQ, algorithm 1); None, for all of them, where it is 0."""
        if not 0 < self.config.subset < self.config.heads:
            return None
        return torch.randperm(self.config.heads, generator=generator)[: self.config.subset].to(self.spread_range.device)

    def loss(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], wanted: Float[Tensor, " N"]) -> tuple[Tensor, Tensor]:
        """((M, N) errors of every head, (M, N) values)."""
        output = self._output(z, action, target=False)
        values = self._read(output, z, action)
        wanted = wanted.expand_as(values)
        if self.twohot is not None:
            return self.twohot.loss(output, wanted), values
        return (F.huber_loss if self.config.loss == "huber" else F.mse_loss)(values, wanted, reduction="none"), values

    def _output(self, z: Tensor, action: Tensor, target: bool, heads: Tensor | None = None) -> Tensor:
        za = torch.cat([z, action], -1)
        flat = (self.target if target else self.online).all(za.reshape(-1, za.shape[-1]), heads)
        return flat.unflatten(1, za.shape[:-1])

    def _read(self, output: Tensor, z: Tensor, action: Tensor, heads: Tensor | None = None) -> Tensor:
        values = output.squeeze(-1) if self.twohot is None else self.twohot.decode(output)
        if self.base is not None and bool(self.based):
            za = torch.cat([z, action], -1)
            with torch.no_grad():
                base = self.base.all(za.reshape(-1, za.shape[-1]), heads).unflatten(1, za.shape[:-1])
            values = values + base.squeeze(-1)
        return values

    @torch.no_grad()
    def rebase(self) -> None:
        """Online begins: what was learned so far is frozen as the base, and a correction begins at 0."""
        assert self.base is not None
        self.base.load_state_dict(self.online.state_dict())
        for net in (self.online, self.target):
            for parameter in net.last.parameters():
                parameter.zero_()
        self.based.fill_(True)

    def follow(self) -> None:
        """The target moves towards the online heads."""
        follow(self.target, self.online, self.config.tau)

    @torch.no_grad()
    def track(self, values: Float[Tensor, "*N"], rate: float) -> None:
        """`spread_range` follows the range of these values."""
        low, high = torch.quantile(values.flatten(), torch.tensor([0.05, 0.95], device=values.device))
        self.spread_range.lerp_((high - low).clamp(min=1e-3), rate)


class Value(nn.Module):
    """V(z) of one head, by expectile regression (Kostrikov et al. 2022, IQL, equation 5)."""

    def __init__(self, latent: int, width: int, layer_norm: bool):
        super().__init__()
        self.net = EnsembleMlp(1, latent, width, 1, zero_last=True, layer_norm=layer_norm)

    def forward(self, z: Float[Tensor, "*N L"]) -> Float[Tensor, "*N"]:
        return self.net.all(z.reshape(-1, z.shape[-1]))[0, :, 0].unflatten(0, z.shape[:-1])


def reduced(q: Float[Tensor, "M ..."], how: Reduce, level: float = 1.0) -> Float[Tensor, "*N"]:
    """The heads' values as one."""
    match how:
        case "min":
            return q.amin(0)
        case "mean":
            return q.mean(0)
        case "lcb":
            return q.mean(0) - level * q.std(0, correction=0)
        case "quantile":
            return q.quantile(level, dim=0)
    first, second = (torch.tensor(side, device=q.device) for side in zip(*combinations(range(len(q)), 2), strict=True))
    return torch.minimum(q[first], q[second]).mean(0)  # pair_min
