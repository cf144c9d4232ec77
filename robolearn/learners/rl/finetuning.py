"""Offline, then online: when the agent learns from what, and what it takes along. It flies nothing itself."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hardware.types import Source
from robolearn.agents.agent import Agent
from robolearn.agents.axes import Flight
from robolearn.agents.config import AgentConfig, Keep, keeping
from robolearn.core.types import Metrics
from robolearn.data.episode import Episode
from robolearn.data.replay import Replay
from robolearn.learners.rl.learner import AgentLearner
from robolearn.learners.rl.mixing import Mixing


class FineTuning:
    """`offline(n)` learns from old rows; after `begin_online` each episode goes to `add`, and `learn` follows it.

    old: what was recorded before; it may be empty (learning from scratch). seed: of the learner's noise and the draws of rows.
    taught: the actor knows the old rows already, as a chunk policy from `robolearn train` does; offline, only the rest learns.
    """

    def __init__(self, agent: Agent, old: Replay, seed: int = 0, taught: bool = False):
        self.agent, self.config, self.taught = agent, agent.config, taught
        self.learner = AgentLearner(agent, torch.Generator().manual_seed(seed))
        self.old, self.new = old, Replay(old.spec, old.history, old.column("features").shape[1], old.discount)
        self.rng = np.random.default_rng(seed)
        self.mixing = Mixing(self.config.replay, self.old, self.new, self.rng, self.config.update.inner)
        self.decisions = 0  # online so far
        self.owed = 0.0  # updates, of which a part is left over
        self._slow: list[Tensor] | None = None  # the weights that Reptile's inner updates began with

    def offline(self, updates: int) -> list[Metrics]:
        """So many updates on the old rows alone."""
        return [self.learner.update(self._draw(), actor=not self.taught) for _ in range(updates)]

    def settle(self, what: Keep) -> None:
        """Before the online phase: what is better, the policy or the data, and so is kept."""
        self.config = self.agent.config = keeping(self.config, what)
        self.mixing.mix = self.config.replay

    def begin_online(self) -> None:
        """What is not carried begins anew; what was learned offline becomes the base of a residual critic. Once only."""
        agent, carry = self.agent, self.config.carry
        if bool(agent.online):
            return
        if not carry.policy:
            agent.new_actor()
        if not carry.critic:
            agent.new_critic()
        elif agent.critic.base is not None:
            agent.critic.rebase()
        if not carry.model:
            agent.new_model()
        self.mixing.keeps_old, self.mixing.draws = carry.data, 0  # turns begin with the online phase
        agent.online.fill_(True)
        self.learner.new_optimizers()

    @property
    def flight(self) -> Flight:
        """How the next episode is flown."""
        known = bool(self.agent.state_norm.fitted)  # what states are like: without that no policy can look at one
        return self.config.warmup.flight(self.decisions) if known else "random"

    def add(self, episode: Episode, features: np.ndarray | None = None) -> None:
        """What was flown; its meta may say how (`flight`). A person's rows count as old ones, too, where the config says so."""
        flight = episode.meta.get("flight", self.flight)
        earns = flight == "learning" or (flight == "random" and self.config.warmup.random_updates)
        self.new.add(episode, features)
        if not bool(self.agent.state_norm.fitted) and self.decisions + len(episode) >= self.config.warmup.random:
            fit_units(self.agent, self.new)  # from scratch: nothing else says what states are like
        if self.config.replay.interventions and bool((episode.source == Source.HUMAN).any()):
            self.old.add(episode, features)
        self.decisions += len(episode)
        search = self.config.planner.search if self.config.planner else None
        self.agent.release.fill_(min(1.0, self.decisions / search.ramp) if search and search.ramp else 1.0)
        if earns:
            self.owed += len(episode) * self.config.update.utd

    def learn(self, most: int | None = None) -> list[Metrics]:
        """The updates that the episodes so far have earned, `most` at a time."""
        if self.flight != "learning" or not len(self.new):
            return []
        count = int(self.owed) if most is None else min(int(self.owed), most)
        self.owed -= count
        done = []
        for _ in range(count):
            warming = self.learner.online_updates < self.config.warmup.critic_updates
            done.append(self._outer_update(actor=not warming))
            if self.config.update.resets and self.learner.online_updates % self.config.update.resets == 0:
                self._reset()
        return done

    def _outer_update(self, actor: bool) -> Metrics:
        """One update; every `inner`-th goes only `outer` of the way that was gone since the last such (Reptile)."""
        update = self.config.update
        if update.outer == 1:
            return self.learner.update(self._draw(), actor)
        if self.learner.online_updates % update.inner == 0 or self._slow is None:
            self._slow = copy.deepcopy([p.detach() for p in self.agent.parameters()])
        metrics = self.learner.update(self._draw(), actor)
        if self.learner.online_updates % update.inner == 0:
            with torch.no_grad():
                for weight, slow in zip(self.agent.parameters(), self._slow, strict=True):
                    weight.copy_(slow.lerp(weight, update.outer))
        return metrics

    def _reset(self) -> None:
        """Actor and critics begin anew, the rows are kept (Nikishin et al. 2022)."""
        self.agent.new_critic()
        self.agent.new_actor()
        self.learner.new_optimizers()
        self._slow = None  # there is no way back to the weights of before

    def _draw(self):
        return self.mixing.draw(self.config.update.batch, self.learner.rows).to(self.agent.device)

    def state_dict(self) -> dict[str, Any]:
        """All but the rows, which the stores hold: plain data and tensors."""
        return {
            "learner": self.learner.state_dict(),
            "rng": self.rng.bit_generator.state,
            "counts": [self.decisions, self.mixing.draws],
            "owed": self.owed,
            "slow": self._slow,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """After the same episodes were added again."""
        if bool(state["learner"]["agent"]["online"]):
            self.begin_online()
        self.learner.load_state_dict(state["learner"])
        self.rng.bit_generator.state = state["rng"]
        self.decisions, self.mixing.draws = state["counts"]
        self.owed = state["owed"]
        self._slow = state["slow"]


def fit_units(agent: Agent, rows: Replay, policy: bool = True) -> None:
    """The agent's units from recorded rows: states and features as they are, actions over their whole admitted range.

    policy: its chunk policy's as well, which are those of the rows; one that was trained keeps its own.
    """
    agent.state_norm.fit(rows.column("state"))
    if agent.feature_norm is not None:
        agent.feature_norm.fit(rows.column("features"))
    action = agent.spec.action
    agent.action_norm.fit(np.array([action.low, action.high]))
    if policy and (own := agent.policy) is not None:
        actions = rows.read(np.arange(len(rows)), own.horizon).action.numpy() if own.space.relative else rows.column("action")
        own.fit_normalizers(rows.column("state"), actions, rows.column("features") if own.encoder else None)


def build(config: AgentConfig, old: Replay, seed: int = 0) -> FineTuning:
    """A fresh agent with the units of the old rows; without any, of the first that are flown."""
    torch.manual_seed(seed)
    agent = config.build(old.spec)
    if len(old):
        fit_units(agent, old)
    agent.seed(seed)
    return FineTuning(agent, old, seed)
