"""The course of a training: kills, checkpoints, what is watched, what cannot go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from robolearn.core.checkpoint import load_policy, load_state, save_state
from robolearn.core.errors import UserError
from robolearn.core.run import read_metrics
from robolearn.experiments import train, training
from robolearn.experiments.train import run
from robolearn.learners.imitation import Imitation
from robolearn.policies.vinn import VinnConfig, VinnPolicy
from tests.experiments.training_config import short

ROOT = Path(__file__).parents[2]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_policy(out / "policy.pt").state_dict()


@pytest.mark.slow
def test_killed_at_random_instants_it_ends_with_the_same_bits(fake_data, tmp_path):
    run(short(fake_data, tmp_path / "whole"))
    words = [sys.executable, str(Path(__file__).with_name("killed.py")), str(fake_data), str(tmp_path / "torn"), "5"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 5, "it was done before it was killed often enough to mean anything"
    whole, torn = weights(tmp_path / "whole"), weights(tmp_path / "torn")
    assert all(torch.equal(torn[name], value) for name, value in whole.items())
    rows = [[row for row in read_metrics(tmp_path / name / "metrics.jsonl") if "step" in row] for name in ("whole", "torn")]
    assert [row["step"] for row in rows[1]] == [row["step"] for row in rows[0]] == [100, 120], "nothing is logged twice"
    assert not list((tmp_path / "torn").glob(".*.tmp"))


def test_dropout_goes_on_where_it_was(fake_data, tmp_path, monkeypatch):
    run(short(fake_data, tmp_path / "whole", steps=6))
    update = Imitation.update

    def interrupted(self, batch):
        if self.steps == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(Imitation, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(short(fake_data, tmp_path / "torn", steps=6))
    monkeypatch.undo()
    torch.rand(3)  # another process' stream stands elsewhere
    run(short(fake_data, tmp_path / "torn", steps=6))
    assert all(torch.equal(weights(tmp_path / "torn")[name], value) for name, value in weights(tmp_path / "whole").items())


def test_checkpoints_are_kept_by_age_and_by_validation_loss(fake_data, tmp_path):
    run(short(fake_data, tmp_path, steps=50, save_policy_every=10, keep_last=2, keep_best=1))
    scores = {row["step"]: row["val_loss"] for row in read_metrics(tmp_path / "checkpoints" / "scores.jsonl")}
    assert list(scores) == [10, 20, 30, 40, 50]
    kept = {int(path.stem[5:]) for path in (tmp_path / "checkpoints").glob("step_*.pt")}
    assert kept == {40, 50, min(scores, key=lambda step: scores[step])}
    last = load_policy(tmp_path / "checkpoints" / "step_000050.pt").state_dict()
    assert all(torch.equal(last[name], value) for name, value in weights(tmp_path).items())


def test_a_resumed_training_forgets_what_it_had_not_saved(fake_data, tmp_path, monkeypatch):
    config = short(fake_data, tmp_path / "torn", steps=230, save_every_s=1e9, save_policy_every=50, keep_last=9)
    keep = training.Training._keep

    def until_150(self, step, seconds):
        if step > 150:
            raise KeyboardInterrupt  # in step 200, whose row is logged and whose state is not saved
        keep(self, step, seconds)

    monkeypatch.setattr(training.Training, "_keep", until_150)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    assert load_state(config.out / "training.pt")["steps"] == 150
    run(config)
    assert [row["step"] for row in read_metrics(config.out / "metrics.jsonl")] == [100, 200, 230]
    assert [row["step"] for row in read_metrics(config.out / "checkpoints" / "scores.jsonl")] == [50, 100, 150, 200]
    whole = replace(config, out=tmp_path / "whole")
    run(whole)
    assert all(torch.equal(weights(whole.out)[name], value) for name, value in weights(config.out).items())


def test_the_way_may_change_when_it_goes_on(fake_data, tmp_path, monkeypatch):
    config = short(fake_data, tmp_path, steps=4)
    monkeypatch.setattr(train, "save_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    with pytest.raises(UserError, match="batch_size: 8 != 16"):
        run(replace(config, batch_size=16))
    way = {"device": "auto", "keep_last": 5, "keep_best": 1}
    run(replace(config, imitation=replace(config.imitation, accumulate=2), **way))
    assert json.loads((tmp_path / "done.json").read_text())["steps"] == 4


def test_tensorboard_shows_what_is_logged(fake_data, tmp_path):
    run(short(fake_data, tmp_path, steps=200, save_every_s=1e9))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    logged = {row["step"]: row for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert list(logged) == [100, 200]
    for name in ("loss", "lr", "grad_norm"):
        assert {event.step: event.value for event in events.Scalars(name)} == pytest.approx({step: logged[step][name] for step in logged})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            r"out of GPU memory at batch_size 8: --imitation.accumulate 2 ",
        ),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried"),
            r"out of memory at batch_size 8: ",
        ),
        (MemoryError(), r"out of memory .*; --batch_size 4 halves the batch"),
        (FloatingPointError("imitation: loss is nan at step 3"), r"loss is nan at step 3; now 0.001: --imitation.lr 0.0003"),
    ],
)
def test_what_cannot_go_on_says_what_to_change_and_can_go_on(fake_data, tmp_path, monkeypatch, error, message):
    update = Imitation.update

    def fails(self, batch):
        if self.steps == 3:
            raise error
        return update(self, batch)

    monkeypatch.setattr(Imitation, "update", fails)
    with pytest.raises(UserError, match=message) as said:
        run(short(fake_data, tmp_path, steps=5))
    assert "\n" not in str(said.value)
    assert load_state(tmp_path / "training.pt")["steps"] == 3


@pytest.mark.parametrize("steps", [1, 5])
def test_a_gradient_that_is_not_finite_spoils_no_weight(fake_data, tmp_path, monkeypatch, steps):
    """Its loss was finite still, and after the last update nobody would have looked again."""
    clip = torch.nn.utils.clip_grad_norm_

    def spoiled(parameters, most):
        parameters = list(parameters)
        if (counted := next(updates)) == steps:
            parameters[0].grad.fill_(float("nan"))
        return clip(parameters, most) if counted else None

    updates = iter(range(1, 100))
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spoiled)
    with pytest.raises(UserError, match=f"imitation: grad_norm is nan at step {steps - 1}; lower the learning rate"):
        run(short(fake_data, tmp_path, steps=steps))
    assert not (tmp_path / "policy.pt").exists()


@pytest.mark.parametrize("damage", [b"", b"nonsense", [1], {}, {"batches": None}], ids=str)
def test_a_damaged_state_is_one_line(fake_data, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(train, "save_checkpoint", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(short(fake_data, tmp_path, steps=3))
    file = tmp_path / "training.pt"
    if isinstance(damage, bytes):
        file.write_bytes(damage)
    else:
        torch.save({**load_state(file), **damage} if damage == {"batches": None} else damage, file)
    with pytest.raises(UserError, match=r"training.pt: not (a|the) .*; --overwrite starts anew") as said:
        run(short(fake_data, tmp_path, steps=3))
    assert "\n" not in str(said.value)


def test_a_short_training_logs_what_it_did(fake_data, tmp_path):
    run(short(fake_data, tmp_path, steps=3))
    (row,) = read_metrics(tmp_path / "metrics.jsonl")
    assert row["step"] == 3 and row["loss"] > 0 and row["val_loss"] > 0


def test_another_error_stays_what_it_is(fake_data, tmp_path, monkeypatch):
    monkeypatch.setattr(Imitation, "update", lambda *_: (_ for _ in ()).throw(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run(short(fake_data, tmp_path))


def test_a_policy_that_learns_by_memory_sees_every_window_once_and_in_order(fake_data, tmp_path, monkeypatch):
    shown = []
    memorize = VinnPolicy.memorize

    def spy(self, batch):
        shown.append(batch.action)
        memorize(self, batch)

    monkeypatch.setattr(VinnPolicy, "memorize", spy)
    seen = []
    windows = train.Windows

    class Spy(windows):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            seen.append(self)

    monkeypatch.setattr(train, "Windows", Spy)
    run(replace(short(fake_data, tmp_path), policy=VinnConfig(horizon=4, neighbours=2)))
    every = torch.from_numpy(seen[0].read(list(range(len(seen[0])))).action)
    assert torch.equal(torch.cat(shown), every) and {len(part) for part in shown[:-1]} == {8}
    done = json.loads((tmp_path / "done.json").read_text())
    assert done["steps"] == 0 and "remembered" in done["choice"] and done["val_action_error"] > 0
    assert len(load_policy(tmp_path / "policy.pt").memory) == len(every)
    with pytest.raises(UserError, match=r"select.every: 5; a policy that learns by memory"):
        config = short(fake_data, tmp_path / "other", select=train.selection.SelectionConfig(every=5))
        run(replace(config, policy=VinnConfig(horizon=4)))


@pytest.mark.parametrize(
    ("steps", "bad", "saved"),
    [(5, 5, None), (120, 99, None), (120, 100, None), (110, 105, 100)],
    ids=["at the end", "where it logs", "in the step it logs", "where it keeps"],
)
def test_a_loss_that_only_a_gpu_has_not_looked_at_goes_nowhere(fake_data, tmp_path, monkeypatch, steps, bad, saved):
    update = Imitation.update

    def unseen(self, batch):
        metrics = update(self, batch)
        return metrics | {"loss": torch.tensor(float("nan"))} if self.steps >= bad else metrics

    monkeypatch.setattr(Imitation, "update", unseen)
    with pytest.raises(UserError, match="imitation: loss is nan at step"):
        run(short(fake_data, tmp_path, steps=steps, save_every_s=1e9, save_policy_every=0 if saved is None else 10))
    assert not (tmp_path / "policy.pt").exists()
    assert all(int(path.stem[5:]) < bad for path in (tmp_path / "checkpoints").glob("step_*.pt"))
    assert all(row["loss"] == row["loss"] for row in read_metrics(tmp_path / "metrics.jsonl") if "loss" in row)
    if saved is None:
        assert not (tmp_path / "training.pt").exists()
    else:
        assert load_state(tmp_path / "training.pt")["steps"] == saved


def test_validation_reads_no_more_rows_at_once_than_an_update(fake_data, tmp_path, monkeypatch):
    sizes = []
    read = train.Windows.read
    monkeypatch.setattr(train.Windows, "read", lambda self, rows: sizes.append(len(rows)) or read(self, rows))
    config = short(fake_data, tmp_path)
    store = train.EpisodeStore.open(fake_data)
    policy = replace(config.policy, mask_pad=True).build(store.spec)
    windows = train.Windows(store, 1, 4)
    policy.fit_normalizers(windows.lowdim("state"), windows.lowdim("action"))
    whole = training.validate(policy, windows, replace(config, batch_size=256))
    assert len(sizes) == 1
    parts = training.validate(policy, windows, replace(config, batch_size=22, imitation=replace(config.imitation, accumulate=3)))
    assert set(sizes[1:-1]) == {7} and sizes[-1] <= 7 and sum(sizes[1:]) == sizes[0]
    assert parts == pytest.approx(whole, rel=1e-5)


def test_prepare_is_called_once_before_the_first_update_and_again_on_resuming(fake_data, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("robolearn.policies.bc.BcPolicy.prepare", lambda self: calls.append(bool(self.state_norm.fitted)))
    monkeypatch.setattr(train, "save_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(short(fake_data, tmp_path, steps=2))
    assert calls == [True]
    monkeypatch.setattr(train, "save_checkpoint", lambda *_: None)
    run(short(fake_data, tmp_path, steps=2))
    assert calls == [True, True]


def test_wandb_is_shown_the_same_rows(fake_data, tmp_path, monkeypatch):
    shown = []

    class Watching:
        def __init__(self, project, out, config):
            shown.append((project, out.name, config.steps))

        def __call__(self, row):
            shown.append(row)

        def close(self):
            shown.append("closed")

    monkeypatch.setattr(training, "Wandb", Watching)
    run(short(fake_data, tmp_path / "run", steps=100, save_every_s=1e9, wandb="arm"))
    assert shown == [("arm", "run", 100), *read_metrics(tmp_path / "run" / "metrics.jsonl"), "closed"]


def test_a_state_of_another_version_is_named(fake_data, tmp_path, monkeypatch):
    config = short(fake_data, tmp_path, steps=4)
    monkeypatch.setattr(train, "save_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    state = load_state(tmp_path / "training.pt")
    del state["learner"]["noise"]
    save_state(tmp_path / "training.pt", state)
    with pytest.raises(UserError, match=r"training.pt: saved by another robolearn \(KeyError\); --overwrite starts anew"):
        run(config)
