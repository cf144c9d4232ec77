"""Milliseconds per chunk of actions: our diffusion policy against LeRobot's, the same network size, cameras and sampler steps, in one run.

    python benchmarks/inference.py --out runs/bench_inference                     # three sizes, two precisions
    python benchmarks/inference.py --device cuda --rounds 20                      # where there is a GPU
    ROBOLEARN_PEER_LEROBOT: a Python that has lerobot (see benchmarks/data_loading.py); without it ours is measured alone

Both sides run in processes of their own and take turns; medians over rounds, ratios the medians of each round's ratio. Ours is given raw
uint8 frames and answers in physical units; LeRobot is given normalised float32 images, so that what its processors do is not counted.
Random weights: speed does not depend on them, and what the same settings cost in success is in docs/results.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from comparing import Args, compare  # pyright: ignore[reportMissingImports]
from policy_speed import Setup  # pyright: ignore[reportMissingImports]

SIZES = {
    "LeRobot's default, 1 camera": Setup(horizon=64, execute=32, cameras=("front",), sampler="ddpm", sample_steps=100),
    "paper's size, 2 cameras, DDIM 10": Setup(),
    "small, 2 cameras, DDIM 16": Setup(widths=(64, 128, 256), sample_steps=16),
}

if __name__ == "__main__":
    compare("plan", "ms per chunk", SIZES, tyro.cli(Args))
