"""A transformer that looks back only, after minGPT as robomimic has it: layer norms first, positions learned."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from robolearn.models.attention import short


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.mixed = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.attention_norm(x)).chunk(3, dim=-1))
        with short(q):
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        x = x + F.dropout(self.mixed(seen.transpose(1, 2).flatten(2)), self.dropout, self.training)
        return x + self.mlp(self.mlp_norm(x))


class CausalTransformer(nn.Module):
    """(B, T, inputs) -> (B, T, outputs), the output at t from the inputs up to t; T at most `context`."""

    def __init__(self, inputs: int, outputs: int, context: int, width: int = 512, layers: int = 6, heads: int = 8, dropout: float = 0.1):
        super().__init__()
        self.embed, self.embed_norm, self.dropout = nn.Linear(inputs, width), nn.LayerNorm(width), nn.Dropout(dropout)
        self.position = nn.Parameter(torch.zeros(context, width))
        self.blocks = nn.Sequential(*[_Block(width, heads, dropout) for _ in range(layers)])
        self.last_norm, self.last = nn.LayerNorm(width), nn.Linear(width, outputs)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)  # as GPT-2
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Float[Tensor, "B T C"]) -> Float[Tensor, "B T P"]:
        x = self.dropout(self.embed_norm(self.embed(x) + self.position[: x.shape[1]]))
        return self.last(self.last_norm(self.blocks(x)))
