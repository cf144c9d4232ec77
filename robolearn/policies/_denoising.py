"""What diffusion, flow matching and their one-step student share: the network, and actions that are known beforehand."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.core.errors import UserError, require_at_least
from robolearn.models.dit1d import Dit1d, Transformer1d
from robolearn.models.unet1d import UNet1d
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy

Predict = Callable[[Tensor, int], Tensor]  # noisy chunks (B, H, A), which of the sampler's times -> what the network says of them


@dataclass(frozen=True)
class DenoisingConfig(ChunkConfig):
    """The network that looks at a noisy chunk."""

    net: Literal["unet", "transformer", "dit"] = "unet"
    widths: tuple[int, ...] = (64, 128, 256)  # unet: channels of its levels; each level after the first halves time
    kernel: int = 3  # unet: actions a convolution sees
    blocks: int = 1  # unet: residual blocks of a level, each way
    width: int = 128  # transformer, dit: channels
    layers: int = 6  # transformer, dit
    heads: int = 4  # transformer, dit
    dropout: float = 0.0  # transformer, dit
    causal: bool = False  # transformer: an action sees only those before it
    prefix: int = 0  # the most first actions it can be told it will take anyway (they are on their way while it thinks); 0: none


class Rung(NamedTuple):
    """A noise level and how to read the network there: chunk = signal * clean + noise * randn; clean = of_chunk * chunk + of_net * net."""

    time: float  # what the network is told
    signal: float
    noise: float
    of_chunk: float
    of_net: float


CLEAN = Rung(-1.0, 1.0, 0.0, 1.0, 0.0)


class DenoisingPolicy(ChunkPolicy):
    """Draws noise and turns it into chunks; what does not change on the way is computed once.

    With a prefix (training-time action conditioning, Black et al., arXiv 2512.05964) some first actions, a random number in training, are
    given clean and marked as known; the rest is denoised to go on from them.
    """

    config: DenoisingConfig  # pyright: ignore[reportIncompatibleVariableOverride] never reassigned
    limit: Tensor  # (A',) of normalised actions: none of the data's lies further out
    times: Tensor  # (S,) what the network is told of the noise, at each place it is asked on the way
    noises = 1  # draws of noise that a chunk takes

    def __init__(self, config: DenoisingConfig, spec: RobotSpec):
        super().__init__(config, spec)
        require_at_least("policy.prefix", config.prefix, 0, "actions")
        if config.prefix >= config.horizon:
            raise UserError(f"policy.prefix: {config.prefix} actions; expected less than the horizon of {config.horizon}")
        self.prefix = config.prefix
        self.register_buffer("limit", torch.ones(self.action_dim))
        self.net = self.build_net()

    def fit_normalizers(self, state: np.ndarray, action: np.ndarray, features: np.ndarray | None = None) -> None:
        super().fit_normalizers(state, action, features)
        if self.config.units == "gaussian":
            rows = torch.as_tensor(self.space.rows(action, state), device=self.limit.device)
            self.limit.copy_(self.action_norm.normalize(rows).abs().amax(0))

    def build_net(self) -> UNet1d | Transformer1d | Dit1d:
        """The network of the config. UserError: its sizes do not fit."""
        config, actions = self.config, self.action_dim
        if config.net == "unet":
            if not config.widths or min(config.widths) < 8:
                raise UserError(f"policy.widths: {config.widths} channels; expected one or more of at least 8")
            require_at_least("policy.blocks", config.blocks, 1, "blocks")
            if config.kernel < 1 or config.kernel % 2 == 0:
                raise UserError(f"policy.kernel: {config.kernel} actions; expected an odd number, such as 3 or 5")
            factor = 2 ** (len(config.widths) - 1)
            if config.horizon % factor:
                raise UserError(f"policy.horizon: {config.horizon} actions; {len(config.widths)} widths need a multiple of {factor}")
            return UNet1d(actions, self.cond_dim, config.widths, config.kernel, prefix=config.prefix > 0, blocks=config.blocks)
        require_at_least("policy.layers", config.layers, 1, "layers")
        require_at_least("policy.heads", config.heads, 1, "heads")
        if config.width < 8 or config.width % config.heads:
            raise UserError(f"policy.width: {config.width} channels; expected a multiple of {config.heads} (heads), at least 8")
        if not 0 <= config.dropout < 1:
            raise UserError(f"policy.dropout: {config.dropout}; expected 0 to below 1")
        sizes = (config.horizon, config.width, config.layers, config.heads, config.dropout)
        if config.net == "dit":
            return Dit1d(actions, self.cond_dim, *sizes, prefix=config.prefix > 0)
        return Transformer1d(actions, self.row_dim, config.history, *sizes, causal=config.causal, prefix=config.prefix > 0)

    def told(self, action: Float[Tensor, "B H A"]) -> Bool[Tensor, "B H"] | None:
        """In training: which actions are known beforehand, 0 to `prefix` of each row's first. None where the policy knows no prefix."""
        if not self.prefix:
            return None
        delay = torch.randint(self.prefix + 1, (len(action), 1), generator=self.generator)
        return (torch.arange(self.horizon) < delay).to(action.device)

    def draw(
        self, cond: Float[Tensor, "B T C"], n: int, generator: torch.Generator, prefix: Float[Tensor, "B D A"] | None = None
    ) -> Float[Tensor, "B n H A"]:
        # Drawn on the CPU, at once: a seed means the same chunks on every device, and a GPU waits for no copy on the way.
        noise = torch.randn((self.noises, len(cond) * n, self.horizon, self.action_dim), generator=generator).to(cond)
        context = self.net.context(cond).repeat_interleave(n, dim=0)
        levels = self.net.levels(self.times).split(1)
        known = None
        if prefix is not None:
            prefix = prefix.repeat_interleave(n, dim=0)
            known = torch.arange(self.horizon, device=cond.device).expand(len(prefix), -1) < prefix.shape[1]

        def predict(chunk: Tensor, place: int) -> Tensor:
            return self.net.denoise(_begin(chunk, prefix), levels[place], context, known).float()

        return _begin(self.solve(predict, noise), prefix).unflatten(0, (-1, n))

    def ladder(self, rungs: int) -> list[Rung]:
        """Noise levels to distil over, from pure noise to the clean chunk: `rungs` and the clean one, whose time nobody asks for."""
        raise NotImplementedError(f"{type(self).__name__} is no teacher")

    @abstractmethod
    def solve(self, predict: Predict, noise: Float[Tensor, "N B H A"]) -> Float[Tensor, "B H A"]:
        """From noise to normalised chunks. noise: all that may be used; the first is what the chunk begins as."""


def of_the_rest(errors: Float[Tensor, "B H"], known: Bool[Tensor, "B H"] | None) -> Float[Tensor, "B H"]:
    """No error where the action was known; the others count as much more, so that the mean over all stays the mean over them."""
    return errors if known is None else errors * ~known / (~known).float().mean()


def _begin(chunk: Tensor, prefix: Tensor | None) -> Tensor:
    return chunk if prefix is None else torch.cat([prefix, chunk[:, prefix.shape[1] :]], dim=1)
