"""Three episodes that people made, learned by heart: what a policy cannot say again, it cannot learn."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robolearn.core.checkpoint import load_policy
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.experiments import ingest, train
from robolearn.learners.imitation import ImitationConfig
from robolearn.policies.act import ActConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.bc_gmm import BcGmmConfig
from robolearn.policies.bc_rnn import BcRnnConfig
from robolearn.policies.bc_transformer import BcTransformerConfig
from robolearn.policies.consistency import ConsistencyConfig
from robolearn.policies.decision_transformer import DecisionTransformerConfig
from robolearn.policies.diffclone import DiffCloneConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.policies.flow import FlowConfig
from robolearn.policies.hbc import HbcConfig
from robolearn.policies.masked_trajectory import MaskedTrajectoryConfig
from robolearn.policies.regression import RegressionConfig
from robolearn.policies.replay import ReplayConfig
from robolearn.policies.vinn import VinnConfig

DATA = Path(os.environ.get("ROBOLEARN_DATA", "/nowhere")) / "pusht-human-zarr"
pytestmark = [pytest.mark.bench, pytest.mark.skipif(not DATA.is_dir(), reason="ROBOLEARN_DATA/pusht-human-zarr: not there")]

NET: dict[str, Any] = {"horizon": 8, "widths": (64, 128)}
TOKENS: dict[str, Any] = {"width": 64, "heads": 4, "dropout": 0.0}
TRANSFORMER: dict[str, Any] = {"horizon": 8, "width": 64, "layers": 2}
POLICIES: dict[str, tuple[Any, int, float]] = {  # the policy, updates of 128 rows, learning rate
    "bc": (BcConfig(horizon=8), 4000, 2e-3),
    "bc_gmm": (BcGmmConfig(horizon=8), 4000, 2e-3),
    "bc_rnn": (BcRnnConfig(history=4, horizon=8), 3000, 1e-3),
    "bc_transformer": (BcTransformerConfig(history=4, horizon=8, layers=2, **TOKENS), 4000, 1e-3),
    "regression": (RegressionConfig(**NET), 2000, 2e-3),
    "diffusion": (DiffusionConfig(**NET), 4000, 2e-3),
    "transformer": (DiffusionConfig(net="transformer", **TRANSFORMER), 5000, 1e-3),
    "dit": (DiffusionConfig(net="dit", **TRANSFORMER), 5000, 1e-3),
    "flow": (FlowConfig(**NET), 3000, 2e-3),
    "act": (ActConfig(horizon=8, **TOKENS), 1500, 1e-3),
    "diffclone": (DiffCloneConfig(**NET, goal="state", encoder=None), 4000, 2e-3),
    "hbc": (HbcConfig(horizon=8), 4000, 1e-3),
    "decision_transformer": (DecisionTransformerConfig(history=4, horizon=8, **TOKENS), 2000, 1e-3),
    "masked_trajectory": (MaskedTrajectoryConfig(horizon=8, **TOKENS), 3000, 1e-3),
    "vinn": (VinnConfig(horizon=8, neighbours=1), 1, 1e-3),
    "replay": (ReplayConfig(horizon=8), 1, 1e-3),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pusht") / "three.zarr"
    ingest.run(ingest.Config(path=str(DATA), format="diffusion_policy_zarr", out=out, limit=3))
    return out


def learned(store: Path, out: Path, policy: Any, steps: int, lr: float) -> float:
    """Mean error of a chunk's real actions, in any axis, as a share of the range they have in these episodes."""
    imitation = ImitationConfig(lr=lr, warmup=50, precision="float32")
    config = train.Config(data=store, out=out, policy=policy, imitation=imitation, steps=steps, batch_size=128, validation=0.0, threads=1)
    train.run(config)
    loaded: Any = load_policy(out / "policy.pt")
    recorded = EpisodeStore.open(store)
    goals = train.goals_for(policy, config.reading.goal, [recorded])
    windows = Windows(
        recorded, loaded.history, loaded.horizon, state_keys=tuple(loaded.spec.state), images=False, past=loaded.sees_past, goals=goals
    )
    batch = to_batch(windows.read(np.arange(len(windows))))
    error = (loaded.act(batch.obs) - batch.action).abs()[~batch.pad].mean(0).numpy()
    return float((error / np.ptp(recorded.lowdim("action"), axis=0)).max())


@pytest.mark.parametrize("name", POLICIES)
def test_it_learns_three_human_episodes_by_heart(name: str, store: Path, tmp_path: Path):
    assert learned(store, tmp_path / name, *POLICIES[name]) < 0.01


def test_a_student_says_what_its_teacher_says(store: Path, tmp_path: Path):
    policy, steps, lr = POLICIES["flow"]
    learned(store, tmp_path / "teacher", policy, steps, lr)
    student = ConsistencyConfig(teacher=str(tmp_path / "teacher" / "policy.pt"))
    assert learned(store, tmp_path / "student", student, 600, 1e-3) < 0.01
