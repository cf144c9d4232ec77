"""Which checkpoints stay on the disk, and what is remembered of the others."""

from __future__ import annotations

from pathlib import Path

from robolearn.experiments.checkpoints import Checkpoints


def filled(folder: Path, scores: dict[int, float], last: int, best: int) -> Checkpoints:
    folder.mkdir()
    checkpoints = Checkpoints(folder, last, best)
    for step, score in scores.items():
        checkpoints.path(step).touch()
        checkpoints.score(step, score, note=f"of {step}")
    return checkpoints


def test_the_newest_and_the_best_stay_and_every_score_is_remembered(tmp_path):
    checkpoints = filled(tmp_path / "c", {10: 0.5, 20: 0.9, 30: 0.1, 40: 0.9, 50: 0.2, 60: 0.3}, last=2, best=2)
    assert checkpoints.steps() == [20, 40, 50, 60]
    assert [row["step"] for row in checkpoints.scores()] == [40, 20, 10, 60, 50, 30]
    assert [row["note"] for row in checkpoints.best()] == ["of 40", "of 20"]


def test_scores_are_compared_number_by_number(tmp_path):
    checkpoints = Checkpoints(tmp_path, 1, 1)
    for step, score in ((1, (0.5, 0.2)), (2, (0.5, 0.3)), (3, (0.4, 0.9))):
        checkpoints.path(step).touch()
        checkpoints.score(step, *score)
    assert checkpoints.best(1)[0]["step"] == 2 and checkpoints.steps() == [2, 3]


def test_what_came_after_a_state_is_forgotten_torn_lines_too(tmp_path):
    checkpoints = filled(tmp_path / "c", {10: 0.1, 20: 0.2, 30: 0.3}, last=3, best=3)
    with (tmp_path / "c" / "scores.jsonl").open("a") as file:
        file.write('{"step": 40, "sco')
    checkpoints.path(40).touch()
    (tmp_path / "c" / ".step_000050.pt.7.tmp").touch()
    checkpoints.rewind(20)
    assert not list((tmp_path / "c").glob(".*"))
    assert checkpoints.steps() == [10, 20] and [row["step"] for row in checkpoints.scores()] == [20, 10]
    checkpoints.rewind(20)
    assert checkpoints.steps() == [10, 20]
    Checkpoints(tmp_path / "none", 1, 1).rewind(0)
    assert not (tmp_path / "none").exists()
