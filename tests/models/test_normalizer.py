import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robolearn.models.normalizer import Normalizer


@given(arrays(np.float32, (7, 3), elements=st.floats(-1e4, 1e4, width=32)), st.sampled_from(["range", "gaussian"]))
def test_unnormalize_undoes_normalize_whatever_the_data(data, mode):
    norm = Normalizer(3, mode).fit(data)
    x = torch.from_numpy(data)
    z = norm.normalize(x)
    assert torch.isfinite(z).all()
    if mode == "range":
        assert z.abs().max() <= 1 + 1e-3
    assert torch.allclose(norm.unnormalize(z), x, rtol=1e-4, atol=2e-2)


def test_range_meets_both_edges_and_gaussian_has_unit_deviation():
    data = np.array([[0.0, 5.0], [4.0, -5.0], [1.0, 0.0]])
    z = Normalizer(2).fit(data).normalize(torch.tensor(data, dtype=torch.float32))
    assert torch.equal(z.amin(0), -torch.ones(2)) and torch.equal(z.amax(0), torch.ones(2))
    z = Normalizer(2, "gaussian").fit(data).normalize(torch.tensor(data, dtype=torch.float32))
    assert torch.allclose(z.mean(0), torch.zeros(2), atol=1e-6) and torch.allclose(z.std(0, correction=0), torch.ones(2), atol=1e-6)


def test_a_dimension_that_never_changed_is_zero_and_keeps_its_unit():
    norm = Normalizer(2).fit(np.array([[3.0, 0.1], [3.0, 0.1 + 1e-9]]))
    assert torch.allclose(norm.normalize(torch.tensor([[3.0, 0.1]])), torch.zeros(1, 2), atol=1e-6)
    assert torch.allclose(norm.normalize(torch.tensor([[3.5, 0.1]])), torch.tensor([[0.5, 0.0]]), atol=1e-6)


def test_it_refuses_to_guess():
    with pytest.raises(RuntimeError, match="not fitted"):
        Normalizer(2).normalize(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"shape \(4, 3\); expected \(N > 0, 2\)"):
        Normalizer(2).fit(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="not finite in column 1"):
        Normalizer(2).fit(np.array([[0.0, np.nan]]))


def test_the_state_dict_carries_it():
    norm = Normalizer(2).fit(np.random.default_rng(0).normal(size=(9, 2)))
    other = Normalizer(2)
    other.load_state_dict(norm.state_dict())
    x = torch.ones(1, 2)
    assert torch.equal(other.normalize(x), norm.normalize(x))
