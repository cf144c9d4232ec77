"""The two transformers of ACT (Zhao et al., RSS 2023, section IV-C): a conditional variational autoencoder over a chunk of actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Widths:
    """Of every layer, in features, and how many attention heads share them."""

    width: int
    feedforward: int
    heads: int
    dropout: float


def _encoder(widths: Widths, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(widths.width, widths.heads, widths.feedforward, widths.dropout, batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, nn.LayerNorm(widths.width), enable_nested_tensor=False)


def _positions(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(0.02 * torch.randn(count, width))


class ChunkPosterior(nn.Module):
    """States (B, T, S) and the chunk that was done (B, H, A) -> mean and log variance of the latent: the style it was done in.

    In training only. S = 0: the chunk alone.
    """

    def __init__(self, state_dim: int, action_dim: int, history: int, horizon: int, latent: int, widths: Widths, layers: int):
        super().__init__()
        self.summary = _positions(1, widths.width)
        self.state = nn.Linear(state_dim, widths.width) if state_dim else None
        self.action = nn.Linear(action_dim, widths.width)
        self.positions = _positions((history if state_dim else 0) + horizon, widths.width)
        self.layers = _encoder(widths, layers)
        self.head = nn.Linear(widths.width, 2 * latent)

    def forward(
        self, state: Float[Tensor, "B T S"], action: Float[Tensor, "B H A"], pad: Bool[Tensor, "B H"]
    ) -> tuple[Float[Tensor, "B Z"], Float[Tensor, "B Z"]]:
        """pad: actions that are not looked at. Both results are float32."""
        tokens = torch.cat(([] if self.state is None else [self.state(state)]) + [self.action(action)], dim=1) + self.positions
        tokens = torch.cat([self.summary.expand(len(tokens), 1, -1), tokens], dim=1)
        hidden = pad.new_zeros(len(tokens), tokens.shape[1])
        hidden[:, -pad.shape[1] :] = pad
        mean, log_variance = self.head(self.layers(tokens, src_key_padding_mask=hidden)[:, 0]).float().chunk(2, dim=-1)
        return mean, log_variance


class ChunkDecoder(nn.Module):
    """States (B, T, S), image tokens (B, T, N, E) and a latent (B, Z) -> a chunk (B, H, A): one query for each action, all at once.

    S = 0 or N = 0: without these.
    """

    def __init__(
        self,
        state_dim: int,
        image: tuple[int, int],
        action_dim: int,
        history: int,
        horizon: int,
        latent: int,
        widths: Widths,
        layers: tuple[int, int],
    ):
        """image: tokens per time step, and their features. layers: of the encoder, and of the decoder."""
        super().__init__()
        self.latent = nn.Linear(latent, widths.width)
        self.state = nn.Linear(state_dim, widths.width) if state_dim else None
        self.image = nn.Linear(image[1], widths.width) if image[0] else None
        self.positions = _positions(1 + history * (bool(state_dim) + image[0]), widths.width)
        self.encoder = _encoder(widths, layers[0])
        self.queries = _positions(horizon, widths.width)
        layer = nn.TransformerDecoderLayer(
            widths.width, widths.heads, widths.feedforward, widths.dropout, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, layers[1], nn.LayerNorm(widths.width))
        self.head = nn.Linear(widths.width, action_dim)

    def forward(
        self, state: Float[Tensor, "B T S"], image: Float[Tensor, "B T N E"], latent: Float[Tensor, "B Z"]
    ) -> Float[Tensor, "B H A"]:
        tokens = [self.latent(latent).unsqueeze(1)]
        if self.state is not None:
            tokens.append(self.state(state))
        if self.image is not None:
            tokens.append(self.image(image).flatten(1, 2))
        seen = self.encoder(torch.cat(tokens, dim=1) + self.positions)
        return self.head(self.decoder(self.queries.expand(len(seen), -1, -1), seen)).float()
