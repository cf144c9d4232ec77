"""One rank of the two that torchrun starts. `two_ranks.py FOLDER`; run plainly, it is the only one there is.

FOLDER/fake.zarr is what the verb then learns from.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from hardware import RobotConfig
from robolearn.core.types import Batch, Obs, apply
from robolearn.experiments.selection import SelectionConfig
from robolearn.experiments.train import run
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.learners.ranks import Ranks
from robolearn.policies.bc import BcConfig
from robolearn.testing import SPEC
from tests.experiments.training_config import short

ROOT = Path(__file__).parents[2]
POLICY = BcConfig(history=2, horizon=4, hidden=(16, 16), dropout=0.0, mask_pad=True)  # no noise: its numbers do not depend on who draws
STEPS, ROWS = 8, 16
WAYS = {"whole": {}, "parts": {"accumulate": 2}, "shards": {"shard": True}}


def torchrun(*words: object) -> None:
    """Start `words` in two processes that meet over gloo, and see them end."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        try:
            said = process.communicate(timeout=200)[1]
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends its processes, which a kill would not
            raise
    assert process.returncode == 0, said


def batch(step: int) -> Batch:
    """All ranks' rows of one update; the padding differs from row to row, so the parts do not weigh the same."""
    draw = torch.Generator().manual_seed(step)
    pad = torch.arange(POLICY.horizon) >= torch.randint(1, POLICY.horizon + 1, (ROWS, 1), generator=draw)
    return Batch(Obs({}, torch.randn(ROWS, 2, 3, generator=draw)), torch.randn(ROWS, POLICY.horizon, 3, generator=draw), pad)


def learn(ranks: Ranks, settings: dict, broken_off: bool = False) -> Imitation:
    """STEPS updates; broken_off: half of them, and the rest by another learner that takes over the state."""
    torch.manual_seed(0)
    policy = POLICY.build(replace(SPEC, cameras={}))
    policy.fit_normalizers(torch.linspace(-2, 2, 30).view(10, 3).numpy(), torch.linspace(-3, 3, 30).view(10, 3).numpy())
    learner = Imitation(policy, ImitationConfig(precision="float32", warmup=2, **settings), ranks)
    for step in range(STEPS):
        if broken_off and step == STEPS // 2:
            state, learner = learner.state_dict(), learn_from(ranks, settings)
            learner.load_state_dict(state)
        learner.update(apply(batch(step), lambda tensor: tensor[ranks.rank :: ranks.count]))
    return learner


def learn_from(ranks: Ranks, settings: dict) -> Imitation:
    """One that has learned nothing yet."""
    policy = POLICY.build(replace(SPEC, cameras={}))
    return Imitation(policy, ImitationConfig(precision="float32", warmup=2, **settings), ranks)


def main(folder: Path) -> None:
    ranks = Ranks.join(torch.device("cpu"))
    found = {}
    for name, settings in WAYS.items():
        learner = learn(ranks, settings)
        found[name] = learner.collect().state_dict()
        found[f"{name}, resumed"] = learn(ranks, settings, broken_off=True).collect().state_dict()
    said = ranks.agree(10.0 + ranks.rank, ranks.rank == ranks.count - 1), ranks.agree(0.0, False)
    torch.save({"weights": found, "said": said, "ranks": ranks.gather(ranks.rank)}, folder / f"{ranks.count}_{ranks.rank}.pt")
    # Nobody leaves: who joins anew under the same torchrun may be handed the address where the other one listened before.


def verb(folder: Path) -> None:
    """robolearn train, with checkpoints that are flown."""
    way = ImitationConfig(precision="float32", warmup=5)
    select = SelectionConfig(every=50, robot=RobotConfig(body="fake:state"), trials=1, top=1, final_trials=1, chunk=4)
    count = os.environ.get("WORLD_SIZE", "1")
    policy = replace(POLICY, history=1, mask_pad=False)
    run(short(folder / "fake.zarr", folder / f"run_{count}", policy=policy, imitation=way, steps=100, select=select))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    verb(Path(sys.argv[1]))
