from dataclasses import replace

import pytest
import torch

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.checkpoint import load_policy, save_checkpoint
from robolearn.core.errors import UserError
from robolearn.core.types import Obs
from robolearn.planning.caution import Caution
from robolearn.planning.mppi import MppiConfig, Planner, PlannerConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.worldmodels.latent import Imagined, LatentConfig

SPEC = RobotSpec("point", {}, {"x": ArraySpec(("x",), ("m",), (-1,), (1,))}, ArraySpec(("dx",), ("m",), (-0.5,), (0.5,)), "ee_delta", 10.0)
SEARCH = MppiConfig(horizon=4, proposals=6, samples=16, iterations=2, elites=5)
BOLD = Caution(0.0, 0.0, 0.0)


class Rightwards(Planner):
    """A planner whose world pays for every metre to the right, so that what it should do is known."""

    doubt = 0.0  # heads' disagreement about that pay

    def _score(self, z, candidates):
        from robolearn.planning.caution import score

        reward = candidates[..., 0].expand(3, -1, -1) * torch.tensor([1 + self.doubt, 1.0, 1 - self.doubt])[:, None, None]
        still = torch.zeros_like(reward[0])
        imagined = Imagined(reward, torch.ones_like(reward), torch.zeros_like(reward[..., 0]), still, still)
        one = torch.ones(())
        return score(imagined, 1.0, one, one, self.config.search.caution)


def make(kind: type[Planner] = Planner, **search) -> Planner:
    torch.manual_seed(0)
    prior = DiffusionConfig(history=1, horizon=4, widths=(8, 16), train_steps=10, sample_steps=2)
    config = PlannerConfig(prior, LatentConfig(latent=16, width=16), replace(SEARCH, **search))
    planner = kind(config, SPEC).eval()
    planner.prior.fit_normalizers(torch.linspace(-1, 1, 9)[:, None].numpy(), torch.linspace(-0.5, 0.5, 9)[:, None].numpy())
    planner.model.state_norm.fit(torch.tensor([[-1.0], [1.0]]))
    planner.model.action_norm.fit(torch.tensor([[-0.5], [0.5]]))
    planner.seed(1)
    return planner


OBS = Obs({}, torch.zeros(1, 1, 1))


def own_plan(planner: Planner) -> torch.Tensor:
    planner.seed(1)
    return planner.prior.sample(OBS, SEARCH.proposals)[0, 0]


def test_the_same_seed_plans_the_same():
    planner = make()
    first = planner.act(OBS)
    planner.seed(1)
    assert torch.equal(planner.act(OBS), first)
    assert first.shape == (1, 4, 1)
    assert (first.abs() <= 0.5 + 1e-6).all()


def test_a_known_world_is_used():
    planner = make(Rightwards, caution=BOLD)
    planner.release.fill_(1.0)
    own = own_plan(planner)
    planner.seed(1)
    assert planner.act(OBS)[0].sum() > own.sum()
    assert planner.notes["gain"] > 0


def test_the_policys_own_plan_is_flown_when_the_heads_disagree():
    planner = make(Rightwards, caution=Caution(3.0, 0.0, 0.0))
    planner.doubt = 1.0
    own = own_plan(planner)
    planner.seed(1)
    torch.testing.assert_close(planner.act(OBS)[0], own)
    assert planner.notes["own_plan"] == 1.0


def test_a_fresh_planner_stays_by_what_the_policy_proposes():
    planner = make(Rightwards, caution=BOLD, std_min=0.0)
    planner.seed(1)
    proposals = planner.prior.sample(OBS, SEARCH.proposals)[0]
    planner.seed(1)
    plan = planner.act(OBS)[0]
    assert (proposals - plan).abs().amax((1, 2)).min() < 1e-5


def test_a_planner_is_a_checkpoint_like_any_other(tmp_path):
    planner = make()
    planner.release.fill_(0.3)
    save_checkpoint(tmp_path / "planner.pt", planner, planner.config)
    loaded = load_policy(tmp_path / "planner.pt", SPEC)
    assert isinstance(loaded, Planner)
    loaded.seed(1)
    assert torch.equal(loaded.act(OBS), planner.act(OBS))


def test_looking_further_than_the_policy_proposes_is_refused():
    with pytest.raises(ValueError, match=r"search\.horizon: 8 decisions; the prior proposes chunks of 4"):
        make(horizon=8)


def test_a_policy_that_is_told_a_goal_is_no_proposer():
    with pytest.raises(UserError, match="policy.goal: state; a planner plans towards rewards, and its policy is told no goal: none"):
        PlannerConfig(DiffusionConfig(goal="state")).build(SPEC)
