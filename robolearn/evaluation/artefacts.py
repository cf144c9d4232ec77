"""What a pipeline's stages left behind, as the report reads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robolearn.core.run import read_metrics
from robolearn.evaluation.statistics import Interval, success_interval

STAGES = {
    "teleop": "Teleoperation",
    "train": "Offline training",
    "evaluate_before": "Evaluation before",
    "finetune": "Online fine-tuning",
    "evaluate_after": "Evaluation after",
}


@dataclass(frozen=True)
class Stage:
    """One artefact folder. Empty where the stage has not run."""

    name: str
    folder: Path
    config: Mapping[str, Any]
    config_text: str
    metrics: Sequence[Mapping[str, Any]]
    done: Mapping[str, Any]
    evaluation: Mapping[str, Any]

    @property
    def begun(self) -> bool:
        return bool(self.config_text)

    @property
    def title(self) -> str:
        return STAGES[self.name]

    @property
    def rate(self) -> tuple[int, int, Interval] | None:
        """(successes, trials, interval) of an evaluation."""
        if not self.evaluation:
            return None
        successes, trials = self.evaluation["successes"], self.evaluation["trials"]
        return successes, trials, success_interval(successes, trials)

    @property
    def interventions(self) -> Counter[str]:
        if self.evaluation:
            return Counter(self.evaluation["interventions"])
        return sum((Counter(row["interventions"]) for row in self.episodes), Counter())

    @property
    def episodes(self) -> list[Mapping[str, Any]]:
        return [row for row in self.metrics if row.get("kind") == "episode"]

    @property
    def decisions(self) -> int:
        return sum(row["length"] for row in self.evaluation.get("per_trial", self.episodes))

    def videos(self) -> list[Path]:
        return sorted((self.folder / "videos").glob("*.mp4"))


def read_stages(run: Path) -> dict[str, Stage]:
    return {name: _read_stage(name, run / name) for name in STAGES}


def _read_stage(name: str, folder: Path) -> Stage:
    def load(file: str) -> dict[str, Any]:
        path = folder / file
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    config = folder / "config.yaml"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    metrics = read_metrics(folder / "metrics.jsonl")
    return Stage(name, folder, yaml.safe_load(text) or {}, text, metrics, load("done.json"), load("evaluation.json"))
