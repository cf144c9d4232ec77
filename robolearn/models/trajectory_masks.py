"""What a masked trajectory model is shown, and so what it is asked for (Wu et al., 2023, figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Bool
from torch import Tensor, nn

Mask = Literal["random", "act", "prefix", "reach", "inverse", "forward"]
NAMES: tuple[Mask, ...] = get_args(Mask)


class TrajectoryMasks(nn.Module):
    """Tables (J, K) of a trajectory's tokens: `history` steps up to now and `horizon` to come, at each one a token of every kind.

    kinds: their names: "action" is what is done, "return" what will be earned, and every other kind is seen. Within a step first comes
    what is seen, then the return, then the action.
    act: what has been when an action is asked for. prefix: and the first actions that follow. reach: and what is seen at the last step.
    inverse: all that is seen, no action. forward: what has been, and every action. random: see `draw`.
    """

    def __init__(self, kinds: Sequence[str], history: int, horizon: int):
        super().__init__()
        self.now, self.steps, self.horizon = history - 1, history + horizon, horizon
        time = torch.arange(self.steps).unsqueeze(-1)
        action, seen = (
            torch.tensor([kind == "action" for kind in kinds]),
            torch.tensor([kind not in ("action", "return") for kind in kinds]),
        )
        act = time + action <= self.now
        tables = {
            "act": act,
            "reach": act | (seen & (time == self.steps - 1)),
            "inverse": seen.expand_as(act),
            "forward": act | action,
            "action": action.expand_as(act),
            "seen": seen.expand_as(act),
            "possible": ~(action & (time == self.steps - 1)),  # no action follows the last observation
        }
        for name, table in tables.items():
            self.register_buffer(f"_{name}", table.clone(), persistent=False)

    def __getitem__(self, name: str) -> Bool[Tensor, "J K"]:
        return getattr(self, f"_{name}")

    def draw(self, names: Sequence[Mask], count: int, shown: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """A mask for each of `count` samples, one of `names`: (its number (B,), what it shows (B, J, K)).

        random hides all from a cut on, so that something has to be told without knowing what comes after it, and of what lies before
        the cut it shows a share, drawn for each sample from the range `shown` (section 3.2). The cut lies before an action 7 times
        in 10, before an observation twice, before a return once (the authors' settings).
        prefix shows 1 to horizon - 1 actions.
        """
        device = self["act"].device
        drawn = torch.randint(len(names), (count,), generator=generator).to(device)
        share = shown[0] + (shown[1] - shown[0]) * torch.rand(count, 1, 1, generator=generator)
        kept = (torch.rand(count, *self["act"].shape, generator=generator) < share).to(device)
        cut = torch.randint(self.steps, (count, 1, 1), generator=generator).to(device)
        before = torch.multinomial(torch.tensor([0.2, 0.1, 0.7]), count, True, generator=generator).to(device)
        known = torch.randint(1, max(self.horizon, 2), (count, 1, 1), generator=generator).to(device)
        time = torch.arange(self.steps, device=device).unsqueeze(-1)
        order = torch.where(self["action"], 2, torch.where(self["seen"], 0, 1))
        tables = {
            "random": kept & (3 * time + order < 3 * cut + before.view(-1, 1, 1)),
            "prefix": self["act"] | (self["action"] & (time < self.now + known)),
        }
        masks = torch.stack([tables[name] if name in tables else self[name].expand_as(kept) for name in names])
        return drawn, masks[drawn, torch.arange(count, device=device)]
