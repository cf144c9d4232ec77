"""Random changes of images in training, on whatever device they are on: one draw for each sample, alike over its history.

Every change is one batched operation with a parameter per sample; torchvision's transforms draw one for a whole batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from robolearn.core.errors import UserError

# RGB -> YIQ (NTSC): the first is the grey value; turning the other two shifts the hue and leaves it alone.
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_PATTERN = 8  # random colours along each side of a pattern, smooth in between


@dataclass(frozen=True)
class Augment:
    """What is done to the images of a camera in training; in eval mode only the crop remains, of the centre.

    Crop or shift was the one augmentation that mattered for cloning (Mandlekar et al., CoRL 2021, section 5.3). The others are for
    light, surroundings and cameras that will differ: overlays as in SODA (Hansen and Wang, ICRA 2021).
    """

    crop: float = 1.0  # share of height and width that is kept: at random in training, the centre otherwise; 0.5 to 1
    shift: int = 0  # px at most, edges repeated: nothing is cut off, and less of the absolute position is seen
    color: float = 0.0  # change of brightness, contrast and saturation at most, as a share; a quarter of it in turns of the hue; 0 to 1
    overlay: float = 0.0  # largest share of another sample's image, or of a smooth pattern, mixed in; 0 to 1
    view: float = 0.0  # the corners move by up to this share of the sides, as if the camera stood elsewhere; 0 to 0.25

    def check(self, field: str) -> None:
        """UserError that names `field`, the value and its range."""
        for name, low, high in (("crop", 0.5, 1.0), ("color", 0.0, 1.0), ("overlay", 0.0, 1.0), ("view", 0.0, 0.25)):
            if not low <= (value := getattr(self, name)) <= high:
                raise UserError(f"{field}.{name}: {value}; expected {low:g} to {high:g}")
        if self.shift < 0:
            raise UserError(f"{field}.shift: {self.shift} px; expected 0 or more")


def augment(
    images: UInt8[Tensor, "N *T 3 H W"], how: Augment, size: tuple[int, int], generator: torch.Generator | None
) -> Float[Tensor, "N *T 3 h w"]:
    """`images` changed as `how` says, cut to `size` (height, width) [px], in [0, 1]. Random numbers from `generator`, else torch's own."""
    pixels = _cut(images, how.shift, size, generator).float().div_(255)
    if not (how.view or how.color or how.overlay):
        return pixels
    video = pixels.reshape(len(pixels), -1, *pixels.shape[-3:])  # (N, T, 3, h, w)
    with torch.autocast(images.device.type, enabled=False):  # bfloat16 would leave 8 bits of a colour, and less of a place
        if how.view:
            video = _view(video, how.view, generator)
        if how.color:
            video = _color(video, how.color, generator)
        if how.overlay:
            video = _overlay(video, how.overlay, generator)
    return video.clamp_(0, 1).reshape(pixels.shape)


def _cut(images: Tensor, shift: int, size: tuple[int, int], generator: torch.Generator | None) -> Tensor:
    for axis in (-1, -2) if shift else ():  # v2's pad turns uint8 into float and back: fifteen times the time
        edges = [images.narrow(axis, place, 1).repeat_interleave(shift, axis) for place in (0, -1)]
        images = torch.cat([edges[0], images, edges[1]], axis)
    (high, wide), (height, width) = images.shape[-2:], size
    if (high, wide) == (height, width):
        return images
    top = torch.randint(high - height + 1, (len(images),), generator=generator)
    left = torch.randint(wide - width + 1, (len(images),), generator=generator)
    return (_slices if images.device.type == "cpu" else _windows)(images, top, left, size)


def _slices(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """On a CPU a third of the time of the other."""
    (height, width), places = size, zip(images, top.tolist(), left.tolist(), strict=True)
    return torch.stack([image[..., y : y + height, x : x + width] for image, y, x in places])


def _windows(images: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """All in one gather, where each sample's own slice would be a launch on a GPU."""
    windows = images.unfold(-2, size[0], 1).unfold(-2, size[1], 1).movedim((-4, -3), (1, 2))
    return windows[torch.arange(len(images), device=images.device), top.to(images.device), left.to(images.device)]


def _view(video: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """A homography for each sample, from where its four corners go."""
    count, (height, width) = len(video), video.shape[-2:]
    corners = torch.tensor([(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)]).expand(count, 4, 2)
    moved = corners + torch.empty(count, 4, 2).uniform_(-2 * most, 2 * most, generator=generator)
    # u (1 + g x + h y) = a x + b y + c, and v alike with d x + e y + f: two rows for each corner, eight unknowns
    (x, y), (u, v) = corners.unbind(-1), moved.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    upper = torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1)
    lower = torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1)
    unknowns = torch.linalg.solve(torch.cat([upper, lower], 1).double(), torch.cat([u, v], 1).double())
    matrix = torch.cat([unknowns, torch.ones(count, 1, dtype=torch.float64)], 1).view(count, 3, 3).to(video)
    across, down = (torch.linspace(1 / n - 1, 1 - 1 / n, n, device=video.device) for n in (width, height))  # the pixels' middles
    places = torch.stack([across.expand(height, width), down[:, None].expand(height, width), torch.ones_like(video[0, 0, 0])], -1)
    seen = torch.einsum("nij,hwj->nhwi", matrix, places)
    grid = seen[..., :2] / seen[..., 2:]
    return F.grid_sample(video.flatten(1, 2), grid, padding_mode="border", align_corners=False).view(video.shape)


def _color(video: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """Brightness, contrast, saturation and hue are together one 3 x 3 matrix and an offset for each sample."""
    draw = torch.empty(4, len(video)).uniform_(-most, most, generator=generator)
    bright, contrast, saturation, turn = 1 + draw[0], 1 + draw[1], 1 + draw[2], draw[3] * (2 * math.pi / 4)
    matrix = color_matrix(bright * contrast, saturation, turn)
    grey = torch.einsum("nc,c->n", video.mean((1, 3, 4)), YIQ[0].to(video))
    offset = ((1 - contrast) * bright).to(video) * grey
    steps = video.shape[1]
    matrix, offset = matrix.to(video).repeat_interleave(steps, 0), offset.repeat_interleave(steps)[:, None, None]
    return torch.baddbmm(offset, matrix, video.flatten(0, 1).flatten(2)).view(video.shape)


def color_matrix(gain: Float[Tensor, " N"], saturation: Float[Tensor, " N"], turn: Float[Tensor, " N"]) -> Float[Tensor, "N 3 3"]:
    """What multiplies RGB by `gain`, its colourfulness by `saturation`, and turns its hue by `turn` [rad]."""
    plane = torch.zeros(len(gain), 3, 3)
    plane[:, 0, 0] = 1
    plane[:, 1, 1] = plane[:, 2, 2] = saturation * turn.cos()
    plane[:, 2, 1] = saturation * turn.sin()
    plane[:, 1, 2] = -plane[:, 2, 1]
    return torch.linalg.inv(YIQ) @ plane @ YIQ * gain[:, None, None]


def _overlay(video: Tensor, most: float, generator: torch.Generator | None) -> Tensor:
    """Half of the samples get another one's first image, half a pattern; both stand still over the history."""
    count, size = len(video), video.shape[-2:]
    pattern = torch.rand(count, 3, _PATTERN, _PATTERN, generator=generator).to(video)
    step = torch.randint(1, max(count, 2), (count,), generator=generator)
    other = video[(torch.arange(count) + step).remainder(count).to(video.device), 0]
    lone = torch.rand(count, 1, 1, 1, generator=generator) < (0.5 if count > 1 else 1.0)
    share = most * torch.rand(count, 1, 1, 1, 1, generator=generator)
    laid = torch.where(lone.to(video.device), F.interpolate(pattern, size, mode="bilinear", align_corners=False), other)
    return torch.lerp(video, laid.unsqueeze(1), share.to(video))
