"""Weights kept in bfloat16 for acting."""

import torch

from robolearn.models.precision import autocast, halve
from robolearn.models.unet1d import UNet1d


def test_halved_weights_answer_nearly_the_same_and_take_half_the_memory():
    torch.manual_seed(0)
    net = UNet1d(3, 10, widths=(32, 64), embedding=32).eval()
    x, step, cond = torch.randn(2, 8, 3), torch.tensor([3, 3]), torch.randn(2, 10)
    with torch.no_grad():
        before = net(x, step, cond)
        size = sum(p.numel() * p.element_size() for p in net.parameters())
        halve(net)
        with autocast(torch.device("cpu"), "bfloat16"):
            after = net(x, step, cond)
    assert sum(p.numel() * p.element_size() for p in net.parameters()) < 0.52 * size
    assert (after.float() - before).abs().max() < 0.05 * before.abs().max()
