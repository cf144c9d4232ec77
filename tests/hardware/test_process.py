"""An arm's loop in a process of its own: real processes, an arm whose physics follows the wall clock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np
import pytest

from hardware.fake import ARM, LIMITS, FakeArm, tip
from hardware.governor import Governor
from hardware.kinematics import JointPosition
from hardware.process import ArmProcess
from hardware.robot import SafeRobot
from hardware.testing import RobotContract
from hardware.types import ArmState, ArraySpec, Command, HardwareError, RobotSpec, Source
from tests.waiting import until

ACTION = ArraySpec(("shoulder", "elbow"), ("rad", "rad"), tuple(ARM.q_min), tuple(ARM.q_max))
SPEC = RobotSpec("fake", {}, {"joint_pos": ACTION}, ACTION, "joint_pos", 10.0)


class WallArm(FakeArm):
    """A FakeArm in real time. journal: what became of it, for whoever looks when its process is gone."""

    def __init__(self, journal: str = "") -> None:
        super().__init__()
        self.journal, self.time = journal, time.monotonic()

    def read(self) -> ArmState:
        now = time.monotonic()
        if now > self.time:
            self.advance(now - self.time)
        return super().read()

    def close(self) -> None:
        super().close()
        if self.journal:
            Path(self.journal).write_text(f"closed {np.abs(self.dq).max():.3f}")


def start(journal: str = "") -> tuple[WallArm, Governor]:
    return WallArm(journal), Governor(ARM, LIMITS, ACTION, JointPosition(2, position=tip), 0.1)


def robot_of(journal: str = "") -> SafeRobot:
    return SafeRobot(SPEC, ArmProcess(partial(start, journal)), {}, lambda state: {"joint_pos": state.q})


@pytest.fixture
def robot() -> Iterator[SafeRobot]:
    with robot_of() as robot:
        yield robot


def go(robot: SafeRobot, goal: np.ndarray) -> np.ndarray:
    return robot.send(Command(robot.clock.now(), goal.astype(np.float32), Source.SCRIPTED))


def silence_stops_it_and_a_reset_goes_on(robot: SafeRobot) -> None:
    robot.reset(np.random.default_rng(0))
    go(robot, ARM.home + 0.1)
    until(lambda: robot.stopped == "stale")
    until(lambda: robot.governor.at_rest)
    robot.reset(np.random.default_rng(0))
    assert robot.stopped is None


class TestRobotInAProcess(RobotContract):
    def make(self) -> SafeRobot:
        return robot_of()

    def test_time_runs_at_the_declared_rate(self) -> None:
        """Never early; how late is the machine's affair."""
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            times = [robot.observe().time for _ in range(4)]
            assert (np.diff(times) > 0.09).all() or times[-1] - times[0] > 0.29

    def test_limits_hold_at_the_actuator_under_noise(self) -> None:
        """As its own rows say: nothing can be put between a loop and an arm in another process."""
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            rng = np.random.default_rng(2)
            for _ in range(10):
                robot.observe()
                go(robot, rng.uniform(ARM.q_min, ARM.q_max))
            rows = robot.loop.history(4000)  # pyright: ignore[reportAttributeAccessIssue]
            told = np.array([row.setpoint.q for row in rows])
            assert (np.abs(np.diff(told, axis=0)) <= ARM.v_max / ARM.rate_hz * 1.001).all()


def test_the_arm_moves_while_the_pilot_sleeps(robot: SafeRobot) -> None:
    robot.reset(np.random.default_rng(0))
    goal = ARM.home + np.array([0.02, 0.02])
    np.testing.assert_allclose(go(robot, goal), goal, atol=1e-6)
    until(lambda: np.abs(robot.loop.row().state.q - goal).max() < 0.005)  # pyright: ignore[reportAttributeAccessIssue]
    rows = robot.loop.history(50)  # pyright: ignore[reportAttributeAccessIssue]
    assert all(later.time > earlier.time for earlier, later in zip(rows, rows[1:], strict=False))


def test_holding_is_at_the_pose_that_is_commanded(robot: SafeRobot) -> None:
    """Where relative actions would start: on the way to a goal while it is on the way, then there."""
    goal = ARM.home + [0.15, 0.0]
    go(robot, goal)
    until(lambda: np.abs(robot.hold() - goal).max() < 1e-6, 5.0)
    assert go(robot, robot.hold()) == pytest.approx(goal)


def test_silence_stops_it_and_a_reset_goes_on(robot: SafeRobot) -> None:
    silence_stops_it_and_a_reset_goes_on(robot)


def test_a_chunk_is_flown_row_by_row_and_late_rows_are_dropped(robot: SafeRobot) -> None:
    robot.reset(np.random.default_rng(0))
    loop, now = robot.loop, robot.clock.now()
    assert isinstance(loop, ArmProcess)
    path = ARM.home + np.linspace(0, 0.1, 8)[1:, None]
    rows = [Command(now + 0.1 * (k - 2), q.astype(np.float32), Source.POLICY) for k, q in enumerate(path)]
    assert loop.schedule(rows) >= 1
    until(lambda: np.abs(loop.row().state.q - path[-1]).max() < 0.01)


def test_a_stop_is_heard_while_somebody_waits_for_the_way_home(robot: SafeRobot) -> None:
    robot.reset(np.random.default_rng(0))
    go(robot, ARM.home + np.array([0.6, 0.6]))
    until(lambda: np.abs(robot.loop.row().state.q - ARM.home).max() > 0.3)  # pyright: ignore[reportAttributeAccessIssue]
    stopper = threading.Timer(0.15, robot.stop, ["operator: red button"])
    stopper.start()
    with pytest.raises(HardwareError, match="stopped on the way home: operator: red button"):
        robot.loop.go_home()
    stopper.join()
    assert robot.governor.at_rest
    assert robot.stopped == "operator: red button"


def test_a_stop_while_a_reset_brakes_is_not_cleared_with_what_was_before(robot: SafeRobot, monkeypatch: pytest.MonkeyPatch) -> None:
    robot.reset(np.random.default_rng(0))
    go(robot, ARM.home + np.array([0.6, 0.6]))
    until(lambda: not robot.governor.at_rest)
    clear = robot.loop.clear

    def late(found: bool) -> None:
        robot.brake("operator")
        time.sleep(0.1)  # it is heard, and latched, by then
        clear(found)

    monkeypatch.setattr(robot.loop, "clear", late)
    with pytest.raises(HardwareError, match="stopped on the way home: operator"):
        robot.reset(np.random.default_rng(0))
    monkeypatch.undo()
    assert (robot.stopped, robot.governor.at_rest) == ("operator", True)
    robot.reset(np.random.default_rng(0))
    assert robot.stopped is None


def test_an_answer_that_nobody_waited_for_is_not_taken_for_another(robot: SafeRobot) -> None:
    loop = robot.loop
    assert isinstance(loop, ArmProcess)
    loop._pipe.send((10**6, "facts", ()))  # as an interrupted question would leave it
    admitted = go(robot, ARM.home)
    assert admitted.shape == (2,)


def test_a_fault_there_is_told_here() -> None:
    process = ArmProcess(partial(_mute))
    with pytest.raises(HardwareError, match="fake: no reply"):
        process.connect()
    with pytest.raises(HardwareError, match="not connected"):
        process.ask("facts")


def _mute() -> tuple[WallArm, Governor]:
    arm, governor = start()
    arm.lose_replies = 10**6
    return arm, governor


def test_its_process_killed_is_an_error_here_and_no_hang() -> None:
    robot = robot_of()
    robot.connect()
    os.kill(robot.loop._process.pid, signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(HardwareError, match="process is gone"):
        robot.loop.stop("operator")
    robot.close()


def test_once_connected_nothing_has_a_name_that_a_kill_would_leave_behind() -> None:
    robot = robot_of()
    with robot:
        name = robot.loop._ring.name  # pyright: ignore[reportAttributeAccessIssue]
        with pytest.raises(FileNotFoundError):
            SharedMemory(name)
        robot.reset(np.random.default_rng(0))
        assert robot.loop.history(10)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("how", "both"),
    [
        (signal.SIGKILL, False),
        (signal.SIGTERM, False),
        (signal.SIGHUP, True),  # a terminal tells both: it was closed,
        (signal.SIGQUIT, True),  # Ctrl-\\,
        (signal.SIGTSTP, True),  # Ctrl-Z, which stops the pilot only
    ],
)
def test_with_the_pilots_process_gone_the_arm_comes_to_rest_and_is_closed(tmp_path: Path, how: signal.Signals, both: bool) -> None:
    journal = tmp_path / "journal"
    script = (
        "import numpy as np, time\n"
        "from tests.hardware.test_process import robot_of, go, ARM\n"
        "if __name__ == '__main__':\n"
        f"    robot = robot_of({str(journal)!r}); robot.connect(); robot.reset(np.random.default_rng(0))\n"
        "    print('ready', flush=True)\n"
        "    for k in range(10**6):\n"
        "        go(robot, ARM.home + 0.2 * np.sin(0.5 * k)); time.sleep(0.05)\n"
    )
    (tmp_path / "pilot.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "pilot.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    ) as pilot:
        assert pilot.stdout is not None
        assert pilot.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        if both:
            os.killpg(pilot.pid, how)
            time.sleep(0.2)
        pilot.send_signal(signal.SIGKILL if both else how)
    until(journal.exists)
    until(lambda: journal.read_text().startswith("closed"))
    assert float(journal.read_text().split()[1]) < 0.2


class ThreadedArm(WallArm):
    """Its SDK has a thread, which tells how it is scheduled."""

    def connect(self) -> None:
        super().connect()
        sdk = threading.Thread(target=lambda: Path(self.journal).write_text(str(os.sched_getscheduler(0))))
        sdk.start()
        sdk.join()


def start_threaded(journal: str) -> tuple[WallArm, Governor]:
    return ThreadedArm(journal), start()[1]


def test_the_threads_of_an_sdk_are_as_urgent_as_the_loop(tmp_path: Path) -> None:
    """Else a busy machine keeps the newest measurement from a loop that is in time for it."""
    process = ArmProcess(partial(start_threaded, str(tmp_path / "scheduler")), fifo=True)
    process.connect()
    scheduler = int((tmp_path / "scheduler").read_text())
    process.close()
    if process.realtime != "SCHED_FIFO":
        pytest.skip(f"real-time priority: {process.realtime}")
    assert scheduler == os.SCHED_FIFO
