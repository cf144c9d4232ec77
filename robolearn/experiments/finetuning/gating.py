"""The gate of a fine-tuning: calibrated on the episodes of its frozen warm-up, and what it said kept on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from robolearn.core.errors import UserError
from robolearn.core.files import append_line
from robolearn.planning.gate import Gate, GateConfig, conformal_threshold
from robolearn.runtime.gated_pilot import GatedPilot
from robolearn.runtime.policy_pilot import PolicyPilot


class Gating:
    """`pilot` is the planner's with the gate before it, `write` appends the episode's triggers to triggers.jsonl.

    Nobody is asked: where holding does not help, the robot holds until the episode's time is up, and whoever stands beside it decides.
    """

    def __init__(self, pilot: PolicyPilot, config: GateConfig, familiar: Sequence[float], out: Path):
        """familiar: the largest novelty of each episode that the offline policy flew. UserError: too few of them for the risk."""
        try:
            threshold = conformal_threshold(familiar, config.risk)
        except UserError as error:
            raise UserError(f"{error}; agent.warmup.frozen decides how many the offline policy flies, {len(familiar)} so far") from error
        self.pilot = GatedPilot(pilot, Gate(config, threshold))
        self.path, self._written = out / "triggers.jsonl", 0

    def write(self, episode: int, kind: str) -> int:
        """How many there were."""
        new = self.pilot.gate.log[self._written :]
        rows = [{"kind": kind, "episode": episode, **asdict(trigger), "decision": trigger.decision.value} for trigger in new]
        if rows:
            append_line(self.path, "\n".join(json.dumps(row) for row in rows))
        self._written += len(new)
        return len(new)
