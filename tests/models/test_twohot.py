import torch

from robolearn.models.twohot import TwoHot, symexp, symlog


def test_symlog_is_undone_by_symexp():
    x = torch.tensor([-100.0, -1.0, 0.0, 0.3, 20.0])
    torch.testing.assert_close(symexp(symlog(x)), x)


def test_a_scalar_learned_by_cross_entropy_is_read_back():
    code = TwoHot()
    target = torch.tensor([-20.0, -0.7, 0.0, 3.2])
    logits = torch.zeros(4, code.count, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(400):
        optimizer.zero_grad()
        code.loss(logits, target).sum().backward()
        optimizer.step()
    torch.testing.assert_close(code.decode(logits.detach()), target, rtol=0.05, atol=0.05)


def test_values_beyond_the_bins_fall_on_the_last_ones():
    code = TwoHot(count=11, low=-1.0, high=1.0)
    logits = torch.zeros(1, code.count)
    assert torch.isfinite(code.loss(logits, torch.tensor([1e6]))).all()
