"""Learning curves: one run of the one agent, evaluated at fixed numbers of online decisions, as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.core.files import append_line
from robolearn.data.episode import Episode
from robolearn.learners.rl.finetuning import FineTuning

Fly = Callable[[np.random.Generator, str], Episode]  # "random", "frozen", "learning" or "evaluation": one episode of it


def curve(tuning: FineTuning, fly: Fly, decisions: int, every: int, trials: int, seed: int) -> list[dict[str, float]]:
    """Success rate and mean return at 0 and then every so many online decisions. Evaluations start from [seed + 10_000, trial]."""
    tuning.begin_online()
    points, due = [_point(tuning, fly, trials, seed)], every
    rng = np.random.default_rng(seed)
    while tuning.decisions < decisions:
        tuning.agent.explore = tuning.flight == "learning"
        tuning.add(fly(rng, tuning.flight))
        tuning.learn()
        if tuning.decisions >= due:
            points.append(_point(tuning, fly, trials, seed))
            due += every
    return points


def _point(tuning: FineTuning, fly: Fly, trials: int, seed: int) -> dict[str, float]:
    agent = tuning.agent
    agent.explore = False
    starts = range(trials if bool(agent.state_norm.fitted) else 0)
    episodes = [fly(np.random.default_rng([seed + 10_000, i]), "evaluation") for i in starts]
    rate = float(np.mean([bool(e.success) for e in episodes])) if episodes else 0.0
    mean = float(np.mean([e.meta["return"] for e in episodes])) if episodes else 0.0
    return {"decisions": tuning.decisions, "success": rate, "return": mean}


def known(out: Path, **names: Any) -> bool:
    """Is this run among the lines of `out`?"""
    lines = out.read_text().splitlines() if out.exists() else []
    return any(all(json.loads(line).get(name) == value for name, value in names.items()) for line in lines)


def keep(out: Path, points: list[dict[str, float]], **names: Any) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    append_line(out, json.dumps({**names, "points": points}))
    print(json.dumps({**names, "success": [round(p["success"], 2) for p in points]}), flush=True)


def summary(out: Path, by: tuple[str, ...]) -> str:
    """Mean success over seeds at every evaluation, one line for each kind of run; all seeds are in `out`."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    lines = []
    for kind in dict.fromkeys(tuple(row[name] for name in by) for row in rows):
        found = [row["points"] for row in rows if tuple(row[name] for name in by) == kind]
        length = min(map(len, found))
        means = [np.mean([points[i]["success"] for points in found]) for i in range(length)]
        lines.append(f"{' '.join(map(str, kind))} ({len(found)} seeds): " + " ".join(f"{mean:.2f}" for mean in means))
    return "\n".join(lines)


def draw(out: Path, by: tuple[str, ...], picture: Path) -> None:
    """Every seed of every kind of run as a thin line, their mean as a thick one; one panel for each of by[0]."""
    import matplotlib.pyplot as plt

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    panels = list(dict.fromkeys(row[by[0]] for row in rows))
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 3.6), squeeze=False, sharey=True)
    for axis, panel in zip(axes[0], panels, strict=True):
        here = [row for row in rows if row[by[0]] == panel]
        for index, kind in enumerate(dict.fromkeys(tuple(row[name] for name in by[1:]) for row in here)):
            found = [row["points"] for row in here if tuple(row[name] for name in by[1:]) == kind]
            for points in found:
                axis.plot([p["decisions"] for p in points], [p["success"] for p in points], f"C{index}", lw=0.7, alpha=0.5)
            length = min(map(len, found))
            mean = [[np.mean([points[i][name] for points in found]) for i in range(length)] for name in ("decisions", "success")]
            label = f"{' '.join(map(str, kind))} ({len(found)} seeds)"
            if length == 1:  # it does not learn online
                axis.axhline(mean[1][0], color=f"C{index}", ls="--", lw=1.5, label=label)
            else:
                axis.plot(*mean, f"C{index}", lw=2.2, label=label)
        axis.set(title=panel, xlabel="online decisions", ylim=(-0.02, 1.02))
        axis.legend(fontsize=8)
    axes[0][0].set_ylabel("success")
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110, bbox_inches="tight")
