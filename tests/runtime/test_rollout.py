"""The loop on the fake arm: the real SafeRobot, governor and world, and a task and pilots made for each question."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.types import Command, Source
from robolearn.data.episode import check_episode
from robolearn.runtime.rollout import rollout
from robolearn.tasks import Outcome, Task


@dataclass(frozen=True)
class Reach(Task):
    """The fake arm's own task; judged keeps what it was asked."""

    name: str = "reach"
    instruction: str = "touch the target"
    time_limit_s: float = 2.0
    terminal: bool = True
    judged: list = field(default_factory=list)

    def judge(self, robot, observation):
        outcome = super().judge(robot, observation)
        self.judged.append((observation.time, outcome.reward))
        return replace(outcome, terminal=outcome.terminal and self.terminal)


class Scripted:
    """Drives straight to the target, or does what `action` says."""

    def __init__(self, robot, action=None, at=None):
        self.robot, self.action, self.at, self.resets, self.verdict = robot, action, at or {}, 0, None

    def reset(self):
        self.resets += 1
        self.step = -1

    def decide(self, observation):
        self.step += 1
        if self.step in self.at:
            self.at[self.step]()
        action = self.robot.world.privileged()["q_target"] if self.action is None else self.action
        return Command(observation.time, np.asarray(action, dtype=np.float32), Source.SCRIPTED, {"step": float(self.step)})


@pytest.fixture
def robot():
    with hardware.open(RobotConfig(body="fake")) as body:
        yield body


def rng(seed=0):
    return np.random.default_rng([7, seed])


def test_an_episode_fits_its_spec_and_ends_in_success(robot):
    pilot = Scripted(robot)
    episode = rollout(robot, pilot, Reach(), rng())
    check_episode(episode, robot.spec)
    assert pilot.resets == 1
    assert episode.success and episode.terminal[-1] and not episode.terminal[:-1].any()
    assert episode.meta["success_step"] == len(episode) - 1 == episode.meta["length"] - 1
    assert not episode.meta["truncated"] and episode.meta["stopped"] is None
    assert (episode.source == Source.SCRIPTED).all()
    np.testing.assert_array_equal(episode.notes["step"], np.arange(len(episode)))
    assert episode.meta["return"] == pytest.approx(episode.reward.sum())
    np.testing.assert_allclose(np.diff(episode.time), 0.1, atol=1e-9)


def test_a_row_holds_what_was_seen_before_the_action_and_what_the_action_earned(robot):
    task, steps = Reach(), []
    episode = rollout(robot, Scripted(robot), task, rng(), on_step=steps.append)
    times, rewards = zip(*task.judged, strict=True)
    np.testing.assert_allclose(times, [*episode.time[1:], episode.time[-1] + 0.1])
    np.testing.assert_allclose(rewards, episode.reward)
    np.testing.assert_array_equal([s.observation.state["joint_pos"] for s in steps], episode.state["joint_pos"])
    np.testing.assert_array_equal([s.executed for s in steps], episode.action)
    assert [s.index for s in steps] == list(range(len(episode)))


def test_a_time_limit_truncates_and_is_never_terminal(robot):
    episode = rollout(robot, Scripted(robot, action=robot.arm.spec.home), Reach(time_limit_s=1.5), rng())
    assert len(episode) == 15
    assert not episode.terminal.any() and episode.meta["truncated"] and not episode.success
    assert episode.meta["success_step"] is None


def test_success_that_does_not_end_the_task_still_counts(robot):
    episode = rollout(robot, Scripted(robot), Reach(terminal=False), rng())
    assert episode.success and episode.meta["truncated"] and not episode.terminal.any()
    assert len(episode) == 20


def test_requested_and_executed_are_kept_apart_and_interventions_counted(robot):
    episode = rollout(robot, Scripted(robot, action=[9.0, 9.0]), Reach(time_limit_s=0.5), rng())
    assert (episode.requested_action == 9).all()
    assert (episode.action <= np.float32(robot.spec.action.high)).all()
    assert episode.meta["interventions"]["action_bounds"] == len(episode)
    again = rollout(robot, Scripted(robot, action=robot.arm.spec.home), Reach(time_limit_s=0.5), rng())
    assert "action_bounds" not in again.meta["interventions"], "only this episode's own"


@pytest.mark.parametrize("action", [[np.nan, 0.0], [1.0], [[0.0, 1.0]]])
def test_a_nonsense_command_is_recorded_but_never_executed(robot, action):
    episode = rollout(robot, Scripted(robot, action=action), Reach(time_limit_s=0.3), rng())
    check_episode(episode, robot.spec)
    assert np.isnan(episode.requested_action).any(axis=1).all()
    assert sum(episode.meta["interventions"].values()) >= len(episode)


def test_a_stop_by_the_governor_ends_the_episode_and_the_next_one_starts_clean(robot):
    pilot = Scripted(robot, action=robot.arm.spec.home, at={3: lambda: setattr(robot.arm, "fault", "overheated")})
    episode = rollout(robot, pilot, Reach(), rng())
    assert "overheated" in episode.meta["stopped"]
    assert len(episode) == 4 and not episode.terminal.any() and episode.meta["truncated"]
    robot.arm.fault = None
    assert rollout(robot, Scripted(robot), Reach(), rng()).success


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["decide", "on_step", "judge"])
def test_whatever_is_raised_stops_the_robot_first(robot, monkeypatch, error, where):
    order = []
    stop = robot.stop
    monkeypatch.setattr(robot, "stop", lambda reason: (stop(reason), order.append(robot.governor.at_rest)))

    def fail(*_):
        raise error

    task, pilot, on_step = Reach(), Scripted(robot), None
    if where == "decide":
        pilot.at = {2: fail}
    elif where == "on_step":
        on_step = fail
    else:
        monkeypatch.setattr(Reach, "judge", fail)
    with pytest.raises(error):
        rollout(robot, pilot, task, rng(), on_step)
    assert order == [True], "at rest before the exception reaches the caller"
    assert error.__name__ in robot.stopped


def test_a_stop_that_fails_hides_nothing(robot, monkeypatch):
    def broken(reason):
        raise OSError("bus gone")

    monkeypatch.setattr(robot, "stop", broken)
    pilot = Scripted(robot, at={1: lambda: 1 / 0})
    with pytest.raises(ZeroDivisionError) as caught:
        rollout(robot, pilot, Reach(), rng())
    assert "bus gone" in caught.value.__notes__[0]
    monkeypatch.undo()


@pytest.mark.parametrize("verdict", ["success", "failure", "discard", "quit"])
def test_an_operator_has_the_last_word(robot, verdict):
    pilot = Scripted(robot, action=robot.arm.spec.home)
    pilot.at = {4: lambda: setattr(pilot, "verdict", verdict)}
    episode = rollout(robot, pilot, Reach(), rng())
    assert len(episode) == 5 and episode.meta["verdict"] == verdict
    assert episode.success == (verdict == "success")
    assert episode.meta["truncated"] == (verdict != "success"), "but their patience, nothing else ended"
    assert (episode.reward[-1] == 1.0) == (verdict == "success") and episode.reward[:-1].max() < 1.0


def test_a_success_that_the_person_calls_a_failure_earns_nothing(robot):
    class Generous(Reach):
        def judge(self, robot, observation):
            return Outcome(reward=1.0, success=True, terminal=True)

    pilot = Scripted(robot)
    pilot.verdict = "failure"
    episode = rollout(robot, pilot, Generous(), rng())
    assert not episode.success and episode.reward[-1] == 0.0 and not episode.terminal[-1]


def test_the_same_generator_gives_the_same_episode(robot):
    one, two, other = (rollout(robot, Scripted(robot), Reach(), rng(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.action, two.action)
    np.testing.assert_array_equal(one.images["top"], two.images["top"])
    assert one.action.shape != other.action.shape or (one.action != other.action).any()
