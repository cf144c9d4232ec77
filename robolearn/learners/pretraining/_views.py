"""Two views of one image: MoCo v2's augmentations, drawn for each image and applied to the whole batch at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from robolearn.models.augment import YIQ, color_matrix


@dataclass(frozen=True)
class ViewsConfig:
    """MoCo v2's (Chen et al., 2020, section 3), without its mirror images: a robot's left is not its right."""

    scale: tuple[float, float] = (0.2, 1.0)  # share of the image's area that a crop keeps, at least and at most
    jitter: float = 0.4  # brightness, contrast, saturation: factors of 1 - jitter to 1 + jitter, for 80 % of the views
    hue: float = 0.1  # of a full turn
    grey: float = 0.2  # share of the views without colour
    blur: float = 0.5  # share of the views that are blurred
    flip: float = 0.0  # share of mirror images; 0.5 in MoCo v2

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"views.scale: {list(self.scale)} of the area; expected two shares above 0 and up to 1, the smaller first")
        for name in ("jitter", "hue", "grey", "blur", "flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"views.{name}: {getattr(self, name)}; expected 0 to 1")


def view(pixels: Float[Tensor, "N 3 h w"], config: ViewsConfig, generator: torch.Generator) -> Float[Tensor, "N 3 h w"]:
    """One view of each image, in [0, 1]. Drawn on the CPU, so that every device sees the same."""
    drawn = torch.rand(13, len(pixels), generator=generator)
    with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 leaves 8 bits of a colour, and less of a place
        pixels = _crop(pixels, config, drawn[:5])
        pixels = _colour(pixels, config, drawn[5:11])
        return _blur(pixels, drawn[11] < config.blur, float(drawn[12, 0]))


def _crop(pixels: Tensor, config: ViewsConfig, drawn: Tensor) -> Tensor:
    """A random part of the image, its sides 3:4 to 4:3, enlarged to the whole."""
    least, most = config.scale
    area = least + (most - least) * drawn[0]
    ratio = torch.exp((2 * drawn[1] - 1) * math.log(4 / 3))
    wide, high = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x, y = ((2 * draw - 1) * (1 - side) for draw, side in ((drawn[2], wide), (drawn[3], high)))
    mirror = torch.where(drawn[4] < config.flip, -1.0, 1.0)
    none = torch.zeros_like(x)
    theta = torch.stack([torch.stack([wide * mirror, none, x], 1), torch.stack([none, high, y], 1)], 1).to(pixels.device)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


def _colour(pixels: Tensor, config: ViewsConfig, drawn: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue are one matrix for each image, and an offset towards its mean grey."""
    device = pixels.device
    some = (drawn[0] < 0.8).float()
    brightness, contrast, saturation = (1 + some * config.jitter * (2 * draw - 1) for draw in drawn[1:4])
    angle = some * 2 * math.pi * config.hue * (2 * drawn[4] - 1)
    saturation = torch.where(drawn[5] < config.grey, 0.0, saturation)
    matrix = color_matrix(brightness * contrast, saturation, angle).to(device)
    grey = pixels.mean((2, 3)) @ YIQ[0].to(device)
    offset = (brightness * (1 - contrast)).to(device) * grey
    return (torch.einsum("ndc,nchw->ndhw", matrix, pixels) + offset[:, None, None, None]).clamp(0, 1)


def _blur(pixels: Tensor, chosen: Tensor, drawn: float) -> Tensor:
    """A Gaussian of 0.1 to 2 px at 224 px, one width for the whole batch, a tenth of the image at most."""
    from torchvision.transforms.v2 import functional as transforms  # as long to import as torch: only for who blurs

    if not chosen.any():
        return pixels
    side = min(pixels.shape[-2:])
    sigma = (0.1 + 1.9 * drawn) * max(side / 224, 0.25)
    kernel = max(side // 10 // 2 * 2 + 1, 3)
    chosen = chosen.to(pixels.device)
    blurred = transforms.gaussian_blur(pixels[chosen], [kernel, kernel], [sigma, sigma])
    return pixels.index_put((chosen.nonzero()[:, 0],), blurred)
