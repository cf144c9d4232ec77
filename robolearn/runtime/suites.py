"""Benchmarks of reinforcement learning by name. They are the extra `suites`; each is imported only where it is asked for.

`metadata["render_fps"]` of what is made is its decisions a second, for `spec_of`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from hardware.types import Command, Observation, Pilot, Source
from robolearn.core.errors import UserError
from robolearn.runtime.gym_env import STATE, Repeated

KINDS = "dmc:<domain>-<task>, metaworld:<task>-v3, gym:<id>, gym:<module>:<id>"
EXTRA = "pip install 'robolearn[suites]'"


def make(name: str, seed: int = 0, **options: Any) -> gymnasium.Env:
    """The environment `name`; seed: of everything it draws until reset is given another one.

    dmc:cartpole-swingup and so on: options action_repeat=2 (TD-MPC2: 1000 steps are 500 decisions; Hansen et al. 2024), never terminal.
    metaworld:reach-v3 and so on: 50 situations, drawn with `seed` (MT1; Yu et al. 2019), rewards of 0 to 10 for 500 steps, never terminal.
    Option sparse=True: the reward is 1 at success, which is terminal, and there are 200 steps, twice what the scripts take for most tasks;
    steps=... another number.
    gym:PointMaze_UMaze-v3 and so on: gymnasium.make with the options, gymnasium-robotics among it; continuing_task=False ends at the goal.
    UserError: no such environment, its package is missing, it knows no such option.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed: {seed}; valid 0 to {2**32 - 1}")
    kind, _, what = name.partition(":")
    makers = {"dmc": _dmc, "metaworld": _metaworld, "gym": _gym}
    if kind not in makers or not what:
        raise UserError(f"environment: {name!r}; valid: {KINDS}")
    if sys.platform == "linux":
        os.environ.setdefault("MUJOCO_GL", "egl")  # read when a simulator is first imported: it shall look for no window
    try:
        return makers[kind](what, seed, **options)
    except ModuleNotFoundError as error:
        raise UserError(f"environment: {name!r}: {error}; {EXTRA} has dm-control, metaworld and gymnasium-robotics") from error
    except TypeError as error:
        if not options:
            raise  # nobody's wrong input
        raise UserError(f"environment: {name!r} with {', '.join(f'{key}={value!r}' for key, value in options.items())}: {error}") from error


def scripted(name: str) -> Pilot:
    """Meta-World's own script for a task, "metaworld:reach-v3" or "reach-v3". It needs the whole observation. UserError as `make`."""
    try:
        policies = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
    except ModuleNotFoundError as error:
        raise UserError(f"scripted: {name!r}: {error}; {EXTRA}") from error
    task = name.removeprefix("metaworld:")
    if task not in policies:
        raise UserError(f"scripted: {name!r}; valid: {', '.join(policies)}")
    return Script(policies[task])


class Script:
    """A pilot around one of Meta-World's scripts."""

    def __init__(self, policy: type) -> None:
        self._make, self._policy = policy, policy()

    def reset(self) -> None:
        self._policy = self._make()

    def decide(self, observation: Observation) -> Command:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # its steps are meant to be clipped, and it says so at each one
            action = self._policy.get_action(observation.state[STATE].astype(np.float64))
        return Command(observation.time, np.clip(action, -1, 1).astype(np.float32), Source.SCRIPTED)


class Control(gymnasium.Env):
    """A task of dm_control's suite. Observations are one vector; terminated only where the task itself ends (discount 0)."""

    def __init__(self, domain: str, task: str, seed: int) -> None:
        suite = importlib.import_module("dm_control.suite")
        if (domain, task) not in suite.ALL_TASKS:
            raise UserError(f"environment: 'dmc:{domain}-{task}'; valid: {', '.join('-'.join(pair) for pair in suite.ALL_TASKS)}")
        self._env = suite.load(domain, task, {"random": seed}, {"flat_observation": True})
        action, (self._key, observed) = self._env.action_spec(), next(iter(self._env.observation_spec().items()))
        self.action_space = Box(action.minimum.astype(np.float32), action.maximum.astype(np.float32))
        self.observation_space = Box(-np.inf, np.inf, observed.shape, np.float64)
        self.metadata = {"render_modes": [], "render_fps": 1 / self._env.control_timestep()}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._env.task.random.seed(seed)
        return self._env.reset().observation[self._key], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        step = self._env.step(action)
        terminated = bool(step.last() and step.discount == 0)
        return step.observation[self._key], float(step.reward), terminated, step.last() and not terminated, {}


class MetaWorld(gymnasium.Wrapper):
    """A task of Meta-World that sees its goal; each reset draws one of its situations."""

    def __init__(self, task: str, seed: int, sparse: bool) -> None:
        metaworld = importlib.import_module("metaworld")
        if task not in metaworld.ALL_V3_ENVIRONMENTS:
            raise UserError(f"environment: 'metaworld:{task}'; valid: {', '.join(metaworld.ALL_V3_ENVIRONMENTS)}")
        benchmark = metaworld.MT1(task, seed=seed)
        self._body, self._situations = benchmark.train_classes[task](), benchmark.train_tasks
        super().__init__(self._body)
        self._sparse, self._rng = sparse, np.random.default_rng(seed)
        self._body.set_task(self._situations[0])
        self.observation_space = self._body.sawyer_observation_space  # the one it was made with says that goals are 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._body.set_task(self._situations[self._rng.integers(len(self._situations))])
        return self.env.reset()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        seen, reward, _, truncated, info = self.env.step(action)
        success = bool(info["success"])
        return seen, float(success if self._sparse else reward), success and self._sparse, truncated, info


def _dmc(what: str, seed: int, action_repeat: int = 2) -> gymnasium.Env:
    domain, _, task = what.partition("-")
    return Repeated(Control(domain, task, seed), action_repeat)


def _metaworld(what: str, seed: int, sparse: bool = False, steps: int | None = None) -> gymnasium.Env:
    return gymnasium.wrappers.TimeLimit(MetaWorld(what, seed, sparse), steps or (200 if sparse else 500))


def _gym(what: str, seed: int, **options: Any) -> gymnasium.Env:
    if ":" not in what and what not in gymnasium.registry:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module("gymnasium_robotics")  # registers its environments
    try:
        env = gymnasium.make(what, disable_env_checker=True, **options)
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(f"environment: 'gym:{what}': {error} gymnasium-robotics comes with {EXTRA}; others: gym:<module>:<id>") from error
    except gymnasium.error.Error as error:
        raise UserError(f"environment: 'gym:{what}': {error}; valid: {KINDS}") from error
    env.reset(seed=seed)
    return env
