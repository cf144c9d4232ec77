"""A robot behind a socket: what a body must keep, and what becomes of it when its client is wild, hangs, or dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hardware
from hardware import RealConfig, RobotConfig, remote
from hardware.fake import ARM
from hardware.network import keys, server
from hardware.network.client import Client, NoAnswer
from hardware.network.served_robot import ServedRobot
from hardware.network.wire import pack, unpack
from hardware.remote import NetworkClock, RemoteRobot
from hardware.robot import SafeRobot
from hardware.testing import LimitProbe, RobotContract
from hardware.types import Command, HardwareError, Source
from tests.hardware.network.serving import raw, served
from tests.hardware.test_process import go, robot_of, silence_stops_it_and_a_reset_goes_on
from tests.waiting import until

pytest.importorskip("zmq")


def config(address: str, key_file: Path) -> RobotConfig:
    return RobotConfig("remote", arm=RealConfig(address=address, server_key=str(key_file)))


class TestFakeBehindASocket(RobotContract):
    """The fake body, pictures and all, its time simulated."""

    @pytest.fixture(autouse=True)
    def _serve(self, tmp_path: Path) -> Iterator[None]:
        with hardware.open(RobotConfig("fake")) as self.there:
            self.probe = LimitProbe.attach(self.there)
            with served(ServedRobot(self.there), tmp_path / "keys") as self.place:
                yield

    def make(self) -> SafeRobot:
        return hardware.open(config(*self.place[:2]))

    def test_it_is_known_without_being_taken(self) -> None:
        with self.make():
            assert hardware.spec_of(config(*self.place[:2])) == self.there.spec == hardware.spec_of(RobotConfig("fake"))

    def test_limits_hold_at_the_actuator_under_noise(self) -> None:
        with self.make() as robot:
            robot.reset(np.random.default_rng(0))
            rng, low, high = np.random.default_rng(2), np.array(robot.spec.action.low), np.array(robot.spec.action.high)
            for _ in range(20):
                robot.send(Command(robot.observe().time, rng.uniform(low, high).astype(np.float32), Source.POLICY))
        assert self.probe.setpoints > 200
        assert not self.probe.violations, self.probe.violations

    def test_what_is_seen_and_done_is_as_without_the_socket(self) -> None:
        with hardware.open(RobotConfig("fake")) as beside, self.make() as robot:
            seeds = np.random.default_rng(3), np.random.default_rng(int(np.random.default_rng(3).integers(2**63)))
            for one, rng in zip((robot, beside), seeds, strict=True):
                one.reset(rng)
            for _ in range(5):
                far, near = robot.observe(), beside.observe()
                np.testing.assert_array_equal(far.images["top"], near.images["top"])
                np.testing.assert_array_equal(far.state["joint_pos"], near.state["joint_pos"])
                there, here = (one.send(Command(seen.time, ARM.home + 0.1, Source.POLICY)) for one, seen in ((robot, far), (beside, near)))
                np.testing.assert_array_equal(there, here)
            assert robot.stopped is None
            np.testing.assert_array_equal(robot.governor.setpoint.q, beside.governor.setpoint.q)

    def test_a_wild_client_breaks_no_limit(self) -> None:
        """Whatever a client with a known key says: it may stop the robot, never hurt it."""
        with raw(*self.place[:2]) as line:
            self._be_wild(line)
        assert self.probe.setpoints > 1000
        assert not self.probe.violations, self.probe.violations
        until(lambda: "the client is gone: link lost" in self.place[2])
        with self.make() as robot:
            assert robot.stopped is not None
            robot.reset(np.random.default_rng(0))
            assert robot.stopped is None

    def _be_wild(self, line: Any) -> None:
        rng = np.random.default_rng(0)
        line.send(pack([1, "open", "", []]))
        token = unpack(line.recv())[2]
        words = ["observe", "send", "reset", "stop", "hold", "anchor", "governor", "beat", "urge", "loop", "__init__", "", "left"]
        self.there.reset(np.random.default_rng(0))
        for number in range(2, 600):
            numbers = rng.uniform(-3, 3, rng.choice([2, 2, 2, 2, 0, 1, 3, 50])).astype(rng.choice(["<f4", "<f8", "<i8"]))
            numbers = numbers if rng.random() < 0.7 else np.full_like(numbers, rng.choice([1e30, np.nan, np.inf]), np.float32)
            when = self.there.clock.now() + float(rng.choice([0, 0, 0, -1e3, 1e3, np.nan]))
            arguments: list = [[when, numbers, int(rng.integers(-1, 8))], [], ["x" * 500], [7], [None], [[[]]], [{"a": numbers}]]
            said = arguments[0] if (what := rng.choice(words, p=[0.3, 0.4, *(11 * [0.3 / 11])])) == "send" else arguments[rng.integers(7)]
            said = {"observe": [], "reset": [7, None]}.get(str(what), said)
            message = pack([number, str(what), token, said])
            line.send(message if rng.random() > 0.05 else bytes(rng.permutation(list(message))))
            assert line.poll(10_000)
            assert unpack(line.recv())[1] in ("ok", "refused", "lost")


SERVER = """
import sys
from pathlib import Path
from hardware.network.keys import ServerKeys
from hardware.network.served_robot import ServedRobot
from hardware.network.server import Server
from tests.hardware.test_process import robot_of
if __name__ == "__main__":
    with robot_of() as robot, Server(ServedRobot(robot), "tcp://127.0.0.1:*", ServerKeys.load(Path(sys.argv[1]))) as server:
        print(server.address, flush=True)
        server.run()
"""
PILOT = """
import sys, time
import numpy as np
import hardware
from pathlib import Path
from tests.hardware.test_remote import ARM, config, go
if __name__ == "__main__":
    with hardware.open(config(sys.argv[1], Path(sys.argv[2]))) as robot:
        robot.reset(np.random.default_rng(0))
        for k in range(10**6):
            robot.observe(); go(robot, ARM.home + 0.4 * np.sin(0.5 * k))
            if k == 5: print("flying", flush=True)
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """An arm in real time, its loop in a process, behind a server in another."""
    folder = tmp_path_factory.mktemp("real")
    keys.make(folder / "keys")
    (folder / "server.py").write_text(SERVER)
    (folder / "pilot.py").write_text(PILOT)
    command = [sys.executable, str(folder / "server.py"), str(folder / "keys")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), folder / "keys" / keys.CLIENT
        finally:
            process.kill()  # leaving the block waits for it, however long


def opened(place: tuple[str, Path]) -> RemoteRobot:
    """As soon as there is room for another client."""
    robot = hardware.open(config(*place))
    assert isinstance(robot, RemoteRobot)
    ends = time.monotonic() + 20.0
    while True:
        try:
            robot.connect()
            return robot
        except HardwareError:
            assert time.monotonic() < ends
            time.sleep(0.05)


def test_in_real_time_a_command_by_the_robots_own_clock_is_flown(place: tuple[str, Path]) -> None:
    with opened(place) as robot:
        robot.reset(np.random.default_rng(0))
        goal = ARM.home + np.array([0.02, 0.02])
        np.testing.assert_allclose(go(robot, goal), goal, atol=1e-6)
        first = robot.observe()
        np.testing.assert_allclose(robot.send(Command(first.time, goal.astype(np.float32), Source.POLICY)), goal, atol=1e-6)
        assert 0.0 <= robot.clock.now() - first.time < 5.0
        until(lambda: np.abs(robot.governor.setpoint.q - goal).max() < 1e-3 and robot.governor.at_rest)


def test_a_server_that_is_gone_is_told_of_before_the_longest_way_home(tmp_path: Path) -> None:
    with robot_of() as there:
        with served(ServedRobot(there), tmp_path / "keys") as (address, key_file, _):
            robot = hardware.open(config(address, key_file))
            robot.connect()
        began = time.monotonic()
        with pytest.raises(NoAnswer, match="nobody listens there"):
            robot.reset(np.random.default_rng(0))
        assert time.monotonic() - began < 10.0
        robot.close()


def test_silence_stops_it_there(place: tuple[str, Path]) -> None:
    with opened(place) as robot:
        silence_stops_it_and_a_reset_goes_on(robot)


def test_a_stop_is_heard_while_it_drives_home(place: tuple[str, Path]) -> None:
    with opened(place) as robot:
        robot.reset(np.random.default_rng(0))
        for _ in range(8):
            robot.observe()
            go(robot, ARM.home + np.array([0.6, 0.6]))
        robot.stop("there")
        stopper = threading.Timer(0.3, robot.stop, ["operator: red button"])
        stopper.start()
        with pytest.raises(HardwareError, match="stopped on the way home: operator: red button"):
            robot.reset(np.random.default_rng(0))
        stopper.join()
        assert robot.governor.at_rest
        assert robot.stopped == "operator: red button"


def test_a_persons_stop_that_comes_before_a_reset_which_is_on_its_way_ends_it(
    place: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(place) as robot:
        robot.reset(np.random.default_rng(0))
        robot.final_stop = "operator"
        ask = RemoteRobot.ask

        def late(self: RemoteRobot, what: str, *arguments: Any, **options: Any) -> Any:
            if what == "reset":
                robot.brake("operator")
            return ask(self, what, *arguments, **options)

        monkeypatch.setattr(RemoteRobot, "ask", late)
        with pytest.raises(HardwareError, match="stopped .operator. and left where it is"):
            robot.reset(np.random.default_rng(0))
        assert robot.stopped == "operator"
    monkeypatch.undo()
    with opened(place) as robot:  # a command given anew
        robot.reset(np.random.default_rng(0))
        assert robot.stopped is None


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_client_that_dies_or_hangs_leaves_the_arm_at_rest_and_latched(place: tuple[str, Path], how: signal.Signals) -> None:
    """Half a second of silence stops it, two seconds of it let the next client in."""
    pilot_py = place[1].parents[1] / "pilot.py"
    with subprocess.Popen([sys.executable, str(pilot_py), place[0], str(place[1])], stdout=subprocess.PIPE, env=ENVIRONMENT) as pilot:
        try:
            assert pilot.stdout is not None
            assert pilot.stdout.readline() == b"flying\n"
            pilot.send_signal(how)
            with opened(place) as robot:
                assert robot.stopped in ("stale", "link lost")
                assert robot.governor.at_rest
                held = robot.governor.setpoint.q
                go(robot, ARM.home)
                assert robot.governor.interventions["stopped"] >= 1
                np.testing.assert_array_equal(robot.governor.setpoint.q, held)
                robot.reset(np.random.default_rng(0))
                assert robot.stopped is None
        finally:
            pilot.kill()


def test_a_loop_that_is_gone_is_told_and_the_next_request_too(tmp_path: Path) -> None:
    with robot_of() as there, served(ServedRobot(there), tmp_path / "keys") as place, hardware.open(config(*place[:2])) as robot:
        os.kill(there.loop._process.pid, signal.SIGKILL)  # pyright: ignore[reportAttributeAccessIssue]
        for _ in range(2):
            with pytest.raises(HardwareError, match="its loop's process is gone"):
                robot.send(Command(0.0, ARM.home, Source.POLICY))


def test_a_link_that_is_lost_is_an_error_here_and_a_stop_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "LOST_S", 0.3)
    monkeypatch.setattr(Client, "_beat", lambda self: None)  # the cable is pulled
    with hardware.open(RobotConfig("fake")) as there, served(ServedRobot(there), tmp_path / "keys") as place:
        robot = hardware.open(config(*place[:2]))
        robot.connect()
        robot.reset(np.random.default_rng(0))
        robot.send(Command(robot.observe().time, ARM.home + 0.3, Source.POLICY))
        until(lambda: there.stopped == "link lost")
        until(lambda: there.governor.at_rest)
        with pytest.raises(NoAnswer, match="did not hear us for too long"):
            robot.observe()
        robot.close()


def test_its_time_is_never_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(remote, "monotonic", lambda: now)
    monkeypatch.setattr("hardware.arms.lan.monotonic", lambda: now)
    clock, there = NetworkClock(simulated=False), lambda: now + 5000.0
    for delay in (0.05, 0.002, 0.3, 0.01):
        stamp = there()
        now += delay
        clock.heard(stamp)
        assert clock.now() <= there()
    assert clock.now() == pytest.approx(there() - 0.002)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (RobotConfig("remote"), r"arm\.server_key: missing"),
        (RobotConfig("remote", arm=RealConfig("tcp://pc:5556")), r"arm\.server_key: missing"),
        (
            RobotConfig("remote", rate_hz=5.0, arm=RealConfig("tcp://pc:5556", server_key="k")),
            r"RobotConfig\.rate_hz: 5\.0; a remote robot's",
        ),
        (RobotConfig("remote", arm=RealConfig("tcp://pc:5556", server_key="k", speed=0.9)), r"RobotConfig\.arm\.speed: 0\.9; a remote"),
        (RobotConfig("remote", arm=RealConfig("10.0.0.1", server_key="k")), "address: '10.0.0.1'; valid: tcp://HOST:PORT"),
        (RobotConfig("remote", arm=RealConfig("tcp://pc:5556", server_key="/none/client.key")), "/none/client.key: No such file"),
        (RobotConfig("ur5e", arm=RealConfig("10.0.0.1", server_key="k")), "ur5e is no remote robot"),
        (RobotConfig("fake", arm=RealConfig("10.0.0.1", server_key="k")), "fake is no remote robot"),
    ],
)
def test_what_is_no_remote_robot(given: RobotConfig, message: str) -> None:
    with pytest.raises(HardwareError, match=message):
        hardware.open(given)
