"""The evaluate verb on checkpoints of a small policy: resumable, honest about which file it flew, strict about the robot."""

import json
from dataclasses import replace

import numpy as np
import pytest

import hardware
from hardware import RobotConfig
from robolearn.core.checkpoint import save_checkpoint
from robolearn.core.errors import UserError
from robolearn.experiments.evaluate import Config, check_fits, read_evaluation, run
from robolearn.policies.bc import BcConfig, BcPolicy

FAKE = RobotConfig(body="fake", image_size=16)


def checkpoint(path, robot=FAKE, target=(-0.6, 1.2), **config):
    """A state policy that wants to be at `target` [rad], whatever it sees."""
    config = BcConfig(hidden=(8,), history=1, horizon=4, **config)
    policy = config.build(hardware.spec_of(robot))
    rows = np.asarray(target, np.float32) + np.linspace(-1e-3, 1e-3, 20, dtype=np.float32)[:, None]
    policy.fit_normalizers(np.random.default_rng(0).normal(size=(20, policy.spec.state_dim)).astype(np.float32), rows)
    save_checkpoint(path, policy, config, {})
    return path


@pytest.fixture
def config(tmp_path):
    return Config(checkpoint=checkpoint(tmp_path / "policy.pt"), out=tmp_path / "run", robot=FAKE, trials=3, chunk=4, videos=1, threads=1)


def test_it_writes_what_it_measured(config, capfd):
    result = run(config)
    data = json.loads((config.out / "evaluation.json").read_text())
    assert (data["successes"], data["trials"]) == (result.successes, 3) and len(data["per_trial"]) == 3
    assert read_evaluation(config.out / "evaluation.json") == result
    assert [t.seed for t in result.per_trial] == [1000] * 3
    assert (config.out / "videos" / "trial_000.mp4").stat().st_size > 1000
    done = json.loads((config.out / "done.json").read_text())
    assert done["success"] == result.rate and tuple(done["interval"]) == result.interval
    assert "95 % interval" in capfd.readouterr().err


def test_with_an_ensemble_the_policy_is_asked_at_every_step(config, monkeypatch):
    asked, act = [], BcPolicy.act
    monkeypatch.setattr(BcPolicy, "act", lambda policy, obs: asked.append(obs) or act(policy, obs))
    trial = run(replace(config, ensemble=0.01, trials=1)).per_trial[0]
    assert len(asked) == trial.length > 4
    asked.clear()
    trial = run(replace(config, out=config.out.with_name("plain"), trials=1)).per_trial[0]
    assert len(asked) == -(-trial.length // 4)


def test_finished_it_returns_the_same_at_once(config):
    first = run(config)
    stamps = {p: p.stat().st_mtime_ns for p in config.out.rglob("*")}
    assert run(config) == first
    assert {p: p.stat().st_mtime_ns for p in config.out.rglob("*")} == stamps


def test_interrupted_it_continues(config):
    first = run(config)
    (config.out / "done.json").unlink()
    lines = (config.out / "trials.jsonl").read_text().splitlines(keepends=True)
    (config.out / "trials.jsonl").write_text("".join(lines[:2]) + lines[2][:20])
    again = run(config)
    for one, other in zip(again.per_trial, first.per_trial, strict=True):
        assert (one.index, one.success, one.length) == (other.index, other.success, other.length)
        assert one.total_reward == pytest.approx(other.total_reward, abs=1e-4)  # a clock that began elsewhere rounds elsewhere
    assert again.per_trial[:2] == first.per_trial[:2], "read, not flown"


@pytest.mark.parametrize("finished", [True, False])
def test_trials_of_an_older_checkpoint_are_never_passed_off_as_this_ones(config, finished):
    run(config)
    if not finished:
        (config.out / "done.json").unlink()
    checkpoint(config.checkpoint, target=(0.0, 1.0))
    with pytest.raises(UserError):
        run(config)
    assert run(replace(config, overwrite=True)).trials == 3


def test_a_policy_may_look_at_part_of_the_robot(tmp_path):
    body = RobotConfig(body="fake:state")
    path = checkpoint(tmp_path / "policy.pt", body, state=("joint_pos",))
    check_fits(path, hardware.spec_of(body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"robot": RobotConfig(body="fake", rate_hz=20.0)}, r"policy\.pt: made for another robot .*rate_hz: 10\.0 != 20\.0"),
        ({"robot": RobotConfig(body="pusht:state")}, r"made for another robot .*action\.units: \['rad', 'rad'\] != \['px', 'px'\]"),
        ({"chunk": 5}, r"chunk: 5 actions; .*predicts 4: valid 1 to 4"),
        ({"prefix": 1, "chunk": 3}, r"prefix: 1 actions; BcPolicy was trained for at most 0"),
        ({"ensemble": float("nan")}, r"ensemble: nan"),
        ({"trials": 0}, "trials: 0 episodes; expected at least 1"),
        ({"threads": 0}, "threads: 0 CPU threads; expected at least 1"),
        ({"device": "abacus"}, "device: 'abacus' is not here .*; valid: cpu, cuda"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(config, change, message):
    with pytest.raises(UserError, match=message) as caught:
        run(replace(config, **change))
    assert "\n" not in str(caught.value)
    assert not config.out.exists()


def test_no_checkpoint_is_one_line(config):
    with pytest.raises(UserError, match=r"absent\.pt: no such file"):
        run(replace(config, checkpoint=config.checkpoint.with_name("absent.pt")))
