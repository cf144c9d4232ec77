"""The axes of one agent. Every field has the common agent's value as its default; a published system is a few of them changed.

The common agent is soft actor-critic (Haarnoja et al. 2018) on two LayerNorm critics that keeps everything it learned offline and puts
old and new rows into one pool. `Phased` fields are a pair: their value offline, and the value they reach online.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from robolearn.models.precision import Precision

Phased = tuple[float, float]  # offline, online
Reduce = Literal["min", "mean", "lcb", "pair_min", "quantile"]
Flight = Literal["random", "frozen", "learning"]  # how an online episode is flown


def phased(pair: Phased, phase: float) -> float:
    """phase: 0 offline, 1 online."""
    return pair[0] + phase * (pair[1] - pair[0])


@dataclass(frozen=True)
class Carry:
    """What goes along from the offline phase into the online one; the rest begins anew."""

    policy: bool = True
    critic: bool = True  # Q and V
    model: bool = True  # the world model, where there is one
    data: bool = True  # old rows stay among those that are learned from


@dataclass(frozen=True)
class Replay:
    """How old and new rows share a batch."""

    mix: Literal["append", "balanced", "alternate"] = "append"
    """append: one pool. balanced: `offline` of every batch is old. alternate: `update.inner` batches old, as many new."""
    offline: float = 0.5
    """balanced: the old rows' share of a batch in the end."""
    ramp: int = 0
    """balanced: online rows until the new ones have their share, which grows with them; half from the start is half from one episode,
    learned by heart. 0: at once."""
    interventions: bool = False
    """Rows that a person flew online count as old ones as well: demonstrations like the first."""
    ratio: bool = False
    """Old rows count by how likely the present dynamics made them, as two classifiers judge (Niu et al. 2022, H2O)."""


@dataclass(frozen=True)
class Warmup:
    """What happens online before learning goes on as usual."""

    random: int = 0
    """Decisions drawn uniformly from the action range. Simulators only: a robot has reasons to refuse."""
    random_updates: bool = False
    """They earn updates like any other, done once they are over."""
    frozen: int = 0
    """Decisions of the carried policy, without an update."""
    critic_updates: int = 0
    """Updates of the critic alone that follow, the policy still frozen."""

    def flight(self, decisions: int) -> Flight:
        """How the episode after so many online decisions is flown."""
        if decisions < self.random:
            return "random"
        return "frozen" if decisions < self.random + self.frozen else "learning"


@dataclass(frozen=True)
class Critic:
    """Q heads, and V where targets are in-sample."""

    heads: int = 2
    subset: int = 2
    """Heads drawn at random for each target (REDQ, Chen et al. 2021); 0: all of them."""
    reduce: tuple[Reduce, Reduce] = ("min", "min")
    """Of the heads, to one value; offline, online. pair_min: the mean of all pairs' minima."""
    level: tuple[float, float] = (1.0, 1.0)
    """Offline, online. lcb, ood: standard deviations below the mean. quantile: which, 0 to 1."""
    width: int = 256
    layer_norm: bool = True
    loss: Literal["mse", "two_hot", "huber"] = "mse"
    bound: float = 5.0
    """two_hot: largest Q, as symlog; 5 is 147, 10 is 22 025."""
    target: Literal["policy", "in_sample", "best_of_n", "expansion"] = "policy"
    """What the next state is worth. in_sample: V, an expectile of Q over the data's actions; no action that nobody took.
    best_of_n: the best of the actor's candidates. expansion: the world model's return over its horizon, then the policy's Q."""
    entropy: bool = True
    """policy: the next state's worth includes the policy's entropy."""
    expectile: float = 0.7
    trace: float = 0.0
    """lambda of the returns: 0 trusts the next state's worth, 1 only real rewards as far as a batch shows them."""
    steps: int = 1
    """Rows of a batch's sequence that the returns look at: with trace 1, n-step returns."""
    pessimism: Literal["none", "cql", "cal", "ood", "gap"] = "none"
    """cql: pushes down what the policy would do, up what the data did. cal: no lower than the return that was really seen.
    ood: unseen actions are worth their heads' mean minus their spread. gap: cql where rows are unlikely under the present dynamics
    (replay.ratio)."""
    weight: Phased = (0.0, 0.0)
    """Of pessimism."""
    samples: int = 4
    """Actions drawn for it from each source: at random, of the policy here, of the policy in the next state."""
    smooth: float = 0.0
    """Weight of Q changing under noise on the state."""
    smooth_noise: float = 0.01
    """Largest noise, in normalised units."""
    residual: bool = False
    """Online, Q is the offline Q, frozen, plus what is learned."""
    expansion_penalty: float = 0.0
    """expansion: off the imagined reward, per standard deviation of the model's heads."""
    tau: float = 0.005
    """Step of the target heads per update."""
    lr: float = 3e-4


@dataclass(frozen=True)
class Actor:
    """Who proposes actions, and what draws them: `q` towards what the critics like, `bc` towards what the data did.

    With a chunk policy in its place (AgentConfig.policy) the fields about imitation, and `lr`, are the policy's.
    """

    kind: Literal["gaussian", "deterministic", "diffusion", "edit"] = "gaussian"
    """gaussian: squashed, its width learned. deterministic: its noise is `noise`. diffusion: of one action. edit: a diffusion
    policy of the data, and a bounded correction to it that the critics draw."""
    width: int = 256
    q: Phased = (1.0, 1.0)
    """Weight of the critics' value of the actor's own action."""
    q_scale: Literal["none", "abs", "range"] = "none"
    """Q is divided by its mean size, or by its 5 to 95 percentile range."""
    q_reduce: Reduce = "min"
    q_subset: bool = False
    """Only `critic.subset` heads, drawn at random, are asked."""
    bc: Phased = (0.0, 0.0)
    """Weight of imitating the data's action."""
    beta: float = 0.0
    """Sharpness of imitation: rows count exp(beta * advantage); 0: all the same (AWR, Peng et al. 2019)."""
    advantage: Literal["value", "policy", "return"] = "value"
    """value: Q of the data's action minus V. policy: minus Q of an action of the policy's. return: what was earned minus V."""
    advantage_scale: Literal["none", "std"] = "none"
    """std: in standard deviations of the batch, whatever the rewards' size."""
    weight_max: float = 100.0
    examples: Literal["all", "successes"] = "all"
    """Whose rows are imitated; successes: of episodes that are not known to have failed."""
    betas: tuple[float, float] | None = None
    """The policy is told its beta, from this range, and a second one picks it for each state (Wang et al. 2023, FamO2O)."""
    density: Phased = (0.0, 0.0)
    """Weight of the action's likelihood under a variational model of the data (Wu et al. 2022, SPOT)."""
    planner: float = 0.0
    """Weight of imitating what the planner flew (after Lin et al. 2025, TD-M(PC)^2)."""
    temperature: float = 0.1
    """Of the entropy, where it begins: it is learned, towards minus one half of a nat per action dimension."""
    fixed_temperature: bool = False
    """It is not learned."""
    smooth: float = 0.0
    """Weight of the policy changing under noise on the state, of `critic.smooth_noise`."""
    noise: float = 0.1
    """deterministic: deviation of exploring, of the action range; and of the target's action, twice as much, clipped at 0.5."""
    candidates: int = 1
    """Actions drawn, of which the critics pick one to fly."""
    ucb: float = 0.0
    """candidates, while exploring: standard deviations of the heads added to what they are worth."""
    edit: float = 0.2
    """edit: its largest size, of the action range's half."""
    denoise: int = 5
    """diffusion, edit: denoising steps of a draw."""
    lr: float = 3e-4


@dataclass(frozen=True)
class Reward:
    """What is added to the stored reward. Scale and shift live here and nowhere else."""

    scale: float = 1.0
    shift: float = 0.0
    source: Literal["environment", "classifier"] = "environment"
    """classifier: the probability of success that a network, taught with the last rows of successes, gives a row's outcome."""
    bonus: Literal["none", "entropy", "ensemble", "novelty"] = "none"
    """entropy: distance to the k-th nearest state of the batch (Zhang et al. 2023, SERA). ensemble: the critics' spread.
    novelty: what a network fails to predict of another, random one (Burda et al. 2019, RND). Online only."""
    bonus_weight: float = 0.0


@dataclass(frozen=True)
class Update:
    """How often, on how much."""

    utd: float = 1.0
    """Critic updates per online decision."""
    actor_every: int = 1
    """Critic updates for one of the policy's."""
    batch: int = 256
    ramp: int = 0
    """Online updates until Phased fields have gone from their offline to their online value; 0: at once."""
    resets: int = 0
    """Online updates after which actor and critics begin anew, the rows kept; 0: never."""
    outer: float = 1.0
    """After `inner` updates the weights go this share of the way they went (Reptile, Nichol et al. 2018); 1: all of it."""
    inner: int = 1
    clip: float = 10.0
    """Largest gradient norm."""
    precision: Precision = "auto"
    """Of hidden layers, in learning and in planning; auto: bfloat16 where the processor has matrix units for it."""
