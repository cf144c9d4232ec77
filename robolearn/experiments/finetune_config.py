"""What a fine-tuning may be told, and which values make sense."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Literal

from hardware import RobotConfig
from robolearn.agents.agent import AgentConfig
from robolearn.core.errors import UserError
from robolearn.evaluation.sequential import ImprovementConfig
from robolearn.learners.imitation import ImitationConfig
from robolearn.learners.latent_mpc import LatentMpcConfig
from robolearn.planning.mppi import MppiConfig
from robolearn.worldmodels.latent import LatentConfig


@dataclass(frozen=True)
class Config:
    """Fine-tune an offline diffusion policy on the robot it will run on."""

    checkpoint: Path = Path("runs/demo/train/policy.pt")
    """The offline diffusion policy (from `robolearn train`)."""
    data: Path = Path("runs/demo/teleop/dataset.zarr")
    """The store it was trained on."""
    out: Path = Path("runs/demo/finetune")
    """Artefact folder: online.zarr, planner.pt, metrics.jsonl, uncertainty.jsonl."""
    robot: RobotConfig = RobotConfig(body="robosuite:Lift")
    episodes: int = 25
    """Online episodes to collect."""
    seed: int = 0
    pretrain_updates: int = 2500
    """World-model updates on the offline store before the first online episode."""
    model_updates: int = 60
    """World-model updates after each online episode."""
    policy_updates: int = 80
    """Advantage-weighted policy updates after each online episode, on the rows of successful episodes."""
    batch_size: int = 128
    """Rows per update; the share of new ones grows with their number, up to half."""
    release_episodes: int = 50
    """Online episodes until the planner's noise around the policy's proposals is fully released."""
    chunk: int = 8
    """Actions executed per plan."""
    held_out: float = 0.1
    """Share of offline episodes kept from training, to calibrate the dynamics heads' spread."""
    search: MppiConfig = MppiConfig()
    model: LatentConfig = LatentConfig()
    learner: LatentMpcConfig = LatentMpcConfig()
    imitation: ImitationConfig = ImitationConfig(lr=3e-4, schedule="constant", warmup=50)
    agent: AgentConfig | None = None
    """Given (`{preset: iql}`, --agent.preset iql; docs/presets), this agent learns from `data` and online instead of a diffusion policy's
    planner: no `checkpoint`, and `search` to `imitation` are not used."""
    offline_updates: int = 5000
    """agent: updates on `data` before the first online episode."""
    lockstep: bool = False
    """agent: the robot waits until everything is learned from the last episode. Repeatable; without it the actor never waits."""
    regime: Literal["fixed", "auto"] = "fixed"
    """agent: auto compares the offline policy's return, on `regime_episodes` flown first, with the data's, and keeps the better one
    (Three Regimes): the policy without the data, or the data in half of every batch."""
    regime_episodes: int = 10
    improvement: ImprovementConfig | None = None
    """agent: judge the result on fresh episodes against the frozen ones of the warm-up, and roll back unless it is not worse."""
    threads: int = 1
    """torch CPU threads; networks this small gain nothing from more, and lose much on a busy machine."""
    overwrite: bool = False
    """Discard what another config left in `out`."""


_MANY = 1_000_000
_RANGES = (  # field, unit, least, greatest
    ("episodes", "online episodes", 1, _MANY),
    ("pretrain_updates", "updates", 0, _MANY),
    ("model_updates", "updates", 0, _MANY),
    ("policy_updates", "updates", 0, _MANY),
    ("offline_updates", "updates", 0, 100 * _MANY),
    ("batch_size", "rows", 2, _MANY),
    ("release_episodes", "episodes", 0, _MANY),
    ("held_out", "of the episodes", 0.01, 0.9),
    ("threads", "CPU threads", 1, 1024),
    ("search.horizon", "decisions", 1, 1000),
    ("search.proposals", "chunks", 1, _MANY),
    ("search.samples", "sequences", 1, _MANY),
    ("search.iterations", "iterations", 0, 1000),
    ("search.elites", "sequences", 1, _MANY),
    ("search.temperature", "standard deviations", 1e-3, 1e3),
    ("search.std_min", "of the action range", 0.0, 1.0),
    ("search.std_max", "of the action range", 0.0, 1.0),
    ("search.discount", "per decision", 0.0, 1.0),
    ("search.caution.heads", "standard deviations", 0.0, float("inf")),
    ("search.caution.critics", "(a weight)", 0.0, float("inf")),
    ("search.caution.dynamics", "(a weight)", 0.0, float("inf")),
    ("learner.horizon", "decisions", 1, 1000),
    ("learner.discount", "per decision", 0.0, 1.0),
    ("learner.trace", "(lambda)", 0.0, 1.0),
    ("learner.expectile", "(tau)", 0.01, 0.99),
    ("learner.lr", "(learning rate)", 1e-8, 1.0),
    ("imitation.lr", "(learning rate)", 1e-8, 1.0),
    ("model.critics", "heads", 2, 100),
    ("model.dynamics", "heads", 1, 100),
    ("model.group", "units", 1, _MANY),
)
_AGENT_RANGES = (  # of `agent`; those of a part that is null do not count
    ("history", "observations", 1, 1000),
    ("discount", "per decision", 0.0, 1.0),
    ("warmup.random", "decisions", 0, _MANY),
    ("warmup.frozen", "decisions", 0, _MANY),
    ("warmup.critic_updates", "updates", 0, _MANY),
    ("critic.heads", "heads", 1, 1000),
    ("critic.subset", "heads", 0, 1000),
    ("critic.width", "units", 1, _MANY),
    ("critic.expectile", "(tau)", 0.01, 0.99),
    ("critic.trace", "(lambda)", 0.0, 1.0),
    ("critic.steps", "rows", 1, 1000),
    ("critic.samples", "actions", 1, _MANY),
    ("critic.tau", "per update", 0.0, 1.0),
    ("critic.lr", "(learning rate)", 1e-8, 1.0),
    ("actor.width", "units", 1, _MANY),
    ("actor.temperature", "(of the entropy)", 1e-8, 1e3),
    ("actor.noise", "of the action range", 0.0, 1.0),
    ("actor.candidates", "actions", 1, _MANY),
    ("actor.denoise", "steps", 1, 100),
    ("actor.lr", "(learning rate)", 1e-8, 1.0),
    ("model.heads", "heads", 1, 100),
    ("model.horizon", "steps", 1, 1000),
    ("planner.search.horizon", "decisions", 1, 1000),
    ("planner.search.proposals", "plans", 1, _MANY),
    ("planner.search.samples", "candidates", 0, _MANY),
    ("planner.search.iterations", "iterations", 0, 1000),
    ("planner.search.elites", "candidates", 1, _MANY),
    ("planner.search.temperature", "(of the elites' weights)", 1e-3, 1e3),
    ("planner.search.ramp", "decisions", 0, _MANY),
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
    if config.agent is not None:
        there = [row for row in _AGENT_RANGES if getattr(config.agent, row[0].split(".")[0]) is not None]
        _check_ranges(config.agent, there, "agent.")
    if config.regime == "auto" and not 2 <= config.regime_episodes < config.episodes:
        raise UserError(f"regime_episodes: {config.regime_episodes} episodes; valid 2 to one less than episodes = {config.episodes}")
    if config.improvement is not None and config.agent is not None and not (config.agent.warmup.frozen or config.regime == "auto"):
        raise UserError("improvement: given, but agent.warmup.frozen is 0; the offline policy needs episodes of its own to compare with")
    if not 1 <= config.chunk <= config.search.horizon:
        raise UserError(f"chunk: {config.chunk} actions per plan; valid 1 to search.horizon = {config.search.horizon}")
    if config.model.latent < 1 or config.model.latent % config.model.group:
        raise UserError(f"model.latent: {config.model.latent} units; valid: multiples of model.group = {config.model.group}")


def _check_ranges(config: object, ranges: Iterable[tuple[str, str, float, float]], prefix: str = "") -> None:
    for name, unit, least, greatest in ranges:
        value = attrgetter(name)(config)
        if not least <= value <= greatest:
            raise UserError(f"{prefix}{name}: {value} {unit}; valid {least:g} to {greatest:g}")
