"""FOWM's protocol in MuJoCo: 200 scripted episodes of mixed quality, offline training, 20 online trials; success before and after.

    python benchmarks/fowm.py --tasks reach push lift --methods ours fowm no_penalty iql rlpd scratch --seeds 0 1 2

A Panda from states (robosuite:Reach:state, Push, Lift). All methods share rows, rewards, discount, network width and batch; what differs is
the preset (docs/presets). An agent that plans or proposes several actions flies them all. Unsafe events are those of a run's online trials.
One JSON line for each run is appended to --out; a run that is there is not done again, and the table at the end is made of all lines.
Evaluations start from np.random.default_rng([10_000 + seed, trial]); tuning used seeds of 90_000 and above.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.unsafe import Unsafe

import hardware
from hardware import RobotConfig
from hardware.types import Source
from robolearn.agents.config import AgentConfig
from robolearn.core.checkpoint import load_state, save_state
from robolearn.core.config import from_dict, to_dict
from robolearn.core.files import append_line
from robolearn.data.replay import Replay
from robolearn.data.store import EpisodeStore
from robolearn.data.windows import split
from robolearn.evaluation.evaluate import evaluate
from robolearn.evaluation.statistics import success_interval
from robolearn.experiments import teleop
from robolearn.learners.rl.finetuning import FineTuning, build
from robolearn.planning.caution import Caution
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.random_pilot import RandomPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for

TASKS = {"reach": "robosuite:Reach:state", "push": "robosuite:Push:state", "lift": "robosuite:Lift:state"}
SHARED = {"discount": 0.97, "reward": {"shift": -1.0}, "critic": {"width": 128}, "actor": {"width": 128}, "update": {"batch": 128}}
MODEL = {"model": {"width": 128, "encoder_width": 128}}
SMALL_SEARCH = {"planner": {"search": {"samples": 64, "proposals": 16, "elites": 12, "iterations": 3}}}
BOLD = {"planner": {"caution": {"heads": 0, "critics": 0, "dynamics": 0, "margin": 0}}}
METHODS: dict[str, list[dict[str, Any]]] = {
    "ours": [{"preset": "ours"}, MODEL],
    "no_penalty": [{"preset": "ours"}, MODEL, BOLD],
    "both": [{"preset": "ours"}, MODEL, {"planner": {"caution": {"margin": 0}}}],
    "only_critics": [{"preset": "ours"}, MODEL, BOLD, {"planner": {"caution": {"critics": 0.5}}}],
    "only_dynamics": [{"preset": "ours"}, MODEL, BOLD, {"planner": {"caution": {"heads": 1.0, "dynamics": 0.02}}}],
    "model_free": [{"preset": "ours", "model": None, "planner": None}],  # the same chunk policy, learned by IQL's rules
    "fowm": [{"preset": "fowm"}, MODEL, {"model": {"latent": 50}}, SMALL_SEARCH],
    "iql": [{"preset": "iql"}],
    "rlpd": [{"preset": "rlpd", "warmup": {"random": 100}}],
    "wsrl": [{"preset": "wsrl", "warmup": {"frozen": 100}}],
    "scratch": [{"preset": "tdmpc2", "warmup": {"random": 200}}, MODEL, {"model": {"latent": 64}}, SMALL_SEARCH],
}


def config_of(method: str, changes: dict[str, Any]) -> AgentConfig:
    """The shared values under the method's, under `changes`."""
    merged: dict[str, Any] = {}
    for part in (*METHODS[method][:1], SHARED, *METHODS[method][1:], changes):
        lay(merged, part)
    return from_dict(AgentConfig, merged)


def lay(under: dict[str, Any], over: dict[str, Any]) -> None:
    for name, value in over.items():
        if isinstance(value, dict):
            lay(under.setdefault(name, {}), value)
        else:
            under[name] = value


def data_of(task: str, folder: Path) -> EpisodeStore:
    """The 200 scripted episodes; recorded on first use."""
    out = folder / task
    teleop.run(teleop.Config(out=out, robot=RobotConfig(body=TASKS[task]), pilot="mixed", episodes=200, seed=0))
    return EpisodeStore.open(out / "dataset.zarr")


def run(task: str, method: str, seed: int, asked: argparse.Namespace) -> dict[str, Any]:
    """One run: its success before and after, and what happened in between."""
    began = time.monotonic()
    tuning, calibration = learned(task, method, seed, asked.offline, asked.data, asked.changes)
    with hardware.open(RobotConfig(body=TASKS[task])) as robot:
        familiar: list[np.ndarray] = []
        before = score(robot, tuning, task, asked, calibration, familiar)
        offline_s = time.monotonic() - began
        tuning.begin_online()
        unsafe = Unsafe(robot, familiar)
        online = [trial(robot, tuning, task, i, asked, calibration, unsafe) for i in range(asked.trials)]
        after = score(robot, tuning, task, asked, calibration)
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "before": before,
        "after": after,
        "online": [bool(e.success) for e in online],
        "unsafe": dict(unsafe.counts),
        "decisions": tuning.decisions,
        "offline_s": round(offline_s, 1),
        "seconds": round(time.monotonic() - began, 1),
        "changes": asked.changes,
    }


def learned(task: str, method: str, seed: int, updates: int, folder: Path, changes: str = "{}") -> tuple[FineTuning, Replay]:
    """(an agent after the offline phase, held-out rows)."""
    torch.set_num_threads(1)
    store, config = data_of(task, folder), config_of(method, json.loads(changes))
    (train,), (held_out,) = split(store, 0.1, np.random.default_rng(seed))
    old, calibration = (Replay(store.spec, config.history, discount=config.discount).extend(store, rows) for rows in (train, held_out))
    tuning = build(config, old, seed)
    carried = config.carry.policy or config.carry.critic or config.carry.model
    learn_offline(tuning, updates if carried else 0, folder / task)
    if tuning.agent.model is not None:
        tuning.learner.calibrate(calibration)
    return tuning, calibration


def learn_offline(tuning: FineTuning, updates: int, folder: Path) -> None:
    """The offline phase; of agents that differ in their planner's caution only, which it never asks, once for all of them."""
    config = tuning.config
    bold = replace(config, planner=replace(config.planner, caution=Caution())) if config.planner else config
    said = json.dumps([to_dict(bold), tuning.learner.generator.initial_seed(), updates], sort_keys=True)
    kept = folder / f"offline_{hashlib.sha256(said.encode()).hexdigest()[:12]}.pt"
    if kept.exists():
        state = load_state(kept)
        tuning.load_state_dict(state | {"rng": json.loads(state["rng"])})
        return
    tuning.offline(updates)
    if config.planner is not None and updates:
        state = tuning.state_dict()
        save_state(kept, state | {"rng": json.dumps(state["rng"])})


def trial(robot: Any, tuning: FineTuning, task: str, index: int, asked: argparse.Namespace, calibration: Replay, unsafe: Unsafe) -> Any:
    """One online episode and what is learned from it."""
    agent, seed = tuning.agent, asked.first
    agent.explore = True
    if tuning.flight == "random":
        pilot: Any = RandomPilot(robot.spec, seed + tuning.decisions)
    else:
        source = Source.PLANNER if tuning.config.planner else Source.POLICY
        pilot = PolicyPilot(agent, agent.horizon, seed + tuning.decisions, source)
    episode = rollout(robot, pilot, task_for(TASKS[task]), np.random.default_rng([seed, index]), unsafe.watch)
    unsafe.after(episode)
    tuning.add(episode)
    tuning.learn()
    if agent.model is not None:
        tuning.learner.calibrate(calibration)
    return episode


def score(
    robot: Any,
    tuning: FineTuning,
    task: str,
    asked: argparse.Namespace,
    calibration: Replay,
    familiar: list[np.ndarray] | None = None,
) -> float:
    """Success rate without exploring. familiar: gets the episodes' novelties."""
    agent = tuning.agent
    agent.explore = False
    if not bool(agent.state_norm.fitted):
        return 0.0
    if agent.model is not None:
        tuning.learner.calibrate(calibration)
    seed = (90_000 if asked.tuning else 10_000) + asked.first

    def note(_: Any, episode: Any) -> None:
        if familiar is not None and "novelty" in episode.notes:
            familiar.append(episode.notes["novelty"])

    pilot, flown = PolicyPilot(agent, agent.horizon), asked.evaluations
    return evaluate(robot, pilot, task_for(TASKS[task]), flown, seed, on_episode=note).rate


def table(out: Path) -> str:
    """Of all runs in `out`: mean success before and after, with Wilson intervals over all evaluations."""
    rows = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    events = ("governor", "gate", "drops", "hard_contacts")
    head = ("task", "method", "seeds", "before", "after", "95 % interval after", *events)
    lines = [f"| {' | '.join(head)} |", len(head) * "|---" + "|"]
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows):
        found = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        before, after = (float(np.mean([row[name] for row in found])) for name in ("before", "after"))
        trials = sum(row["evaluations"] for row in found)
        low, high = success_interval(round(after * trials), trials)
        seen = [row.get("unsafe", {"governor": row.get("governor")}) for row in found]
        cells = [f"{np.mean([s[e] for s in seen]):.1f}" if all(e in s for s in seen) else "" for e in events]
        rates = (f"{before:.2f}", f"{after:.2f}", f"{low:.2f} to {high:.2f}")
        lines.append(f"| {' | '.join((task, method, str(len(found)), *rates, *cells))} |")
    return "\n".join(lines)


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    words.add_argument("--methods", nargs="+", default=["ours", "fowm", "no_penalty", "iql", "rlpd", "scratch"], choices=list(METHODS))
    words.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    words.add_argument("--trials", type=int, default=20, help="online")
    words.add_argument("--evaluations", type=int, default=30)
    words.add_argument("--offline", type=int, default=5000, help="updates")
    words.add_argument("--data", type=Path, default=Path("runs/fowm"))
    words.add_argument("--out", type=Path, default=Path("runs/fowm/results.jsonl"))
    words.add_argument("--tuning", action="store_true", help="evaluate on the tuning starts")
    words.add_argument("--changes", default="{}", help="JSON laid over the method's config, for tuning")
    asked = words.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    known = {(row["task"], row["method"], row["seed"], row["changes"]) for row in done}
    for seed in asked.seeds:
        for task in asked.tasks:
            for method in asked.methods:
                if (task, method, seed, asked.changes) in known:
                    continue
                asked.first = seed
                row = run(task, method, seed, asked) | {"evaluations": asked.evaluations, "tuning": asked.tuning}
                append_line(asked.out, json.dumps(row))
                print(json.dumps({k: v for k, v in row.items() if k not in ("online", "changes")}), flush=True)
    print(table(asked.out))
