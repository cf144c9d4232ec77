"""A double started as a user does, and driven by another process's driver."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

from hardware import arms
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
            assert double.wait(30) == 130
        finally:
            double.kill()  # a failure above must not leave it running, and the test waiting for it


@pytest.mark.parametrize(
    ("config", "message"),
    [(emulate.Config(arm="r2d2"), "arm: 'r2d2'; valid: .*so101"), (emulate.Config(seconds=-1), "seconds: -1 s; valid: 0 or more")],
)
def test_what_cannot_be_emulated(config: emulate.Config, message: str) -> None:
    with pytest.raises(UserError, match=message):
        emulate.run(config)
