"""Rollouts choose the checkpoint, and the number that is reported had no say in the choice."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hardware import RobotConfig
from robolearn.core.checkpoint import load_policy, read_header
from robolearn.core.errors import UserError
from robolearn.core.run import read_metrics
from robolearn.evaluation.evaluate import Evaluation
from robolearn.experiments import evaluate, selection
from robolearn.experiments.checkpoints import Checkpoints
from robolearn.experiments.selection import Selection, SelectionConfig, sentence
from robolearn.experiments.train import run
from robolearn.runtime.rollout import rollout
from tests.experiments.training_config import short

FLOWN = SelectionConfig(every=20, robot=RobotConfig(body="fake:state"), trials=2, top=2, final_trials=3, chunk=4)


def test_the_best_by_rollouts_is_the_product_and_is_flown_again_on_fresh_starts(fake_data, tmp_path):
    run(short(fake_data, tmp_path, steps=50, select=FLOWN))
    done = json.loads((tmp_path / "done.json").read_text())
    rows = read_metrics(tmp_path / "checkpoints" / "scores.jsonl")
    assert [row["step"] for row in rows] == [20, 40, 50], "the last step takes part"
    starts = {}
    for name in selection.ROUNDS:
        files = sorted((tmp_path / "select" / name).glob("*/trials.jsonl"))
        starts[name] = [[(t["seed"], t["index"]) for t in map(json.loads, file.read_text().splitlines())] for file in files]
    assert starts["first"] == 3 * [[(500_000, 0), (500_000, 1)]]
    assert starts["runoff"] == 2 * [[(500_001, i) for i in range(3)]]
    assert starts["fresh"] == [[(500_002, i) for i in range(3)]]
    chosen = done["selected"]["step"]
    kept = load_policy(tmp_path / "checkpoints" / f"step_{chosen:06d}.pt").state_dict()
    product = load_policy(tmp_path / "policy.pt").state_dict()
    assert all(torch.equal(product[name], value) for name, value in kept.items())
    assert done["choice"] == read_header(tmp_path / "policy.pt").meta["choice"] and "biased upwards" in done["choice"]
    watched = [(row["step"], row["rollout_success"]) for row in read_metrics(tmp_path / "metrics.jsonl") if "rollout_success" in row]
    assert watched == [(row["step"], row["score"][0]) for row in rows]


def test_killed_while_it_flies_it_goes_on_with_the_next_trial(fake_data, tmp_path, monkeypatch):
    run(short(fake_data, tmp_path / "whole", steps=50, select=FLOWN))
    flown = []

    def counted(*words):
        flown.append(1)
        if len(flown) in (2, 6):
            raise KeyboardInterrupt
        return rollout(*words)

    monkeypatch.setattr("robolearn.evaluation.evaluate.rollout", counted)
    torn = short(fake_data, tmp_path / "torn", steps=50, select=FLOWN)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(torn)
    run(torn)
    assert len(flown) - 2 == 3 * 2 + 2 * 3 + 3, "no trial was flown twice"
    a, b = (json.loads((tmp_path / name / "done.json").read_text()) for name in ("whole", "torn"))
    assert a["selected"] == b["selected"] and a["choice"] == b["choice"]


@pytest.fixture
def flights(monkeypatch):
    """Stands where evaluate does: successes and mean best reward by (round's seed, step); collects what was flown."""
    results, flown = {}, []

    def fly(config: evaluate.Config):
        step = int(config.checkpoint.stem[5:])
        flown.append((config.seed, step, config.trials))
        successes, reward = results[config.seed, step]
        return Evaluation(successes, config.trials, (0.0, 1.0), 0.0, (0.0, 0.0), reward, (0.0, 0.0), {}, 0.0)

    monkeypatch.setattr(selection.evaluate, "run", fly)
    return results, flown


def choose(folder: Path, steps: list[int], **settings) -> dict:
    config = SelectionConfig(every=1, trials=10, final_trials=20, seed=7, **settings)
    checkpoints = Checkpoints(folder, last=1, best=config.top)
    chosen = Selection(config, folder / "select", checkpoints, torch.device("cpu"))
    folder.mkdir()
    for step in steps:
        checkpoints.path(step).touch()
        assert chosen.missing() == [step]
        chosen.fly(step)
    return chosen.finish()[1]


def test_ties_go_to_the_higher_reward_and_a_runoff_corrects_luck(flights, tmp_path):
    results, flown = flights
    results |= {(7, 10): (9, 0.5), (7, 20): (6, 0.4), (7, 30): (6, 0.6), (7, 40): (2, 0.9)}
    results |= {(8, 10): (8, 0.5), (8, 30): (19, 0.5), (9, 30): (15, 0.7)}
    facts = choose(tmp_path / "a", [10, 20, 30, 40], top=2)
    assert facts["candidates"] == [10, 30] and facts["step"] == 30, "17 of 30 lose against 25 of 30"
    assert flown[4:] == [(8, 10, 20), (8, 30, 20), (9, 30, 20)]
    assert (facts["fresh"]["successes"], facts["biased"]["first"]["successes"]) == (15, 6)
    assert sentence(facts) == (
        "step 30, the best of 4 checkpoints in rollouts, then of 2 in a runoff; on fresh starts 15/20 (95 % interval 53 to 89 %); "
        "the 6/10 of the selection is biased upwards"
    )


def test_one_candidate_needs_no_runoff(flights, tmp_path):
    results, flown = flights
    results |= {(7, 10): (5, 0.5), (7, 20): (5, 0.5), (9, 20): (3, 0.2)}
    facts = choose(tmp_path / "a", [10, 20], top=1)
    assert facts["step"] == 20 and flown[2:] == [(9, 20, 20)] and "runoff" not in sentence(facts)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"robot": RobotConfig(body="pusht:state")}, r"select.robot: not the robot of the data \(data != pusht:state\): "),
        ({"chunk": 9}, "select.chunk: 9 actions; the policy predicts 4: valid 1 to 4"),
        ({"goal": "the red cup"}, "select.goal: 'the red cup'; policy.goal is none"),
        ({"trials": 0}, "select.trials: 0 rollouts; expected at least 1"),
        ({"every": -1}, "select.every: -1 updates; expected at least 0"),
    ],
)
def test_what_would_fail_after_hours_fails_at_once(fake_data, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        run(short(fake_data, tmp_path / "run", select=replace(FLOWN, **change)))
    assert not (tmp_path / "run").exists()
