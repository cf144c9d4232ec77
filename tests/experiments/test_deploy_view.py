"""The figures of a flight, the same in the terminal and on the page."""

from __future__ import annotations

import json
import urllib.request

import numpy as np
import pytest
from rich.console import Console

import hardware
from hardware import RobotConfig
from hardware.types import Command, Observation, Source
from robolearn.experiments.deploy_view import DeployView
from robolearn.runtime.attended import LiveView
from robolearn.runtime.rollout import Step
from robolearn.tasks import Outcome


def step(index: int, source: Source, **notes: float) -> Step:
    action = np.zeros(2, np.float32)
    return Step(index, Observation(7.0 + 0.1 * index, {}, {}), Command(0.0, action, source, notes), action, Outcome(0.0, False, False))


def test_both_say_the_same_and_the_episode_keeps_what_matters() -> None:
    shown = []
    flown = (Source.HUMAN, Source.POLICY, Source.POLICY, Source.HUMAN, Source.HUMAN, Source.NONE, Source.POLICY)
    with hardware.open(RobotConfig(body="fake:state")) as robot, LiveView(0) as page:
        view = DeployView(robot, 1, 5, [True, False, True], shown.append, page)
        for index, source in enumerate(flown):
            notes = {"inference_ms": 20.0 + index, "chunk_position": float(index % 2), "late_rows": 3.0} if source is Source.POLICY else {}
            view.on_step(step(index, source, **notes))
        with urllib.request.urlopen(f"{page.url}/figures", timeout=5) as answer:
            figures = dict(json.load(answer))
        assert figures[""] == "episode 2 of 5"
        assert figures["episode"] == "row 6, 0.6 s; the policy flies, taken over 2 times"
        assert figures["policy"] == "22 ms, at most 26; 3 rows too late, 1 silent"  # rows 1 (the first), 2 and 6
        assert figures["so far"].startswith("2 of 3 successful (95 %: ")
        assert figures["governor"] == "nothing to change"
        robot.stop("operator [x]")
        view.on_step(step(7, Source.NONE))
        assert dict(page.figures)["governor"] == "STOPPED: operator [x]"
    assert view.facts() == {"inference_ms": 22.0, "late_rows": 3.0, "takeovers": 2}
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(shown[-1])
    text = console.export_text()
    for name, said in page.figures:
        assert name in text and said in text
    console.file.close()


def test_before_the_policy_was_asked_there_are_figures_too() -> None:
    with hardware.open(RobotConfig(body="fake:state")) as robot:
        view = DeployView(robot, 0, 1, [], lambda table: None)
        view.on_step(step(0, Source.HUMAN))
        assert dict(view.figures(step(0, Source.HUMAN)))["so far"] == "0 of 0 successful (95 %: 0 to 100 %)"
        assert view.facts()["inference_ms"] == pytest.approx(0.0)
