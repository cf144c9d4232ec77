"""Runs side by side: what was different, what came of it, and whether the difference could be luck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from robolearn.core.config import read_yaml
from robolearn.core.errors import UserError
from robolearn.core.run import read_json, read_metrics
from robolearn.evaluation.page import card, page, section, table, text
from robolearn.evaluation.plots import Line, chart, rates
from robolearn.evaluation.statistics import Interval, fisher_p, paired_p

_PLACE = ("out", "overwrite")  # of the config: where the run lies
NO_TEST = "–"
COLOURS = 6  # of the page's palette


@dataclass(frozen=True)
class Outcome:
    """An evaluation of a run's policy. starts: [seed, index] of its trials; robot: what was flown."""

    where: str
    successes: int
    trials: int
    interval: Interval
    reward: float
    reward_interval: Interval
    won: tuple[bool, ...]
    starts: tuple[tuple[int, int], ...]
    robot: Any


@dataclass(frozen=True)
class Trained:
    """One run: its config by dotted names, what it logged, its result (empty where it is not done), its best evaluation."""

    name: str
    config: Mapping[str, Any]
    metrics: Sequence[Mapping[str, Any]]
    done: Mapping[str, Any]
    outcome: Outcome | None

    def last(self, name: str) -> Any:
        """Of the result, or the last that was logged."""
        return self.done.get(name, next((row[name] for row in reversed(self.metrics) if name in row), None))

    def curve(self, name: str) -> tuple[list[float], list[float]]:
        """(steps, values) of a logged number."""
        rows = [row for row in self.metrics if name in row and "step" in row]
        return [row["step"] for row in rows], [row[name] for row in rows]


def read_run(folder: Path, name: str) -> Trained:
    """UserError: not the folder of a run."""
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder}: not a run (no config.yaml); expected a folder that robolearn train has written")
    done = folder / "done.json"
    return Trained(
        name,
        _flat(read_yaml(folder / "config.yaml")),
        read_metrics(folder / "metrics.jsonl"),
        read_json(done) if done.exists() else {},
        _outcome(folder),
    )


def differences(runs: Sequence[Trained]) -> dict[str, list[Any]]:
    """Dotted field -> its value in each run, of the fields that are not the same in all."""
    names = [n for n in dict.fromkeys(name for run in runs for name in run.config) if n.split(".")[0] not in _PLACE]
    values = {name: [run.config.get(name) for run in runs] for name in names}
    return {name: row for name, row in values.items() if any(value != row[0] for value in row)}


def summary(runs: Sequence[Trained]) -> tuple[list[str], list[list[Any]]]:
    """(head, a row for each run): what it took and what came of it."""
    head = ["run", "steps", "minutes", "parameters", "val loss", "action error", "success", "95 % interval", "mean best reward"]
    rows = []
    for run in runs:
        outcome, minutes = run.outcome, run.last("train_seconds")
        success = interval = reward = None
        if outcome is not None:
            success = f"{outcome.successes}/{outcome.trials} = {100 * outcome.successes / outcome.trials:.0f} %\n{outcome.where}"
            interval = "{:.0f} to {:.0f} %".format(*(100 * edge for edge in outcome.interval))
            reward = "{:.3f} ({:.3f} to {:.3f})".format(outcome.reward, *outcome.reward_interval)
        steps = run.done.get("steps", f"{run.last('step') or 0}, not done")
        numbers = [None if (v := run.last(n)) is None else round(float(v), 4) for n in ("val_loss", "val_action_error")]
        spent = None if minutes is None else round(minutes / 60, 1)
        rows.append([run.name, steps, spent, run.last("parameters"), *numbers, success, interval, reward])
    return head, rows


def pairwise(runs: Sequence[Trained]) -> list[list[str]]:
    """(one run, another, which test, its two-sided p) for every pair that flew the same robot."""
    rows = []
    for a, b in combinations(runs, 2):
        if a.outcome is None or b.outcome is None:
            continue
        if a.outcome.robot != b.outcome.robot:
            rows.append([a.name, b.name, "none: they flew different robots", NO_TEST])
        elif a.outcome.starts == b.outcome.starts:
            rows.append([a.name, b.name, "McNemar, exact; same starts", f"{paired_p(a.outcome.won, b.outcome.won):.3g}"])
        else:
            p = fisher_p(a.outcome.successes, a.outcome.trials, b.outcome.successes, b.outcome.trials)
            rows.append([a.name, b.name, "Fisher, exact", f"{p:.3g}"])
    return rows


def verdict(pairs: Sequence[Sequence[str]]) -> str:
    """What the p-values of `pairwise` say, for a reader who has forgotten; empty where there are none."""
    if not (count := sum(p != NO_TEST for *_, p in pairs)):
        return ""
    said = "p: how often a difference this large comes by luck where there is none."
    return said if count < 2 else f"{said} Of {count} pairs, about one in 20 falls below 0.05 by luck alone."


def render(runs: Sequence[Trained]) -> str:
    """The page."""
    head, rows = summary(runs)
    found = [(run.name, run.outcome) for run in runs if run.outcome is not None]
    flown = [(name, outcome.successes, outcome.trials, outcome.interval) for name, outcome in found]
    pairs = pairwise(runs)
    changed = [[name, *(str(value) for value in values)] for name, values in differences(runs).items()]
    parts = [
        f"<h1>{len(runs)} runs compared</h1>",
        card(table(head, rows)),
        section("Success", card(rates(flown)) if flown else "", card(table(["run", "and", "test", "p"], pairs))),
        text(verdict(pairs), soft=True) if pairs else "",
        section("Loss", *(_curves(runs, name, label) for name, label in (("loss", "training loss"), ("val_loss", "validation loss")))),
        text("Losses of different policies are different quantities; only those of one kind can be compared.", soft=True),
        section("What differed", card(table(["field", *(run.name for run in runs)], changed))),
    ]
    return page("Runs compared", parts)


def _curves(runs: Sequence[Trained], name: str, label: str) -> str:
    lines = [Line(run.name, *run.curve(name), colour=i % COLOURS + 1) for i, run in enumerate(runs) if run.curve(name)[0]]
    return f"<h3>{label}</h3>{card(chart(lines, 'updates', label))}" if lines else ""


def _outcome(folder: Path) -> Outcome | None:
    """Of the evaluations in a run's folder, in those below it, or beside it of its policy, the one with the most trials."""
    files = [folder / "evaluation.json", *sorted(folder.glob("*/evaluation.json")), *sorted(folder.glob("select/fresh/*/evaluation.json"))]
    beside = [file for file in sorted(folder.parent.glob("*/evaluation.json")) if file not in files and _flies(file, folder)]
    found = [_read_outcome(file, folder) for file in (*files, *beside) if file.exists()]
    return max(found, key=lambda outcome: outcome.trials, default=None)


def _flies(file: Path, folder: Path) -> bool:
    config = file.with_name("config.yaml")
    checkpoint = read_yaml(config).get("checkpoint") if config.exists() else None
    return checkpoint is not None and Path(checkpoint).resolve().parent == folder.resolve()


def _read_outcome(file: Path, folder: Path) -> Outcome:
    data, config = read_json(file), file.with_name("config.yaml")
    if missing := [n for n in ("per_trial", "successes", "trials", "interval", "mean_max_reward", "max_reward_interval") if n not in data]:
        raise UserError(f"{file}: not an evaluation: {missing[0]} is missing; expected what robolearn evaluate writes")
    per_trial = data["per_trial"]
    return Outcome(
        where=str(file.parent.relative_to(folder) if file.is_relative_to(folder) else file.parent.name),
        successes=data["successes"],
        trials=data["trials"],
        interval=tuple(data["interval"]),
        reward=data["mean_max_reward"],
        reward_interval=tuple(data["max_reward_interval"]),
        won=tuple(trial["success"] for trial in per_trial),
        starts=tuple((trial["seed"], trial["index"]) for trial in per_trial),
        robot=read_yaml(config).get("robot") if config.exists() else None,
    )


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping) or not data:
        return {prefix: _bare(data) if prefix.endswith("type") else data}
    return {k: v for name, value in data.items() for k, v in _flat(value, f"{prefix}.{name}" if prefix else str(name)).items()}


def _bare(kind: Any) -> Any:
    """`robolearn.policies.act:ActConfig` as it is typed: act."""
    return kind.partition(":")[0].rpartition(".")[2] if isinstance(kind, str) else kind
