"""Whatever a writer's death or a full disk cuts short: finished episodes stay, the store opens, the next writer goes on.

`python tests/data/cut_short.py KIND HOW 1 FOLDER` tries every single call; here a spread of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import robolearn

SCRIPT = Path(__file__).with_name("cut_short.py")


def run(tmp_path, kind, how, stride) -> list[dict]:
    environment = os.environ | {"PYTHONPATH": str(Path(robolearn.__path__[0]).parent)}
    command = [sys.executable, SCRIPT, kind, how, str(stride), tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("kind", "stride"), [("append", 13), ("extend", 29)])
def test_killed_while_storing_whole_episodes(tmp_path, kind, stride):
    for line in run(tmp_path, kind, "kill", stride)[:-1]:
        assert line["ending"] == "killed"
        assert line["after"] in ([0], [0, 1], [0, 1, 2])
        assert line["final"] == [*line["after"], 9]


@pytest.mark.parametrize(("kind", "stride"), [("append", 17), ("record", 101)])
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, kind, stride):
    *cut, whole = run(tmp_path, kind, "full", stride)
    for line in cut:
        assert line["ending"] in ("refused", "done")  # some calls need no space
        assert line["after"] == ([0] if line["ending"] == "refused" else [0, 1])
    assert (whole["ending"], whole["after"], whole["recovered"]) == ("done", [0, 1], [])


def test_a_killed_recording_is_recovered_up_to_what_was_written(tmp_path):
    lines = run(tmp_path, "record", "kill", 67)
    for line in lines[:-1]:
        assert line["ending"] == "killed"
        assert line["after"] in ([0], [0, 1])
        rows = sum(line["recovered"])
        assert line["final"] == [*line["after"], *([1] if rows else []), 9]
    grown = [sum(line["recovered"]) for line in lines if line["after"] == [0]]
    assert grown == sorted(grown) and grown[-1] > 250  # the later the cut, the more there is
