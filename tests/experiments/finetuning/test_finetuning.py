"""Fine-tuning the one agent by two processes: what it leaves behind, what survives a kill, what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

import hardware
from hardware import RobotConfig
from hardware.types import Source
from robolearn.agents.axes import Actor, Critic, Reward, Update, Warmup
from robolearn.agents.config import AgentConfig, PlannerConfig
from robolearn.core.checkpoint import load_policy
from robolearn.core.errors import UserError, explain
from robolearn.core.files import write_atomic
from robolearn.core.run import Run, read_metrics
from robolearn.data.store import EpisodeStore
from robolearn.evaluation.sequential import ImprovementConfig
from robolearn.experiments import finetune, teleop
from robolearn.experiments.finetuning import actor
from robolearn.experiments.finetuning.channel import Channel
from robolearn.experiments.finetuning.learner import LearnerProcess
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.planning.gate import GateConfig
from robolearn.planning.search import SearchConfig
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.rollout import rollout
from robolearn.tasks import task_for
from robolearn.worldmodels.dynamics import ModelConfig
from tests.experiments.finetuning.processes import Started, learner_killed

ROBOT = RobotConfig(body="fake:state", rate_hz=50.0)  # episodes of 250 rows, about a second: long enough to be killed in
IN_SAMPLE = Critic(heads=2, width=16, target="in_sample", entropy=False)
AGENT = AgentConfig(
    warmup=Warmup(frozen=300),  # two episodes
    critic=IN_SAMPLE,
    actor=Actor(width=16, q=(0.0, 0.0), bc=(1.0, 1.0), beta=3.0),
    update=Update(utd=0.2, batch=16),
)
LOOKS_AHEAD = AgentConfig(
    critic=IN_SAMPLE,
    actor=AGENT.actor,
    model=ModelConfig(latent=16, width=16, encoder_width=16, horizon=2),
    planner=PlannerConfig(SearchConfig(horizon=2, proposals=4, samples=4, iterations=1, elites=4)),
    warmup=Warmup(random=1, frozen=60),
    update=Update(batch=8),
)
SURE = ImprovementConfig(margin=0.5, alpha=0.49, beta=0.49, most=4)  # accepts what it may accept
EYES = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4, crop=1.0, tune="none")
NEVER = ImprovementConfig(most=1)  # one episode proves nothing


def recorded(folder, robot, episodes=6):
    teleop.run(teleop.Config(out=folder, robot=robot, episodes=episodes, videos=0))
    return folder / "dataset.zarr"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return recorded(tmp_path_factory.mktemp("data") / "teleop", ROBOT)


@pytest.fixture
def config(data, tmp_path):
    return tuned(data, tmp_path / "run")


def tuned(data, out, **changes):
    given = {"robot": ROBOT, "seed": 1, "episodes": 4, "offline_updates": 40, "held_out": 0.2, "agent": AGENT, "improvement": SURE}
    return finetune.Config(data=data, out=out, lockstep=True, **{**given, **changes})


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """A run that nobody disturbs."""
    config = tuned(data, tmp_path_factory.mktemp("straight") / "run")
    return config, finetune.run(config)


def logged(config, kind="episode"):
    return [row["episode"] for row in read_metrics(config.out / "metrics.jsonl") if row["kind"] == kind]


def said(config):
    return Channel(config.out).said().get("episodes", -1)


def same(path, other):
    weights, others = (load_policy(p).state_dict() for p in (path, other))
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        assert torch.equal(value, others[name]), name


def equal_runs(config, straight):
    """Bit by bit: the weights, and what was flown with them."""
    same(config.out / "planner.pt", straight.out / "planner.pt")
    flown, expected = (EpisodeStore.open(c.out / "online.zarr") for c in (config, straight))
    assert flown.lengths.tolist() == expected.lengths.tolist()
    for name in ("state", "action", "requested_action", "reward"):
        assert np.array_equal(flown.lowdim(name), expected.lowdim(name)), name
    assert logged(config) == [0, 1, 2, 3] and logged(config, "judged") == logged(straight, "judged")
    steps, wanted = ([row["step"] for row in read_metrics(c.out / "learner/metrics.jsonl")] for c in (config, straight))
    assert steps == wanted


@pytest.mark.slow
def test_it_flies_learns_and_leaves_a_planner_that_flies_elsewhere(straight):
    config, result = straight
    assert logged(config) == [0, 1, 2, 3] and result["episodes"] == 4 and result["violations_at_the_actuator"] == {}
    online = EpisodeStore.open(config.out / "online.zarr")
    assert [online.meta(i)["flight"] for i in range(4)] == ["frozen", "frozen", "learning", "learning"]
    learned = read_metrics(config.out / "learner/metrics.jsonl")
    assert [row["step"] for row in learned if row["phase"] == "offline"] == [25, 40]
    assert {row["episode"] for row in learned if row["phase"] == "online"} == {2, 3}  # a frozen flight earns no update
    assert result["kept"] and "accepted" in result["improvement"] and len(logged(config, "judged")) >= 1
    assert result["setpoints"] > 2 * online.rows  # two a row, and those of the judged flights
    planner = load_policy(config.out / "planner.pt", online.spec)
    assert not torch.equal(planner.actor.net.last.weight, load_policy(config.out / "learner/offline.pt").actor.net.last.weight)
    with hardware.open(ROBOT) as robot:
        assert len(rollout(robot, PolicyPilot(planner, 1), task_for(ROBOT.body), np.random.default_rng(0))) > 0
    assert finetune.run(config)["seconds"] == result["seconds"]  # finished: nothing is flown twice


@pytest.mark.slow
def test_the_actor_killed_in_an_episode_and_stopped_by_ctrl_c_it_ends_as_if_undisturbed(config, straight, tmp_path):
    with Started(config, tmp_path) as first:
        first.until(lambda: said(config) == 1)  # the second episode begins
        assert first.kill() < 30  # seconds until the learner has ended by itself; 1 on an idle machine
    assert len(EpisodeStore.open(config.out / "online.zarr")) == 1  # at most that episode is lost
    write_atomic(config.out / "metrics.jsonl", b'{"kind": "epis')  # as if killed between store and log, in the middle of a line
    with Started(config, tmp_path) as second:
        second.until(lambda: said(config) == 3)
        assert second.interrupt() == 130
    assert second.last_line() == "robolearn: stopped; the same command resumes"
    finetune.run(config)
    equal_runs(config, straight[0])


@pytest.mark.long
@pytest.mark.parametrize(
    ("by", "said_last"), [(signal.SIGKILL, "stopped: it said nothing; see .*log"), (signal.SIGSTOP, "hangs: no sign of life for 3[0-9] s")]
)
def test_the_learner_killed_or_hanging_the_actor_says_so_and_it_ends_as_if_undisturbed(config, straight, by, said_last):
    config = replace(config, patience_s=30.0)
    learns_from_the_last = lambda: said(config) == 3 and len(EpisodeStore.open(config.out / "online.zarr")) == 4  # noqa: E731
    with (
        learner_killed(learns_from_the_last, by),
        pytest.raises(UserError, match=f"run: the learner {said_last}") as died,
    ):
        finetune.run(config)
    assert explain(died.value)[1] == 2
    (config.out / "learner/weights.pt").unlink()  # as if it had been killed between keeping and publishing
    finetune.run(config)
    equal_runs(config, straight[0])


@pytest.mark.slow
def test_from_images_it_learns_through_a_frozen_encoder_and_a_planner_that_is_not_accepted_is_rolled_back(tmp_path):
    robot = RobotConfig(body="fake", image_size=16)
    agent = replace(LOOKS_AHEAD, encoder=EYES, history=2)
    config = tuned(recorded(tmp_path / "teleop", robot), tmp_path / "run", robot=robot, agent=agent, improvement=NEVER, episodes=3)
    result = finetune.run(config)
    online = EpisodeStore.open(config.out / "online.zarr")
    assert [online.meta(i)["flight"] for i in range(3)] == ["random", "frozen", "learning"]
    assert set(online.lowdim("source")) <= {Source.SCRIPTED, Source.PLANNER, Source.NONE}
    doubts = [(row["episode"], row["step"]) for row in read_metrics(config.out / "uncertainty.jsonl")]
    assert doubts == [(i, step) for i in (1, 2) for step in range(online.length(i))]
    assert not result["kept"] and "rejected" in result["improvement"] and logged(config, "judged") == []
    same(config.out / "planner.pt", config.out / "learner/offline.pt")
    learned = load_policy(config.out / "learner/weights.pt", online.spec)
    offline = load_policy(config.out / "planner.pt")
    assert not torch.equal(learned.critic.online.last.weight, offline.critic.online.last.weight)
    assert all(torch.equal(a, b) for a, b in zip(learned.encoder.parameters(), offline.encoder.parameters(), strict=True))


# In one process ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def learner(config):
    """It has learned offline, kept and published that; an episode of six rows earns six updates."""
    config = replace(config, offline_updates=5, agent=replace(AGENT, warmup=Warmup(), update=Update(utd=1.0, batch=8)))
    channel = Channel(config.out)
    with Run(config.out, config), Run(channel.learner, config) as record:
        learner = LearnerProcess(config, channel, record)
        learner.offline()
        yield learner


def another(learner, **changes):
    """Process, with the same folder."""
    return LearnerProcess(replace(learner.config, **changes), learner.channel, learner.record)


def fly(learner, rows):
    """As an actor would: an episode of so many rows."""
    data, path = EpisodeStore.open(learner.config.data), learner.channel.online
    with EpisodeStore.open(path, "a") if path.exists() else EpisodeStore.create(path, data.spec) as online:
        online.append(data.read(0, 0, rows))


def test_a_learner_goes_on_where_the_last_one_kept_its_state(learner):
    fly(learner, 6)
    assert learner.learn_from_new() and not learner.learn_from_new()
    expected = learner.tuning.agent.state_dict()
    learner.record.log(phase="online", step=12)  # an update that was not kept
    learner.channel.progress.unlink()  # killed before it was published
    second = another(learner)
    second.offline()
    assert second.channel.said() == {"episodes": 1, "updates": 11}
    assert [row["step"] for row in read_metrics(learner.channel.learner / "metrics.jsonl")] == [5, 11]
    for name, value in second.tuning.agent.state_dict().items():
        assert torch.equal(value, expected[name]), name
    fly(learner, 1)  # of one row
    fly(learner, 2)
    assert second.learn_from_new() and second.learn_from_new() and not second.learn_from_new()
    assert second.channel.said() == {"episodes": 3, "updates": 14}


def test_a_learner_refuses_a_state_that_is_torn_or_of_other_rows(learner, tmp_path):
    fly(learner, 6)
    learner.learn_from_new()
    shutil.copytree(learner.config.data, tmp_path / "fewer.zarr")
    with EpisodeStore.open(tmp_path / "fewer.zarr", "a") as fewer:
        fewer.append(fewer[0])
    with pytest.raises(UserError, match=r"state.pt: began on other episodes: .*fewer.zarr was changed since; choose another --out"):
        another(learner, data=tmp_path / "fewer.zarr")
    shutil.rmtree(learner.channel.online)
    with pytest.raises(UserError, match=r"online.zarr: 0 episodes; .*state.pt has learned from 1"):
        another(learner)
    learner.channel.state.write_bytes(learner.channel.state.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"state.pt: not a training state"):
        another(learner)


def test_a_frozen_warm_up_makes_no_updates(config):
    channel = Channel(config.out)
    with Run(config.out, config), Run(channel.learner, config) as record:
        learner = LearnerProcess(replace(config, offline_updates=0), channel, record)
        learner.offline()
        offline = {name: value.clone() for name, value in learner.tuning.agent.state_dict().items()}
        fly(learner, 6)
        assert learner.learn_from_new()
        assert channel.said() == {"episodes": 1, "updates": 0}
        assert all(torch.equal(value, offline[name]) for name, value in learner.tuning.agent.state_dict().items())


def test_weights_that_are_no_numbers_end_the_learner(config):
    channel, config = Channel(config.out), replace(config, agent=replace(AGENT, reward=Reward(scale=1e38)))
    with Run(config.out, config), Run(channel.learner, config) as record:
        with pytest.raises(FloatingPointError, match="critic: the loss is (inf|nan) at update 0; lower its learning rate"):
            LearnerProcess(config, channel, record).offline()
        assert not channel.weights.exists()


def test_the_last_words_of_a_learner_are_one_line(tmp_path):
    channel = Channel(tmp_path)
    with channel.complaint.open("wb") as complaint:
        learner = subprocess.Popen([sys.executable, "-c", "raise FloatingPointError('the loss is nan')"], stderr=complaint)
    with pytest.raises(UserError, match="the learner stopped: FloatingPointError: the loss is nan; see .*learner.log"):
        channel.wait(lambda said: False, learner)


def test_a_learner_that_hangs_is_given_up_and_one_that_learns_long_is_not(tmp_path):
    channel = Channel(tmp_path, patience_s=0.5)
    channel.complaint.touch()
    said = iter(range(100))

    def heard(_):
        channel.beat()
        return next(said) == 99  # two seconds

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as learner:
        channel.look(learner)
        time.sleep(0.6)
        channel.look(learner)  # it may still be starting
        channel.wait(heard, learner)
        with pytest.raises(UserError, match=r"the learner hangs: no sign of life for \d+ s; valid up to 0.5 \(patience_s\)$"):
            channel.wait(lambda said: False, learner)
        assert learner.stdin is not None
        learner.stdin.close()


def test_nobody_flies_on_when_the_learner_is_gone(config):
    config = replace(config, lockstep=False)
    with subprocess.Popen([sys.executable, "-c", "raise FloatingPointError('nan')"], stderr=subprocess.DEVNULL) as learner:
        learner.wait()
        with Run(config.out, config) as record, hardware.open(ROBOT) as robot:
            channel = Channel(config.out)
            channel.complaint.touch()
            one = actor.Actor(config, record, config.agent.build(robot.spec), channel, robot)
            with one.online, pytest.raises(UserError, match="the learner stopped: it said nothing; see .*learner.log"):
                next(iter(one.fly_all(learner)))
            assert len(one.online) == 0


def test_a_run_in_which_nothing_was_learned_or_flown_gives_way_to_the_corrected_command(config):
    assert Channel(config.out).blank is False  # nothing is there
    channel, spoiled = Channel(config.out), replace(config, agent=replace(AGENT, critic=replace(IN_SAMPLE, lr=1.0)))
    with Run(config.out, spoiled) as record, Run(channel.learner, spoiled) as learner:
        channel.complaint.touch()
        with EpisodeStore.create(channel.online, EpisodeStore.open(config.data).spec) as online:
            assert channel.blank
            learner.log(step=25)
            assert channel.blank
            online.append(EpisodeStore.open(config.data).read(0, 0, 6))
            assert not channel.blank
    shutil.rmtree(channel.online)
    (config.out / "notes.txt").touch()
    assert not channel.blank  # not ours
    (config.out / "notes.txt").unlink()
    with Run(config.out, config, blank=channel.blank):
        assert [path.name for path in config.out.iterdir()] == ["config.yaml"]
    assert record.out == config.out


def test_what_a_person_flew_is_no_success_of_the_agents(config, monkeypatch):
    with Run(config.out, config) as record, hardware.open(ROBOT) as robot:
        one = actor.Actor(config, record, config.agent.build(robot.spec), Channel(config.out), robot)
        helped = replace(
            EpisodeStore.open(config.data).read(0), meta={"episode": 0, "flight": "frozen", "success": True, "takeovers": 1, "length": 30}
        )
        with one.online:
            one.online.append(helped)
            assert one._rows_alone() == 0, "nor does it use up the warm-up"
            assert one._offline_record() == [False]
            monkeypatch.setattr(one, "_fly", lambda *_: helped)
            assert set(one.judge().outcomes) == {False}


def test_nothing_is_flown_at_random_on_a_robot_without_a_world(config):
    config = replace(config, agent=replace(AGENT, warmup=Warmup(random=100)))
    with Run(config.out, config) as record, hardware.open(ROBOT) as robot:
        robot.world = None
        with pytest.raises(UserError, match=r"agent.warmup.random: 100 decisions; a real robot flies nothing at random: valid 0"):
            actor.Actor(config, record, config.agent.build(robot.spec), Channel(config.out), robot)
        assert not Channel(config.out).online.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offline_updates": -1}, "offline_updates: -1 updates; valid 0 to 1e+08"),
        ({"agent": replace(AGENT, critic=replace(IN_SAMPLE, lr=float("nan")))}, "agent.critic.lr: nan (learning rate); valid 1e-08 to 1"),
        ({"agent": replace(AGENT, update=Update(batch=0))}, "agent.update.batch: 0 rows"),
        ({"agent": replace(AGENT, warmup=Warmup(random=-5))}, "agent.warmup.random: -5 decisions"),
        ({"agent": replace(AGENT, warmup=Warmup())}, "improvement: given, but agent.warmup.frozen is 0"),
        ({"agent": replace(AGENT, planner=PlannerConfig())}, "agent: planner: given, but no model"),
        ({"gate": GateConfig()}, "gate: given, but agent.planner is null"),
        ({"gate": GateConfig(risk=float("nan"))}, "gate.risk: nan of familiar episodes"),
        ({"regime": "auto", "regime_episodes": 4}, "regime_episodes: 4 episodes; valid 2 to one less than episodes = 4"),
        ({"robot": RobotConfig(body="fake:state", rate_hz=25.0)}, "{data}: recorded on another robot, or for other actions"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(config, changes, message):
    with pytest.raises(UserError) as error:
        finetune.run(replace(config, **changes))
    assert str(error.value).startswith(message.format(data=config.data))
    assert not config.out.exists()


@pytest.mark.long
def test_a_gate_is_calibrated_on_the_frozen_flights_and_its_triggers_are_kept(data, tmp_path):
    agent = replace(LOOKS_AHEAD, warmup=Warmup(frozen=300))
    config = tuned(data, tmp_path / "run", agent=agent, improvement=None, gate=GateConfig(risk=0.4, patience=2))
    finetune.run(config)
    rows = [row for row in read_metrics(config.out / "metrics.jsonl") if row["kind"] == "episode"]
    frozen, learning = ([row for row in rows if row["flight"] == flight] for flight in ("frozen", "learning"))
    assert len(frozen) == 2 and not any("gated" in row for row in frozen)
    threshold = max(row["novelty_max"] for row in frozen)  # of two, at a risk of 0.4
    path = config.out / "triggers.jsonl"
    triggers = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert sum(row["gated"] for row in learning) == len(triggers)
    assert {row["episode"] for row in learning if row["novelty_max"] > threshold} == {row["episode"] for row in triggers}
    assert all(row["threshold"] == threshold and row["cause"] != "none" for row in triggers)


@pytest.mark.long
def test_too_few_frozen_flights_for_the_gates_risk_are_said(data, tmp_path):
    agent = replace(LOOKS_AHEAD, warmup=Warmup(frozen=60))
    config = tuned(data, tmp_path / "run", agent=agent, improvement=None, gate=GateConfig(), episodes=2, offline_updates=2)
    with pytest.raises(UserError, match="needs at least 19, one per episode; agent.warmup.frozen decides how many .*, 1 so far"):
        finetune.run(config)


def test_one_episode_is_too_few(tmp_path):
    config = tuned(recorded(tmp_path / "teleop", ROBOT, episodes=1), tmp_path / "run")
    with pytest.raises(UserError, match=r"dataset.zarr: 1 episodes; expected at least 2"):
        finetune.run(config)
    assert not config.out.exists()
