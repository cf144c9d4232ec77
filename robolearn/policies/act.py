"""ACT (Zhao et al., RSS 2023): a transformer answers with a whole chunk, trained as the decoder of a variational autoencoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Batch, Metrics, logged
from robolearn.models.act_transformer import ChunkDecoder, ChunkPosterior, Widths
from robolearn.models.weighted import weighted_mean
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy


@dataclass(frozen=True)
class ActConfig(ChunkConfig):
    """The paper's network in a size for two CPU cores; the paper's own numbers are beside."""

    history: int = 1
    horizon: int = 20  # 100, which were 2 s
    mask_pad: bool = True
    width: int = 128  # 512
    feedforward: int = 512  # 3200
    heads: int = 4  # 8
    encoder_layers: int = 2  # 4, of both encoders
    decoder_layers: int = 1  # 7, of which the released code uses the first
    dropout: float = 0.1
    latent: int = 32  # numbers that tell one way of doing it from another; 0 at test
    kl_weight: float = 10.0  # of the latent's divergence from N(0, I), beside the L1 error

    def build(self, spec: RobotSpec) -> ActPolicy:
        return ActPolicy(self, spec)


class ActPolicy(ChunkPolicy):
    """act() is the chunk of the latent 0; of several samples the others are those of latents drawn from N(0, I)."""

    config: ActConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned

    def __init__(self, config: ActConfig, spec: RobotSpec):
        super().__init__(config, spec)
        for name in ("width", "feedforward", "heads", "encoder_layers", "decoder_layers", "latent"):
            require_at_least(f"policy.{name}", getattr(config, name), 1, "")
        if config.width % config.heads:
            raise UserError(f"policy.width: {config.width} features; {config.heads} heads need a multiple of {config.heads}")
        views = 2 if config.goal == "image" else 1  # a goal's picture is one more
        tokens, features = (0, 0) if self.encoder is None else (self.encoder.tokens, self.encoder.out_dim)
        self.tokens, self.pictures = views * tokens, views * features  # of one time step: tokens, and numbers of the condition
        numbers, image = self.row_dim - self.pictures, (self.tokens, self.pictures // max(self.tokens, 1))
        sizes = (self.action_dim, self.history, self.horizon, config.latent)
        widths = Widths(config.width, config.feedforward, config.heads, config.dropout)
        self.posterior = ChunkPosterior(numbers, *sizes, widths, config.encoder_layers)
        self.net = ChunkDecoder(numbers, image, *sizes, widths, (config.encoder_layers, config.decoder_layers))

    def loss(self, batch: Batch) -> tuple[Float[Tensor, ""], Metrics]:
        """As every chunk policy's; with mask_pad the posterior does not look at padded actions either."""
        pad = batch.pad if self.config.mask_pad else torch.zeros_like(batch.pad)
        errors = self.errors(self.condition(batch.obs), self.inside(batch.action, batch.obs), pad)
        loss = weighted_mean(errors, self.counts(batch))
        return loss, {"loss": logged(loss)}

    def errors(
        self, cond: Float[Tensor, "B T C"], action: Float[Tensor, "B H A"], pad: Bool[Tensor, "B H"] | None = None
    ) -> Float[Tensor, "B H"]:
        """L1 of each action, plus the whole chunk's divergence: the negative lower bound of its likelihood, but for kl_weight."""
        state, image = self._tokens(cond)
        pad = torch.zeros(action.shape[:2], dtype=torch.bool, device=action.device) if pad is None else pad
        mean, log_variance = self.posterior(state, action, pad)
        latent = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=self.generator).to(mean)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(-1, keepdim=True) / 2
        return (self.net(state, image, latent) - action).abs().mean(-1) + self.config.kl_weight * divergence

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Tensor | None = None
    ) -> Float[Tensor, "B n H A"]:
        latent = torch.zeros(len(cond), n, self.config.latent)
        latent[:, 1:] = torch.randn((len(cond), n - 1, self.config.latent), generator=generator)
        state, image = self._tokens(cond.repeat_interleave(n, dim=0))
        chunk = self.net(state, image, latent.flatten(0, 1).to(cond)).unflatten(0, (-1, n))
        return self.hold(chunk)

    def _tokens(self, cond: Tensor) -> tuple[Float[Tensor, "B T S"], Float[Tensor, "B T N E"]]:
        """The condition, taken apart: numbers (the state, and a goal that is no picture) and pictures."""
        first, last = self.spec.state_dim, self.spec.state_dim + self.pictures
        image = cond[..., first:last]
        numbers = torch.cat([cond[..., :first], cond[..., last:]], dim=-1)
        return numbers, image.unflatten(-1, (self.tokens, -1)) if self.tokens else image.unsqueeze(-2)
