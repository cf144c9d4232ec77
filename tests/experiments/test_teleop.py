"""The teleop verb: straight into a store, resumable, and stopped by Ctrl-C robot first."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from hardware import RobotConfig
from hardware.types import HardwareError, Source
from robolearn.cli import parse
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.experiments import teleop
from robolearn.experiments.teleop import Config, run
from robolearn.tasks import operator_for

FAKE = RobotConfig(body="fake", image_size=16)
# The verb in a process of its own, which also writes down how the robot was left.
DRIVER = """
import sys
import threading
from hardware.robot import SafeRobot
from robolearn.cli import main
close = SafeRobot.close
def closing(robot):
    close(robot)
    open(sys.argv[1], "a").write(f"{robot.governor.at_rest} {robot.stopped}\\n")
SafeRobot.close = closing
sys.exit(main(sys.argv[2:]))
"""


def episodes(path):
    with EpisodeStore.open(path / "dataset.zarr") as store:
        return [store.read(i) for i in range(len(store))]


def test_episodes_go_straight_into_a_store(tmp_path):
    run(Config(out=tmp_path, robot=FAKE, episodes=3, seed=4, videos=1))
    recorded = episodes(tmp_path)
    assert len(recorded) == 3
    for index, episode in enumerate(recorded):
        assert (episode.source == Source.SCRIPTED).all()
        assert episode.meta["operator"] == "scripted" and episode.meta["seed"] == [4, index]
        assert episode.meta["task"] == "reach" and episode.meta["instruction"] == "touch the target"
    assert [p.name for p in (tmp_path / "videos").iterdir()] == ["episode_000.mp4"]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [r["length"] for r in rows] == [len(e) for e in recorded]
    done = json.loads((tmp_path / "done.json").read_text())
    assert (done["episodes"], done["rows"], done["pilot"]) == (3, sum(map(len, recorded)), "scripted")


def test_mixed_episodes_carry_the_skill_they_were_flown_with(tmp_path):
    run(Config(out=tmp_path, robot=RobotConfig(body="robosuite:Reach:state"), pilot="mixed", episodes=3))
    recorded = episodes(tmp_path)
    assert all((e.source == Source.SCRIPTED).all() and e.meta["operator"] == "mixed" for e in recorded)
    skills = [e.meta["skill"] for e in recorded]
    assert len(set(skills)) == 3 and all(0.0 <= skill <= 1.0 for skill in skills)
    assert {"goal_pos", "ee_pos"} <= set(recorded[0].state) and not recorded[0].images


def test_the_same_command_again_returns_at_once_and_touches_nothing(tmp_path, capfd):
    config = Config(out=tmp_path, robot=FAKE, episodes=2, videos=0)
    run(config)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    run(config)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    assert "already complete" in capfd.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_the_robot_keeps_what_is_finished_and_resumes(tmp_path, sign):
    out, left = tmp_path / "run", tmp_path / "left"
    words = ["teleop", "--robot.body", "fake:state", "--episodes", "10", "--videos", "0", "--out", str(out)]
    command = [sys.executable, "-c", DRIVER, str(left), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    journal = out / "dataset.zarr" / "episodes.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n") >= 3):
        time.sleep(0.01)
    process.send_signal(sign)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130 and "the same command resumes" in said
    at_rest, reason = left.read_text().split(maxsplit=1)
    assert at_rest == "True" and reason.strip() != "None"
    kept = episodes(out)
    assert 3 <= len(kept) < 10
    assert not (out / "done.json").exists()

    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    run(Config(out=tmp_path / "whole", robot=RobotConfig(body="fake:state"), episodes=10, videos=0))
    resumed, whole = episodes(out), episodes(tmp_path / "whole")
    assert len(resumed) == 10
    for one, other in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(one.action, other.action, atol=1e-5)  # a clock that began elsewhere rounds elsewhere
        np.testing.assert_array_equal(one.state["target"], other.state["target"])


class Moody:
    """A scripted operator that ends each episode with the next word of `words`."""

    def __init__(self, pilot, words):
        self.pilot, self.words, self.verdict = pilot, words, None

    def reset(self):
        self.pilot.reset()
        self.steps, self.verdict = 0, None

    def decide(self, observation):
        self.steps += 1
        if self.steps == 4:
            self.verdict = self.words.pop(0)
        return self.pilot.decide(observation)


def test_redo_discards_and_flies_the_same_start_again_and_quit_keeps_what_is_there(tmp_path, monkeypatch, capfd):
    words = ["success", "discard", "failure", "quit"]
    monkeypatch.setattr(teleop, "operator_for", lambda robot, rng: Moody(operator_for(robot, rng), words))
    run(Config(out=tmp_path, robot=FAKE, episodes=9, videos=0))
    recorded = episodes(tmp_path)
    assert [e.meta["verdict"] for e in recorded] == ["success", "failure"]
    assert [(e.success, bool(e.terminal[-1]), float(e.reward[-1] == 1.0)) for e in recorded] == [(True, True, 1.0), (False, False, 0.0)]
    assert [e.meta["seed"][1] for e in recorded] == [0, 1], "the discarded one was flown again from its own start"
    assert not (tmp_path / "done.json").exists()
    assert "the same command continues" in capfd.readouterr().err


def test_a_store_of_another_robot_is_refused_with_the_difference(tmp_path):
    config = Config(out=tmp_path, robot=FAKE, episodes=1, videos=0)
    run(config)
    (tmp_path / "done.json").unlink()
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text.replace("image_size: 16", "image_size: 24"))
    with pytest.raises(UserError, match=r"cameras\.top: \[16, 16\] != \[24, 24\]"):
        run(Config(out=tmp_path, robot=RobotConfig(body="fake", image_size=24), episodes=1, videos=0))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--robot.body", "hexapod"], "hexapod.*valid"),
        (["--robot.body", "fake", "--episodes", "0"], "episodes: 0; expected at least 1"),
        (["--robot.body", "fake", "--pilot", "keyboard"], "'joint_pos'.*'ee_delta'"),
        (["--robot.body", "pusht"], "no scripted operator for 'pusht'.*valid"),
        (["--robot.body", "fake", "--pilot", "ghost"], "ghost"),
        (["--robot.body", "fake", "--pilot", "mixed"], "mixed needs a body whose actions are steps"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(tmp_path, words, message):
    with pytest.raises((UserError, HardwareError), match=message) as caught:
        run(parse("teleop", Config, ["--out", str(tmp_path / "run"), *words]))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_person_drives_the_simulator_from_a_terminal(tmp_path):
    """A real process on a real pseudo-terminal: the hand goes down, the gripper closes, the person says success."""
    master, slave = os.openpty()
    words = ["teleop", "--pilot", "keyboard", "--episodes", "1", "--videos", "0", "--view-port", "0", "--out", str(tmp_path / "run")]
    process = subprocess.Popen([sys.executable, "-m", "robolearn.cli", *words], stdin=slave, stderr=subprocess.PIPE, text=True)
    heard = ""
    while "u/d" not in heard:  # the key map is shown when it is ready to drive
        line = process.stderr.readline()
        assert line, heard
        heard += line
    assert "cameras: http://127.0.0.1:" in heard
    drain = threading.Thread(target=process.stderr.read, daemon=True)
    drain.start()
    started = time.monotonic()
    for key in b"+" * 4 + b"d" * 20 + b" " + b"u" * 5:
        os.write(master, bytes([key]))
        time.sleep(0.1)
    os.write(master, b"s")
    assert process.wait(60) == 0
    drain.join()
    process.stderr.close()
    os.close(master), os.close(slave)
    (episode,) = episodes(tmp_path / "run")
    assert (episode.source == Source.HUMAN).all() and episode.success and episode.meta["operator"] == "keyboard"
    height, gripper = episode.state["ee_pos"][:, 2], episode.action[:, 3]
    assert height.min() < height[0] - 0.05 and height[-1] > height.min() + 0.01
    assert gripper[0] == 1 and gripper[-1] == 0
    assert episode.time[-1] - episode.time[0] < time.monotonic() - started + 0.5, "no faster than the world"


def test_a_recording_that_was_cut_off_is_told_of_and_recovered_when_asked(tmp_path, capfd):
    config = Config(out=tmp_path / "run", robot=FAKE, episodes=2, videos=0)
    run(config)
    with EpisodeStore.open(tmp_path / "run" / "dataset.zarr", "a") as store:
        first = store[0]
        with pytest.raises(KeyboardInterrupt), store.record() as recording:
            for t in range(3):
                recording.add(
                    time=float(first.time[t]),
                    images={name: frames[t] for name, frames in first.images.items()},
                    state={name: values[t] for name, values in first.state.items()},
                    action=first.action[t],
                    requested_action=first.requested_action[t],
                    reward=float(first.reward[t]),
                    terminal=False,
                    source=int(Source.SCRIPTED),
                )
            raise KeyboardInterrupt
    run(replace(config, episodes=3))
    assert "--recover appends what is complete" in capfd.readouterr().err
    run(replace(config, episodes=4, recover=True))
    assert "episode 3, 3 rows, recovered" in " ".join(capfd.readouterr().err.split())
    kept = episodes(tmp_path / "run")
    assert [e.meta.get("interrupted", False) for e in kept] == [False, False, False, True]
    np.testing.assert_array_equal(kept[3].action, first.action[:3])
