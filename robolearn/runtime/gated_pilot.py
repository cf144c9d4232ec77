"""A planner at the controls with a calibrated gate before it: fly the plan, the policy's own action, hold, or ask the human."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hardware.types import Command, Observation, Pilot, Source
from robolearn.agents.agent import Agent
from robolearn.core.errors import UserError
from robolearn.planning.gate import Decision, Gate
from robolearn.runtime.policy_pilot import PolicyPilot


class GatedPilot:
    """Advice above the governor, never in place of it: whatever is decided here passes the one path to the motors like any command.

    pilot: of an agent that plans. A plan is judged as it begins, and what follows of it has the same novelty.
    human: who is asked when holding did not help; without one the robot keeps holding. Every trigger is in `gate.log`, and the decision
    in each command's notes (0 plan, 1 policy, 2 hold, 3 ask).
    """

    def __init__(self, pilot: PolicyPilot, gate: Gate, human: Pilot | None = None) -> None:
        agent = pilot.policy
        if not isinstance(agent, Agent) or agent.config.planner is None:
            raise UserError("gate: given, but agent.planner is null; the gate judges what a planner proposes")
        self.pilot, self.gate, self.human = pilot, gate, human
        self._steps = agent.spec.steps
        self._executed: np.ndarray | None = None

    @property
    def verdict(self) -> str | None:
        return getattr(self.human, "verdict", None)

    def seed(self, seed: int) -> None:
        self.pilot.seed(seed)

    def reset(self) -> None:
        self.pilot.reset()
        self.gate.reset()
        self._executed = None
        if self.human is not None:
            self.human.reset()

    def watch(self, observation: Observation) -> None:
        self.pilot.watch(observation)

    def forget(self) -> None:
        """Somebody else flew: that was the answer, too, where the gate had asked for one."""
        self.pilot.forget()
        self.gate.answered()

    def decide(self, observation: Observation) -> Command:
        planned = self.pilot.decide(observation)
        decision = self.gate.decide(planned.notes["novelty"], planned.notes["policy_novelty"])
        notes = {**planned.notes, "gate": float(list(Decision).index(decision))}
        if decision is Decision.PLAN:
            return replace(planned, notes=notes)
        if decision is Decision.POLICY:
            return Command(planned.time, self.pilot.own(), Source.POLICY, notes)
        if decision is Decision.ASK and self.human is not None:
            return replace(self.human.decide(observation), notes=notes)
        return Command(planned.time, self._hold(planned.action), Source.NONE, notes)

    def feedback(self, executed: np.ndarray, reward: float) -> None:
        self._executed = executed
        self.pilot.feedback(executed, reward)

    def _hold(self, like: np.ndarray) -> np.ndarray:
        """No step, and places and grips as they were last. Before any is known: not a number, which the governor refuses, and holds."""
        last = np.full_like(like, np.nan) if self._executed is None else self._executed.astype(like.dtype)
        return np.where(self._steps, np.zeros_like(like), last)
