"""Masked autoencoding: guess what is under most of the image from the rest.

A vision transformer learns as in He et al. (CVPR 2022), and MVP's robots (Radosavovic et al., CoRL 2022): it sees only the patches that are
not masked. A convolution cannot leave patches out; it sees them grey, as in SimMIM (Xie et al., CVPR 2022), and the image is
redrawn from its feature vector, the one that policies will use.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from timm.layers.pos_embed_sincos import build_sincos2d_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from robolearn.core.errors import UserError, require_at_least
from robolearn.core.types import Metrics
from robolearn.learners.pretraining.objective import Clip, Objective, ObjectiveConfig, black, width
from robolearn.models.encoders.base import CameraEncoder

SQUARE = 8  # px of a masked square where a convolution's image is redrawn


@dataclass(frozen=True)
class MaeConfig(ObjectiveConfig):
    ratio: float = 0.75  # of the patches, masked
    width: int = 128  # of the decoder; 512 in the paper
    depth: int = 2  # transformer layers of the decoder; 8 in the paper, whose table 1a finds one enough for fine-tuning
    grid: int = 8  # squares along each side that are masked or not, for a network without patches

    def build(self, encoder: CameraEncoder, images: Mapping[str, np.ndarray], action: np.ndarray) -> Mae:
        if not 0 < self.ratio < 1:
            raise UserError(f"objective.ratio: {self.ratio} of the patches; expected above 0 and below 1")
        require_at_least("objective.grid", self.grid, 2, "squares")
        return Mae(encoder, self)


class Mae(Objective):
    """The mean over the cameras of the squared error under the mask, in units of each patch's own deviation."""

    def __init__(self, encoder: CameraEncoder, config: MaeConfig):
        super().__init__(encoder)
        self.config = config
        self.decoders = nn.ModuleDict({camera: self._decoder(camera) for camera in encoder.cameras})

    def loss(self, clip: Clip) -> tuple[Float[Tensor, ""], Metrics]:
        return self.each_camera(lambda camera: (self._loss(camera, clip), {}))

    def _decoder(self, camera: str) -> TokenDecoder | VectorDecoder:
        with black(self.encoder, camera) as image:
            heard = _heard(self.encoder, camera, image)
        return TokenDecoder(heard[0], self.config) if heard else VectorDecoder(width(self.encoder, camera), self.config)

    def _loss(self, camera: str, clip: Clip) -> Tensor:
        pixels = self.encoder.pixels(camera, clip.images[camera][:, 0])
        decoder = self.decoders[camera]
        if isinstance(decoder, TokenDecoder):
            heard = _heard(self.encoder, camera, pixels)
            assert heard is not None
            net, image = heard
            shown = self._shown(len(pixels), decoder.patches)
            tokens = _see(net, image, shown)
            drawn, target = decoder(tokens, shown, net.num_prefix_tokens), _patches(image.float(), decoder.patch)
        else:
            assert isinstance(decoder, VectorDecoder)
            shown = self._shown(len(pixels), self.config.grid**2)
            drawn = decoder(self.encoder.encode(camera, _grey(pixels, shown, self.config.grid)))
            side = self.config.grid * SQUARE
            target = _patches(F.interpolate(pixels, size=(side, side), mode="area"), (SQUARE, SQUARE))
        hidden = torch.ones(len(pixels), drawn.shape[1], dtype=torch.bool, device=drawn.device).scatter_(1, shown, False)
        return _error(drawn.float(), target, hidden)

    def _shown(self, images: int, patches: int) -> Int[Tensor, "N K"]:
        """Which patches of each image are not masked, in order."""
        keep = max(round(patches * (1 - self.config.ratio)), 1)
        order = torch.rand(images, patches, generator=self.generator).argsort(1)
        return order[:, :keep].sort(1).values.to(next(self.parameters()).device)


class TokenDecoder(nn.Module):
    """The transformer's tokens of what is shown (N, 1 + K, C) -> pixels of every patch (N, P, D)."""

    places: Tensor

    def __init__(self, net: VisionTransformer, config: MaeConfig):
        super().__init__()
        high, wide = net.patch_embed.grid_size
        self.patch: tuple[int, int] = net.patch_embed.patch_size  # pyright: ignore[reportAttributeAccessIssue] set by its constructor
        self.patches, dim = high * wide, config.width
        self.embed, self.mask = nn.Linear(net.embed_dim, dim), nn.Parameter(torch.randn(dim) * 0.02)
        self.register_buffer("places", build_sincos2d_pos_embed([high, wide], dim=dim))
        layer = nn.TransformerEncoderLayer(dim, max(dim // 32, 1), 4 * dim, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, config.depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 3 * self.patch[0] * self.patch[1]))

    def forward(self, tokens: Float[Tensor, "N T C"], shown: Int[Tensor, "N K"], prefix: int) -> Float[Tensor, "N P D"]:
        seen = self.embed(tokens)
        every = self.mask.to(seen.dtype).expand(len(tokens), self.patches, -1)
        every = every.scatter(1, shown.unsqueeze(-1).expand(-1, -1, seen.shape[-1]), seen[:, prefix:])
        return self.head(self.blocks(torch.cat([seen[:, :prefix], every + self.places], dim=1))[:, prefix:])


class VectorDecoder(nn.Module):
    """A feature vector (N, E) -> pixels of every square (N, P, D)."""

    def __init__(self, features: int, config: MaeConfig):
        super().__init__()
        dim, self.grid = config.width, config.grid
        self.start = nn.Linear(features, self.grid**2 * dim)
        layers: list[nn.Module] = []
        for _ in range(3):  # 1, 2, 4, 8 px a square
            narrow = max(dim // 2, 16)
            layers += [nn.Conv2d(dim, narrow, 3, padding=1), nn.GELU(), nn.Upsample(scale_factor=2)]
            dim = narrow
        self.draw = nn.Sequential(*layers, nn.Conv2d(dim, 3, 3, padding=1))

    def forward(self, features: Float[Tensor, "N E"]) -> Float[Tensor, "N P D"]:
        maps = self.start(features).unflatten(1, (-1, self.grid, self.grid))
        return _patches(self.draw(maps), (SQUARE, SQUARE))


class _Shown(nn.Module):
    """In the place of timm's dropout of patches: keeps those that are said."""

    def __init__(self, shown: Tensor, prefix: int):
        super().__init__()
        self.shown, self.prefix = shown, prefix

    def forward(self, tokens: Tensor) -> Tensor:
        kept = tokens[:, self.prefix :].gather(1, self.shown.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))
        return torch.cat([tokens[:, : self.prefix], kept], dim=1)


def _see(net: VisionTransformer, image: Tensor, shown: Int[Tensor, "N K"]) -> Float[Tensor, "N T C"]:
    """Tokens of the patches that are shown."""
    whole, net.patch_drop = net.patch_drop, _Shown(shown, net.num_prefix_tokens)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        return net.forward_features(image)
    finally:
        net.patch_drop = whole


class _Heard(Exception):
    """Thrown as soon as a transformer is handed an image."""

    def __init__(self, net: VisionTransformer, image: Tensor):
        super().__init__()
        self.net, self.image = net, image


def _heard(encoder: CameraEncoder, camera: str, pixels: Tensor) -> tuple[VisionTransformer, Tensor] | None:
    """The transformer that sees this camera, and the image it is handed, resized and normalised as the encoder does. None: no such."""

    def hear(net: VisionTransformer, image: Tensor) -> None:
        raise _Heard(net, image)

    nets = [net for net in encoder.modules() if isinstance(net, VisionTransformer)]
    hooks = [net.patch_embed.register_forward_pre_hook(lambda _, args, net=net: hear(net, args[0])) for net in nets]
    try:
        encoder.encode(camera, pixels)
    except _Heard as heard:
        return heard.net, heard.image
    finally:
        for hook in hooks:
            hook.remove()
    return None


def _grey(pixels: Float[Tensor, "N 3 h w"], shown: Int[Tensor, "N K"], grid: int) -> Float[Tensor, "N 3 h w"]:
    """What is not shown in the image's mean colour."""
    squares = torch.zeros(len(pixels), grid**2, device=pixels.device).scatter_(1, shown, 1.0).unflatten(1, (1, grid, grid))
    mask = F.interpolate(squares, size=pixels.shape[-2:], mode="nearest")
    return torch.where(mask > 0, pixels, pixels.mean((2, 3), keepdim=True))


def _patches(image: Float[Tensor, "N 3 h w"], patch: tuple[int, int]) -> Float[Tensor, "N P D"]:
    return F.unfold(image, patch, stride=patch).transpose(1, 2)


def _error(drawn: Tensor, target: Tensor, hidden: Bool[Tensor, "N P"]) -> Tensor:
    """Targets are patches with mean 0 and deviation 1: the texture counts, not the light (the paper's norm_pix)."""
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    error = (drawn - (target - mean) / (variance + 1e-6).sqrt()).square().mean(-1)
    return error[hidden].mean()
