"""The report of a pipeline's run: every number read from the stages' own artefacts, and only from those that exist."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from robolearn.core.checkpoint import read_header
from robolearn.core.run import read_metrics
from robolearn.evaluation import page, plots
from robolearn.evaluation.artefacts import Stage, read_stages
from robolearn.evaluation.statistics import Interval, fisher_p, paired_p

REASONS = {  # what the governor's words mean, for people
    "not_finite": "a command with NaN or infinity was refused; the arm held",
    "shape": "a command of the wrong size was refused; the arm held",
    "action_bounds": "a command was clipped to the robot's action range",
    "workspace": "a command was shortened to end inside the workspace box",
    "workspace_stop": "the arm was about to leave its box and was stopped",
    "position": "a target was clipped to the joint limits",
    "velocity": "a command asked for more than the joints' speed limit and was slowed down",
    "acceleration": "a command asked for more than the joints' acceleration limit and was smoothed",
    "tracking": "the arm trailed its target (contact?), so the target was held back",
    "unreachable": "no pose of the arm does what the command asked; the arm held",
    "late": "a command came too late and was refused",
    "early": "a command from the future was refused",
    "reordered": "an old command came after a newer one and was refused",
    "stale": "no command came for too long; the arm was stopped",
    "stale_state": "the arm's measurements stopped coming; it was stopped",
    "stopped": "a command came while the arm was stopped",
    "lost_reply": "the arm did not answer; it was stopped",
    "write_error": "a setpoint was not accepted; the arm was halted",
    "fault": "the arm reported a fault of its own; it was stopped",
}
_WORDS = {  # of a training's facts
    "encoder": "encoder weights",
    "steps": "updates",
    "val_loss": "loss on held-out episodes",
    "val_action_error": "action error on held-out episodes",
    "choice": "which checkpoint",
}
_PYTHON = """from pathlib import Path

import numpy as np

import hardware
from hardware import RobotConfig
from robolearn.core.checkpoint import load_policy
from robolearn.runtime.policy_pilot import PolicyPilot

policy = load_policy(Path({checkpoint!r}))
with hardware.open(RobotConfig({robot})) as robot:
    pilot = PolicyPilot(policy, chunk={chunk})
    robot.reset(np.random.default_rng(0))
    for _ in range(100):  # decisions, {rate:g} per second
        robot.send(pilot.decide(robot.observe()))
"""


def render(run: Path) -> str:
    """The whole report as HTML. Stages that did not run leave their sections out."""
    stages = read_stages(run)
    body = next((s.config["robot"]["body"] for s in stages.values() if "robot" in s.config), "")
    title = f"{body.partition(':')[2] or body or 'Robot'}: from teleop logs to a fine-tuned policy"
    return page.page(
        title,
        [
            f"<h1>{escape(title)}</h1>",
            _headline(stages),
            page.section("Success", _success(stages)),
            page.section("Videos", *(_films(stages[name]) for name in ("evaluate_before", "evaluate_after", "teleop"))),
            page.section("Learning online", _learning(stages["finetune"], stages["evaluate_before"])),
            page.section("What the planner doubted", _doubt(stages["finetune"])),
            page.section("What the governor did", _governor(stages)),
            page.section("The data", _data(stages)),
            page.section("Offline training", _training(stages["train"])),
            page.section("Time and memory", _timings(stages)),
            page.section("Deploy it", _deploy(stages, body)),
            page.section("Reproduce it", _reproduce(stages)),
        ],
    )


def _headline(stages: Mapping[str, Stage]) -> str:
    before, after = stages["evaluate_before"].rate, stages["evaluate_after"].rate
    missing = [s.title.lower() for s in stages.values() if not s.done]
    parts = []
    if before and after:
        arrow = '<span class="arrow">→</span>'
        parts.append(f'<div class="hero">{arrow.join([_figure(before, "offline policy"), _figure(after, "fine-tuned")])}</div>')
        p = fisher_p(before[0], before[1], after[0], after[1])
        verdict = "a difference this large is rarely chance" if p < 0.05 else "too few trials to tell this difference from chance"
        counts = f"{before[0]} of {before[1]} before, {after[0]} of {after[1]} after"
        parts.append(page.text(f"{counts}; Fisher's exact p = {p:.2g}: {verdict}."))
    elif one := before or after:
        parts.append(f'<div class="hero">{_figure(one, "success rate")}</div>')
    if missing:
        parts.append(page.text(f"Not finished, and so not shown in full: {', '.join(missing)}.", soft=True))
    return "".join(parts)


def _figure(rate: tuple[int, int, Interval], caption: str) -> str:
    successes, trials, (low, high) = rate
    note = f"{caption}, 95 % interval {100 * low:.0f}–{100 * high:.0f} %"
    return f'<div><b>{100 * successes / trials:.0f} %</b><span class="soft">{escape(note)}</span></div>'


def _success(stages: Mapping[str, Stage]) -> str:
    found = [s for s in (stages["evaluate_before"], stages["evaluate_after"]) if s.rate]
    if not found:
        return ""
    names = {"evaluate_before": "offline policy", "evaluate_after": "fine-tuned"}
    chart = plots.rates([(names[s.name], *s.rate) for s in found if s.rate])
    head = ("", "success", "mean best reward", "mean return", "mean length", "one plan takes")
    rows = []
    for s in found:
        trials = s.evaluation["per_trial"]
        low, high = s.evaluation["max_reward_interval"]
        ms = [t["inference_ms"] for t in trials if t["inference_ms"]]
        rows.append(
            (
                names[s.name],
                f"{s.evaluation['successes']}/{s.evaluation['trials']}",
                f"{s.evaluation['mean_max_reward']:.3f} ({low:.3f}–{high:.3f})",
                f"{s.evaluation['mean_return']:.2f}",
                f"{np.mean([t['length'] for t in trials]):.0f} decisions",
                f"{np.mean(ms):.0f} ms" if ms else None,
            )
        )
    return (
        page.card(chart)
        + page.table(head, rows)
        + _pairs(found)
        + page.text("Intervals: 95 %; Wilson for rates, bootstrap for means.", soft=True)
    )


def _pairs(found: Sequence[Stage]) -> str:
    """Both evaluations met the same starts: which changed hands?"""
    if len(found) < 2:
        return ""
    one, two = ({(t["seed"], t["index"]): t["success"] for t in s.evaluation["per_trial"]} for s in found)
    shared = sorted(one.keys() & two.keys())
    if not shared:
        return page.text("The two evaluations used different starts, so trials are not paired.")
    better, worse = sum(two[k] and not one[k] for k in shared), sum(one[k] and not two[k] for k in shared)
    p = paired_p([one[k] for k in shared], [two[k] for k in shared])
    return page.text(
        f"On the same {len(shared)} starts, {better} went from failure to success and {worse} the other way (McNemar's exact p = {p:.2g})."
    )


def _films(stage: Stage) -> str:
    paths = stage.videos()
    if not paths:
        return ""
    results = {row["index"]: row["success"] for row in stage.evaluation.get("per_trial", [])}
    results |= {row["episode"]: row["success"] for row in stage.episodes}
    shown = []
    for path in paths:
        number = int("".join(c for c in path.stem if c.isdigit()) or 0)
        ending = {True: "success", False: "failure", None: ""}[results.get(number)]
        shown.append((path, " · ".join(part for part in (f"{path.stem.replace('_', ' ')}", ending) if part)))
    who = f" ({stage.config['pilot']} operator)" if stage.name == "teleop" else ""
    return f"<h3>{escape(stage.title + who)}</h3>" + page.films(shown)


def _learning(stage: Stage, before: Stage) -> str:
    rows = stage.episodes
    if not rows:
        return ""
    won = np.array([float(r["success"]) for r in rows])
    episode = np.array([r["episode"] for r in rows]) + 1
    window = 5
    running = np.array([won[max(0, i + 1 - window) : i + 1].mean() for i in range(len(won))])
    levels = []
    if before.rate:
        successes, trials, (low, high) = before.rate
        levels.append(plots.Level("offline policy, evaluated", 100 * successes / trials, 100 * low, 100 * high))
    lines = [
        plots.Line(f"success, last {window} episodes", episode, 100 * running),
        plots.Line("each episode", episode, 100 * won, "dots"),
    ]
    chart = plots.chart(lines, "online episode", "success [%]", (-4.0, 104.0), levels)
    returns = plots.chart([plots.Line("", episode, [r["return"] for r in rows])], "online episode", "return", height=180)
    words = f"{len(rows)} online episodes, {int(won.sum())} successful. The planner explores while it learns, so this is not an evaluation."
    return page.text(words) + page.card(chart) + page.card(returns)


def _doubt(stage: Stage) -> str:
    steps = [row for row in read_metrics(stage.folder / "uncertainty.jsonl") if row.get("uncertainty") is not None]
    if not steps:
        return ""
    values = np.array([row["uncertainty"] for row in steps], dtype=float)
    each = plots.Line("every decision", np.arange(len(values)), values, "thin")
    episodes = np.array([row["episode"] for row in steps])
    middle = [float(np.flatnonzero(episodes == e).mean()) for e in dict.fromkeys(episodes.tolist())]
    means = [float(np.nanmean(values[episodes == e])) for e in dict.fromkeys(episodes.tolist())]
    mean = plots.Line("mean of the episode", middle, means, colour=2)
    words = (
        "Spread of the world model's dynamics heads along the chosen plan, relative to their median spread on held-out data. "
        "High: the model has seen little like it."
    )
    return page.text(words) + page.card(plots.chart([each, mean], "online decision", "uncertainty"))


def _governor(stages: Mapping[str, Stage]) -> str:
    flown = [s for s in stages.values() if s.decisions]
    if not flown:
        return ""
    reasons = sorted({r for s in flown for r in s.interventions}, key=lambda r: -sum(s.interventions[r] for s in flown))
    words = (
        "Every command of every pilot passed it. It is software, not a safety-rated device: "
        "keep the controller's own limits and the emergency stop."
    )
    if not reasons:
        return page.text(words) + page.text(f"It never had to intervene in {sum(s.decisions for s in flown)} decisions.")
    head = ("it said", *(s.title for s in flown))
    rows: list[Sequence[object]] = [
        ("\n".join((r.replace("_", " "), REASONS.get(r, ""))).strip(), *(s.interventions[r] or None for s in flown)) for r in reasons
    ]
    rows.append(("decisions in all", *(s.decisions for s in flown)))
    stopped = sum(bool(t.get("stopped")) for s in flown for t in s.evaluation.get("per_trial", s.episodes))
    ended = page.text(f"Episodes it ended with a stop: {stopped}.")
    return page.text(words) + page.card(page.table(head, rows)) + ended + _over_time(stages["finetune"])


def _over_time(stage: Stage) -> str:
    rows = stage.episodes
    if len(rows) < 2:
        return ""
    counts = [100 * sum(r["interventions"].values()) / max(r["length"], 1) for r in rows]
    line = plots.Line("", np.array([r["episode"] for r in rows]) + 1, counts, colour=3)
    return page.card(plots.chart([line], "online episode", "interventions per 100 decisions", (0.0, 1.1 * max(counts) + 1e-9), height=200))


def _data(stages: Mapping[str, Stage]) -> str:
    stage = stages["teleop"]
    if not stage.begun:
        return ""
    rows = stage.episodes
    pilot = stage.config["pilot"]
    programs = {"scripted": "that sees the simulator's state", "mixed": "of a skill drawn for each episode"}
    who = f"{pilot}: a program {programs[pilot]}, not a person" if pilot in programs else f"a person with the {pilot}"
    return page.card(
        page.facts(
            {
                "operator": who,
                "episodes": len(rows),
                "of them successful": sum(r["success"] for r in rows),
                "rows": sum(r["length"] for r in rows),
                "store": stage.folder / "dataset.zarr",
            }
        )
    )


def _training(stage: Stage) -> str:
    if not stage.begun:
        return ""
    steps = [row for row in stage.metrics if "step" in row]
    names = [name for name in dict.fromkeys(n for row in steps for n in row) if "loss" in name or name.startswith(("val", "action_error"))]
    lines = []
    for index, name in enumerate(names[:4]):
        points = [(row["step"], row[name]) for row in steps if isinstance(row.get(name), int | float)]
        if points:
            x, y = zip(*points, strict=True)
            lines.append(plots.Line(name.replace("_", " "), x, y, colour=index + 1))
    chart = page.card(plots.chart(lines, "update", "loss")) if lines else ""
    return page.card(page.facts(_checkpoint_facts(stage))) + chart


def _checkpoint_facts(stage: Stage) -> Mapping[str, object]:
    """What the training said at its end, and what the policy file says about itself."""
    path = stage.folder / "policy.pt"
    found: dict[str, object] = {}
    if path.exists():
        header = read_header(path)
        found = {"policy": type(header.config).__name__.removesuffix("Config"), **header.meta}
    found |= {
        k: v
        for k, v in stage.done.items()
        if k not in ("stages", "versions", "commit", "platform", "cpus", "seconds", "checkpoint", "peak_memory_mib")
    }
    shown = {k: v for k, v in found.items() if isinstance(v, str | int | float) and not k.endswith("seconds")}
    return {_WORDS.get(k, k.replace("_", " ")): f"{v:,}" if isinstance(v, int) else _short(v) for k, v in shown.items()}


def _short(value: object) -> object:
    return f"{value:.3g}" if isinstance(value, float) else value


def _timings(stages: Mapping[str, Stage]) -> str:
    done = [s for s in stages.values() if s.done]
    if not done:
        return ""
    bar = plots.shares({s.title: s.done["seconds"] for s in done})
    total, peak = sum(s.done["seconds"] for s in done), max(s.done["peak_memory_mib"] for s in done)
    rows = [(s.title, duration(s.done["seconds"]), f"{s.done['peak_memory_mib']:.0f} MiB", _inside(s)) for s in done]
    table = page.table(("stage", "time", "peak memory so far", "of which"), rows)
    return page.text(f"{duration(total)} in all, at most {peak:.0f} MiB of memory.") + page.card(bar) + table


def _inside(stage: Stage) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {duration(value)}" for name, value in stage.done.get("stages", {}).items())


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {seconds % 60:02.0f} s" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _deploy(stages: Mapping[str, Stage], body: str) -> str:
    candidates = (
        (stages["evaluate_after"], stages["finetune"].folder / "planner.pt"),
        (stages["evaluate_before"], stages["train"].folder / "policy.pt"),
    )
    for evaluated, path in candidates:
        checkpoint = Path(evaluated.config.get("checkpoint", path))
        if not checkpoint.exists():
            continue
        header, chunk = read_header(checkpoint), evaluated.config.get("chunk", 1)
        robot = {k: v for k, v in evaluated.config.get("robot", {"body": body}).items() if v is not None}
        flags = " ".join(f"--robot.{k.replace('_', '-')} {_words(v)}" for k, v in robot.items())
        arguments = ", ".join(f"{k}={tuple(v) if isinstance(v, list) else v!r}" for k, v in robot.items())
        command = f"robolearn evaluate --checkpoint {shlex.quote(str(checkpoint))} {flags} --chunk {chunk} --trials 10 --out runs/try"
        source = _PYTHON.format(checkpoint=str(checkpoint), robot=arguments, chunk=chunk, rate=header.spec.rate_hz)
        words = f"The checkpoint is one file without code in it. It was made for {header.spec.name} and refuses any other robot."
        python = page.text("Or from Python:") + page.code(source, "deploy-python")
        return page.text(words) + page.code(command, "deploy-command") + python
    return ""


def _words(value: object) -> str:
    """A value of a config as the command line takes it."""
    return " ".join(shlex.quote(str(v)) for v in (value if isinstance(value, list) else [value]))


def _reproduce(stages: Mapping[str, Stage]) -> str:
    begun = [s for s in stages.values() if s.begun]
    if not begun:
        return ""
    newest = next((s.done for s in reversed(begun) if s.done), {})
    facts = {
        **newest.get("versions", {}),
        "commit": newest.get("commit"),
        "platform": newest.get("platform"),
        "CPU cores": newest.get("cpus"),
    }
    configs = "".join(page.folded(f"{s.title}: config.yaml", s.config_text) for s in begun)
    return page.card(page.facts(facts)) + page.text("Each stage's exact config; seeds are in it.") + configs
