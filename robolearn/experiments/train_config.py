"""What `train` can be told, with the ranges."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robolearn.core.errors import UserError, require_at_least, require_positive
from robolearn.core.files import require_outside
from robolearn.experiments.reading import ReadingConfig
from robolearn.experiments.selection import SelectionConfig
from robolearn.learners.imitation import ImitationConfig
from robolearn.learners.pretraining.keypoints import PretrainConfig
from robolearn.policies.chunk import ChunkConfig
from robolearn.policies.diffusion import DiffusionConfig


@dataclass(frozen=True)
class Config:
    """Train a policy by imitation. Give `steps`, `minutes`, or both: what comes first ends it, and sets the learning rate's fall."""

    data: Path
    """The store to learn from; a path, or a URL (s3://, gs://, https://)."""
    out: Path
    """Artefact folder: policy.pt, metrics.jsonl, tensorboard/; encoder.safetensors where one was pretrained."""
    policy: ChunkConfig = DiffusionConfig()
    """Which policy, what it sees, how many actions it answers with. --policy.type act, bc, bc_gmm, bc_rnn, bc_transformer, consistency,
    decision_transformer, diffclone, diffusion, flow, hbc, masked_trajectory, regression, replay or vinn; with --help its own fields are
    shown. --policy.encoder.type cnn, resnet or pretrained: what it sees the cameras with."""
    imitation: ImitationConfig = ImitationConfig()
    pretrain: PretrainConfig = PretrainConfig()
    """Of an encoder without weights that is frozen, or `tuned`, on the images of the dataset."""
    reading: ReadingConfig = ReadingConfig()
    steps: int = 12000
    """Updates at most."""
    minutes: float | None = None
    """Minutes of training at most, without the encoder's; None: as many as `steps` take."""
    batch_size: int = 256
    """Samples of one update, those of all GPUs together."""
    episodes: Literal["all", "successful"] = "all"
    """successful: leave out episodes known to have failed."""
    validation: float = 0.04
    """Share of the episodes, whole ones, that is held out and measured on, never trained on."""
    seed: int = 0
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1, ..."""
    threads: int = 0
    """CPU threads of torch; 0: its own choice."""
    save_every_s: float = 60.0
    """Seconds between saves of the training's state, from which the same command resumes."""
    save_policy_every: int = 0
    """Updates between two checkpoints/step_000500.pt; 0: none. Where `select` flies them, its `every` counts."""
    keep_last: int = 2
    """How many of the newest checkpoints stay."""
    keep_best: int = 3
    """How many of the best: by rollouts where `select` flies, else by the validation loss."""
    select: SelectionConfig = SelectionConfig()
    """Rollouts that choose the checkpoint; without them the last step's weights are the product."""
    wandb: str = ""
    """Project of Weights & Biases that is shown the metrics, too; empty: none."""
    overwrite: bool = False
    """Begin anew, whatever is in `out`: it is discarded."""


def check(config: Config) -> None:
    """UserError for numbers that make no sense."""
    for name, value, unit in (
        ("steps", config.steps, "updates"),
        ("batch_size", config.batch_size, "rows"),
        ("minutes", config.minutes, "min"),
    ):
        if value is not None:
            require_positive(name, value, unit)
    require_at_least("pretrain.steps", config.pretrain.steps, 3, "updates")
    require_at_least("pretrain.batch_size", config.pretrain.batch_size, 1, "images")
    require_at_least("pretrain.max_frames", config.pretrain.max_frames, 1, "frames")
    require_at_least("save_every_s", config.save_every_s, 0, "s")
    require_outside(config.out, config.data)
    require_at_least("save_policy_every", config.save_policy_every, 0, "updates")
    require_at_least("keep_last", config.keep_last, 1, "checkpoints")
    require_at_least("keep_best", config.keep_best, 0, "checkpoints")
    require_at_least("select.every", config.select.every, 0, "updates")
    if not 0 <= config.validation < 1:
        raise UserError(f"validation: {config.validation} of the episodes; expected 0 to below 1")
