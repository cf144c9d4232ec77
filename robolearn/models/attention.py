"""Which kernel computes attention over the few tokens that policies have."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def short(tokens: Tensor) -> AbstractContextManager[object]:
    """Inside, torch's attention learns on a CPU by plain products: its fused kernel goes back through 256 short chunks in bfloat16 in
    60 ms, they in 7.
    """
    return sdpa_kernel(SDPBackend.MATH) if tokens.is_cpu and tokens.requires_grad else nullcontext()
