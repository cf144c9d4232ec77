"""How other projects name and nest the tensors of the same network, and how they become a trunk's."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robolearn.core.errors import UserError

State = dict[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """One project's way to save a network."""

    name: str
    nested: str = ""  # the entry of the file that holds the tensors; empty: the file is the tensors
    prefix: str = ""  # of the network's names; what begins otherwise belongs to other networks
    rename: tuple[tuple[str, str], ...] = ()  # pattern -> replacement, one after the other, after the prefix is gone
    spare: str = ""  # pattern of names that may be left over: heads and decoders that the trunk has no place for
    convert: Callable[[State], State] | None = None  # what renaming cannot do

    def read(self, file: Mapping[str, Any]) -> State:
        """The network's tensors under the trunk's names, as far as they are there; empty for a file of another layout."""
        tensors = file.get(self.nested) if self.nested else file
        if not isinstance(tensors, Mapping):
            return {}
        state: State = {}
        for key, value in tensors.items():
            if isinstance(value, Tensor) and key.startswith(self.prefix):
                key = key[len(self.prefix) :]
                for pattern, replacement in self.rename:
                    key = re.sub(pattern, replacement, key)
                state[key] = value
        try:
            return self.convert(state) if self.convert else state
        except (RuntimeError, TypeError, IndexError):  # of other shapes than the project's; what is wrong then shows below
            return state


def fill(net: nn.Module, file: Mapping[str, Any], layouts: Sequence[Layout], where: str, what: str) -> None:
    """Load `file` into `net` by the layout that knows most of its names; every tensor must find its place.

    BatchNorm's weights fill a GroupNorm, whose statistics are its own. UserError, one line: none of the layouts, tensors that are
    missing, left over or of another shape.
    """
    wanted = {name: value for name, value in net.state_dict().items() if "lora_" not in name}
    read = [(layout, layout.read(file)) for layout in layouts]
    layout, state = max(read, key=lambda pair: len(wanted.keys() & pair[1].keys()))
    known = ", ".join(dict.fromkeys(layout.name for layout in layouts))
    if not wanted.keys() & state.keys():
        raise UserError(f"{where}: not {what}: no tensor is named as one of {known} would; its entries: {', '.join(list(file)[:4])}")
    if missing := [name for name in wanted if name not in state and not name.endswith("num_batches_tracked")]:
        few = f"'{missing[0]}'" + (f" and {len(missing) - 1} more tensors are" if len(missing) > 1 else " is")
        raise UserError(f"{where}: not {what}: {few} missing (read as saved by {layout.name}; known: {known})")
    statistics = r"(^|.*\.)(running_mean|running_var|num_batches_tracked)$"
    if left := [n for n in state if n not in wanted and not re.match(layout.spare or "$^", n) and not re.match(statistics, n)]:
        few = f"'{left[0]}'" + (f" and {len(left) - 1} more tensors have" if len(left) > 1 else " has")
        raise UserError(f"{where}: not {what}: {few} no place in it (read as saved by {layout.name}; known: {known})")
    fitted = {name: _fit(net, name, state[name], wanted[name]) for name in wanted if name in state}
    for name, value in fitted.items():
        if value.shape != wanted[name].shape:
            raise UserError(f"{where}: not {what}: '{name}' is {tuple(value.shape)}; expected {tuple(wanted[name].shape)}")
    net.load_state_dict(fitted, strict=False)


def _fit(net: nn.Module, name: str, value: Tensor, wanted: Tensor) -> Tensor:
    """`value` with the axes of length 1 that `wanted` has, and a transformer's positions interpolated to its grid."""
    if value.squeeze().shape == wanted.squeeze().shape:
        return value.reshape(wanted.shape)
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    prefix = 0 if getattr(net, "no_embed_class", False) else getattr(net, "num_prefix_tokens", 0)
    if (
        name != "pos_embed"
        or grid is None
        or value.ndim != 3
        or math.isqrt(max(value.shape[1] - prefix, 0)) ** 2 != value.shape[1] - prefix
    ):
        return value
    from timm.layers.pos_embed import resample_abs_pos_embed  # slow to import

    return resample_abs_pos_embed(value, list(grid), num_prefix_tokens=prefix)


def fuse_qkv(state: State) -> State:
    """Query, key and value as one layer, as timm has them in its blocks."""
    fused = dict(state)
    for name in state:
        if found := re.fullmatch(r"(blocks\.\d+\.attn\.)q(\.weight|\.bias)", name):
            parts = [fused.pop(other) for part in "qkv" if (other := found[1] + part + found[2]) in fused]
            fused[f"{found[1]}qkv{found[2]}"] = torch.cat(parts)
    return fused


def project_without_bias(state: State) -> State:
    """CLIP multiplies the class token with a matrix; timm's layer has a bias, too."""
    state = dict(state)
    if "projection" in state:  # OpenAI saves it as (inputs, outputs)
        state["head.weight"] = state.pop("projection").transpose(0, -1)
    if "head.weight" in state and "head.bias" not in state:
        state["head.bias"] = state["head.weight"].new_zeros(len(state["head.weight"]))
    return state


def split_pool(state: State) -> State:
    """SigLIP's pooling: query, and key and value together, as timm has them."""
    state = dict(state)
    for kind in ("weight", "bias"):
        if (packed := state.pop(f"attn_pool.in_proj_{kind}", None)) is not None:
            third = len(packed) // 3
            state[f"attn_pool.q.{kind}"], state[f"attn_pool.kv.{kind}"] = packed[:third], packed[third:]
    return state
