"""Training steps per second: our diffusion policy against LeRobot's, the same network size, cameras and batch, in one run.

    python benchmarks/training.py --out runs/bench_training                       # two sizes, two precisions
    python benchmarks/training.py --device cuda --rounds 20                       # where there is a GPU
    ROBOLEARN_PEER_LEROBOT: a Python that has lerobot (see benchmarks/data_loading.py); without it ours is measured alone

One step: forward, backward, clipping, optimizer on one batch that is in memory already (reading is benchmarks/data_loading.py's business).
Ours crops nothing, checks the loss and updates its moving average; LeRobot's script keeps none. Both in processes of their own, in turns.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from comparing import Args, compare  # pyright: ignore[reportMissingImports]
from policy_speed import Setup  # pyright: ignore[reportMissingImports]

SIZES = {
    "paper's size, 2 cameras, batch 8": Setup(batch=8),
    "small, 2 cameras, batch 64": Setup(widths=(64, 128, 256), batch=64),
}

if __name__ == "__main__":
    compare("update", "ms per step", SIZES, tyro.cli(Args))
