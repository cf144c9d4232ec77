"""One agent: an encoder or none, critics, an actor, perhaps a world model and a planner. It is a Policy: deployment knows no more of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.agents.actors import ActorNet, DeterministicActor, DiffusionActor, EditActor, GaussianActor
from robolearn.agents.adaptive import BetaPicker
from robolearn.agents.axes import Actor
from robolearn.agents.config import AgentConfig, check
from robolearn.agents.critic import QHeads, Value, reduced
from robolearn.agents.imagination import Imagination
from robolearn.core.errors import UserError
from robolearn.core.types import Obs, Policy, apply
from robolearn.models.encoders.base import CameraEncoder
from robolearn.models.normalizer import Normalizer
from robolearn.models.precision import autocast
from robolearn.planning.caution import score
from robolearn.planning.search import Search
from robolearn.policies.chunk import ChunkPolicy
from robolearn.worldmodels.dynamics import WorldModel

_KEPT = ("encoder", "state_norm", "action_norm", "feature_norm", "limit")  # of a chunk policy that begins anew
WIDE = 256  # hidden units from which bfloat16 pays


class Agent(Policy):
    """act() gives one action per observation: the actor's, the best of several by the critics, or the planner's. With a chunk policy in the
    actor's place (`policy`) it gives a chunk of actions: the policy's, or the planner's.

    explore: act as while collecting data. release: how far the planner may leave the policy's own plans, 0 to 1.
    """

    actor: ActorNet  # acts on latents; there is none with a chunk policy, and nothing that asks for it (robolearn.agents.config.check)
    release: Tensor
    online: Tensor

    def __init__(self, config: AgentConfig, spec: RobotSpec):
        super().__init__()
        check(config)
        self.config, self.history = config, config.history
        self.spec = config.seen(spec)
        self.generator = torch.Generator().manual_seed(0)
        self.explore, self.notes = False, dict[str, float]()
        self.horizon = 1
        self.policy: ChunkPolicy | None = None
        self._eyes: CameraEncoder | None = None
        if config.policy is not None:
            self.policy = _knows_rows(config.chunks.build(self.spec))
            self.horizon = config.planner.search.horizon if config.planner else self.policy.horizon
        elif config.encoder is not None:
            self._eyes = config.encoder.build(self.spec.cameras).requires_grad_(False)
        features = self.encoder.out_dim if self.encoder else 0
        self.feature_norm = Normalizer(features, "gaussian") if features else None
        self.state_norm = Normalizer(self.spec.state_dim, "gaussian")
        self.action_norm = Normalizer(self.spec.action.dim)
        self.input_dim = self.history * (self.spec.state_dim + features)
        self.latent = config.model.latent if config.model else self.input_dim
        ramped = config.planner is not None and config.planner.search.ramp > 0
        self.register_buffer("release", torch.tensor(0.0 if ramped else 1.0))
        self.register_buffer("online", torch.zeros((), dtype=torch.bool))  # the online phase has begun
        self.new_model()
        self.new_critic()
        self._new_network()
        self.own = torch.zeros(1, self.spec.action.dim)  # (H, A), the policy's own plan where a planner planned last, physical units
        self._last: Tensor | None = None  # the planner's warm start
        self._before: tuple[Tensor, list[Tensor]] | None = None  # the latent of the last plan, and what was done since

    @property
    def encoder(self) -> CameraEncoder | None:
        """Its own, or its policy's."""
        return self._eyes if self.policy is None else self.policy.encoder

    def new_model(self) -> None:
        """The world model, if there is to be one, as at the beginning."""
        self.model: WorldModel | None = None
        if self.config.model is not None:
            self.model = WorldModel(self.config.model, self.input_dim, self.spec.action.dim, self.horizon).to(self.device)

    def new_critic(self) -> None:
        """Q and V as at the beginning."""
        config = self.config.critic
        self.critic = QHeads(config, self.latent, self.spec.action.dim).to(self.device)
        self.value = Value(self.latent, config.width, config.layer_norm).to(self.device) if self._has_value else None

    def new_actor(self) -> None:
        """The actor as at the beginning; of a chunk policy, all but its units and its encoder."""
        self._new_network()
        if (last := self.policy) is not None:
            self.policy = self.config.chunks.build(self.spec).to(self.device)
            kept = {name: value for name, value in last.state_dict().items() if name.split(".")[0] in _KEPT}
            self.policy.load_state_dict(self.policy.state_dict() | kept)

    def _new_network(self) -> None:
        config, action = self.config.actor, self.spec.action.dim
        self.beta = BetaPicker(config.betas, self.latent, config.width).to(self.device) if config.betas else None
        if self.policy is None:
            self.actor = make_actor(config, self.latent + (self.beta.told if self.beta else 0), action).to(self.device)
        began = torch.tensor(config.temperature, device=self.device).log()
        self.log_temperature = torch.nn.Parameter(began, requires_grad=not config.fixed_temperature)

    @property
    def device(self) -> torch.device:
        return self.release.device

    @property
    def _has_value(self) -> bool:
        config = self.config
        compared = (config.actor.beta > 0 or config.actor.betas is not None) and config.actor.advantage != "policy"
        looked_ahead = config.planner is not None and config.planner.terminal == "v"
        return config.critic.target == "in_sample" or compared or looked_ahead

    @property
    def level(self) -> float:
        """critic.level in this phase."""
        return self.config.critic.level[int(self.online)]

    @property
    def temperature(self) -> Tensor:
        return self.log_temperature.exp()

    @property
    def precision(self) -> torch.autocast:
        """Within it hidden layers are computed as `update.precision` says; auto: narrow ones gain nothing from half of it."""
        config = self.config
        widest = max(config.critic.width, config.actor.width, config.model.width if config.model else 0)
        narrow = config.update.precision == "auto" and widest < WIDE
        return autocast(self.device, "float32" if narrow else config.update.precision)

    def seed(self, seed: int) -> None:
        self.generator.manual_seed(seed)
        if self.policy is not None:
            self.policy.seed(seed + 1)

    def reset(self) -> None:
        """A new episode: the last one's plan is no start."""
        self._last = self._before = None

    def executed(self, action: Float[Tensor, " A"]) -> None:
        """What became of an action on its way to the motors, physical units: what follows is judged by that."""
        if self._before is not None:
            self._before[1].append(self.action_norm.normalize(action.to(self.device)))

    # What it sees --------------------------------------------------------------------------------------------------------

    def inputs(self, obs: Obs) -> Float[Tensor, "B C I"]:
        """Every window of `history` consecutive observations as one normalised vector, oldest first: C = T - history + 1."""
        x = self.state_norm.normalize(obs.state)
        if self.feature_norm is not None:
            features = obs.features if obs.features is not None else self._features(obs)
            x = torch.cat([self.feature_norm.normalize(features), x], -1)
        return x.unfold(1, self.history, 1).transpose(-1, -2).flatten(2)

    def _features(self, obs: Obs) -> Tensor:
        assert self.encoder is not None
        with torch.no_grad():
            return self.encoder.eval()(obs.images)

    def encode(self, inputs: Float[Tensor, "*N I"]) -> Float[Tensor, "*N L"]:
        return inputs if self.model is None else self.model.encode(inputs)

    # What it does --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: Obs) -> Float[Tensor, "B H A"]:
        """Actions for each observation, in physical units. `notes` then holds what was thought of the last one."""
        if self.encoder is not None and obs.features is None:
            obs = replace(obs, images={}, features=self._features(obs))
        with self.precision:
            z = self.encode(self.inputs(obs))[:, -1]
            if self.config.planner is not None:
                action = self._planned(obs, z)
            elif self.policy is not None:
                return self.policy.act(obs)
            else:
                action = self.propose(z, self.explore)[:, None]
        return self.action_norm.unnormalize(action.float())

    def propose(self, z: Float[Tensor, "N L"], explore: bool) -> Float[Tensor, "N A"]:
        """The actor's action, or of its candidates the one that the critics like best."""
        count, config = self.config.actor.candidates, self.config.actor
        if count == 1:
            told = self.told(z)
            return self.actor.sample(told, self.generator) if explore else self.actor.best(told, self.generator)
        actions = self.candidates(z, count)
        q = self.critic(z.expand(len(actions), *z.shape), actions)
        worth = reduced(q, config.q_reduce, self.level) + (config.ucb * q.std(0, correction=0) if explore and config.ucb else 0)
        return actions[worth.argmax(0), torch.arange(len(z), device=z.device)]

    def candidates(self, z: Float[Tensor, "N L"], count: int) -> Float[Tensor, "C N A"]:
        """`count` draws of the actor; of an edit actor, each with and without its correction."""
        many = self.told(z).repeat(count, 1)
        drawn = self.actor.both(many, self.generator) if isinstance(self.actor, EditActor) else (self.actor.sample(many, self.generator),)
        return torch.cat([one.unflatten(0, (count, len(z))) for one in drawn])

    def told(self, z: Float[Tensor, "N L"]) -> Float[Tensor, "N D"]:
        """What the actor sees: the latent, and the beta picked for it where it is told one."""
        return z if self.beta is None else self.beta.beside(z, self.beta(z))

    def proposals(self, obs: Obs, z: Float[Tensor, "1 L"], imagination: Imagination, count: int, horizon: int) -> Float[Tensor, "P H A"]:
        """The policy's own plans, normalised: chunks, or the actor rolled in the model."""
        if self.policy is None:
            return imagination.proposals(z, count, horizon)
        return self.action_norm.normalize(self.policy.sample(obs, count)[0, :, :horizon]).clamp(-1, 1)

    def _planned(self, obs: Obs, z: Float[Tensor, "N L"]) -> Float[Tensor, "N H A"]:
        """Each row by itself; only where there is one is the next plan a step further on the same way."""
        if len(z) == 1:
            return self._plan(obs, z)
        plans = []
        for i in range(len(z)):
            self.reset()
            one = slice(i, i + 1)
            plans.append(self._plan(apply(obs, lambda tensor, one=one: tensor[one]), z[one]))
        self.reset()
        return torch.cat(plans)

    def _plan(self, obs: Obs, z: Float[Tensor, "1 L"]) -> Float[Tensor, "1 H A"]:
        planner = self.config.planner
        assert planner is not None and self.model is not None
        imagination = Imagination(self, planner.caution, planner.terminal)
        proposals = self.proposals(obs, z, imagination, planner.search.proposals, planner.search.horizon)
        search = Search(planner.search, self.generator)
        elites = planner.search.elites
        found = search.find(
            proposals, lambda plans: imagination.judge(z, plans, elites).total, float(self.release), self._last, self.explore
        )
        self._last = found.mean
        surprise = self._surprise(z)
        self._before = (z, [])
        self.notes = self._thought(z, torch.stack([proposals[0], found.plan]), found.chosen, surprise)
        self.notes["iterations"] = float(found.iterations)
        return found.plan[None, : self.horizon]

    def _surprise(self, z: Float[Tensor, "1 L"]) -> float:
        """How far what is seen lies from what the heads expected of what was done since the last plan, over the median of held-out rows.
        0 where nothing was expected: at first, and after more actions than a plan has."""
        done = self._before[1] if self._before is not None else []
        if self._before is None or self.model is None or not 0 < len(done) <= self.horizon:
            return 0.0
        return float(self.model.error(self._before[0], torch.stack(done)[None], z) / self.model.error_median[len(done) - 1])

    def _thought(self, z: Float[Tensor, "1 L"], plans: Float[Tensor, "2 H A"], chosen: int, surprise: float) -> dict[str, float]:
        """What there is to log about the policy's own plan and the one that is flown; every doubt is asked for, whatever the caution.

        gain: of the plan, its doubts taken off, over the policy's own, before the margin. novelty: the heads' spread at the first action,
        or the surprise at what was done last where that is more; both in medians.
        """
        planner = self.config.planner
        assert planner is not None
        imagination = Imagination(self, replace(planner.caution, critics=1.0, dynamics=1.0), planner.terminal)
        assert self.model is not None
        imagined = imagination.imagine(z, plans)
        apart = imagined.spread[:, 0] / self.model.spread_median
        self.own = self.action_norm.unnormalize(plans[0])
        said = score(
            imagined,
            self.config.discount,
            self.critic.spread_range,
            self.model.spread_median,
            replace(planner.caution, units="range", margin=0.0),
        )
        steps = planner.search.horizon
        return {
            "uncertainty": float(said.model_doubt[1]) / steps,
            "critic_doubt": float(said.critic_doubt[1]) / steps,
            "gain": float(said.total[1] - said.total[0]),
            "own_plan": float(chosen == 0),
            "surprise": surprise,
            "novelty": max(float(apart[1]), surprise),
            "policy_novelty": max(float(apart[0]), surprise),
        }


def make_actor(config: Actor, latent: int, action: int) -> ActorNet:
    """The network of `config.kind`."""
    match config.kind:
        case "gaussian":
            return GaussianActor(latent, action, config.width)
        case "deterministic":
            return DeterministicActor(latent, action, config.width, config.noise)
        case "diffusion":
            return DiffusionActor(latent, action, config.width, config.denoise)
    return EditActor(latent, action, config.width, config.denoise, config.edit)


def _knows_rows(policy: ChunkPolicy) -> ChunkPolicy:
    """UserError for a policy that could not go on learning from the rows that an agent has."""
    if policy.learns_by == "memory":
        raise UserError(f"agent.policy: a {type(policy).__name__} learns by memory; an agent's goes on learning by gradient")
    if policy.sees_past or policy.sees_future:
        raise UserError(f"agent.policy: a {type(policy).__name__} looks at what was earned; an agent's sees observations only")
    return policy
