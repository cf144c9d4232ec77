"""Plain fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn


def mlp(sizes: Sequence[int], activation: Callable[[], nn.Module] = nn.SiLU, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers of the given sizes, input first; activation (and dropout) between them, none after the last."""
    layers: list[nn.Module] = []
    for i, (wide, narrow) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        layers.append(nn.Linear(wide, narrow))
        if i < len(sizes) - 2:
            layers.append(activation())
            if dropout:
                layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
