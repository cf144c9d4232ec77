"""A policy as a service: what RemotePolicy asks, answered by the policy itself."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import torch

from hardware.network.server import Service
from hardware.types import HardwareError
from robolearn.core.types import Obs, Policy
from robolearn.models.precision import Precision
from robolearn.policies.chunk import ChunkPolicy
from robolearn.runtime.answers import Answers
from robolearn.runtime.remote_policy import seen


class ServedPolicy(Service):
    """One episode at a time: its memory and its noise are the one client's. digest: of the checkpoint, for an episode's meta."""

    kind = "policy"

    def __init__(self, policy: Policy, digest: str, precision: Precision = "auto") -> None:
        self._goal = policy.config.goal if isinstance(policy, ChunkPolicy) else "none"
        # Pictures of goals are seen before the weights are laid out for flying, as where a policy flies beside its robot: the same bits.
        self._eyes = deepcopy(policy) if self._goal == "image" else policy
        self.policy, self._answers = policy, Answers(policy, precision)
        self.facts = {
            "spec": policy.spec.to_dict(),
            "history": policy.history,
            "horizon": policy.horizon,
            "prefix": getattr(policy, "prefix", 0),
            "sees_past": getattr(policy, "sees_past", False),
            "target": float(getattr(policy, "target", 0.0)) if getattr(policy, "sees_past", False) else 0.0,
            "space": getattr(policy, "space", None) is not None,
            "goal": self._goal,
            "hears": hasattr(policy, "executed"),
            "digest": digest,
        }

    def answer(self, what: str, arguments: list[Any]) -> Any:
        match what, arguments:
            case "begin", [None | int() as seed]:
                return self._begin(seed)
            case "act", [dict() as obs, np.ndarray() as decided, list() as done]:
                return self._act(obs, decided, done)
            case "encode", [dict() as obs]:
                return self._encode(obs)
            case "embed", [str() as text]:
                return self._embed(text)
        raise HardwareError(f"{what!r:.40} with {len(arguments)} arguments: no request; valid: begin, act, encode, embed")

    def urge(self, reason: str) -> None:
        """Nothing here moves."""

    def left(self, reason: str) -> None:
        """The next client begins its own episode."""

    def _begin(self, seed: int | None) -> None:
        reseed, begin = getattr(self.policy, "seed", None), getattr(self.policy, "reset", None)
        if seed is not None and reseed is not None:
            reseed(seed)
        if begin is not None:
            begin()

    def _act(self, data: dict[str, Any], decided: np.ndarray, done: list[Any]) -> dict[str, Any]:
        obs, policy = seen(data, self.policy.spec, self.policy.history), self.policy
        self._require(obs)
        dim = policy.spec.action.dim
        rows = [decided, *done]
        if decided.ndim != 2 or any(not isinstance(row, np.ndarray) or row.shape[-1:] != (dim,) or row.dtype != np.float32 for row in rows):
            raise HardwareError(f"act: actions that are none; expected float32 (..., {dim})")
        for action in done:
            policy.executed(torch.from_numpy(action))  # pyright: ignore[reportCallIssue]
        chunk = self._answers.chunk(obs, decided)
        return {"chunk": chunk, "notes": {name: float(value) for name, value in getattr(policy, "notes", {}).items()}}

    def _require(self, obs: Obs) -> None:
        if missing := set(self.policy.spec.cameras) - set(obs.images):
            raise HardwareError(f"act: no image of {', '.join(sorted(missing))}")
        if (obs.goal is None) != (self._goal == "none"):
            raise HardwareError(f"act: {'no goal' if obs.goal is None else 'a goal'}; the policy is told what to reach: {self._goal}")
        if (obs.past is None) == self.facts["sees_past"]:
            raise HardwareError("act: what was done before is missing, or the policy does not look at it")

    def _encode(self, data: dict[str, Any]) -> np.ndarray | None:
        if not isinstance(self._eyes, ChunkPolicy) or self._goal != "image":
            raise HardwareError("encode: the policy is shown no pictures of goals")
        with torch.no_grad():
            features = self._eyes.eval().encode(seen(data, self.policy.spec, 1, goal=True).to(self._answers.device))
        return None if features is None else features.float().cpu().numpy()

    def _embed(self, text: str) -> np.ndarray:
        if not isinstance(self.policy, ChunkPolicy) or self.policy.config.language is None:
            raise HardwareError("embed: the policy is not told in words")
        return self.policy.config.language.build().embed([text])
