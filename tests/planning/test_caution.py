import torch

from robolearn.planning.caution import Caution, score
from robolearn.worldmodels.latent import Imagined


def imagined(scale: float = 1.0) -> Imagined:
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    return Imagined(
        reward=scale * rand(3, 8, 5), alive=torch.ones(3, 8, 5), value=scale * rand(3, 8), q_std=scale * rand(8, 5), spread=rand(8, 5)
    )


ONE = torch.ones(())


def test_without_caution_the_score_is_the_mean_return():
    x = imagined()
    got = score(x, 0.9, ONE, ONE, Caution(0.0, 0.0)).total
    gamma = 0.9 ** torch.arange(5)
    torch.testing.assert_close(got, ((x.reward * gamma).sum(-1) + 0.9**5 * x.value).mean(0))


def test_the_order_of_plans_does_not_depend_on_the_reward_scale():
    small = score(imagined(1.0), 0.9, ONE, ONE, Caution(0.7, 0.3)).total
    large = score(imagined(100.0), 0.9, 100 * ONE, ONE, Caution(0.7, 0.3)).total
    torch.testing.assert_close(small, large)


def test_each_doubt_lowers_the_score_by_its_own_weight():
    x = imagined()
    bold = score(x, 0.9, ONE, ONE, Caution(0.0, 0.0))
    torch.testing.assert_close(score(x, 0.9, ONE, ONE, Caution(2.0, 0.0)).total, bold.total - 2 * bold.critic_doubt)
    torch.testing.assert_close(score(x, 0.9, ONE, ONE, Caution(0.0, 3.0)).total, bold.total - 3 * bold.model_doubt)


def test_nothing_is_earned_after_the_end():
    x = imagined()
    ended = Imagined(x.reward, torch.cat([torch.ones(3, 8, 1), torch.zeros(3, 8, 4)], -1), torch.zeros(3, 8), x.q_std, x.spread)
    torch.testing.assert_close(score(ended, 0.9, ONE, ONE, Caution(0.0, 0.0)).total, x.reward[:, :, 0].mean(0))
