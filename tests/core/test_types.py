"""The shape checks themselves: on in tests, and strict about shapes."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from robolearn.core.types import Batch, Obs, concat


def batch(rows: int, actions: int = 2) -> Batch:
    obs = Obs({"front": torch.zeros(rows, 1, 3, 4, 4, dtype=torch.uint8)}, torch.zeros(rows, 1, 5))
    return Batch(obs, torch.zeros(rows, 3, actions), torch.zeros(rows, 3, dtype=torch.bool))


def test_wrong_shapes_and_types_are_refused() -> None:
    good = batch(2)
    with pytest.raises(TypeCheckError):
        Obs(good.obs.images, torch.zeros(2, 5))
    with pytest.raises(TypeCheckError):
        Obs({"front": torch.zeros(2, 1, 3, 4, 4)}, good.obs.state)  # float images
    with pytest.raises(TypeCheckError):
        Batch(good.obs, good.action, torch.zeros(2, 4, dtype=torch.bool))  # another horizon


def test_concat_and_to_keep_every_field() -> None:
    both = concat(batch(2), batch(3))
    assert both.action.shape == (5, 3, 2) and both.obs.images["front"].shape[0] == 5 and both.reward is None
    moved = both.to("meta")
    assert {moved.action.device.type, moved.obs.state.device.type, moved.obs.images["front"].device.type} == {"meta"}
