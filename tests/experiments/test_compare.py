"""Runs side by side: their differences, their success rates, and the test that belongs to how they were flown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from robolearn import cli
from robolearn.core.errors import UserError
from robolearn.evaluation.comparison import differences, pairwise, read_run, summary
from robolearn.evaluation.evaluate import Evaluation, Trial
from robolearn.evaluation.statistics import fisher_p, paired_p
from robolearn.experiments.compare import Config, run


def evaluation(folder: Path, won: str, seed: int = 1000, body: str = "pusht", checkpoint: Path | None = None) -> None:
    """won: one letter for each trial, x where it succeeded."""
    trials = [
        Trial(seed, i, letter == "x", None, 9, 1.0, 0.9 if letter == "x" else 0.3, {}, None, 0.1, 0.9, 1.0, "abc")
        for i, letter in enumerate(won)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "evaluation.json").write_text(json.dumps(Evaluation.of(trials).to_dict()))
    (folder / "config.yaml").write_text(yaml.safe_dump({"robot": {"body": body}, "checkpoint": str(checkpoint)}))


def training(folder: Path, config: dict[str, Any], done: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"out": str(folder), "steps": 200, **config}))
    rows = [{"step": step, "loss": 1 / step, "train_seconds": 0.6 * step, "seconds": step} for step in (100, 200)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if done:
        facts = {"steps": 200, "train_seconds": 126.0, "parameters": 12345, "val_loss": 0.25, "val_action_error": 0.5}
        (folder / "done.json").write_text(json.dumps(facts))
    return folder


@pytest.fixture
def runs(tmp_path):
    a = training(tmp_path / "a", {"seed": 0, "policy": {"type": "bc", "hidden": [8]}})
    b = training(tmp_path / "b", {"seed": 0, "policy": {"type": "act", "width": 4}}, done=False)
    evaluation(a / "evaluate", "xxxx......")
    evaluation(a / "select" / "fresh" / "step_000100", "xx...")
    evaluation(tmp_path / "b_flown", "xxxxxxxxx.", checkpoint=b / "policy.pt")
    evaluation(tmp_path / "of_another", 50 * "x", checkpoint=tmp_path / "c" / "policy.pt")
    return a, b


def read(*folders: Path):
    return [read_run(folder, folder.name) for folder in folders]


def test_only_what_differs_is_listed(runs):
    assert differences(read(*runs)) == {"policy.type": ["bc", "act"], "policy.hidden": [[8], None], "policy.width": [None, 4]}


def test_each_run_is_shown_with_its_own_evaluation_of_most_trials(runs):
    head, (a, b) = summary(read(*runs))
    shown = [dict(zip(head, row, strict=True)) for row in (a, b)]
    assert shown[0]["success"] == "4/10 = 40 %\nevaluate" and shown[0]["95 % interval"] == "17 to 69 %"
    assert shown[1]["success"] == "9/10 = 90 %\nb_flown"
    assert (shown[0]["steps"], shown[0]["minutes"], shown[0]["parameters"], shown[0]["val loss"]) == (200, 2.1, 12345, 0.25)
    assert (shown[1]["steps"], shown[1]["minutes"], shown[1]["val loss"]) == ("200, not done", 2.0, None)


def test_the_selections_fresh_rollouts_stand_in_where_nothing_else_was_flown(tmp_path):
    folder = training(tmp_path / "a", {})
    evaluation(folder / "select" / "first" / "step_000100", "xxxxxxxxxxxx")
    evaluation(folder / "select" / "fresh" / "step_000100", "xx...")
    outcome = read_run(folder, "a").outcome
    assert outcome is not None and (outcome.successes, outcome.trials, outcome.where) == (2, 5, "select/fresh/step_000100")


def test_equal_starts_are_compared_pair_by_pair_and_others_by_their_rates(runs, tmp_path):
    a, b = runs
    other = training(tmp_path / "other", {"seed": 1})
    evaluation(other, "xxxxxxxx..", seed=5)
    elsewhere = training(tmp_path / "elsewhere", {"seed": 2})
    evaluation(elsewhere, "xxxxxxxx..", body="robosuite:Lift")
    rows = pairwise(read(a, b, other, elsewhere, training(tmp_path / "unflown", {})))
    won = [[letter == "x" for letter in words] for words in ("xxxx......", "xxxxxxxxx.")]
    assert rows[0] == ["a", "b", "McNemar, exact; same starts", f"{paired_p(*won):.3g}"]
    assert rows[1] == ["a", "other", "Fisher, exact", f"{fisher_p(4, 10, 8, 10):.3g}"]
    assert rows[2] == ["a", "elsewhere", "none: they flew different robots", "–"]
    assert len(rows) == 6 and float(rows[0][3]) != float(rows[1][3])


def test_the_verb_prints_tables_and_writes_a_page(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    page = tmp_path / "page.html"
    assert cli.main(["compare", "--runs", *map(str, runs), "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "4/10 = 40 %" in said and "policy.hidden" in said and "McNemar" in said and str(page) in said
    html = page.read_text()
    assert "training loss" in html and html.count('class="curve strong"') == 2 and "9/10 = 90 %" in html and "policy.width" in html


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a"], "runs: 1 folder; expected at least 2"),
        (["a", "nowhere"], "nowhere: not a run"),
        (["a", "a"], "the same folder twice"),
        (["a", "done"], "done.json: damaged: "),
        (["a", "metrics"], "metrics.jsonl: line 1: damaged: it holds a list; expected names and values"),
        (["a", "flown"], "evaluation.json: not an evaluation: per_trial is missing"),
    ],
)
def test_wrong_folders_are_one_line(runs, tmp_path, names, message):
    for name, file, text in (
        ("done", "done.json", "{"),
        ("metrics", "metrics.jsonl", "[1]\n"),
        ("flown", "evaluation.json", "{}"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("policy: {type: 'robolearn.policies.bc:BcConfig'}")
        (tmp_path / name / file).write_text(text)
    with pytest.raises(UserError, match=message):
        run(Config(tuple(tmp_path / name for name in names)))


def test_folders_of_one_name_are_told_apart(tmp_path, capsys):
    for place in ("x", "y"):
        training(tmp_path / place / "train", {"seed": 0})
    run(Config((tmp_path / "x" / "train", tmp_path / "y" / "train")))
    said = capsys.readouterr().out
    assert "x/train" in said and "y/train" in said and "the configs are the same" in said
