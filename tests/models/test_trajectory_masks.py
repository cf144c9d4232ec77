import pytest
import torch

from robolearn.models.trajectory_masks import TrajectoryMasks

KINDS = ("state", "return", "action")  # 2 steps of history, 3 to come: times 0 1 | 2 3 4, now is 1


def masks() -> TrajectoryMasks:
    return TrajectoryMasks(KINDS, history=2, horizon=3)


def rows(text: str) -> torch.Tensor:
    """One word for each step, one digit for each kind."""
    return torch.tensor([[digit == "1" for digit in word] for word in text.split()])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("act", "111 110 000 000 000"),
        ("reach", "111 110 000 000 100"),
        ("inverse", "100 100 100 100 100"),
        ("forward", "111 111 001 001 001"),
        ("possible", "111 111 111 111 110"),
    ],
)
def test_each_mask_shows_what_its_question_is_asked_from(name, shown):
    assert torch.equal(masks()[name], rows(shown))


def test_a_random_mask_hides_everything_from_its_cut_on_and_shows_a_share_before():
    _, drawn = masks().draw(["random"], 4000, (0.7, 1.0), torch.Generator().manual_seed(0))
    flat = drawn.flatten(1)
    last = torch.where(flat.any(1), flat.shape[1] - flat.flip(1).int().argmax(1), 0)  # the token after the last that is shown
    shown = torch.cat([row[: end - 1] for row, end in zip(flat, last.tolist(), strict=True) if end > 1])
    assert 0.8 < shown.float().mean() < 0.9, "of what lies before the last token shown"
    share = [float(((last % 3) == place).float().mean()) for place in (1, 2, 0)]  # the hidden one that follows: return, action, state
    assert share[1] > 2 * max(share[0], share[2]), "most often it is an action that has to be told"
    _, whole = masks().draw(["random"], 200, (1.0, 1.0), torch.Generator().manual_seed(0))
    first = (~whole.flatten(1)).int().argmax(1)
    assert all(not row[start:].any() for row, start in zip(whole.flatten(1), first.tolist(), strict=True))


def test_a_prefix_shows_some_of_the_coming_actions_and_never_all():
    _, drawn = masks().draw(["prefix"], 200, (0.7, 1.0), torch.Generator().manual_seed(0))
    known = drawn[:, 1:4, 2].sum(1)
    assert set(known.tolist()) == {1, 2} and drawn[:, 1, 2].all()
    assert torch.equal(drawn[:, :, :2], masks()["act"][:, :2].expand(200, -1, -1))


def test_every_sample_draws_one_of_the_names():
    drawn, shown = masks().draw(["inverse", "forward"], 300, (0.7, 1.0), torch.Generator().manual_seed(0))
    assert 100 < drawn.sum() < 200
    for number, name in enumerate(("inverse", "forward")):
        assert (shown[drawn == number] == masks()[name]).all()
