"""The value of an observation, learned from recorded rewards alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from robolearn.models.ema import follow, slow_copy
from robolearn.models.mlp import mlp


class ExpectileValue(nn.Module):
    """An expectile of the discounted rewards seen from an observation on (Kostrikov et al., IQL, ICLR 2022, equation 5).

    In units of the largest reward, earned for ever: within [-1, 1] whatever the rewards are. expectile: 0.5 is the mean of what people
    earned, near 1 the best of it.
    """

    scale: Tensor

    def __init__(self, dim: int, hidden: Sequence[int], discount: float, expectile: float, target_rate: float):
        super().__init__()
        self.discount, self.expectile, self.target_rate = discount, expectile, target_rate
        self.net = mlp([dim, *hidden, 1])
        self.target = slow_copy(self.net)
        self.register_buffer("scale", torch.zeros(()))  # the largest reward seen

    def forward(self, row: Float[Tensor, "*B D"]) -> Float[Tensor, "*B"]:
        return self.net(row).float().squeeze(-1)

    @property
    def _later(self) -> nn.Module:
        """What says the value of what comes after. The moving average that is validated is an average already: its target never moved."""
        return self.target if self.training else self.net

    @torch.no_grad()
    def follow(self, reward: Float[Tensor, "B H"]) -> None:
        """Once per update: the target moves towards the value, and larger rewards are noted."""
        self.scale.copy_(torch.maximum(self.scale, reward.abs().amax()))
        follow(self.target, self.net, self.target_rate)

    def errors(
        self,
        rows: Float[Tensor, "B R D"],
        reward: Float[Tensor, "B H"],
        terminal: Bool[Tensor, "B H"],
        there: Bool[Tensor, "B H"],
    ) -> Float[Tensor, " B"]:
        """How wrong the value of the first of R = H + 1 observations is, given the rewards of H actions and the value where they led.

        there: the observation after each action exists. Where one does not, the episode ended: a terminal action earns nothing more;
        any other was cut off there, and its reward is taken to go on, as if the robot had stayed.
        """
        horizon, steps = reward.shape[1], there.sum(1)
        happened = torch.cat([torch.ones_like(there[:, :1]), there[:, :-1]], dim=1)
        reward = reward * happened / torch.where(self.scale > 0, self.scale, 1.0)
        powers = self.discount ** torch.arange(horizon + 1, device=reward.device)
        earned = (1 - self.discount) * (reward * powers[:-1]).sum(1)
        stayed = (reward * ~terminal).gather(1, steps.clamp(max=horizon - 1).unsqueeze(1)).squeeze(1)
        with torch.no_grad():
            after = torch.where(steps == horizon, self._later(rows[:, -1]).float().squeeze(-1), stayed)
        error = earned + powers[(steps + 1).clamp(max=horizon)] * after - self(rows[:, 0])
        return expectile_loss(error, self.expectile)


def expectile_loss(error: Tensor, tau: float) -> Tensor:
    """|tau - 1[error < 0]| * error^2 (Kostrikov et al. 2022, IQL, equation 5)."""
    return torch.where(error < 0, 1 - tau, tau) * error.square()
