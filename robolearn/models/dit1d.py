"""Transformers over the actions of a chunk: DiT with adaLN-zero (Peebles & Xie, ICCV 2023, section 3.2) and Diffusion Policy's decoder
that attends to the condition (Chi et al., RSS 2023, section IV-A). Both are called as the U-Net is (`unet1d`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Real
from torch import Tensor, nn

from robolearn.models.attention import short
from robolearn.models.unet1d import mark, sinusoid


class _Attention(nn.Module):
    """Multi-head attention of the actions to each other, or to the keys and values (B, M, 2W) of something else."""

    def __init__(self, width: int, heads: int, dropout: float, itself: bool, causal: bool = False):
        super().__init__()
        self.width, self.heads, self.dropout, self.causal = width, heads, dropout, causal
        self.project = nn.Linear(width, (3 if itself else 1) * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        parts = self.project(x).split(self.width, dim=-1)
        if memory is not None:
            parts += memory.split(self.width, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        dropout = self.dropout if self.training else 0.0
        with short(query):
            mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).flatten(2))


def _feed_forward(width: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * width, width))


class _Tokens(nn.Module):
    """One token for each action, with its place in the chunk."""

    def __init__(self, dim: int, horizon: int, width: int):
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x) + self.position


class Dit1d(nn.Module):
    """Noisy chunk (B, H, A), step (B,), condition (B, ...) -> prediction (B, H, A). Step and condition scale, shift and gate each layer.

    prefix: some actions may be told beforehand. Each token has a noise level of its own then: that of a known action is learned.
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        horizon: int,
        width: int = 128,
        layers: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
        embedding: int = 128,
        prefix: bool = False,
    ):
        super().__init__()
        self.embedding, self.width = embedding, width
        self.tokens = _Tokens(dim, horizon, width)
        self.step_mlp = nn.Sequential(nn.Linear(embedding, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.cond_mlp = nn.Sequential(nn.Linear(cond_dim, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.attend = nn.ModuleList(_Attention(width, heads, dropout, itself=True) for _ in range(layers))
        self.think = nn.ModuleList(_feed_forward(width, dropout) for _ in range(layers))
        self.head = nn.Linear(width, dim)
        # Every layer's shift, scale and gate in one product, as a sum of the step's part and the condition's: either is worked out once.
        sizes = (6 * layers + 2) * width
        self.step_film, self.cond_film = nn.Linear(width, sizes), nn.Linear(width, sizes, bias=False)
        self.clean = nn.Parameter(torch.zeros(sizes)) if prefix else None
        for layer in (self.step_film, self.cond_film, self.head):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.step_film.bias)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        step: Real[Tensor, " B"],
        cond: Float[Tensor, "B ..."],
        known: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, "B H A"]:
        return self.denoise(x, self.levels(step), self.context(cond), known)

    def levels(self, step: Real[Tensor, " S"]) -> Float[Tensor, "S F"]:
        """What the step adds to every layer's shifts, scales and gates."""
        return self.step_film(self.step_mlp(sinusoid(step, self.embedding)))

    def context(self, cond: Float[Tensor, "B ..."]) -> Float[Tensor, "B F"]:
        """What the condition adds to them."""
        return self.cond_film(self.cond_mlp(cond.flatten(1)))

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        level: Float[Tensor, "#B F"],
        context: Float[Tensor, "B F"],
        known: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, "B H A"]:
        level = level.unsqueeze(1)
        if self.clean is not None and known is not None:
            level = torch.where(known.unsqueeze(-1), self.clean.to(level), level)
        film = (level + context.unsqueeze(1)).split(self.width, dim=-1)
        x = self.tokens(x)
        for i, (attend, think) in enumerate(zip(self.attend, self.think, strict=True)):
            shift, scale, gate, shift2, scale2, gate2 = film[6 * i : 6 * i + 6]
            x = x + gate * attend(self._norm(x, shift, scale))
            x = x + gate2 * think(self._norm(x, shift2, scale2))
        return self.head(self._norm(x, *film[-2:]))

    def _norm(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,)) * (1 + scale) + shift


class Transformer1d(nn.Module):
    """Noisy chunk (B, H, A), step (B,), condition (B, T, C) -> prediction (B, H, A). Actions attend to the step and to each observation.

    causal: an action sees only those before it. prefix: some actions may be told beforehand; a channel of the input marks them.
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        history: int,
        horizon: int,
        width: int = 128,
        layers: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
        causal: bool = False,
        embedding: int = 128,
        prefix: bool = False,
    ):
        super().__init__()
        self.embedding, self.layers, self.prefix = embedding, layers, prefix
        self.tokens = _Tokens(dim + prefix, horizon, width)
        self.seen = _Tokens(cond_dim, history, width)
        self.step_embed = nn.Linear(embedding, width)
        self.remember = nn.Sequential(nn.Linear(width, 4 * width), nn.Mish(), nn.Linear(4 * width, width))
        self.memory = nn.Linear(width, 2 * layers * width)  # every layer's keys and values in one product
        self.attend = nn.ModuleList(_Attention(width, heads, dropout, itself=True, causal=causal) for _ in range(layers))
        self.look = nn.ModuleList(_Attention(width, heads, dropout, itself=False) for _ in range(layers))
        self.think = nn.ModuleList(_feed_forward(width, dropout) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3 * layers + 1))
        self.head = nn.Linear(width, dim)

    def forward(
        self,
        x: Float[Tensor, "B H A"],
        step: Real[Tensor, " B"],
        cond: Float[Tensor, "B T C"],
        known: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, "B H A"]:
        return self.denoise(x, self.levels(step), self.context(cond), known)

    def levels(self, step: Real[Tensor, " S"]) -> Float[Tensor, "S 1 F"]:
        """Every layer's key and value of the step."""
        return self.memory(self.remember(self.step_embed(sinusoid(step, self.embedding)))).unsqueeze(1)

    def context(self, cond: Float[Tensor, "B T C"]) -> Float[Tensor, "B T F"]:
        """Every layer's keys and values of the observations."""
        return self.memory(self.remember(self.seen(cond)))

    def denoise(
        self,
        x: Float[Tensor, "B H A"],
        level: Float[Tensor, "#B 1 F"],
        context: Float[Tensor, "B T F"],
        known: Bool[Tensor, "B H"] | None = None,
    ) -> Float[Tensor, "B H A"]:
        memory = torch.cat([level.expand(len(x), -1, -1), context], dim=1).chunk(self.layers, dim=-1)
        x = self.tokens(mark(x, known) if self.prefix else x)
        norms = iter(self.norms)
        for attend, look, think, seen in zip(self.attend, self.look, self.think, memory, strict=True):
            x = x + attend(next(norms)(x))
            x = x + look(next(norms)(x), seen)
            x = x + think(next(norms)(x))
        return self.head(next(norms)(x))
