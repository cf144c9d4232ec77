"""A latent world model whose doubt can be read: several dynamics heads on one bounded latent, rewards, and where episodes end.

After TD-MPC (Hansen et al. 2022), TD-MPC2 (Hansen et al. 2024, section 3.1: SimNorm, two-hot rewards) and FOWM (Feng et al. 2023).
What latents are worth is the critic's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.core.errors import UserError
from robolearn.models.ema import follow, slow_copy
from robolearn.models.ensemble import EnsembleMlp
from robolearn.models.twohot import TwoHot
from robolearn.models.weighted import weighted_mean


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and losses of the world model. The defaults plan in tens of milliseconds on one CPU core."""

    latent: int = 64
    """Latent units; a multiple of `group`."""
    group: int = 8
    """Units per SimNorm group (softmax inside each)."""
    squash: Literal["simnorm", "sigmoid"] = "simnorm"
    """How latents are kept bounded; sigmoid, after a LayerNorm, is FOWM's."""
    width: int = 128
    """Hidden units of every part but the encoder."""
    encoder_width: int = 256
    heads: int = 3
    """Dynamics heads; their spread is the model's doubt."""
    rewards: Literal["two_hot", "mse"] = "two_hot"
    bound: float = 5.0
    """two_hot: largest reward, as symlog; 5 is 147."""
    horizon: int = 5
    """Steps it is unrolled in training."""
    rho: float = 0.5
    """Step t counts rho^t."""
    consistency: float = 20.0
    reward: float = 0.5
    ends: float = 0.5
    """Weight of learning where episodes end; 0: it takes none to end."""
    value: float = 0.1
    """Weight of Q and V, whose gradients reach the encoder."""
    encoder_rate: float = 1.0
    """Times the learning rate, for the encoder."""
    target_encoder: float = 0.0
    """Step of a moving average of the encoder that says what comes next; 0: the encoder itself does."""

    def __post_init__(self) -> None:
        if self.group < 1:
            raise UserError(f"agent.model.group: {self.group} units; valid: 1 or more")
        if self.latent < 1 or self.latent % self.group:
            raise UserError(f"agent.model.latent: {self.latent} units; valid: multiples of agent.model.group = {self.group}")


class WorldModel(nn.Module):
    """inputs -> latent; latent, action -> next latents of K heads, reward, end."""

    spread_median: Tensor
    error_median: Tensor
    return_error: Tensor

    def __init__(self, config: ModelConfig, inputs: int, action: int, calibrated: int = 1):
        """calibrated: actions ahead for which it is known how far off it should be (`error_median`)."""
        super().__init__()
        self.config = config
        latent, width = config.latent, config.width
        self.encoder = EnsembleMlp(1, inputs, config.encoder_width, latent)
        self.target_encoder = slow_copy(self.encoder) if config.target_encoder else None
        self.twohot = TwoHot.upto(config.bound) if config.rewards == "two_hot" else None
        self.dynamics = EnsembleMlp(config.heads, latent + action, width, latent)
        # What a step earns and, as the last number, whether it ends the episode: one trunk is a network less to ask in every plan.
        self.outcome = EnsembleMlp(1, latent + action, width, (self.twohot.count if self.twohot else 1) + 1, zero_last=True)
        self.norm = nn.LayerNorm(latent) if config.squash == "sigmoid" else None
        # On held-out data, where it should know: how far the heads differ, how far they are off after 1, 2, ... actions, and how far the
        # returns are that plans are expected to earn, in value ranges; 1 until that is measured.
        self.register_buffer("spread_median", torch.ones(()))
        self.register_buffer("error_median", torch.ones(calibrated))
        self.register_buffer("return_error", torch.ones(()))

    def squash(self, x: Float[Tensor, "*N L"]) -> Float[Tensor, "*N L"]:
        if self.norm is not None:
            return self.norm(x).sigmoid()
        # The units of a group lie apart, not side by side: which they are is all the same to learning, and the softmax four times as quick.
        return x.unflatten(-1, (self.config.group, -1)).softmax(-2).flatten(-2)

    def encode(self, inputs: Float[Tensor, "*N I"]) -> Float[Tensor, "*N L"]:
        return self._encode(self.encoder, inputs)

    @torch.no_grad()
    def encode_target(self, inputs: Float[Tensor, "*N I"]) -> Float[Tensor, "*N L"]:
        """What the next latent should have been."""
        return self._encode(self.target_encoder or self.encoder, inputs)

    def _encode(self, encoder: EnsembleMlp, inputs: Tensor) -> Tensor:
        return self.squash(encoder.all(inputs.reshape(-1, inputs.shape[-1]))[0]).unflatten(0, inputs.shape[:-1])

    def step(self, z: Float[Tensor, "K N L"], action: Float[Tensor, "K N A"]) -> Float[Tensor, "K N L"]:
        """One step, each head on its own rows."""
        return self.squash(self.dynamics(torch.cat([z, action], -1)))

    def outcomes(self, za: Float[Tensor, "*N D"]) -> tuple[Float[Tensor, "*N"], Float[Tensor, "*N"]]:
        """(the reward of a step, the probability that the episode ends with it: 0 where the model takes none to end)."""
        output = self.outcome.all(za.reshape(-1, za.shape[-1]))[0].unflatten(0, za.shape[:-1])
        earns, ends = output[..., :-1], output[..., -1]
        reward = earns.squeeze(-1) if self.twohot is None else self.twohot.decode(earns)
        return reward, ends.sigmoid() if self.config.ends else torch.zeros_like(ends)

    def walk(
        self, z: Float[Tensor, "B L"], action: Float[Tensor, "B T A"], goal: Float[Tensor, "B T L"]
    ) -> tuple[Float[Tensor, "B T L"], Float[Tensor, "B T"]]:
        """(the latents that actions start from, each row walked by one head; every head's squared error, meaned)."""
        heads, rows = self.config.heads, torch.arange(len(z), device=z.device)
        turn, z_heads = rows % heads, z.expand(heads, -1, -1)
        walked, apart = [], []
        for t in range(action.shape[1]):
            walked.append(z_heads[turn, rows])
            z_heads = self.step(z_heads, action[:, t].expand(heads, -1, -1))
            apart.append((z_heads - goal[:, t]).square().mean((0, 2)))
        return torch.stack(walked, 1), torch.stack(apart, 1)

    def losses(
        self,
        za: Float[Tensor, "B T D"],
        apart: Float[Tensor, "B T"],
        reward: Float[Tensor, "B T"],
        terminal: Bool[Tensor, "B T"],
        real: Bool[Tensor, "B T"],
        followed: Bool[Tensor, "B T"],
    ) -> dict[str, tuple[float, Tensor]]:
        """name -> (weight, mean). Rows past an episode's end count nowhere; steps that nothing followed teach no dynamics."""
        config, flat = self.config, za.flatten(0, 1)
        rho = self.fading(za.shape[1], za.device)
        output = self.outcome.all(flat)[0]
        if self.twohot is None:
            off = F.mse_loss(output[:, 0], reward.flatten(), reduction="none")
        else:
            off = self.twohot.loss(output[:, :-1], reward.flatten())
        terms = {
            "consistency": (config.consistency, weighted_mean(apart, rho * (real & followed))),
            "reward": (config.reward, weighted_mean(off.view_as(reward), rho * real)),
        }
        if config.ends:
            wrong = F.binary_cross_entropy_with_logits(output[:, -1], terminal.flatten().float(), reduction="none")
            terms["ends"] = (config.ends, weighted_mean(wrong.view_as(reward), rho * real))
        return terms

    def fading(self, steps: int, device: torch.device) -> Float[Tensor, " T"]:
        return self.config.rho ** torch.arange(steps, device=device)

    @torch.no_grad()
    def follow(self) -> None:
        """The target encoder moves towards the encoder."""
        if self.target_encoder is not None:
            follow(self.target_encoder, self.encoder, self.config.target_encoder)

    @torch.no_grad()
    def ahead(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N T A"]) -> Float[Tensor, "N T L"]:
        """The heads' mean latent after each of T actions, every head on its own way."""
        heads, means = self.config.heads, []
        z_heads = z.expand(heads, -1, -1)
        for t in range(action.shape[1]):
            z_heads = self.step(z_heads, action[:, t].expand(heads, -1, -1))
            means.append(z_heads.mean(0))
        return torch.stack(means, 1)

    @torch.no_grad()
    def error(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N T A"], after: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        """Squared distance of that latent from the one that followed T actions, mean over units."""
        return (self.ahead(z, action)[:, -1] - after).square().mean(-1)

    @torch.no_grad()
    def spread(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"]) -> Float[Tensor, " N"]:
        """Across-head variance of the next latent, mean over units."""
        heads = self.config.heads
        return self.step(z.expand(heads, -1, -1), action.expand(heads, -1, -1)).var(0, correction=0).mean(-1)
