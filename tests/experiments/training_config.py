"""A training of a second, for the tests that run it in several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import hardware
from hardware import RobotConfig
from robolearn.data.store import EpisodeStore
from robolearn.experiments.train import Config
from robolearn.learners.imitation import ImitationConfig
from robolearn.policies.bc import BcConfig
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for


def record(path: Path) -> Path:
    """Six scripted episodes of the fake arm, without a camera."""
    body = RobotConfig(body="fake:state")
    with hardware.open(body) as robot, EpisodeStore.create(path, robot.spec) as store:
        task, operator = task_for(body.body), operator_for(robot, np.random.default_rng(0))
        for index in range(6):
            store.append(rollout(robot, operator, task, np.random.default_rng([0, index])))
    return path


def short(data: Path, out: Path, **settings: Any) -> Config:
    """Dropout draws from torch's global stream; the state is saved after every update."""
    given = {
        "policy": BcConfig(history=1, horizon=4, hidden=(16, 16), dropout=0.3),
        "imitation": ImitationConfig(precision="float32", warmup=5),
        "steps": 120,
        "batch_size": 8,
        "validation": 0.2,
        "save_every_s": 0.0,
        "device": "cpu",
        "threads": 1,
    }
    return Config(data=data, out=out, **{**given, **settings})
