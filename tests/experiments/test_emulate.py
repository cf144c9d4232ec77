"""A double started as a user does, and driven by another process's driver."""

from __future__ import annotations

import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from hardware import arms
from hardware.doubles import Double
from robolearn.core.errors import UserError
from robolearn.experiments import emulate

pytest.importorskip("scservo_sdk")


def test_an_arm_at_an_address_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "robolearn.cli", "emulate", "--arm", "so101"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as double:
        try:
            assert double.stdout is not None
            arm = arms.drive("so101", double.stdout.readline().strip())
            arm.connect()
            # Its motors were off until now, so that it may have sunk: from here on it stays where it is.
            np.testing.assert_allclose(arm.read().q, arm.spec.home, atol=0.6)
            arm.close()
            double.send_signal(signal.SIGINT)
            assert double.wait(30) == 0
        finally:
            double.kill()  # a failure above must not leave it running, and the test waiting for it


class Standing(Double):
    """Judged by a test, and nothing else."""

    def __init__(self) -> None:
        self.there = False
        self.hung: list[np.ndarray] = []
        self.stage = SimpleNamespace(draw=lambda rng: rng.uniform(size=3))

    @property
    def reached(self) -> bool:
        return self.there

    def place_goal(self, position: np.ndarray) -> None:
        self.hung.append(position)


def test_a_goal_that_was_reached_hangs_somewhere_else_a_moment_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now, double = [0.0], Standing()
    monkeypatch.setattr(emulate.time, "monotonic", lambda: now[0])
    goals, hung = emulate._Goals(double, seed=3), double.hung
    for time, reached, so_far in ((10.0, False, 1), (11.0, True, 1), (12.0, False, 1), (13.5, False, 2), (20.0, False, 2)):
        now[0], double.there = time, reached
        goals.look()
        assert len(hung) == so_far, time
    np.testing.assert_array_equal(hung[0], np.random.default_rng(3).uniform(size=3))
    assert (hung[0] != hung[1]).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (emulate.Config(arm="r2d2"), "arm: 'r2d2'; valid: .*so101"),
        (emulate.Config(seconds=-1), "seconds: -1 s; valid: 0 or more"),
        (emulate.Config(scene="reach", size=(84, 5000)), r"size: \(84, 5000\) px; valid: 16 to 2048 each"),
    ],
)
def test_what_cannot_be_emulated(config: emulate.Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        emulate.run(config)
