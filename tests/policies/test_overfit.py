"""Every policy, shown three human Push-T episodes by `robolearn train`, can say them by heart: to 1 % of the action's range.

    ROBOLEARN_DATA=... python -m pytest -m bench tests/policies/test_overfit.py -s       # minutes for each, on one core

The settings are those of configs/train where a policy has some for this task, without dropout. What is compared is what the robot would
be sent for every row, in px, against what the person did.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robolearn.core.checkpoint import load_policy
from robolearn.core.config import load_config
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.experiments import ingest, train
from robolearn.experiments.goals import goals_for
from robolearn.learners.imitation import ImitationConfig
from robolearn.learners.pretraining.keypoints import PretrainConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.diffclone import DiffCloneConfig
from robolearn.policies.replay import ReplayConfig

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("ROBOLEARN_DATA", "/nowhere")) / "pusht-human-zarr"
LARGEST = 0.01  # mean error, as a share of the actions' range in the data


@dataclass(frozen=True)
class Lesson:
    """How long a policy takes. config: where configs/train has none for it. changes: of its settings."""

    steps: int
    lr: float = 1e-3
    batch_size: int = 64
    config: Any = None
    changes: dict[str, Any] = field(default_factory=dict)


CNN = SmallCnnConfig(tune="none", channels=(8, 16, 32), strides=(4, 2, 2), keypoints=16, crop=1.0)
LESSONS = {
    "act": Lesson(3000, lr=5e-4, changes={"dropout": 0.0}),
    "bc": Lesson(8000, lr=3e-3, changes={"dropout": 0.0}),
    "bc_gmm": Lesson(16000),
    "bc_rnn": Lesson(6000),
    "bc_transformer": Lesson(3000, changes={"dropout": 0.0}),
    "consistency": Lesson(2000, lr=3e-4),
    "decision_transformer": Lesson(3000, changes={"dropout": 0.0}),
    "diffclone": Lesson(4000, config=DiffCloneConfig(widths=(64, 128, 256), head=256, encoder=CNN)),
    "diffusion": Lesson(4000),
    "dit": Lesson(4000),
    "flow": Lesson(4000),
    "hbc": Lesson(10000, lr=2e-3),
    "masked_trajectory": Lesson(3000),
    "regression": Lesson(2000),
    "replay": Lesson(0, config=ReplayConfig()),
    "vinn": Lesson(0),
}
NO_POLICIES = {"chunk"}  # what all share


def test_no_policy_is_left_out():
    modules = {path.stem for path in (ROOT / "robolearn" / "policies").glob("[!_]*.py")} - NO_POLICIES
    assert modules <= set(LESSONS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    if not DATA.is_dir():
        pytest.skip("ROBOLEARN_DATA is not set: the folder that holds pusht-human-zarr")
    made = tmp_path_factory.mktemp("overfit")
    ingest.run(ingest.Config(str(DATA), made / "pusht.zarr", limit=3))
    return made


@pytest.mark.bench
@pytest.mark.parametrize("name", LESSONS)
def test_three_human_episodes_are_known_by_heart(name: str, folder: Path):
    if name == "consistency":
        teach("flow", folder)
    apart = error(teach(name, folder), folder / "pusht.zarr")
    print(f"\n{name}: {100 * apart:.2f} % of the action's range after {LESSONS[name].steps} updates")
    assert apart < LARGEST


def teach(name: str, folder: Path) -> Path:
    """The policy's checkpoint; taught once."""
    lesson, out = LESSONS[name], folder / name
    policy = lesson.config or load_config(ROOT / "configs" / "train" / f"pusht_state_{name}.yaml", train.Config).policy
    changes = lesson.changes | ({"teacher": folder / "flow" / "policy.pt"} if name == "consistency" else {})
    config = train.Config(
        folder / "pusht.zarr",
        out,
        policy=replace(policy, **changes),
        imitation=ImitationConfig(lr=lesson.lr),
        pretrain=PretrainConfig(steps=3, batch_size=16),
        steps=max(lesson.steps, 1),
        batch_size=lesson.batch_size,
        validation=0.0,
        threads=1,
    )
    train.run(config)
    return out / "policy.pt"


def error(checkpoint: Path, data: Path) -> float:
    """Mean distance of what is answered from what was done, over all rows and numbers, as a share of the range that was done."""
    policy: Any = load_policy(checkpoint)
    store = EpisodeStore.open(data)
    windows = Windows(
        store,
        policy.history,
        policy.horizon,
        cameras=tuple(policy.spec.cameras),
        state_keys=tuple(policy.spec.state),
        images=bool(policy.spec.cameras),
        past=policy.sees_past,
        goals=goals_for(policy.config, "last", [store]),
    )
    span = np.ptp(store.lowdim("action"), axis=0)
    apart = []
    for first in range(0, len(windows), 64):
        batch = to_batch(windows.read(np.arange(first, min(first + 64, len(windows)))))
        with torch.no_grad():
            apart.append((policy.act(batch.obs) - batch.action).abs()[~batch.pad].numpy() / span)
    return float(np.concatenate(apart).mean())
