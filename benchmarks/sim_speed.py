"""robosuite Lift with two 84x84 cameras at 20 decisions per second: robosuite as it comes against ours, in one run.

    python benchmarks/sim_speed.py --out sim_speed.json --picture docs/images/sim_side_by_side.png

Both take the same kind of random actions. Rounds alternate, so that whatever else the machine does falls on both; the
numbers are medians over rounds. robosuite: env.step of its default environment. Ours: SafeRobot.send and observe, the
governor and its checks included.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

import hardware
import hardware.mujoco  # sets up off-screen OpenGL before anything imports MuJoCo
from hardware import RobotConfig
from hardware.robot import SafeRobot
from hardware.types import Command, Source
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for

RATE_HZ, SIZE = 20.0, 84
CAMERAS = {"agentview": "agentview", "wrist": "robot0_eye_in_hand"}  # ours -> robosuite's


@dataclass
class Args:
    rounds: int = 7
    """alternating rounds"""
    seconds: float = 1.5
    """of each measurement, each round [s]"""
    out: Path | None = None
    """where the numbers go, JSON"""
    picture: Path | None = None
    """where the side-by-side picture goes, PNG"""


def robosuite_process(pipe: Any) -> None:
    """robosuite, untouched, in a process of its own: its renderer assumes that its OpenGL context is the only one.

    Takes ("two cameras" | "no cameras", seconds) and sends steps per second; takes ("draw", {joint: qpos}) and sends images.
    """
    logging.disable(logging.WARNING)
    blind, env = robosuite_default(cameras=False), robosuite_default(cameras=True)
    rng = np.random.default_rng(0)
    env.visualize(vis_settings=dict.fromkeys(env._visualizations, False))  # its helper lines: off, as a reset would
    envs = {"two cameras": env, "no cameras": blind}
    while (message := pipe.recv()) is not None:
        what, value = message
        if what == "draw":
            for joint, qpos in value.items():
                env.sim.data._data.joint(joint).qpos[:] = qpos
            env.sim.forward()
            pipe.send({name: env.sim.render(SIZE, SIZE, camera_name=theirs)[::-1] for name, theirs in CAMERAS.items()})
        else:
            chosen = envs[what]
            pipe.send(per_second(lambda env=chosen: env.step(rng.uniform(-0.3, 0.3, env.action_dim)), value))


def robosuite_default(cameras: bool) -> Any:
    import robosuite

    views = {"camera_names": list(CAMERAS.values()), "camera_heights": SIZE, "camera_widths": SIZE} if cameras else {}
    # Not reset: that would make a second OpenGL context, and freeing the first one ruins it (robosuite 1.5.2).
    return robosuite.make(
        "Lift",
        robots="Panda",
        control_freq=int(RATE_HZ),
        use_camera_obs=cameras,
        has_offscreen_renderer=cameras,
        ignore_done=True,
        seed=0,
        **views,
    )


def step_ours(robot: SafeRobot, rng: np.random.Generator) -> Callable[[], object]:
    low, high = np.array(robot.spec.action.low), np.array(robot.spec.action.high)
    robot.reset(rng)
    newest = [robot.observe()]

    def step() -> None:
        action = rng.uniform(0.3 * low, 0.3 * high).astype(np.float32)
        robot.send(Command(newest[0].time, action, Source.SCRIPTED))
        newest[0] = robot.observe()

    return step


def per_second(step: Callable[[], object], seconds: float) -> float:
    step()
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        count += 1
    return count / (time.perf_counter() - start)


class Stages:
    """Drawing both cameras once, one saving added at a time."""

    def __init__(self, robot: SafeRobot) -> None:
        world: Any = robot.world
        self._theirs, self._scene, self._renderers = robosuite_default(cameras=False), world.scene, []
        full, light = self._theirs.sim, self._scene
        self.draw: dict[str, Callable[[], object]] = {
            "robosuite's settings": self._stage(full.model._model, full.data._data, multisampling=4, mirrors=True),
            "no multisampling": self._stage(full.model._model, full.data._data, multisampling=0, mirrors=True),
            "no mirror images": self._stage(full.model._model, full.data._data, multisampling=0, mirrors=False),
            "lightened meshes": self._stage(light.model, light.data, multisampling=0, mirrors=False),
            "only what is seen (ours)": lambda: [camera.read() for camera in robot.cameras.values()],
        }

    def _stage(self, model: Any, data: Any, multisampling: int, mirrors: bool) -> Callable[[], object]:
        import mujoco

        model.vis.quality.offsamples = multisampling
        renderer = mujoco.Renderer(model, SIZE, SIZE)
        renderer.scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = mirrors
        option = mujoco.MjvOption()
        option.geomgroup[0] = 0
        self._renderers.append(renderer)

        def draw() -> None:
            for camera in CAMERAS.values():
                renderer.update_scene(data, camera, option)
                renderer.render()

        return draw

    def close(self) -> None:
        for renderer in self._renderers:
            renderer.close()


def measure(args: Args, pipe: Any, robot: SafeRobot) -> dict[str, Any]:
    def theirs(what: str, seconds: float) -> float:
        pipe.send((what, seconds))
        return pipe.recv()

    rng, stages = np.random.default_rng(0), Stages(robot)
    with hardware.open(RobotConfig(rate_hz=RATE_HZ, cameras=())) as blind:
        world: Any = blind.world
        ours = {
            "ours, two cameras": step_ours(robot, rng),
            "ours, no cameras": step_ours(blind, rng),
            "ours, physics alone": lambda: world.scene.advance(1 / RATE_HZ),
        }
        rates: dict[str, list[float]] = defaultdict(list)
        for round_number in range(args.rounds):
            for what in ("two cameras", "no cameras"):
                rates[f"robosuite, {what}"].append(theirs(what, args.seconds))
                rates[f"ours, {what}"].append(per_second(ours[f"ours, {what}"], args.seconds))
            rates["ours, physics alone"].append(per_second(ours["ours, physics alone"], args.seconds))
            for name, draw in stages.draw.items():
                rates[name].append(per_second(draw, args.seconds / 3))
            print(f"round {round_number + 1}/{args.rounds}", flush=True)
    stages.close()
    median = {name: float(np.median(values)) for name, values in rates.items()}
    milliseconds = {name: 1e3 / median[name] for name in median}
    pairs = zip(rates["robosuite, two cameras"], rates["ours, two cameras"], strict=True)
    return {
        "steps_per_s": {name: median[name] for name in median if name not in stages.draw},
        "ratio_two_cameras": median["ours, two cameras"] / median["robosuite, two cameras"],
        "ratio_two_cameras_by_round": [mine / theirs for theirs, mine in pairs],
        "ratio_no_cameras": median["ours, no cameras"] / median["robosuite, no cameras"],
        "ours_ms_per_step": {
            "physics": milliseconds["ours, physics alone"],
            "governor, kinematics, loop": milliseconds["ours, no cameras"] - milliseconds["ours, physics alone"],
            "two cameras": milliseconds["ours, two cameras"] - milliseconds["ours, no cameras"],
        },
        "drawing_two_cameras_ms": {name: milliseconds[name] for name in stages.draw},
        "rounds": args.rounds,
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg(), "platform": platform.platform(), "gl": os.environ["MUJOCO_GL"]},
    }


def show(result: dict[str, Any]) -> None:
    table = Table("", "", title="Lift, 20 decisions/s of simulated time, medians")
    for name, value in result["steps_per_s"].items():
        table.add_row(name, f"{value:.1f} steps/s")
    table.add_row("[bold]ours / robosuite, two cameras", f"[bold]{result['ratio_two_cameras']:.1f}x")
    table.add_row("ours / robosuite, no cameras", f"{result['ratio_no_cameras']:.1f}x")
    for group, title in (("ours_ms_per_step", "ours: "), ("drawing_two_cameras_ms", "drawing two cameras: ")):
        for name, value in result[group].items():
            table.add_row(title + name, f"{value:.2f} ms")
    for name, value in result["mean_pixel_difference"].items():
        table.add_row(f"mean difference of {name} images", f"{value:.2f} of 255")
    Console().print(table)


def both_views(pipe: Any, robot: SafeRobot) -> list[np.ndarray]:
    """The scene as it stands: robosuite's agentview, ours, robosuite's wrist, ours."""
    world: Any = robot.world
    model, data = world.scene.model, world.scene.data
    pipe.send(("draw", {model.joint(i).name: data.joint(i).qpos.copy() for i in range(model.njnt)}))
    theirs = pipe.recv()
    return [image for name in CAMERAS for image in (theirs[name], robot.cameras[name].read())]


def difference(pipe: Any, robot: SafeRobot) -> dict[str, float]:
    """Mean absolute difference of pixel values (0..255), by camera: are both drawing the same scene?"""
    views = [image.astype(float) for image in both_views(pipe, robot)]
    return {name: float(np.abs(views[2 * i] - views[2 * i + 1]).mean()) for i, name in enumerate(CAMERAS)}


def picture(path: Path, pipe: Any, robot: SafeRobot) -> None:
    """Both renderings of the same two moments, each pixel enlarged: the start, and the cube in the hand."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows: list[list[np.ndarray]] = []

    def watch(step: Any) -> None:
        if step.index == 0 or (step.outcome.success and len(rows) == 1):
            rows.append(both_views(pipe, robot))

    seed = 0
    while len(rows) < 2:
        rows.clear()
        rollout(robot, operator_for(robot, np.random.default_rng(seed)), task_for("robosuite:Lift"), np.random.default_rng(seed), watch)
        seed += 1
    figure, axes = plt.subplots(2, 4, figsize=(12, 6.4))
    titles = [f"{name}: {who}" for name in CAMERAS for who in ("robosuite's default", "ours")]
    for axis, image, title in zip(axes.flat, [image for row in rows for image in row], titles * 2, strict=True):
        axis.imshow(image, interpolation="nearest")
        axis.set_title(title, fontsize=10)
        axis.axis("off")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main(args: Args) -> None:
    processes = multiprocessing.get_context("spawn")
    pipe, theirs = processes.Pipe()
    peer = processes.Process(target=robosuite_process, args=(theirs,), daemon=True)
    peer.start()
    with hardware.open(RobotConfig(rate_hz=RATE_HZ, image_size=SIZE)) as robot:
        if args.picture is not None:
            picture(args.picture, pipe, robot)
        if args.rounds:
            result = measure(args, pipe, robot) | {"mean_pixel_difference": difference(pipe, robot)}
            show(result)
            if args.out is not None:
                args.out.write_text(json.dumps(result, indent=2) + "\n")
    pipe.send(None)
    peer.join()


if __name__ == "__main__":
    main(tyro.cli(Args))
