import pytest
import torch

from robolearn.models.act_transformer import ChunkDecoder, ChunkPosterior, Widths

SMALL = Widths(width=16, feedforward=32, heads=2, dropout=0.0)
B, T, S, N, E, H, A, Z = 3, 2, 5, 4, 6, 7, 2, 8


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def posterior(state=S):
    return ChunkPosterior(state, A, T, H, Z, SMALL, 2).eval()


def decoder(state=S, image=(N, E)):
    return ChunkDecoder(state, image, A, T, H, Z, SMALL, (2, 1)).eval()


@pytest.mark.parametrize("state", [S, 0])
def test_the_posterior_sees_the_states_and_every_action_that_is_not_padded(state):
    net, seen, action = posterior(state), torch.randn(B, T, state), torch.randn(B, H, A)
    pad = torch.zeros(B, H, dtype=torch.bool)
    pad[:, -2:] = True
    mean, log_variance = net(seen, action, pad)
    assert mean.shape == log_variance.shape == (B, Z)
    padded, real = action.clone(), action.clone()
    padded[:, -2:] += 1
    real[:, 0] += 1
    assert torch.allclose(net(seen, padded, pad)[0], mean)
    assert not torch.allclose(net(seen, real, pad)[0], mean)
    assert not torch.allclose(net(seen, padded, torch.zeros_like(pad))[0], mean)
    if state:
        assert not torch.allclose(net(seen + 1, action, pad)[0], mean)
    assert torch.isfinite(net(seen, action, torch.ones_like(pad))[0]).all(), "nothing but padding"


def test_a_chunk_backwards_is_another_chunk():
    net, seen, action = posterior(), torch.randn(B, T, S), torch.randn(B, H, A)
    pad = torch.zeros(B, H, dtype=torch.bool)
    assert not torch.allclose(net(seen, action.flip(1), pad)[0], net(seen, action, pad)[0])
    assert not torch.allclose(net(seen.flip(1), action, pad)[0], net(seen, action, pad)[0])


@pytest.mark.parametrize(("state", "image"), [(S, (N, E)), (0, (N, E)), (S, (0, 0)), (0, (0, 0))])
def test_the_decoder_depends_on_all_it_is_given_and_rows_do_not_see_each_other(state, image):
    net = decoder(state, image)
    given = [torch.randn(B, T, state), torch.randn(B, T, max(image[0], 1), image[1]), torch.randn(B, Z)]
    chunk = net(*given)
    assert chunk.shape == (B, H, A) and chunk.dtype == torch.float32
    for i, tensor in enumerate(given):
        if tensor.numel():
            assert not torch.allclose(net(*given[:i], tensor + 1, *given[i + 1 :]), chunk)
    assert torch.allclose(net(*(tensor[:1] for tensor in given)), chunk[:1], atol=1e-5)


def test_image_tokens_stand_in_their_places():
    net, state, image, latent = decoder(), torch.randn(B, T, S), torch.randn(B, T, N, E), torch.randn(B, Z)
    chunk = net(state, image, latent)
    assert not torch.allclose(net(state, image.flip(1), latent), chunk), "time"
    assert not torch.allclose(net(state, image.flip(2), latent), chunk), "place"


def test_each_action_has_its_own_query():
    chunk = decoder()(torch.randn(B, T, S), torch.randn(B, T, N, E), torch.randn(B, Z))
    assert (chunk[:, 1:] - chunk[:, :-1]).abs().amax(-1).min() > 1e-6
