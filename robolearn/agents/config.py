"""What an agent is made of: the axes, the parts it may have, and which of them go together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import attrgetter
from typing import TYPE_CHECKING, ClassVar, Literal

from hardware.types import RobotSpec
from robolearn.agents.axes import Actor, Carry, Critic, Replay, Reward, Update, Warmup
from robolearn.core.errors import UserError
from robolearn.data.windows import restrict
from robolearn.models.encoders.base import EncoderConfig
from robolearn.planning.caution import Caution
from robolearn.planning.search import SearchConfig
from robolearn.policies.chunk import ChunkConfig
from robolearn.worldmodels.dynamics import ModelConfig

if TYPE_CHECKING:
    from robolearn.agents.agent import Agent

Keep = Literal["policy", "data", "either"]
SEEN = ("history", "state", "cameras", "encoder")  # what an agent and its chunk policy have in common


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
    state: tuple[str, ...] = ()  # empty: all of the robot's; [none]: none of them, cameras only
    cameras: tuple[str, ...] = ()  # empty: all, where there is an encoder
    encoder: EncoderConfig | None = None  # null: no cameras, state only. Frozen: it plans and learns on its features
    policy: ChunkConfig | None = None  # a chunk policy (robolearn train) instead of the actor's network; it sees what the agent sees
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
        from robolearn.agents.agent import Agent  # which holds one of these

        return Agent(self, spec)

    @property
    def chunks(self) -> ChunkConfig:
        """`policy`, looking at what the agent looks at. UserError: it says otherwise."""
        assert self.policy is not None
        own, usual = self.policy, type(self.policy)()
        for name in SEEN:
            if (its := getattr(own, name)) not in (getattr(usual, name), getattr(self, name)):
                raise UserError(
                    f"agent.policy.{name}: {its}, but agent.{name}: {getattr(self, name)}; it sees what the agent sees: leave it out"
                )
        return replace(own, **{name: getattr(self, name) for name in SEEN})

    def seen(self, spec: RobotSpec) -> RobotSpec:
        """The part of `spec` that the agent looks at. UserError: it has none of that, or that is nothing."""
        state = () if self.state == ("none",) else self.state or None
        try:
            chosen = restrict(spec, (self.cameras or None) if self.encoder else (), state)
        except UserError as error:
            raise UserError(f"agent.{error}") from error
        if self.encoder and not chosen.cameras:
            raise UserError(f"agent.encoder: robot '{spec.name}' has no camera; leave the encoder out (null)")
        if not chosen.state and not chosen.cameras:
            raise UserError(f"agent.state: none of robot '{spec.name}', and agent.encoder: null; the agent would see nothing")
        return chosen


def around(config: AgentConfig, policy: ChunkConfig) -> AgentConfig:
    """The agent that has this policy, and looks at what it looks at."""
    return replace(config, policy=policy, **{name: getattr(policy, name) for name in SEEN})


def keeping(config: AgentConfig, what: Keep) -> AgentConfig:
    """The config once it is known what is better (Three Regimes, arXiv 2510.01460). policy: it goes on from itself, without the old rows.
    data: half of every batch is old. either: as configured."""
    match what:
        case "policy":
            return replace(config, carry=replace(config.carry, policy=True, critic=True, model=True, data=False))
        case "data":
            return replace(config, carry=replace(config.carry, data=True), replay=replace(config.replay, mix="balanced", offline=0.5))
    return config


def check(config: AgentConfig) -> None:
    """UserError for axes that do not go together."""
    critic, actor, reduces = config.critic, config.actor, (*config.critic.reduce, config.actor.q_reduce)
    drawn = [q + bc + density + actor.planner for q, bc, density in zip(actor.q, actor.bc, actor.density, strict=True)]
    wrong = {
        "planner: given, but no model; a planner looks ahead in one": config.planner is not None and config.model is None,
        "critic.target: expansion, but no model to expand in": critic.target == "expansion" and config.model is None,
        "critic.target: best_of_n, but actor.candidates is 1": critic.target == "best_of_n" and actor.candidates < 2,
        "critic.pessimism: gap, but not replay.ratio, which tells it": critic.pessimism == "gap" and not config.replay.ratio,
        "critic.residual: with loss two_hot; a correction needs mse or huber": critic.residual and critic.loss == "two_hot",
        "critic.reduce: pair_min needs two heads or more": "pair_min" in critic.reduce
        and min(critic.heads, critic.subset or critic.heads) < 2,
        f"critic.subset: {critic.subset} heads, and critic.heads: {critic.heads}; valid 0 (all) to {critic.heads}": (
            critic.subset > critic.heads
        ),
        f"critic.level: {critic.level}; a quantile's is 0 to 1": "quantile" in reduces and max(critic.level) > 1,
        f"actor.q: {actor.q}, bc: {actor.bc} and density: {actor.density}; valid: one of them above 0, offline and online, or the actor "
        "learns from nothing": config.policy is None and min(drawn) == 0,
        f"actor.betas: {actor.betas}; valid: the first below the second": bool(actor.betas and actor.betas[0] >= actor.betas[1]),
        f"actor.smooth: with a {actor.kind} actor; its change is known of a gaussian one": actor.smooth > 0 and actor.kind != "gaussian",
        "smooth: with a model; noise is put on states": critic.smooth + actor.smooth > 0 and config.model is not None,
        "encoder.tune: not none; an agent learns on the features of a frozen encoder": bool(config.encoder and not config.encoder.frozen),
        f"update.outer: {config.update.outer}; valid: above 0, up to 1": not 0 < config.update.outer <= 1,
        f"replay.offline: {config.replay.offline} of a batch; valid: 0 to 1": not 0 <= config.replay.offline <= 1,
    }
    if config.policy is not None:
        wrong |= _wrong_with_chunks(config, config.chunks)
    for message, is_so in wrong.items():
        if is_so:
            raise UserError(f"agent: {message}")


def check_idle(config: AgentConfig) -> None:
    """UserError for a field that was changed, though what stands beside it leaves it no effect. Asked of whoever writes a config; an agent
    that was saved with such a field is as good as one without."""
    critic, actor, update = config.critic, config.actor, config.update
    idle = (  # field, because of what, whether that is so
        ("cameras", "encoder: null", config.encoder is None),
        ("replay.ratio", "carry.data: false", not config.carry.data),
        ("warmup.random_updates", "warmup.random: 0", not config.warmup.random),
        ("critic.weight", "critic.pessimism: none", critic.pessimism == "none"),
        ("critic.residual", "carry.critic: false", not config.carry.critic),
        ("critic.expansion_penalty", f"critic.target: {critic.target}", critic.target != "expansion"),
        ("actor.ucb", "actor.candidates: 1", actor.candidates == 1),
        ("actor.planner", "planner: null", config.planner is None),
        *((f"actor.{name}", "a policy in the actor's place", config.policy is not None) for name in ("kind", "width", "temperature")),
        ("reward.bonus_weight", "reward.bonus: none", config.reward.bonus == "none"),
        ("update.inner", f"update.outer: 1 and replay.mix: {config.replay.mix}", update.outer == 1 and config.replay.mix != "alternate"),
    )
    for name, reason, is_so in idle:
        value, usual = (attrgetter(name)(each) for each in (config, AgentConfig()))
        if is_so and value != usual:
            raise UserError(f"agent.{name}: {value}, but with {reason} it does nothing; leave it at {usual or 'its default'}")


def _wrong_with_chunks(config: AgentConfig, policy: ChunkConfig) -> dict[str, bool]:
    """What asks the actor for an action in a latent, of which a chunk policy knows nothing."""
    critic, actor, planner = config.critic, config.actor, config.planner
    return {
        f"policy: given, and critic.target: {critic.target}; a chunk policy goes with in_sample": critic.target != "in_sample",
        f"policy: given, and critic.pessimism: {critic.pessimism}; valid none": critic.pessimism != "none",
        "policy: given, and planner.terminal: q; valid v": planner is not None and planner.terminal == "q",
        "policy: given; actor.q, density, smooth, planner, betas and candidates are for an actor's network": any(
            (*actor.q, *actor.density, actor.smooth, actor.planner, actor.betas is not None, actor.candidates > 1)
        ),
        "policy: given, and actor.advantage: policy; valid value, return": actor.advantage == "policy",
        f"policy.goal: {policy.goal}; an agent learns from rewards, and its policy is told no goal: none": policy.goal != "none",
        f"planner.search.horizon: {planner.search.horizon if planner else 0} decisions; its policy proposes chunks of {policy.horizon}": (
            planner is not None and planner.search.horizon > policy.horizon
        ),
    }
