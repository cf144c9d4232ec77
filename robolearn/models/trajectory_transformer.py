"""Transformers over trajectories: every step is a few tokens (what was seen, done, earned), and a mask says who looks at whom."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from robolearn.models.attention import short


class _Block(nn.Module):
    """Self-attention and an MLP, each on normalised input and added to what came in (pre-norm)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        with short(q):
            mixed = F.scaled_dot_product_attention(q, k, v, seen.unsqueeze(1), self.dropout if self.training else 0.0)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return x + self.mlp(self.mlp_norm(x))


class TrajectoryTransformer(nn.Module):
    """Tokens (B, N, W) -> tokens (B, N, W); `heads` divides the width."""

    def __init__(self, width: int, layers: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Float[Tensor, "B N W"], seen: Bool[Tensor, "B N N"]) -> Float[Tensor, "B N W"]:
        """seen: [b, i, j]: token i looks at token j. Each looks at itself, or one that sees nothing would be a division by zero."""
        seen = seen | torch.eye(seen.shape[-1], dtype=torch.bool, device=seen.device)
        for block in self.blocks:
            x = block(x, seen)
        return self.norm(x)


class CausalTrajectory(nn.Module):
    """(return-to-go, observation, action) at each step, each token seeing the ones before it (Chen et al., 2021, section 3).

    `steps` times within an episode are told apart.
    """

    def __init__(self, row_dim: int, action_dim: int, width: int, layers: int, heads: int, dropout: float, steps: int):
        super().__init__()
        self.embed = nn.ModuleList(nn.Linear(dim, width) for dim in (1, row_dim, action_dim))
        self.step = nn.Embedding(steps, width)
        nn.init.normal_(self.step.weight, std=0.02)
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.body = TrajectoryTransformer(width, layers, heads, dropout)

    def forward(
        self,
        to_go: Float[Tensor, "B T"],
        row: Float[Tensor, "B T C"],
        action: Float[Tensor, "B T A"],
        step: Int[Tensor, "B T"],
        real: Bool[Tensor, "B T"],
    ) -> Float[Tensor, "B T W"]:
        """What is known at each observation, its own action not yet. Steps that are not `real` are seen by nobody."""
        parts = [embed(part) for embed, part in zip(self.embed, (to_go.unsqueeze(-1), row, action), strict=True)]
        tokens = (torch.stack(parts, dim=2) + self.step(step).unsqueeze(2)).flatten(1, 2)
        count = tokens.shape[1]
        seen = torch.ones(count, count, dtype=torch.bool, device=row.device).tril() & real.repeat_interleave(3, dim=1).unsqueeze(1)
        return self.body(self.dropout(self.norm(tokens)), seen).unflatten(1, (-1, 3))[:, :, 1]


class MaskedTrajectory(nn.Module):
    """A masked autoencoder of trajectories (Wu et al., 2023, section 3.2): the visible tokens are encoded, all of them decoded.

    dims: size of a token of each kind; J steps hold one token of each kind.
    """

    def __init__(self, dims: Sequence[int], steps: int, width: int, layers: int, decoder_layers: int, heads: int, dropout: float):
        super().__init__()
        self.read = nn.ModuleList(nn.Linear(dim, width) for dim in dims)
        self.bridge = nn.Linear(width, width)
        self.places = nn.ParameterList(nn.Parameter(0.02 * torch.randn(steps, len(dims), width)) for _ in ("encoder", "decoder"))
        self.hidden = nn.Parameter(0.02 * torch.randn(len(dims), width))  # stands for a token that is not visible
        self.encoder = TrajectoryTransformer(width, layers, heads, dropout)
        self.decoder = TrajectoryTransformer(width, decoder_layers, heads, dropout)
        self.write = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, dim)) for dim in dims)

    def forward(self, parts: Sequence[Tensor], visible: Bool[Tensor, "B J K"], exists: Bool[Tensor, "B J K"]) -> list[Tensor]:
        """parts: (B, J, dim) of each kind -> the same, as the network completes them, float32.

        visible: tokens it may look at. exists: tokens there are; the others are left out, and what is written for them means nothing.
        """
        tokens = torch.stack([read(part) for read, part in zip(self.read, parts, strict=True)], dim=2) + self.places[0]
        encoded = self.bridge(self.encoder(tokens.flatten(1, 2), _seen(visible))).view_as(tokens)
        tokens = torch.where(visible.unsqueeze(-1), encoded, self.hidden.to(encoded)) + self.places[1]
        decoded = self.decoder(tokens.flatten(1, 2), _seen(exists)).view_as(tokens)
        return [write(decoded[:, :, k]).float() for k, write in enumerate(self.write)]


def _seen(tokens: Bool[Tensor, "B J K"]) -> Bool[Tensor, "B N N"]:
    flat = tokens.flatten(1)
    return flat.unsqueeze(1).expand(-1, flat.shape[1], -1)
