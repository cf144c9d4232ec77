"""Gymnasium environments, whose actions (torques, forces) no arm's governor knows: the same pilots fly them into the same episodes."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Space

from hardware.types import ArraySpec, Observation, Pilot, RobotSpec
from robolearn.core.errors import UserError
from robolearn.data.episode import Episode
from robolearn.runtime.rollout import Step, episode_of, tell
from robolearn.tasks import Outcome

STATE = "observation"  # what a Box, which has no keys, is called


class Repeated(gymnasium.Wrapper):
    """Each action taken `times` times or until the episode ends: rewards summed, the observation and info of the last."""

    def __init__(self, env: gymnasium.Env, times: int) -> None:
        super().__init__(env)
        if times < 1:
            raise UserError(f"action_repeat: {times} steps; expected at least 1")
        self.times = times
        if fps := env.metadata.get("render_fps"):
            self.metadata = {**env.metadata, "render_fps": fps / times}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        seen, total, terminated, truncated, info = self.env.step(action)
        for _ in range(self.times - 1):
            if terminated or truncated:
                break
            seen, reward, terminated, truncated, info = self.env.step(action)
            total = float(total) + float(reward)
        return seen, float(total), bool(terminated), bool(truncated), info


def spec_of(env: gymnasium.Env, name: str, rate_hz: float) -> RobotSpec:
    """`env` as a body without cameras. rate_hz: decisions a second, after any repetition of actions.

    state: each key of a Dict of Boxes, or "observation"; flattened, with the Boxes' ranges, which may be infinite.
    UserError: another kind of space; pictures; no such rate.
    """
    if not 0 < rate_hz < float("inf"):
        raise UserError(f"rate_hz: {rate_hz} decisions a second; valid: above 0")
    observed, acted = env.observation_space, env.action_space
    boxes = dict(observed.spaces) if isinstance(observed, Dict) else {STATE: observed}
    state = {key: _array_spec(space, "obs" if key == STATE else key, f"observation_space of {name}") for key, space in boxes.items()}
    return RobotSpec(name, {}, state, _array_spec(acted, "action", f"action_space of {name}"), "gym", rate_hz)


def rollout_gym(env: gymnasium.Env, pilot: Pilot, spec: RobotSpec, rng: np.random.Generator, action_repeat: int = 1) -> Episode:
    """One episode, from a reset with a seed from `rng` until the environment terminates (terminal) or truncates (never terminal).

    An environment that does neither needs gymnasium.wrappers.TimeLimit around it. Actions are clipped to their range; what is not a
    finite (A,) raises ValueError. As in every episode, what was seen after the last action is not kept: nothing is bootstrapped from it.
    meta: success, at any step, and success_last, at the end, as info's "success" or "is_success" tells; None where it does not.
    """
    started, seed = time.monotonic(), int(rng.integers(2**31))
    flown = env if action_repeat == 1 else Repeated(env, action_repeat)
    seen, _ = flown.reset(seed=seed)
    pilot.reset()
    steps: list[Step] = []
    told: list[bool] = []
    clipped, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        observation = Observation(len(steps) / spec.rate_hz, {}, _state(seen, spec))
        command = pilot.decide(observation)
        action = _finite(command.action, spec.action)
        executed = np.clip(action, np.array(spec.action.low, np.float32), np.array(spec.action.high, np.float32))
        clipped += int((executed != action).any())
        seen, reward, terminated, truncated, info = flown.step(_native(executed, flown.action_space))
        success = info.get("success", info.get("is_success"))
        if success is not None:
            told.append(bool(success))
        steps.append(Step(len(steps), observation, command, executed, Outcome(float(reward), bool(success), bool(terminated))))
        tell(pilot, steps[-1])
    meta = {
        "task": spec.name,
        "seed": seed,
        "interventions": {"action_bounds": clipped} if clipped else {},
        "stopped": None,
        "verdict": None,
        "wall_s": time.monotonic() - started,
        "success_last": told[-1] if told else None,
    }
    episode = episode_of(steps, meta)
    return episode if told else replace(episode, meta={**episode.meta, "success": None})


def _array_spec(space: Space, prefix: str, where: str) -> ArraySpec:
    if not isinstance(space, Box) or space.dtype == np.uint8:
        raise UserError(f"{where}: {space}; valid: a Box of numbers{'' if prefix == 'action' else ', or a Dict of them'}; no pictures")
    low, high = (tuple(edge.astype(np.float64).ravel().tolist()) for edge in (space.low, space.high))
    return ArraySpec(tuple(f"{prefix}_{i}" for i in range(len(low))), ("1",) * len(low), low, high)


def _state(seen: Any, spec: RobotSpec) -> dict[str, np.ndarray]:
    """float32 (D,) of each of the spec's state; copies, as environments reuse their arrays."""
    parts = seen if isinstance(seen, dict) else {STATE: seen}
    return {key: np.array(parts[key], dtype=np.float32).ravel() for key in spec.state}


def _finite(action: np.ndarray, spec: ArraySpec) -> np.ndarray:
    action = np.asarray(action, dtype=np.float32)
    if action.shape != (spec.dim,) or not np.isfinite(action).all():
        raise ValueError(f"action: {action}; expected {spec.dim} finite numbers")
    return action


def _native(action: np.ndarray, space: Space) -> np.ndarray:
    """The action as the environment wants it, of its shape and type."""
    return action.reshape(space.shape or ()).astype(space.dtype)
