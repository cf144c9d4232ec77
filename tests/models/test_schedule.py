"""Our steps are diffusers' own."""

import pytest
import torch

from robolearn.models.schedule import Schedule, apply


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm"])
@pytest.mark.parametrize("count", [1, 2, 16, 50])
def test_every_step_is_diffusers(prediction, sampler, count):
    schedule = Schedule(100, prediction)
    theirs = schedule.scheduler(sampler, count)
    for name in {"alphas_cumprod", "sigmas"} & set(vars(theirs)):  # in float32 they differ from themselves in float64 by 4e-6
        setattr(theirs, name, getattr(theirs, name).double())
    steps = schedule.steps(sampler, count)
    assert [step.time for step in steps] == theirs.timesteps.tolist()
    x, before = torch.randn(3, 8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64), None
    ours_noise, theirs_noise = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    for step in steps:
        out = torch.tanh(1.3 * x + 0.2)  # any network will do
        noise = torch.randn(x.shape, generator=ours_noise, dtype=x.dtype) if step.noise else None
        ours, before = apply(step, x, out, before, noise, 1.0)
        drawn = {"generator": theirs_noise} if sampler == "ddpm" else {}
        x = theirs.step(out, step.time, x, return_dict=False, **drawn)[0].double()
        assert torch.allclose(ours, x, rtol=0, atol=1e-6)


def test_the_whole_way_is_diffusers():
    schedule = Schedule(100, "epsilon")
    for sampler in ("ddim", "dpm"):
        theirs = schedule.scheduler(sampler, 10)
        ours = reference = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
        before = None
        for step in schedule.steps(sampler, 10):
            ours, before = apply(step, ours, torch.sin(3 * ours), before, None, 1.0)
            reference = theirs.step(torch.sin(3 * reference), step.time, reference, return_dict=False)[0]
        assert torch.allclose(ours, reference, atol=1e-4)


def test_a_level_is_read_back_exactly():
    clean, noise = torch.rand(5) * 2 - 1, torch.randn(5)
    for prediction in ("epsilon", "sample", "v_prediction"):
        schedule = Schedule(20, prediction)
        for level in range(-1, 19):
            signal, amount = schedule.amounts(level)
            x = signal * clean + amount * noise
            answer = {"epsilon": noise, "sample": clean, "v_prediction": signal * noise - amount * clean}[prediction]
            of_chunk, of_net = schedule.reading(level)
            assert torch.allclose(of_chunk * x + of_net * answer, clean, atol=1e-4)


def test_more_steps_than_dpm_finds_levels_are_refused():
    assert len(Schedule(100, "epsilon").steps("dpm", 98)) == 98
    with pytest.raises(ValueError, match="99 steps are more than the sampler dpm finds in 100 noise levels"):
        Schedule(100, "epsilon").steps("dpm", 99)
