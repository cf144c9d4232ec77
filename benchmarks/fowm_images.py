"""FOWM's protocol once more, from images and proprioception, by the verbs that a user has: teleop, finetune, evaluate.

    python benchmarks/fowm_images.py --task Lift --seeds 0 1 2

200 scripted episodes of mixed quality with two cameras; a frozen encoder that learned to see from them; 20 online trials in lockstep. Ours,
and ours without any caution. Each run is resumed where it stopped; one JSON line per run, and a table, as in benchmarks/fowm.py.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from pathlib import Path

from fowm import table

from hardware import RobotConfig
from robolearn.core.files import append_line
from robolearn.core.run import read_json, read_metrics
from robolearn.experiments import evaluate, finetune, teleop
from robolearn.experiments.finetune_config import ours
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.planning.caution import Caution

METHODS = {"ours": Caution(), "no_penalty": Caution(heads=0, critics=0, dynamics=0, margin=0)}


def run(task: str, method: str, seed: int, asked: argparse.Namespace) -> dict:
    robot, folder = RobotConfig(body=f"robosuite:{task}"), asked.out / task.lower()
    teleop.run(teleop.Config(out=folder / "teleop", robot=robot, pilot="mixed", episodes=200, seed=0, videos=0))
    agent = ours()
    assert agent.planner is not None
    agent = replace(
        agent,
        encoder=SmallCnnConfig(tune="none", crop=1.0),
        discount=0.97,
        planner=replace(agent.planner, caution=METHODS[method]),
    )
    out = folder / f"{method}_{seed}"
    common = {"robot": robot, "seed": seed}
    done = finetune.run(
        finetune.Config(
            data=folder / "teleop/dataset.zarr",
            out=out,
            agent=agent,
            episodes=asked.trials,
            offline_updates=asked.offline,
            lockstep=True,
            **common,
        )
    )
    rates = {}
    for when, checkpoint in (("before", out / "learner/offline.pt"), ("after", out / "planner.pt")):
        flown = evaluate.Config(checkpoint=checkpoint, out=out / when, robot=robot, seed=10_000 + seed, trials=asked.evaluations, videos=0)
        rates[when] = evaluate.run(flown).rate
    online = [row for row in read_metrics(out / "metrics.jsonl") if row["kind"] == "episode"]
    unsafe = {"governor": sum(sum(row["interventions"].values()) for row in online)}
    seconds = read_json(out / "done.json")["seconds"]
    return {"task": f"{task.lower()}, images", "method": method, "seed": seed, **rates, "unsafe": unsafe, "decisions": done["steps"]} | {
        "online": [row["success"] for row in online],
        "seconds": round(seconds, 1),
        "evaluations": asked.evaluations,
    }


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--task", default="Lift", choices=["Reach", "Push", "Lift"])
    words.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    words.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    words.add_argument("--trials", type=int, default=20, help="online")
    words.add_argument("--evaluations", type=int, default=30)
    words.add_argument("--offline", type=int, default=5000, help="updates")
    words.add_argument("--out", type=Path, default=Path("runs/fowm_images"))
    given = words.parse_args()
    results = given.out / "results.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    for seed in given.seeds:
        for method in given.methods:
            known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
            if any((row["method"], row["seed"]) == (method, seed) for row in known):
                continue
            append_line(results, json.dumps(row := run(given.task, method, seed, given)))
            print(json.dumps(row), flush=True)
    print(table(results))
