"""TensorBoard and Weights & Biases are shown the rows of metrics.jsonl."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robolearn.core.errors import UserError
from robolearn.experiments.tracking import TensorBoard, Wandb, numbers


@dataclass(frozen=True)
class Config:
    seed: int = 3


def test_only_what_can_be_plotted_is_shown():
    row = {"step": 4, "loss": 0.5, "count": 3, "nan": math.nan, "name": "x", "won": True, "parts": {"a": 1}}
    assert numbers(row) == {"loss": 0.5, "count": 3.0}


def test_what_was_written_after_the_state_that_is_gone_on_from_is_struck_out(tmp_path):
    for begins, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        board = TensorBoard(tmp_path, begins)
        for step in steps:
            board({"step": step, "loss": step + 10.0 * begins})
        board.close()
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]


def test_wandb_gets_the_numbers_and_the_config(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    logged = []
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    run = Wandb("fake", tmp_path / "run", Config())
    assert (run._run.project, run._run.name, dict(run._run.config)) == ("fake", "run", {"seed": 3})
    monkeypatch.setattr(run._run, "log", lambda row, step: logged.append((step, row)))
    run({"step": 100, "loss": 0.5, "name": "x"})
    run.close()
    assert logged == [(100, {"loss": 0.5})] and wandb.run is None


def test_without_wandb_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(UserError, match=r"wandb: 'fake', but it is not installed; pip install 'robolearn\[wandb\]'"):
        Wandb("fake", tmp_path, Config())
