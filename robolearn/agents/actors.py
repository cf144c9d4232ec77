"""Who proposes actions: networks from a latent to one normalised action in [-1, 1]."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from robolearn.models.ensemble import EnsembleMlp
from robolearn.models.waves import waves

LOG_STD = (-5.0, 1.0)  # of the Gaussian before it is squashed


class ActorNet(nn.Module):
    """`sample` for flying and for targets, `learn` with gradients, `errors` of imitating; all with `noise` from a generator."""

    @abstractmethod
    def learn(
        self, z: Float[Tensor, "N L"], generator: torch.Generator, near: Float[Tensor, "N A"] | None = None
    ) -> tuple[Float[Tensor, "N A"], Float[Tensor, " N"]]:
        """An action of its own that gradients flow through, and its log-probability (0 where there is none). near: the data's action."""

    @abstractmethod
    def errors(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"], generator: torch.Generator) -> Float[Tensor, " N"]:
        """How far it is from doing what the data did, row by row."""

    @abstractmethod
    def best(self, z: Float[Tensor, "N L"], generator: torch.Generator) -> Float[Tensor, "N A"]:
        """What it would do, without exploring."""

    @torch.no_grad()
    def sample(self, z: Float[Tensor, "N L"], generator: torch.Generator) -> Float[Tensor, "N A"]:
        """What it does while exploring."""
        return self.learn(z, generator)[0]


class GaussianActor(ActorNet):
    """tanh of a Gaussian whose width depends on the state (Haarnoja et al. 2018, SAC, appendix C)."""

    def __init__(self, latent: int, action: int, width: int):
        super().__init__()
        self.net = EnsembleMlp(1, latent, width, 2 * action)

    def _moments(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.net.all(z)[0].chunk(2, -1)
        low, high = LOG_STD
        return mean, low + (high - low) * (log_std.tanh() + 1) / 2

    def learn(self, z: Tensor, generator: torch.Generator, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
        mean, log_std = self._moments(z)
        raw = mean + log_std.exp() * noise(mean.shape, generator, mean.device)
        return raw.tanh(), _log_prob(raw, mean, log_std)

    def errors(self, z: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the log-likelihood, per action dimension."""
        return -self.log_prob(z, action) / action.shape[-1]

    def log_prob(self, z: Float[Tensor, "N L"], action: Float[Tensor, "N A"]) -> Float[Tensor, " N"]:
        mean, log_std = self._moments(z)
        return _log_prob(action.clamp(-0.999, 0.999).atanh(), mean, log_std)

    def best(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return self._moments(z)[0].tanh()

    def divergence(self, z: Float[Tensor, "N L"], other: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        """The mean of both Kullback-Leibler divergences of what it does in two states, before squashing."""
        (m, s), (n, t) = self._moments(z), self._moments(other)
        v, w = (2 * s).exp(), (2 * t).exp()
        return 0.5 * (((v + (m - n) ** 2) / w) + ((w + (m - n) ** 2) / v) - 2).sum(-1) / 2


class DeterministicActor(ActorNet):
    """tanh of a mean, with noise of a fixed size around it: TD3's actor, and FOWM's policy of unit variance."""

    def __init__(self, latent: int, action: int, width: int, noise: float):
        super().__init__()
        self.net, self.noise = EnsembleMlp(1, latent, width, action), noise

    def learn(self, z: Tensor, generator: torch.Generator, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.net.all(z)[0].tanh(), z.new_zeros(len(z))

    def errors(self, z: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        """Mean squared error: minus the log-likelihood of a fixed variance, but for a constant and its size."""
        return (self.net.all(z)[0].tanh() - action).square().mean(-1)

    def best(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return self.net.all(z)[0].tanh()

    @torch.no_grad()
    def sample(self, z: Tensor, generator: torch.Generator) -> Tensor:
        mean = self.best(z, generator)
        return (mean + self.noise * noise(mean.shape, generator, mean.device)).clamp(-1, 1)

    @torch.no_grad()
    def smoothed(self, z: Float[Tensor, "N L"], generator: torch.Generator) -> Float[Tensor, "N A"]:
        """For targets: more noise, but clipped (Fujimoto et al. 2018, TD3, section 5.3)."""
        mean = self.best(z, generator)
        drawn = 2 * self.noise * noise(mean.shape, generator, mean.device)
        return (mean + drawn.clamp(-0.5, 0.5)).clamp(-1, 1)


class DiffusionActor(ActorNet):
    """A diffusion policy of one action (Ho et al. 2020; cosine noise), drawn by DDIM. What it predicts is the clean action.

    `learn` returns the one-step prediction from a noisy action of the data, not a draw: gradients then pass one network call
    instead of a chain of them (Kang et al. 2023, EDP).
    """

    STEPS = 100  # of the forward process
    WAVES = 8  # sines and cosines that tell the network the step

    def __init__(self, latent: int, action: int, width: int, draws: int):
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler  # as long to import as torch: only for who samples

        super().__init__()
        self.action, self.draws = action, draws
        self.net = EnsembleMlp(1, latent + action + 2 * self.WAVES, width, action)
        # clip_sample: a normalised action lies in [-1, 1]
        self.schedule = DDIMScheduler(self.STEPS, beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=True)

    def _clean(self, noisy: Tensor, z: Tensor, step: Tensor) -> Tensor:
        return self.net.all(torch.cat([z, noisy, waves(step / self.STEPS, self.WAVES)], -1))[0]

    def _noised(self, action: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        step = torch.randint(self.STEPS, (len(action),), generator=generator).to(action.device)
        drawn = noise(action.shape, generator, action.device)
        return self.schedule.add_noise(action, drawn, step), step  # pyright: ignore[reportArgumentType]

    def errors(self, z: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        noisy, step = self._noised(action, generator)
        return F.mse_loss(self._clean(noisy, z, step), action, reduction="none").mean(-1)

    def learn(self, z: Tensor, generator: torch.Generator, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
        noisy, step = self._noised(self.sample(z, generator) if near is None else near, generator)
        return self._clean(noisy, z, step).clamp(-1, 1), z.new_zeros(len(z))

    @torch.no_grad()
    def sample(self, z: Tensor, generator: torch.Generator) -> Tensor:
        self.schedule.set_timesteps(self.draws, device=z.device)
        action = noise((len(z), self.action), generator, z.device)
        for step in self.schedule.timesteps:
            clean = self._clean(action, z, step.expand(len(z)))
            action = self.schedule.step(clean, step, action).prev_sample  # pyright: ignore[reportAttributeAccessIssue,reportArgumentType]
        return action.clamp(-1, 1)

    def best(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return self.sample(z, generator)


class EditActor(ActorNet):
    """A diffusion policy that only imitates, and a small bounded Gaussian correction that the critics draw (Dong et al. 2026, EXPO)."""

    def __init__(self, latent: int, action: int, width: int, draws: int, size: float):
        super().__init__()
        self.base = DiffusionActor(latent, action, width, draws)
        self.edit = GaussianActor(latent + action, action, width)
        self.size = size

    def learn(self, z: Tensor, generator: torch.Generator, near: Tensor | None = None) -> tuple[Tensor, Tensor]:
        base = self.base.sample(z, generator)
        edit, log_prob = self.edit.learn(torch.cat([z, base], -1), generator)
        return (base + self.size * edit).clamp(-1, 1), log_prob

    def errors(self, z: Tensor, action: Tensor, generator: torch.Generator) -> Tensor:
        return self.base.errors(z, action, generator)

    @torch.no_grad()
    def both(self, z: Float[Tensor, "N L"], generator: torch.Generator) -> tuple[Float[Tensor, "N A"], Float[Tensor, "N A"]]:
        """A draw of the base, and the same draw corrected."""
        base = self.base.sample(z, generator)
        edit = self.edit.learn(torch.cat([z, base], -1), generator)[0]
        return base, (base + self.size * edit).clamp(-1, 1)

    def best(self, z: Tensor, generator: torch.Generator) -> Tensor:
        return self.both(z, generator)[1]


def noise(shape: tuple[int, ...] | torch.Size, generator: torch.Generator, device: torch.device) -> Tensor:
    """Standard normal numbers. Drawn on the CPU, so that a seed means the same on every device."""
    return torch.randn(shape, generator=generator).to(device)


def _log_prob(raw: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Of tanh(raw), raw ~ N(mean, std): the change of variables in its stable form."""
    gaussian = -0.5 * ((raw - mean) / log_std.exp()).square() - log_std - 0.5 * math.log(2 * math.pi)
    return (gaussian - 2 * (math.log(2) - raw - F.softplus(-2 * raw))).sum(-1)
