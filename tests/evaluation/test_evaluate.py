"""Trials on the fake arm: the same starts for everyone, nothing flown twice, nobody else's trials counted."""

import json

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from hardware.types import Command, Source
from robolearn.core.errors import UserError
from robolearn.evaluation.evaluate import evaluate, read_trials
from robolearn.evaluation.statistics import success_interval
from robolearn.tasks import task_for

TASK = task_for("fake")


class Hit:
    """Succeeds on the starts where the target lies low, adds noise of its own, and counts its episodes."""

    def __init__(self, robot, always=False, fail_at=None):
        self.robot, self.always, self.fail_at = robot, always, fail_at
        self.episodes, self.seeds, self.targets = -1, [], []
        self.rng = np.random.default_rng(0)

    def seed(self, seed):
        self.seeds.append(seed)
        self.rng = np.random.default_rng(seed)

    def reset(self):
        self.episodes += 1
        if self.episodes == self.fail_at:
            raise KeyboardInterrupt

    def decide(self, observation):
        privileged = self.robot.world.privileged()
        if observation.time == 0 or not self.targets or not np.array_equal(self.targets[-1], privileged["target"]):
            self.targets.append(privileged["target"])
        hit = self.always or privileged["target"][1] < 0
        goal = privileged["q_target"] if hit else self.robot.arm.spec.home
        action = (goal + self.rng.normal(0, 0.002, 2)).astype(np.float32)
        return Command(observation.time, action, Source.POLICY, {"inference_ms": 1.5, "chunk_position": 0.0})


@pytest.fixture
def robot():
    with hardware.open(RobotConfig(body="fake", image_size=16)) as body:
        yield body


def test_every_trial_is_counted_and_the_interval_is_wilsons(robot):
    result = evaluate(robot, Hit(robot), TASK, trials=8, seed=5)
    assert 0 < result.successes < 8, "the seed must give both kinds"
    assert result.successes == sum(t.success for t in result.per_trial) and result.trials == 8
    assert result.interval == success_interval(result.successes, 8)
    assert result.mean_return == pytest.approx(np.mean([t.total_reward for t in result.per_trial]))
    assert result.return_interval[0] <= result.mean_return <= result.return_interval[1]
    assert all(t.inference_ms == 1.5 and t.sim_s == pytest.approx(t.length / 10) for t in result.per_trial)
    assert json.loads(json.dumps(result.to_dict()))["trials"] == 8


def test_two_pilots_meet_the_same_starts(robot):
    one, two = Hit(robot), Hit(robot, always=True)
    evaluate(robot, one, TASK, 4, seed=2)
    evaluate(robot, two, TASK, 4, seed=2)
    np.testing.assert_array_equal(one.targets, two.targets)
    assert one.seeds == two.seeds and len(set(one.seeds)) == 4


def test_an_interrupted_evaluation_continues_and_equals_a_whole_one(robot, tmp_path):
    whole = evaluate(robot, Hit(robot), TASK, 6, seed=3)
    with pytest.raises(KeyboardInterrupt):
        evaluate(robot, Hit(robot, fail_at=4), TASK, 6, seed=3, videos=2, out=tmp_path)
    assert len(read_trials(tmp_path / "trials.jsonl", 3)) == 4
    again, told = Hit(robot), []
    resumed = evaluate(
        robot, again, TASK, 6, seed=3, videos=2, out=tmp_path, on_episode=lambda trial, episode: told.append(episode is None)
    )
    assert again.episodes == 1, "only the missing two were flown"
    assert told == [True] * 4 + [False] * 2

    def outcomes(result):
        return [(t.index, t.success, t.length, round(t.total_reward, 3)) for t in result.per_trial]

    assert outcomes(resumed) == outcomes(whole)
    assert sorted(p.name for p in (tmp_path / "videos").iterdir()) == ["trial_000.mp4", "trial_001.mp4"]


def test_a_line_cut_short_by_a_crash_is_flown_again(robot, tmp_path):
    evaluate(robot, Hit(robot), TASK, 3, seed=3, out=tmp_path)
    path = tmp_path / "trials.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    assert [t.index for t in read_trials(path, 3)] == [0, 1]
    assert evaluate(robot, Hit(robot), TASK, 3, seed=3, out=tmp_path).trials == 3
    assert len(path.read_text().splitlines()) == 3


def test_other_peoples_trials_are_refused(robot, tmp_path):
    evaluate(robot, Hit(robot), TASK, 2, seed=3, out=tmp_path, flown_by="abc")
    with pytest.raises(UserError, match=r"line 1: trial 0 of seed 3; expected trial 0 of seed 4"):
        evaluate(robot, Hit(robot), TASK, 2, seed=4, out=tmp_path, flown_by="abc")
    with pytest.raises(UserError, match=r"line 1: flown by 'abc'; expected 'def'"):
        evaluate(robot, Hit(robot), TASK, 2, seed=3, out=tmp_path, flown_by="def")
    with pytest.raises(UserError, match="expected at least 1"):
        evaluate(robot, Hit(robot), TASK, 0, seed=3)
