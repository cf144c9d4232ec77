"""One agent: an encoder or none, critics, an actor, perhaps a world model and a planner. It is a Policy: deployment knows no more of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hardware.types import RobotSpec
from robolearn.agents.actors import ActorNet, DeterministicActor, DiffusionActor, EditActor, GaussianActor
from robolearn.agents.adaptive import BetaPicker
from robolearn.agents.axes import Actor, Carry, Critic, Replay, Reward, Update, Warmup
from robolearn.agents.critic import QHeads, Value, reduced
from robolearn.agents.imagination import Imagination
from robolearn.core.errors import UserError
from robolearn.core.types import Obs, Policy
from robolearn.data.windows import restrict
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig
from robolearn.models.normalizer import Normalizer
from robolearn.models.precision import autocast
from robolearn.planning.caution import Caution, score
from robolearn.planning.search import Search, SearchConfig
from robolearn.worldmodels.dynamics import ModelConfig, WorldModel

Keep = Literal["policy", "data", "either"]
WIDE = 256  # hidden units from which bfloat16 pays


@dataclass(frozen=True)
class PlannerConfig:
    """How the agent looks ahead, and what it shuns while it does."""

    search: SearchConfig = SearchConfig()
    caution: Caution = Caution()
    terminal: Literal["v", "q"] = "v"  # what the last latent is worth: V, or Q of the policy's action there


@dataclass(frozen=True)
class AgentConfig:
    """The common agent; a preset is a few of these fields changed (configs/agents, docs/presets)."""

    PRESETS: ClassVar[str] = "agents"
    history: int = 1  # observations it looks at
    state: tuple[str, ...] = ()  # empty: all of the robot's
    cameras: tuple[str, ...] = ()  # empty: all, where there is an encoder
    encoder: EncoderConfig | None = None  # null: no cameras, state only. Frozen: it plans and learns on its features
    discount: float = 0.99  # per decision
    carry: Carry = Carry()
    replay: Replay = Replay()
    warmup: Warmup = Warmup()
    critic: Critic = Critic()
    actor: Actor = Actor()
    reward: Reward = Reward()
    model: ModelConfig | None = None
    planner: PlannerConfig | None = None
    update: Update = Update()

    def build(self, spec: RobotSpec) -> Agent:
        return Agent(self, spec)


class Agent(Policy):
    """act() gives one action per observation: the actor's, the best of several by the critics, or the planner's.

    explore: act as while collecting data. release: how far the planner may leave the policy's own plans, 0 to 1.
    """

    horizon = 1
    release: Tensor
    online: Tensor

    def __init__(self, config: AgentConfig, spec: RobotSpec):
        super().__init__()
        check(config)
        self.config, self.history = config, config.history
        self.spec = restrict(spec, (config.cameras or None) if config.encoder else (), config.state or None)
        self.generator = torch.Generator().manual_seed(0)
        self.explore, self.notes = False, dict[str, float]()
        self.encoder: CameraEncoder | None = config.encoder.build(self.spec.cameras).requires_grad_(False) if config.encoder else None
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
        self.new_actor()
        self.own = torch.zeros(1, self.spec.action.dim)  # what the policy alone would have done last, physical units
        self._last: Tensor | None = None  # the planner's warm start
        self._before: tuple[Tensor, Tensor] | None = None  # the latent and the action of the last decision

    def new_model(self) -> None:
        """The world model, if there is to be one, as at the beginning."""
        self.model = WorldModel(self.config.model, self.input_dim, self.spec.action.dim).to(self.device) if self.config.model else None

    def new_critic(self) -> None:
        """Q and V as at the beginning."""
        config = self.config.critic
        self.critic = QHeads(config, self.latent, self.spec.action.dim).to(self.device)
        self.value = Value(self.latent, config.width, config.layer_norm).to(self.device) if self._has_value else None

    def new_actor(self) -> None:
        """The actor as at the beginning."""
        config, action = self.config.actor, self.spec.action.dim
        self.beta = BetaPicker(config.betas, self.latent, config.width).to(self.device) if config.betas else None
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

    def reset(self) -> None:
        """A new episode: the last one's plan is no start."""
        self._last = self._before = None

    def executed(self, action: Float[Tensor, " A"]) -> None:
        """What became of the last action on its way to the motors, physical units: what follows is judged by that."""
        if self._before is not None:
            self._before = (self._before[0], self.action_norm.normalize(action.to(self.device))[None])

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
    def act(self, obs: Obs) -> Float[Tensor, "B 1 A"]:
        """One action per observation, in physical units. `notes` then holds what was thought of the last one."""
        with self.precision:
            z = self.encode(self.inputs(obs))[:, -1]
            action = self._planned(z) if self.config.planner else self.propose(z, self.explore)
        return self.action_norm.unnormalize(action.float())[:, None]

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

    def _planned(self, z: Float[Tensor, "N L"]) -> Float[Tensor, "N A"]:
        """Each row by itself; only where there is one is the next plan a step further on the same way."""
        if len(z) == 1:
            return self._plan(z)
        actions = []
        for row in z:
            self.reset()
            actions.append(self._plan(row[None]))
        self.reset()
        return torch.cat(actions)

    def _plan(self, z: Float[Tensor, "1 L"]) -> Float[Tensor, "1 A"]:
        planner = self.config.planner
        assert planner is not None and self.model is not None
        imagination = Imagination(self, planner.caution, planner.terminal)
        proposals = imagination.proposals(z, planner.search.proposals, planner.search.horizon)
        search = Search(planner.search, self.generator)
        elites = planner.search.elites
        found = search.find(
            proposals, lambda plans: imagination.judge(z, plans, elites).total, float(self.release), self._last, self.explore
        )
        self._last = found.mean
        surprise = self._surprise(z)
        self._before = (z, found.plan[:1])
        self.notes = self._thought(z, torch.stack([proposals[0], found.plan]), found.chosen, surprise)
        self.notes["iterations"] = float(found.iterations)
        return found.plan[:1]

    def _surprise(self, z: Float[Tensor, "1 L"]) -> float:
        """How far what is seen lies from what the heads expected of the last action, over the median of held-out rows; 0 at first."""
        if self._before is None or self.model is None:
            return 0.0
        return float(self.model.error(*self._before, z) / self.model.error_median)

    def _thought(self, z: Float[Tensor, "1 L"], plans: Float[Tensor, "2 H A"], chosen: int, surprise: float) -> dict[str, float]:
        """What there is to log about the policy's own plan and the one that is flown; every doubt is asked for, whatever the caution.

        novelty: the heads' spread about the first action, or the surprise at what the last one did where that is more; both in medians.
        """
        planner = self.config.planner
        assert planner is not None
        imagination = Imagination(self, replace(planner.caution, critics=1.0, dynamics=1.0), planner.terminal)
        assert self.model is not None
        imagined = imagination.imagine(z, plans)
        apart = imagined.spread[:, 0] / self.model.spread_median
        self.own = self.action_norm.unnormalize(plans[0, :1])
        said = score(
            imagined, self.config.discount, self.critic.spread_range, self.model.spread_median, replace(planner.caution, units="range")
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


def keeping(config: AgentConfig, what: Keep) -> AgentConfig:
    """The config once it is known what is better (Three Regimes, arXiv 2510.01460). policy: it goes on from itself, without the old rows.
    data: half of every batch is old. either: as configured."""
    match what:
        case "policy":
            return replace(config, carry=replace(config.carry, policy=True, critic=True, model=True, data=False))
        case "data":
            return replace(config, carry=replace(config.carry, data=True), replay=replace(config.replay, mix="balanced", offline=0.5))
    return config


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


def check(config: AgentConfig) -> None:
    """UserError for axes that do not go together."""
    critic, actor = config.critic, config.actor
    wrong = {
        "planner: given, but no model; a planner looks ahead in one": config.planner is not None and config.model is None,
        "critic.target: expansion, but no model to expand in": critic.target == "expansion" and config.model is None,
        "critic.target: best_of_n, but actor.candidates is 1": critic.target == "best_of_n" and actor.candidates < 2,
        "critic.pessimism: gap, but not replay.ratio, which tells it": critic.pessimism == "gap" and not config.replay.ratio,
        "critic.residual: with loss two_hot; a correction needs mse or huber": critic.residual and critic.loss == "two_hot",
        "critic.reduce: pair_min needs two heads or more": "pair_min" in critic.reduce
        and min(critic.heads, critic.subset or critic.heads) < 2,
        f"critic.subset: {critic.subset} of {critic.heads} heads": critic.subset > critic.heads,
        f"actor.smooth: with a {actor.kind} actor; its change is known of a gaussian one": actor.smooth > 0 and actor.kind != "gaussian",
        "smooth: with a model; noise is put on states": critic.smooth + actor.smooth > 0 and config.model is not None,
        "encoder.tune: not none; an agent learns on the features of a frozen encoder": bool(config.encoder and not config.encoder.frozen),
        f"update.outer: {config.update.outer}; valid: above 0, up to 1": not 0 < config.update.outer <= 1,
        f"replay.offline: {config.replay.offline} of a batch; valid: 0 to 1": not 0 <= config.replay.offline <= 1,
    }
    for message, is_so in wrong.items():
        if is_so:
            raise UserError(f"agent: {message}")
