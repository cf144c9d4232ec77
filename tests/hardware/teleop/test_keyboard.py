"""The keyboard pilot on a real pseudo-terminal: what is typed at the master end is what a person types."""

import os
import termios
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from hardware.teleop.keyboard import Keyboard
from hardware.teleop.keys import TerminalKeys, UrgentKeys, parse
from hardware.testing import PilotContract
from hardware.types import ArraySpec, HardwareError, Observation, RobotSpec, Source
from tests.waiting import until

STEP = 0.02
ACTION = ArraySpec(("dx", "dy", "dz", "gripper"), ("m", "m", "m", "1"), (-STEP, -STEP, -STEP, 0.0), (STEP, STEP, STEP, 1.0))
SPEC = RobotSpec("arm", {}, {}, ACTION, "ee_delta", 10.0)
MOST = (STEP, STEP, STEP, 0.05, 0.05, 0.05)
POSE = ArraySpec(("dx", "dy", "dz", "rx", "ry", "rz", "gripper"), (*["m"] * 3, *["rad"] * 3, "1"), (*(-m for m in MOST), 0.0), (*MOST, 1.0))


class TestContract(PilotContract):
    def make(self):
        return Keyboard(SPEC), SPEC, at(0.0)


@pytest.fixture
def terminal():
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


@pytest.fixture
def keyboard(terminal):
    master, slave = terminal
    with Keyboard(SPEC, TerminalKeys(slave), speed=1.0) as pilot:
        pilot.reset()
        yield pilot, lambda text: os.write(master, text)


def at(time):
    return Observation(time, {}, {})


@pytest.mark.parametrize(
    ("typed", "step"),
    [
        (b"\x1b[A", (1, 0, 0)),
        (b"\x1b[B", (-1, 0, 0)),
        (b"\x1b[D", (0, 1, 0)),
        (b"\x1bOC", (0, -1, 0)),
        (b"u", (0, 0, 1)),
        (b"\x1b[6~", (0, 0, -1)),
        (b"\x1b[A\x1b[D", (1, 1, 0)),
        (b"uuuu", (0, 0, 1)),
        (b"\x1b[A\x1b[B", (0, 0, 0)),
    ],
)
def test_keys_move_in_the_robots_action_space(keyboard, typed, step):
    pilot, type_ = keyboard
    type_(typed)
    command = pilot.decide(at(0.0))
    np.testing.assert_allclose(command.action, [*(STEP * np.array(step)), 1.0], atol=1e-7)
    assert command.action.dtype == np.float32
    assert command.source == Source.HUMAN


def test_comma_and_point_turn_a_body_that_turns_and_no_other(terminal, keyboard):
    pilot, type_ = keyboard
    type_(b",")
    assert not pilot.decide(at(0.0)).action[:3].any()
    turning = replace(SPEC, action=POSE)
    with Keyboard(turning, TerminalKeys(terminal[1]), speed=1.0) as pilot:
        pilot.reset()
        for key, sign in ((b",", 1), (b".", -1), (b",.", 0)):
            type_(key)
            np.testing.assert_allclose(pilot.decide(at(0.0)).action, [0, 0, 0, 0, 0, sign * 0.05, 1], atol=1e-7)
        type_(b",")
        assert pilot.decide(at(0.1)).action[5] > 0
        assert not pilot.decide(at(0.3)).action[:6].any()
        type_(b",s")
        assert not pilot.decide(at(0.4)).action[:6].any(), "the last row must not turn"


def test_without_a_key_the_arm_holds(keyboard):
    pilot, type_ = keyboard
    assert not pilot.decide(at(0.0)).action[:3].any()
    type_(b"u")
    assert pilot.decide(at(0.1)).action[2] > 0
    assert pilot.decide(at(0.2)).action[2] > 0  # within hold_s of the key
    assert not pilot.decide(at(0.3)).action[:3].any()


def test_space_toggles_the_gripper_and_reset_opens_it(keyboard):
    pilot, type_ = keyboard
    type_(b" ")
    assert pilot.decide(at(0.0)).action[3] == 0
    assert pilot.decide(at(0.1)).action[3] == 0
    type_(b" ")
    assert pilot.decide(at(0.2)).action[3] == 1
    type_(b" ")
    pilot.decide(at(0.3))
    pilot.reset()
    assert pilot.decide(at(0.4)).action[3] == 1


@pytest.mark.parametrize(("key", "verdict"), [(b"s", "success"), (b"f", "failure"), (b"r", "discard"), (b"q", "quit")])
def test_a_person_ends_an_episode_and_reset_forgets_it(keyboard, key, verdict):
    pilot, type_ = keyboard
    type_(b"u" + key)
    assert not pilot.decide(at(0.0)).action[:3].any(), "the last row must not move"
    assert pilot.verdict == verdict
    pilot.reset()
    assert pilot.verdict is None


def test_what_is_typed_between_episodes_moves_nothing(keyboard):
    pilot, type_ = keyboard
    type_(b"uq")
    pilot.reset()
    assert not pilot.decide(at(0.0)).action[:3].any()
    assert pilot.verdict is None


def test_speed_keys_stay_within_the_robots_step(keyboard):
    pilot, type_ = keyboard
    type_(b"-u")
    slow = pilot.decide(at(0.0)).action[2]
    type_(b"++++++u")
    assert slow == pytest.approx(0.8 * STEP)
    assert pilot.decide(at(1.0)).action[2] == pytest.approx(STEP)


def test_an_arrow_cut_in_two_reads_is_one_arrow(keyboard):
    pilot, type_ = keyboard
    type_(b"\x1b")
    assert not pilot.decide(at(0.0)).action[:3].any()
    type_(b"[A")
    assert pilot.decide(at(0.1)).action[0] > 0


def test_parse_drops_unknown_sequences_and_keeps_the_rest():
    assert parse(b"a\x1b[15~b\x1b[") == (["a", "b"], b"\x1b[")


def test_the_terminal_is_given_back_even_after_an_error(terminal):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with pytest.raises(RuntimeError), Keyboard(SPEC, TerminalKeys(slave)):
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        assert termios.tcgetattr(slave)[3] & termios.ISIG, "Ctrl-C must go on interrupting"
        raise RuntimeError
    assert termios.tcgetattr(slave) == before


def test_a_terminal_that_is_gone_is_said():
    master, slave = os.openpty()
    keys = TerminalKeys(slave)
    keys.open()
    os.write(master, b"u")
    assert keys.read() == ["u"]
    os.close(master)
    with pytest.raises(HardwareError, match="keyboard: the terminal is gone"):
        keys.read()
    os.close(slave)


def test_after_ctrl_z_a_key_is_heard_without_enter():
    master, slave = os.openpty()
    keys = TerminalKeys(slave)
    keys.open()
    handed_back = termios.tcgetattr(slave)
    handed_back[3] |= termios.ICANON | termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, handed_back)  # as a shell does at `fg`
    assert keys.read() == []
    os.write(master, b"s")
    until(lambda: keys.read() == ["s"])
    keys.close()
    for end in (master, slave):
        os.close(end)


def test_an_urgent_key_is_acted_on_while_nobody_reads():
    master, slave = os.openpty()
    acted = threading.Event()
    keys = UrgentKeys(TerminalKeys(slave), " ", acted.set)
    keys.open()
    os.write(master, b"u")
    os.write(master, b" ")
    assert acted.wait(10)
    assert keys.read() == ["u", " "]
    keys.close()
    for end in (master, slave):
        os.close(end)


def test_an_urgent_reader_says_that_the_terminal_is_gone():
    master, slave = os.openpty()
    keys = UrgentKeys(TerminalKeys(slave), " ", lambda: None)
    keys.open()
    os.close(master)
    with pytest.raises(HardwareError, match="keyboard: the terminal is gone"):
        for _ in range(1000):
            keys.read()
            time.sleep(0.01)
    os.close(slave)


def test_no_terminal_is_one_line_that_names_the_choices(tmp_path):
    with open(tmp_path / "not_a_tty", "w") as file, pytest.raises(HardwareError, match=r"not a terminal.*scripted"):
        TerminalKeys(file.fileno()).open()


def test_a_robot_in_another_action_mode_is_refused():
    spec = RobotSpec("arm", {}, {}, ACTION, "joint_pos", 10.0)
    with pytest.raises(HardwareError, match="'joint_pos'.*'ee_delta'"):
        Keyboard(spec)
