"""The main job on a real arm's double: does a policy reach there, through the vendor's SDK, what it reaches in simulation?

    nice -n 5 python benchmarks/deployment.py --arms ur5e so101

Scripted demonstrations of reach:ARM, a policy that sees by two cameras, 30 fresh starts in simulation; then the same 30 goals on the
double of the arm with its scene: the driver, MJPEG streams, a policy that thinks beside the loop, ten decisions a second of the wall
clock, success judged by where the double's tool really is. Resumed where it stopped; one JSON line for each arm.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import hardware
from hardware import RealConfig, RobotConfig
from hardware.cameras import CameraConfig
from hardware.doubles import Double, launch
from hardware.process import ArmProcess
from hardware.robot import SafeRobot
from hardware.types import HardwareError, Observation, Source
from robolearn.core.files import append_line
from robolearn.tasks import Outcome, Task, task_for

if TYPE_CHECKING:
    from robolearn.data.episode import Episode
    from robolearn.runtime.rollout import Step

# The processes of arm, double and cameras import this file, too: torch and what needs it come in with the functions below.
SPEED = {"so101": 0.5}  # share of its limits, as configs/robots/so101.yaml has it; others: 0.3
HOMINGS = 5  # tries, as a person would, before it is given up


@dataclass(frozen=True)
class OnDouble(Task):
    """The simulated task, on a double with a scene: the same goals, drawn from the same generators; judged by the truth."""

    double: Double
    stopped_homing: list[str] = field(default_factory=list)
    """what the governor said where it stopped the arm between two trials"""

    def reset(self, robot: SafeRobot, rng: np.random.Generator) -> None:
        self.double.place_goal(self.double.stage.draw(rng))
        for _ in range(HOMINGS):
            try:
                return super().reset(robot, rng)  # drives home, for longer than pictures take to come
            except HardwareError as error:
                self.stopped_homing.append(str(error))
        raise HardwareError(self.stopped_homing[-1])

    def judge(self, robot: SafeRobot, observation: Observation) -> Outcome:
        success = self.double.reached
        return Outcome(self.double.stage.reward(self.double.panel.q, self.double.panel.ball), success, terminal=success)


def robot_of(arm: str) -> RobotConfig:
    """In simulation; everything but the address and where pictures come from is the real arm's, too."""
    cameras = {name: CameraConfig(size=(84, 84)) for name in ("front", "wrist")}
    return RobotConfig(f"reach:{arm}", arm=RealConfig(actions="ee_delta", speed=SPEED.get(arm, 0.3), cameras=cameras))


def on_double(robot: RobotConfig, double: Double) -> RobotConfig:
    assert robot.arm is not None
    cameras = {name: replace(camera, source=double.cameras[name]) for name, camera in robot.arm.cameras.items()}
    return replace(robot, body=robot.variant, arm=replace(robot.arm, address=double.address, cameras=cameras))


def fly(arm: str, checkpoint: Path, asked: argparse.Namespace, out: Path) -> list[dict[str, Any]]:
    """The trials on the double, those that `out` has among them."""
    from robolearn.core.checkpoint import digest_of, load_policy
    from robolearn.evaluation.evaluate import reseed
    from robolearn.runtime.async_pilot import AsyncPilot
    from robolearn.runtime.rollout import rollout

    digest = digest_of(checkpoint)
    done = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = [trial for trial in done if trial["checkpoint"] == digest]
    if len(done) >= asked.trials:
        return done[: asked.trials]
    robot_config, pilot = robot_of(arm), AsyncPilot(load_policy(checkpoint), asked.chunk)
    simulated = task_for(robot_config.body)
    with launch(arm, scene="reach") as double:
        double.place(double.model.spec.home, 1.0)
        task, stops = OnDouble(simulated.name, simulated.instruction, simulated.time_limit_s, double), 0
        with hardware.open(on_double(robot_config, double)) as robot:
            for index in range(len(done), asked.trials):
                reseed(pilot, asked.seed, index)
                late_s = list[float]()
                watch, start = partial(note_lateness, robot, late_s), np.random.default_rng([asked.seed, index])
                episode = rollout(robot, pilot, task, start, watch)
                stops, before = len(task.stopped_homing), stops
                done.append({"checkpoint": digest, "trial": index, **facts(episode), "loop_late_ms": round(1e3 * max(late_s), 1)})
                done[-1]["stopped_homing"] = stops - before
                append_line(out, json.dumps(done[-1]))
    pilot.close()
    return done


def note_lateness(robot: SafeRobot, late_s: list[float], _: Step) -> None:
    """Append how late the arm's own loop was at worst since the decision before."""
    assert isinstance(robot.loop, ArmProcess)
    ticks = round(robot.governor.arm.rate_hz / robot.spec.rate_hz)
    late_s.append(max(row.late_s for row in robot.loop.history(ticks)))


def facts(episode: Episode) -> dict[str, Any]:
    answers = np.unique(episode.notes["inference_ms"])  # each is noted until the next
    return {
        "success": bool(episode.success),
        "length": len(episode),
        "seconds": float(np.ptp(episode.time)),
        "inference_ms": answers[np.isfinite(answers)].astype(np.float64).round(1).tolist(),
        "late_rows": float(np.nanmax(episode.notes["late_rows"])),
        "silent": int((episode.source == Source.NONE).sum()),
        "stopped": episode.meta["stopped"],
        "max_reward": round(episode.meta["max_reward"], 3),
        "interventions": episode.meta["interventions"],
    }


def run(arm: str, asked: argparse.Namespace) -> dict[str, Any]:
    from robolearn.core.config import load_config
    from robolearn.evaluation.statistics import fisher_p, success_interval
    from robolearn.experiments import evaluate, teleop, train

    folder, robot = asked.out / arm, robot_of(arm)
    flights = folder / f"seed_{asked.seed}"
    teleop.run(teleop.Config(out=folder / "teleop", robot=robot, pilot="scripted", episodes=asked.demonstrations, seed=0, videos=0))
    trained = replace(load_config(asked.train, train.Config), data=folder / "teleop/dataset.zarr", out=folder / "train")
    train.run(trained)
    checkpoint = folder / "train/policy.pt"
    flown = evaluate.Config(
        checkpoint=checkpoint, out=flights / "simulation", robot=robot, trials=asked.trials, seed=asked.seed, chunk=asked.chunk, videos=2
    )
    simulated = evaluate.run(flown)
    trials = fly(arm, checkpoint, asked, flights / "double.jsonl")
    won, low, high = sum(trial["success"] for trial in trials), *simulated.interval
    inference = np.concatenate([trial["inference_ms"] for trial in trials])
    return {
        "arm": arm,
        "demonstrations": asked.demonstrations,
        "simulation": [simulated.successes, simulated.trials, [round(low, 3), round(high, 3)]],
        "double": [won, len(trials), [round(edge, 3) for edge in success_interval(won, len(trials))]],
        "within": bool(low <= won / len(trials) <= high),
        "fisher_p": round(fisher_p(simulated.successes, simulated.trials, won, len(trials)), 3),
        "seconds_to_success": [
            round(float(np.median([t.sim_s for t in simulated.per_trial if t.success] or [np.nan])), 2),
            round(float(np.median([t["length"] / 10 for t in trials if t["success"]] or [np.nan])), 2),
        ],
        "decisions_per_s": round(sum(t["length"] - 1 for t in trials) / sum(t["seconds"] for t in trials), 2),
        "inference_ms": [round(float(edge), 1) for edge in np.percentile(inference, [50, 99])],
        "loop_late_ms": [round(float(edge), 1) for edge in np.percentile([t["loop_late_ms"] for t in trials], [50, 100])],
        "late_rows": sum(t["late_rows"] for t in trials),
        "silent": sum(t["silent"] for t in trials),
        "stopped": sum(t["stopped"] is not None for t in trials),
        "stopped_homing": sum(t["stopped_homing"] for t in trials),
    }


if __name__ == "__main__":
    os.environ.setdefault("MUJOCO_GL", "egl")
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--arms", nargs="+", default=["ur5e", "so101"])
    words.add_argument("--demonstrations", type=int, default=100)
    words.add_argument("--train", type=Path, default=Path("configs/train/reach_bc.yaml"), help="a config of `robolearn train`")
    words.add_argument("--trials", type=int, default=30)
    words.add_argument("--seed", type=int, default=20_000, help="of the starts; nothing was tuned on them")
    words.add_argument("--chunk", type=int, default=8)
    words.add_argument("--out", type=Path, default=Path("runs/deployment"))
    given = words.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of torch, which is not here yet
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.arms:
        line = json.dumps(run(name, given))
        append_line(given.out / "results.jsonl", line)
        print(line, flush=True)
