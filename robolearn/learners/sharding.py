"""A policy that is too large for copies: every GPU keeps a part of its weights, gradients and moments (FSDP2).

torch's distributed tensors take as long to import as torch itself, so each function does it on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def shard(module: nn.Module, device: torch.device) -> None:
    """In place. Every block of a ModuleList is gathered for its own computation only; what is left, for all of it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    blocks = [block for part in module.modules() if isinstance(part, nn.ModuleList) for block in part]
    for block in reversed(blocks):  # the inner ones first
        if any(True for _ in block.parameters()):
            fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def whole(state: Any) -> Any:
    """The same structure with whole tensors on the CPU in place of the parts. All ranks call it together."""
    from torch.distributed.tensor import DTensor

    if isinstance(state, DTensor):
        return state.full_tensor().cpu()
    if isinstance(state, Mapping):
        return {key: whole(value) for key, value in state.items()}
    return [whole(value) for value in state] if isinstance(state, list) else state


def load_whole(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """module.load_state_dict of what `whole` made, sharded or not."""
    own = module.state_dict()
    module.load_state_dict({name: _part(value, own.get(name)) for name, value in state.items()})


def load_whole_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """optimizer.load_state_dict of what `whole` made, its parameters sharded or not."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    parts = {i: {name: _part(v, params[i]) if v.ndim else v for name, v in of.items()} for i, of in state["state"].items()}
    optimizer.load_state_dict({**state, "state": parts})


def _part(value: Tensor, like: Tensor | None) -> Tensor:
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return value
    device = like.to_local().device
    return distribute_tensor(value.to(device), like.device_mesh, like.placements, src_data_rank=None)
