"""What a fine-tuning may be told, and which values make sense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Literal

from hardware import RobotConfig
from robolearn.agents.config import AgentConfig, around
from robolearn.core.checkpoint import read_header
from robolearn.core.config import from_dict
from robolearn.core.errors import UserError
from robolearn.evaluation.sequential import ImprovementConfig
from robolearn.experiments.devices import BrowserConfig, Device, LeaderConfig
from robolearn.planning.gate import GateConfig
from robolearn.policies.chunk import ChunkConfig


def ours() -> AgentConfig:
    return from_dict(AgentConfig, {"preset": "ours"})


@dataclass(frozen=True)
class Config:
    """Learn from recordings, then from the robot's own trials: an actor that flies and a learner beside it. On a real robot a person
    watches: s success, f failure, r redo, q quit, space STOP."""

    checkpoint: Path | None = None
    """A chunk policy from `robolearn train`: it becomes the agent's, in the actor's place, and goes on learning online; the agent then sees
    what it sees, whatever its own history, state, cameras and encoder say. None: the agent learns all it knows from `data`."""
    data: Path = Path("runs/demo/teleop/dataset.zarr")
    """The store to learn from first; with a checkpoint, the one it was trained on."""
    out: Path = Path("runs/demo/finetune")
    """Artefact folder: online.zarr, planner.pt, metrics.jsonl, uncertainty.jsonl, learner/."""
    robot: RobotConfig = RobotConfig(body="robosuite:Lift")
    """a real arm: --robot.body ur5e --robot.arm.address 192.168.1.10, or a file of configs/robots"""
    agent: AgentConfig = field(default_factory=ours)
    """Who learns: `{preset: iql}`, --agent.preset iql (docs/presets), and any of its fields. Without a preset: ours."""
    episodes: int = 25
    """Online episodes to collect. Raised later, the run goes on, unless an `improvement` was judged."""
    seconds: float | None = None
    """Time limit of an episode [s]; none: the task's own, on a real arm 60."""
    chunk: int = 8
    """Actions executed per plan, by an agent with a chunk policy; others plan anew for each."""
    seed: int = 0
    offline_updates: int = 5000
    """On `data`, before the first online episode."""
    held_out: float = 0.1
    """Share of offline episodes kept from training, to calibrate the world model's doubt."""
    lockstep: bool = False
    """The robot waits until everything is learned from the last episode. Repeatable; without it the actor never waits."""
    patience_s: float = 300.0
    """Give up on a learner that hangs: no sign of life for so many seconds. It gives one each second, however long it learns; until the
    first one, 300 at least."""
    regime: Literal["fixed", "auto"] = "fixed"
    """auto compares the offline policy's return, on `regime_episodes` flown first, with the data's, and keeps the better one (Three
    Regimes): the policy without the data, or the data in half of every batch."""
    regime_episodes: int = 10
    gate: GateConfig | None = None
    """Before the planner: above a novelty that so few of the warm-up's frozen episodes reach, the policy's own plan; where that is strange
    as well, hold (triggers.jsonl). It is advice; the governor is below it in any case."""
    improvement: ImprovementConfig | None = None
    """Judge the result on fresh episodes against the frozen ones of the warm-up, and roll back unless it is not worse."""
    takeover: Device | None = None
    """With what a person may take the robot from the agent at any moment, as in `robolearn deploy`; what they fly is learned from, as a
    demonstration where agent.replay.interventions says so. Without one, a person on a real robot still watches: their word ends an episode,
    and success earns 1."""
    leader: LeaderConfig = LeaderConfig()
    browser: BrowserConfig = BrowserConfig()
    view_port: int | None = 8642
    """Where a person watches: the cameras at http://127.0.0.1:PORT; 0: any free port, None: no page."""
    confirm: bool = True
    """On a real robot: wait for Enter before each episode, which begins by driving home. --no-confirm: it does, unasked."""
    threads: int = 1
    """torch CPU threads; networks this small gain nothing from more, and lose much on a busy machine."""
    overwrite: bool = False
    """Begin anew, whatever is in `out`: it is discarded."""

    @property
    def whole_agent(self) -> AgentConfig:
        """`agent`, around the checkpoint's policy where there is one. UserError: it is none to go on from."""
        if self.checkpoint is None:
            return self.agent
        policy = read_header(self.checkpoint).config
        if not isinstance(policy, ChunkConfig):
            raise UserError(f"{self.checkpoint}: a {type(policy).__name__}; fine-tuning starts from a chunk policy, of `robolearn train`")
        return around(self.agent, policy)


HOW = ("patience_s", "takeover", "leader", "browser", "view_port", "confirm")  # may differ when a run goes on
_MANY = 1_000_000
_BOUND = (0.2, 30.0)  # of two_hot: bins lie 0.2 apart, and float32 still counts well at exp(30)
_RANGES = (  # field, unit, least, greatest
    ("episodes", "online episodes", 1, _MANY),
    ("chunk", "actions per plan", 1, 1000),
    ("offline_updates", "updates", 0, 100 * _MANY),
    ("held_out", "of the episodes", 0.01, 0.9),
    ("patience_s", "seconds", 30, _MANY),
    ("seconds", "s", 0.1, 3600),
    ("regime_episodes", "online episodes", 2, _MANY),
    ("threads", "CPU threads", 1, 1024),
    ("gate.risk", "of familiar episodes", 1e-4, 0.9999),
    ("gate.patience", "decisions", 0, _MANY),
)
_AGENT_RANGES = (  # of `agent`; both numbers of a pair
    ("history", "observations", 1, 1000),
    ("discount", "per decision", 0.0, 1.0),
    ("replay.ramp", "online rows", 0, _MANY),
    ("warmup.random", "decisions", 0, _MANY),
    ("warmup.frozen", "decisions", 0, _MANY),
    ("warmup.critic_updates", "updates", 0, _MANY),
    ("critic.heads", "heads", 1, 1000),
    ("critic.subset", "heads", 0, 1000),
    ("critic.level", "(standard deviations, or a quantile)", 0.0, 1e3),
    ("critic.width", "units", 1, _MANY),
    ("critic.bound", "(symlog)", *_BOUND),
    ("critic.expectile", "(tau)", 0.01, 0.99),
    ("critic.trace", "(lambda)", 0.0, 1.0),
    ("critic.steps", "rows", 1, 1000),
    ("critic.weight", "(a weight)", 0.0, 1e6),
    ("critic.samples", "actions", 1, _MANY),
    ("critic.smooth", "(a weight)", 0.0, 1e6),
    ("critic.smooth_noise", "normalised units", 0.0, 10.0),
    ("critic.expansion_penalty", "per standard deviation", 0.0, 1e6),
    ("critic.tau", "per update", 0.0, 1.0),
    ("critic.lr", "(learning rate)", 1e-8, 1.0),
    ("actor.width", "units", 1, _MANY),
    ("actor.q", "(a weight)", 0.0, 1e6),
    ("actor.bc", "(a weight)", 0.0, 1e6),
    ("actor.beta", "(sharpness)", 0.0, 1e3),
    ("actor.weight_max", "(a weight)", 1e-3, 1e6),
    ("actor.betas", "(sharpness)", 0.0, 1e3),
    ("actor.density", "(a weight)", 0.0, 1e6),
    ("actor.planner", "(a weight)", 0.0, 1e6),
    ("actor.temperature", "(of the entropy)", 1e-8, 1e3),
    ("actor.smooth", "(a weight)", 0.0, 1e6),
    ("actor.noise", "of the action range", 0.0, 1.0),
    ("actor.candidates", "actions", 1, _MANY),
    ("actor.ucb", "standard deviations", 0.0, 1e3),
    ("actor.edit", "of the action range's half", 0.0, 2.0),
    ("actor.denoise", "steps", 1, 100),
    ("actor.lr", "(learning rate)", 1e-8, 1.0),
    ("reward.scale", "times the reward", 1e-6, 1e6),
    ("reward.shift", "(a reward)", -1e6, 1e6),
    ("reward.bonus_weight", "(a weight)", 0.0, 1e6),
    ("model.width", "units", 1, _MANY),
    ("model.encoder_width", "units", 1, _MANY),
    ("model.heads", "heads", 1, 100),
    ("model.bound", "(symlog)", *_BOUND),
    ("model.horizon", "steps", 1, 1000),
    ("model.rho", "per step", 0.0, 1.0),
    ("model.consistency", "(a weight)", 0.0, 1e6),
    ("model.reward", "(a weight)", 0.0, 1e6),
    ("model.ends", "(a weight)", 0.0, 1e6),
    ("model.value", "(a weight)", 0.0, 1e6),
    ("model.encoder_rate", "times the learning rate", 0.0, 1e3),
    ("model.target_encoder", "per update", 0.0, 1.0),
    ("planner.search.horizon", "decisions", 1, 1000),
    ("planner.search.proposals", "plans", 1, _MANY),
    ("planner.search.samples", "candidates", 1, _MANY),
    ("planner.search.iterations", "iterations", 0, 1000),
    ("planner.search.elites", "candidates", 1, _MANY),
    ("planner.search.std_min", "of the action range", 0.0, 2.0),
    ("planner.search.std_max", "of the action range", 0.0, 2.0),
    ("planner.search.temperature", "(of the elites' weights)", 1e-3, 1e3),
    ("planner.search.momentum", "of the old mean", 0.0, 1.0),
    ("planner.search.ramp", "decisions", 0, _MANY),
    ("planner.search.deadline_ms", "ms", 0.0, 1e6),
    ("planner.caution.heads", "standard deviations", 0.0, float("inf")),
    ("planner.caution.critics", "(a weight)", 0.0, float("inf")),
    ("planner.caution.dynamics", "(a weight)", 0.0, float("inf")),
    ("planner.caution.margin", "held-out errors", 0.0, float("inf")),
    ("update.utd", "updates per decision", 0.0, 1000.0),
    ("update.actor_every", "updates", 1, _MANY),
    ("update.batch", "rows", 2, _MANY),
    ("update.ramp", "updates", 0, 100 * _MANY),
    ("update.resets", "updates", 0, 100 * _MANY),
    ("update.inner", "updates", 1, _MANY),
    ("update.clip", "(gradient norm)", 1e-8, 1e8),
)


def check(config: Config) -> None:
    """UserError for the first value out of its range; NaN is out of every range."""
    _check_ranges(config, _RANGES)
    _check_ranges(config.agent, _AGENT_RANGES, "agent.")
    if config.regime == "auto" and not 2 <= config.regime_episodes < config.episodes:
        raise UserError(f"regime_episodes: {config.regime_episodes} episodes; valid 2 to one less than episodes = {config.episodes}")
    frozen = bool(config.agent.warmup.frozen) or config.regime == "auto"
    if config.improvement is not None and not frozen:
        raise UserError("improvement: given, but agent.warmup.frozen is 0; the offline policy needs episodes of its own to compare with")
    if config.gate is not None and (config.agent.planner is None or not frozen):
        lacks = "agent.planner is null" if config.agent.planner is None else "agent.warmup.frozen is 0"
        raise UserError(f"gate: given, but {lacks}; it judges plans by what the offline policy's episodes were like")


def _check_ranges(config: object, ranges: Iterable[tuple[str, str, float, float]], prefix: str = "") -> None:
    """Those of a part that is null do not count."""
    for name, unit, least, greatest in ranges:
        if getattr(config, name.split(".")[0]) is None:
            continue
        value = attrgetter(name)(config)
        pair = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(least <= number <= greatest for number in pair):
            raise UserError(f"{prefix}{name}: {value} {unit}; valid {least:g} to {greatest:g}")
