import torch

from robolearn.planning.caution import Caution, score
from robolearn.worldmodels.imagined import Imagined


def imagined(scale: float = 1.0) -> Imagined:
    generator = torch.Generator().manual_seed(0)
    rand = lambda *shape: torch.rand(*shape, generator=generator)  # noqa: E731
    return Imagined(
        reward=scale * rand(3, 8, 5), alive=torch.ones(3, 8, 5), value=scale * rand(3, 8), q_std=scale * rand(8, 5), spread=rand(8, 5)
    )


ONE, BOLD = torch.ones(()), Caution(0.0, 0.0, 0.0)


def test_without_caution_the_score_is_the_mean_gain_over_the_policys_plan():
    x = imagined()
    got = score(x, 0.9, ONE, ONE, BOLD).total
    gamma = 0.9 ** torch.arange(5)
    returns = ((x.reward * gamma).sum(-1) + 0.9**5 * x.value).mean(0)
    torch.testing.assert_close(got, returns - returns[0])


def test_the_policys_own_plan_scores_nothing_however_cautious():
    for caution in (BOLD, Caution(), Caution(5.0, 5.0, 5.0)):
        assert score(imagined(), 0.9, ONE, ONE, caution).total[0] == 0


def test_a_gain_the_heads_disagree_about_is_no_gain():
    value = torch.zeros(3, 2)
    value[:, 1] = torch.tensor([3.0, 0.0, 0.0])  # one head promises much, the others nothing
    still = Imagined(torch.zeros(3, 2, 5), torch.ones(3, 2, 5), value, torch.zeros(2, 5), torch.zeros(2, 5))
    assert score(still, 0.9, ONE, ONE, BOLD).total[1] > 0
    assert score(still, 0.9, ONE, ONE, Caution(1.0, 0.0, 0.0)).total[1] < 0
    agreed = Imagined(still.reward, still.alive, torch.tensor([[0.0, 1.0]]).expand(3, 2), still.q_std, still.spread)
    assert score(agreed, 0.9, ONE, ONE, Caution(1.0, 0.0, 0.0)).total[1] > 0


def test_the_order_of_plans_does_not_depend_on_the_reward_scale():
    small = score(imagined(1.0), 0.9, ONE, ONE, Caution(0.5, 0.7, 0.3)).total
    large = score(imagined(100.0), 0.9, 100 * ONE, ONE, Caution(0.5, 0.7, 0.3)).total
    torch.testing.assert_close(small, large)


def test_each_doubt_lowers_the_score_by_its_own_weight():
    x = imagined()
    bold = score(x, 0.9, ONE, ONE, BOLD)
    for caution, doubt in ((Caution(0.0, 2.0, 0.0), bold.critic_doubt), (Caution(0.0, 0.0, 2.0), bold.model_doubt)):
        torch.testing.assert_close(score(x, 0.9, ONE, ONE, caution).total, bold.total - 2 * (doubt - doubt[0]))


def test_nothing_is_earned_after_the_end():
    x = imagined()
    ended = Imagined(x.reward, torch.cat([torch.ones(3, 8, 1), torch.zeros(3, 8, 4)], -1), torch.zeros(3, 8), x.q_std, x.spread)
    first = x.reward[:, :, 0].mean(0)
    torch.testing.assert_close(score(ended, 0.9, ONE, ONE, BOLD).total, first - first[0])


def test_another_plan_has_to_beat_what_the_model_was_wrong_by():
    x, error = imagined(), torch.tensor(0.2)
    bold, wary = (score(x, 0.9, 10 * ONE, ONE, Caution(0.0, 0.0, 0.0, margin=margin), error).total for margin in (0.0, 2.0))
    assert wary[0] == bold[0] == 0
    torch.testing.assert_close(wary[1:], bold[1:] - 0.4)
    raw = score(x, 0.9, 10 * ONE, ONE, Caution(0.0, 0.0, 0.0, units="raw", margin=2.0), error).total
    torch.testing.assert_close(raw, 10 * wary)  # the same in the rewards' units
    plain = Caution(0.0, 0.0, 0.0, relative=False, margin=2.0)
    torch.testing.assert_close(score(x, 0.9, ONE, ONE, plain, error).total, score(x, 0.9, ONE, ONE, plain).total)
