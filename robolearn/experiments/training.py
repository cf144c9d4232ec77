"""The course of one training in its folder: what it logs, keeps and flies on the way, and how it goes on after a kill."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from robolearn.core.checkpoint import load_state, save_state
from robolearn.core.errors import UserError
from robolearn.core.interrupt import deferred_interrupt
from robolearn.core.run import Run
from robolearn.core.types import Batch, Metrics
from robolearn.data.loader import Batches
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.experiments.checkpoints import Checkpoints
from robolearn.experiments.selection import Selection
from robolearn.experiments.tracking import TensorBoard, Wandb
from robolearn.experiments.train_config import Config
from robolearn.learners.fit import fit, training_bar
from robolearn.learners.imitation import Imitation
from robolearn.policies.chunk import ChunkPolicy

LOG_EVERY, VALIDATE_EVERY = 100, 1000  # updates
VALIDATION_ROWS = 256


class Training:
    """`steps`, `seconds` [s] and `origin` (of the encoder's weights) are those of earlier attempts until `run` has returned.

    features: the key of a frozen encoder's.
    """

    def __init__(
        self,
        config: Config,
        folder: Run,
        learner: Imitation,
        batches: Batches,
        held_out: Windows | None,
        origin: str,
        meta: dict,
        features: str | None = None,
    ):
        self.config, self.folder, self.learner, self.batches = config, folder, learner, batches
        self.ranks, self.origin, self._held_out, self._meta, self._features = learner.ranks, origin, held_out, meta, features
        self._data = [store.feature_cache.fingerprint() for store in batches.windows.stores]
        select = config.select
        best = max(config.keep_best, select.top) if select.every else config.keep_best
        self.checkpoints = Checkpoints(config.out / "checkpoints", config.keep_last, best)
        self.selection: Selection | None = None
        if select.every:
            self.selection = Selection(select, config.out / "select", self.checkpoints, self.ranks.device)
        self.steps, self.seconds, self._saved, self._stop = 0, 0.0, 0.0, False
        self._state_path = config.out / "training.pt"
        self._recent: list[Metrics] = []
        self._last: Metrics | None = None
        self._bar: Progress | None = None

    def run(self) -> None:
        """All the steps that are missing, and the rollouts that were cut short."""
        limit = None if self.config.minutes is None else 60 * self.config.minutes
        label = type(self.learner.policy).__name__
        with self.batches, self._watched(), self.folder.timed("train"), deferred_interrupt() as self._interrupt:
            self._fly()
            with training_bar(label, quiet=not self.ranks.leads) as self._bar:
                before = self.steps, self.seconds
                self.steps, self.seconds = fit(
                    self.learner, self.batches, self.config.steps, limit, *before, self._on_step, self._clock, self._bar
                )
            self._check()
            self._log_the_rest()
            if self.selection is not None and self.steps not in self.checkpoints.steps():
                self._keep(self.steps, self.seconds)

    def validate(self) -> Metrics:
        """Of the averaged weights; empty where no episode is held out, and for all but the leader."""
        policy = self.learner.collect()
        return validate(policy, self._held_out, self.config) if self.ranks.leads and self._held_out is not None else {}

    def resume(self, place: str) -> None:
        """Go on where training.pt was saved, or begin. place: of the data, for the error where it changed."""
        if self._state_path.exists():
            self._load(load_state(self._state_path, self.ranks.device), place)
        with self.ranks.in_turn():
            if self.ranks.leads:
                self.folder.rewind(self.steps)
                self.checkpoints.rewind(self.steps)

    def _load(self, state: Mapping[str, Any], place: str) -> None:
        if missing := {"spec", "batches", "learner", "steps", "seconds", "encoder"} - {n for n, v in state.items() if v is not None}:
            raise UserError(f"{self._state_path}: not the state of a training: {sorted(missing)[0]} is missing; --overwrite starts anew")
        if state["spec"] != self.learner.policy.spec.to_dict():
            raise UserError(f"{self._state_path}: began on data of another robot than {place}; --overwrite starts anew")
        if state.get("data", self._data) != self._data:
            raise UserError(f"{self._state_path}: began on other episodes: {place} was changed since; --overwrite starts anew")
        if state.get("features", self._features) != self._features:  # of a state from before they were noted: taken on trust
            raise UserError(
                f"{self._state_path}: began on features {state['features']}, now they are {self._features}: the encoder's weights changed "
                "since; give the old file in policy.encoder.weights, or --overwrite starts anew"
            )
        try:
            self.batches.load_state_dict(state["batches"])
        except ValueError as error:
            raise UserError(f"{self._state_path}: {error}; --overwrite starts anew") from error
        try:
            self.learner.load_state_dict(state["learner"])
        except (KeyError, RuntimeError, TypeError, AttributeError) as error:  # names or shapes of tensors
            raise UserError(f"{self._state_path}: saved by another robolearn ({type(error).__name__}); --overwrite starts anew") from error
        self.steps, self.seconds, self.origin = state["steps"], state["seconds"], state["encoder"]
        self._saved = self.seconds

    def _clock(self, seconds: float) -> float:
        seconds, self._stop = self.ranks.agree(seconds, self._interrupt.wanted)
        return seconds

    def _on_step(self, step: int, seconds: float, metrics: Metrics) -> None:
        self._recent.append(metrics)
        self._last = metrics
        logs, every = step % LOG_EVERY == 0, self.config.select.every or self.config.save_policy_every
        keeps = bool(every) and step % every == 0
        saves = seconds - self._saved >= self.config.save_every_s or self._stop
        if logs or keeps or saves:
            self._check()
        if logs:
            measured = self.validate() if step % VALIDATE_EVERY == 0 else {}
            self.folder.log(step=step, train_seconds=round(seconds, 2), **self._means(), **measured)
        if keeps:
            self._keep(step, seconds)
        elif saves:
            self._save(step, seconds)
        if self._stop:
            raise KeyboardInterrupt

    def _log_the_rest(self) -> None:
        """What the last updates measured, where the training did not end on a row of its own."""
        if any(self.ranks.gather(bool(self._recent))):
            self.folder.log(step=self.steps, train_seconds=round(self.seconds, 2), **self._means(), **self.validate())

    def _check(self) -> None:
        """Nothing that is spoiled is logged, kept, saved or made the product; on a GPU the learner does not look by itself."""
        if self._last is not None:
            self.learner.check(self._last)

    def _keep(self, step: int, seconds: float) -> None:
        """A checkpoint and what it is worth; before it is flown the state, so that the same checkpoint is never made again."""
        measured, policy = self.validate(), self.learner.policy
        if self.ranks.leads:
            self.checkpoints.save(step, policy, policy.config, self._meta)  # pyright: ignore[reportAttributeAccessIssue] a ChunkPolicy's
            if self.selection is None and measured:
                self.checkpoints.score(step, -measured["val_loss"], **measured)
            elif self.selection is None:
                self.checkpoints.tidy()
        self._save(step, seconds)
        self._fly()

    def _fly(self) -> None:
        """The leader flies what was not flown yet; the others wait."""
        if self.selection is None:
            return
        if self.ranks.leads and (missing := self.selection.missing()):
            if self._bar is not None:
                self._bar.stop()
            with self.folder.timed("select"), self._interrupt.at_once():
                for step in missing:
                    result = self.selection.fly(step)
                    self.folder.log(step=step, rollout_success=result.rate, rollout_reward=result.mean_max_reward)
            if self._bar is not None:
                self._bar.start()
        self.ranks.wait()

    def _means(self) -> Metrics:
        """Of what was measured since the last time, over all ranks."""
        recent, self._recent = self._recent, []
        own = {name: float(np.mean([float(metrics[name]) for metrics in recent])) for name in recent[-1]} if recent else {}
        ranks = self.ranks.gather(own)
        return {name: float(np.mean([means[name] for means in ranks])) for name in own}

    def _save(self, step: int, seconds: float) -> None:
        state = {
            "spec": self.learner.policy.spec.to_dict(),
            "learner": self.learner.state_dict(),
            "batches": self.batches.state_dict(),
            "steps": step,
            "seconds": seconds,
            "encoder": self.origin,
            "features": self._features,
            "data": self._data,
        }
        if self.ranks.leads:
            save_state(self._state_path, state)
        self._saved = seconds

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Every row that is logged goes to TensorBoard, and to W&B where it is wanted."""
        if not self.ranks.leads:
            yield
            return
        watchers: list[TensorBoard | Wandb] = [TensorBoard(self.config.out / "tensorboard", self.steps)]
        if self.config.wandb:
            watchers.append(Wandb(self.config.wandb, self.config.out, self.config))
        self.folder.watchers.extend(watchers)
        try:
            yield
        finally:
            for watcher in watchers:
                self.folder.watchers.remove(watcher)
                watcher.close()


def validate(policy: Any, held_out: Windows, config: Config) -> Metrics:
    """Held-out episodes, always the same noise, no more rows at once than an update computes. val_action_error: mean distance of a drawn
    action, in units of the actions' half range; a weak sign of success, as every offline measure is."""
    policy.seed(config.seed)
    rows = np.linspace(0, len(held_out) - 1, min(len(held_out), VALIDATION_ROWS)).astype(np.int64)
    device = next((tensor.device for tensor in (*policy.parameters(), *policy.buffers())), torch.device("cpu"))
    at_once = max(config.batch_size // config.imitation.accumulate, 1)
    losses, weights, errors = [], [], []
    policy.eval()
    for first in range(0, len(rows), at_once):
        batch = to_batch(held_out.read(rows[first : first + at_once])).to(device)
        with torch.no_grad():
            losses.append(float(policy.loss(batch)[1]["loss"]))
            weights.append(float(policy.counts(batch).sum()))
            errors.append(_action_errors(policy, batch).cpu())
    return {"val_loss": float(np.average(losses, weights=weights)), "val_action_error": float(torch.cat(errors).mean())}


def _action_errors(policy: ChunkPolicy, batch: Batch) -> Tensor:
    difference = policy.inside(policy.act(batch.obs), batch.obs) - policy.inside(batch.action, batch.obs)
    return difference.norm(dim=-1)[~batch.pad]
