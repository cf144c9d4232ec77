"""The loop. Teleoperation, evaluation, fine-tuning and deployment differ only in the pilot that flies it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hardware.robot import SafeRobot
from hardware.types import Command, NoDecision, Observation, Pilot, Source
from robolearn.data.episode import Episode
from robolearn.data.recorder import Recorder
from robolearn.tasks import Outcome, Task


@dataclass(frozen=True)
class Step:
    """One turn of the loop: what was seen, decided, admitted by the governor (float32 (A,)), and what it led to."""

    index: int
    observation: Observation
    command: Command
    executed: np.ndarray
    outcome: Outcome  # judged on the observation after the action took effect


def rollout(
    robot: SafeRobot,
    pilot: Pilot,
    task: Task,
    rng: np.random.Generator,
    on_step: Callable[[Step], None] | None = None,
    recording: Recorder | None = None,
) -> Episode:
    """One episode, from the task's reset to its end, its time limit, a stop by the governor, or the operator's word.

    rng: draws the starting situation. on_step: called after each row. A time limit is a truncation, never terminal.
    recording: gets every row as it happens; the episode returned then holds no images, however long it is.
    Leaving by any exception, Ctrl-C included, stops the robot first.
    """
    started = time.monotonic()
    steps: list[Step] = []
    try:
        task.reset(robot, rng)
        pilot.reset()
        before = Counter(robot.governor.interventions)
        observation = robot.observe()
        deadline = observation.time + task.time_limit_s - 0.5 / robot.spec.rate_hz  # half a tick: floats must not add a row
        while True:
            command, executed = _act(robot, pilot, observation)
            seen = robot.observe()
            step = Step(len(steps), observation, command, executed, task.judge(robot, seen))
            tell(pilot, step)
            if recording is None:
                steps.append(step)
            else:
                recording.add(**_row(step))
                steps.append(replace(step, observation=replace(observation, images={})))
            if on_step is not None:
                on_step(step)
            verdict: str | None = getattr(pilot, "verdict", None)  # an operator may end an episode; a policy never does
            if step.outcome.terminal or verdict or robot.governor.stopped or seen.time >= deadline:
                break
            observation = seen
    except BaseException as error:
        try:
            robot.stop(f"{type(error).__name__} in the loop")
        except Exception as failed:
            error.add_note(f"and then the robot's stop failed: {failed}")
        raise
    meta = {
        "task": task.name,
        "interventions": dict(Counter(robot.governor.interventions) - before),
        "stopped": robot.governor.stopped,
        "verdict": verdict,
        "wall_s": time.monotonic() - started,
    }
    return episode_of(steps, meta)


def _act(robot: SafeRobot, pilot: Pilot, observation: Observation) -> tuple[Command, np.ndarray]:
    """(what was decided, what the governor made of it); without a decision nothing is sent, and the row says that nobody acted."""
    try:
        command = pilot.decide(observation)
    except NoDecision:
        held = robot.hold()
        return Command(observation.time, held, Source.NONE), held
    return command, robot.send(command)


def tell(pilot: Pilot, step: Step) -> None:
    """What was done and earned, for a pilot that looks back."""
    feedback: Callable[[np.ndarray, float], None] | None = getattr(pilot, "feedback", None)
    if feedback is not None:
        feedback(step.executed, step.outcome.reward)


def episode_of(steps: list[Step], meta: dict[str, Any]) -> Episode:
    """The steps as an episode. meta: what the loop knows, its "verdict" among it; what follows from the steps is added."""
    observations, commands, outcomes = ([getattr(s, name) for s in steps] for name in ("observation", "command", "outcome"))
    succeeded = [s.index for s in steps if s.outcome.success]
    terminal = np.array([o.terminal for o in outcomes], dtype=bool)
    reward = np.array([o.reward for o in outcomes], dtype=np.float32)
    if meta["verdict"] == "success":  # the person watching knows better than the task's own eyes
        terminal[-1], reward[-1], succeeded = True, max(reward[-1], 1.0), [len(steps) - 1]
    elif meta["verdict"] == "failure":  # but their patience nothing ended: where every step costs, a terminal failure would be a way out
        terminal[-1], succeeded = False, []
        if steps[-1].outcome.success:  # what it earned for what was none
            reward[-1] = min(reward[-1], 0.0)
    meta |= {
        "success": bool(succeeded),
        "success_step": succeeded[0] if succeeded else None,
        "return": float(reward.sum()),
        "max_reward": float(reward.max()),
        "length": len(steps),
        "truncated": not terminal[-1].item(),
    }
    first = observations[0]
    return Episode(
        time=np.array([o.time for o in observations], dtype=np.float64),
        images={name: np.stack([o.images[name] for o in observations]) for name in first.images},
        state={name: np.stack([o.state[name] for o in observations]).astype(np.float32) for name in first.state},
        action=np.stack([s.executed for s in steps]).astype(np.float32),
        requested_action=np.stack([_request(c.action, len(s.executed)) for c, s in zip(commands, steps, strict=True)]),
        reward=reward,
        terminal=terminal,
        source=np.array([c.source for c in commands], dtype=np.uint8),
        meta=meta,
        notes={
            name: np.array([c.notes.get(name, np.nan) for c in commands], dtype=np.float32)
            for name in dict.fromkeys(key for c in commands for key in c.notes)
        },
    )


def last_of(episode: Episode) -> dict[str, Any]:
    """What only the end told of the last row, as Recorder.finish takes it."""
    return {"terminal": bool(episode.terminal[-1]), "reward": float(episode.reward[-1])}


def _row(step: Step) -> dict[str, Any]:
    """One row as Recorder.add takes it."""
    seen, command = step.observation, step.command
    return {
        "time": seen.time,
        "images": seen.images,
        "state": seen.state,
        "action": step.executed,
        "requested_action": _request(command.action, len(step.executed)),
        "reward": step.outcome.reward,
        "terminal": step.outcome.terminal,
        "source": int(command.source),
    }


def _request(action: np.ndarray, dim: int) -> np.ndarray:
    """What was asked for, float32 (A,); NaN where it had another shape, which the governor refused and counted."""
    return np.asarray(action, dtype=np.float32) if np.shape(action) == (dim,) else np.full(dim, np.nan, dtype=np.float32)
