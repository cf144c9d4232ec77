"""Which numbers to multiply with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import torch
from torch import nn

Precision = Literal["auto", "float32", "bfloat16"]


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """Forward passes inside run in bfloat16 if asked to, or with "auto" where the device is faster at it."""
    wanted = precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def halve(module: nn.Module) -> None:
    """Keep the weights of matrix products and convolutions in bfloat16: half as much to read for every answer. For acting, within
    autocast(device, "bfloat16"); what is left of the weights is no start for training."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.modules.conv._ConvNd):
            part.to(torch.bfloat16)


@cache
def all_bfloat16(device: torch.device) -> bool:
    """Has this device every layer in bfloat16? oneDNN on processors without AVX-512 has neither LSTMs nor weights laid out for it."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@cache
def has_bfloat16(device: torch.device) -> bool:
    """Does this device multiply bfloat16 matrices faster than float32 ones?"""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    flags = Path("/proc/cpuinfo")  # AVX-512 BF16 and AMX: twice as fast; elsewhere bfloat16 is emulated, and slower
    return device.type == "cpu" and flags.exists() and ("avx512_bf16" in (found := flags.read_text()) or "amx_bf16" in found)
