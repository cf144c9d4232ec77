import pytest
import torch

from robolearn.models.encoders._heads import AttentionPool, Keypoints, Mean, Patches, SpatialSoftmax


def test_the_spatial_softmax_finds_a_peak():
    maps = torch.full((1, 2, 5, 9), -50.0)
    maps[0, 0, 1, 8], maps[0, 1, 4, 2] = 50.0, 50.0
    x, y = SpatialSoftmax()(maps).chunk(2, dim=1)
    assert torch.allclose(x, torch.tensor([[1.0, -0.5]])) and torch.allclose(y, torch.tensor([[-0.5, 1.0]]))


def test_what_is_frozen_has_nothing_to_learn():
    maps = torch.randn(2, 3, 4, 4)
    fixed, learned = Keypoints(3, 0, learned=False), Keypoints(3, 0, learned=True)
    assert not list(fixed.parameters()) and len(list(learned.parameters())) == 1
    assert torch.equal(fixed(maps), learned(maps)), "a temperature starts at 1"
    assert Keypoints(3, 5, learned=True)(maps).shape == (2, 10)


def test_patches_follow_each_other_row_by_row():
    maps = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    tokens = Patches()(maps).unflatten(-1, (4, 3))
    assert torch.equal(tokens[1, 2], maps[1, :, 1, 0]) and torch.equal(Mean()(maps), maps.mean((2, 3)))


def test_attention_learns_to_look_where_a_marked_patch_is():
    torch.manual_seed(0)
    pool, mark, read = AttentionPool(16, 9), torch.randn(16), torch.nn.Linear(16, 9)
    optimizer = torch.optim.Adam([*pool.parameters(), *read.parameters()], lr=1e-2)
    for _ in range(250):
        maps, where = 0.3 * torch.randn(32, 16, 9), torch.randint(9, (32,))
        maps[torch.arange(32), :, where] += mark
        logits = read(pool(maps.unflatten(2, (3, 3))))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, where).backward()
        optimizer.step()
    assert (logits.argmax(1) == where).float().mean() > 0.9


@pytest.mark.parametrize(("channels", "heads"), [(512, 8), (20, 5), (7, 7), (11, 1)])
def test_attention_has_as_many_heads_as_fit(channels, heads):
    pool = AttentionPool(channels, 4)
    assert pool.heads == heads and pool(torch.randn(3, channels, 2, 2)).shape == (3, channels)
