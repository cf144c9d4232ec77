"""Goals end to end: what train shows a policy is what evaluate shows it, bit for bit; wrong goals are one line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import hardware
from hardware import RobotConfig
from robolearn.core.checkpoint import load_policy, read_header
from robolearn.core.errors import UserError
from robolearn.data.goals import Goals
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.experiments import evaluate, goals, train
from robolearn.experiments.goals import goal_obs
from robolearn.learners.imitation import ImitationConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.language.hashed import HashedConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.diffclone import DiffCloneConfig
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for

FAKE = RobotConfig(body="fake", image_size=16)
EYES = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4, crop=1.0)
SMALL = {"hidden": (8,), "horizon": 4, "dropout": 0.0}
POLICIES = {
    "image": BcConfig(**SMALL, goal="image", encoder=EYES),
    "frozen": BcConfig(**SMALL, goal="image", encoder=replace(EYES, tune="none")),
    "state": BcConfig(**SMALL, goal="state"),
    "language": BcConfig(**SMALL, goal="language", language=HashedConfig(dim=32)),
    "none": BcConfig(**SMALL),
    "diffclone": DiffCloneConfig(encoder=replace(EYES, tune="none"), widths=(8, 16), horizon=4, sample_steps=4, head=8),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four scripted episodes, told in turn to touch the target and to go home."""
    path = tmp_path_factory.mktemp("data") / "fake.zarr"
    with hardware.open(FAKE) as robot, EpisodeStore.create(path, robot.spec) as store:
        task, operator = task_for(FAKE.body), operator_for(robot, np.random.default_rng(0))
        for index in range(4):
            episode = rollout(robot, operator, task, np.random.default_rng([0, index]))
            told = {"instruction": ("touch the target", "go home")[index % 2]}
            store.append(replace(episode, meta={**episode.meta, **told}))
    return path


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """trained(name): the folder of a short training, made once."""
    made = {}

    def make(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "run"
            train.run(training(data, made[name], POLICIES[name]))
        return made[name] / "policy.pt"

    return make


def training(data, out, policy, **more):
    learning = {"imitation": ImitationConfig(precision="float32", warmup=2), "steps": 4, "batch_size": 8}
    learning |= {"pretrain": replace(train.Config.pretrain, steps=3, batch_size=8)}
    return train.Config(data=data, out=out, policy=policy, **{**learning, "validation": 0.2, **more})


def flight(checkpoint, out, goal):
    return evaluate.Config(checkpoint=checkpoint, out=out, robot=FAKE, trials=1, chunk=4, videos=0, threads=1, goal=goal)


@pytest.mark.parametrize("name", ["image", "frozen", "state"])
def test_the_last_row_of_an_episode_is_the_goal_it_was_in_training(data, trained, name):
    policy, store = load_policy(trained(name)), EpisodeStore.open(data)
    kind = policy.config.goal
    windows = Windows(store, policy.history, policy.horizon, goals=Goals(kind))
    for episode in (0, 3):
        first = int(store.starts[episode])
        learned = to_batch(windows.read([first, first + 2], salt=9)).obs.goal
        shown = goal_obs(f"{data}#{episode}", policy)
        assert shown.images.keys() == learned.images.keys() == ({"top"} if kind == "image" else set())
        for row in range(2):
            assert torch.equal(learned.state[row], shown.state[0])
            assert all(torch.equal(image[row], shown.images[camera][0]) for camera, image in learned.images.items())
    if kind == "image":
        with torch.no_grad():
            assert torch.equal(shown.features, policy.encode(replace(shown, features=None)))


def test_an_image_file_is_the_picture_it_was_taken_from(data, trained, tmp_path):
    policy, store = load_policy(trained("image")), EpisodeStore.open(data)
    frame = store.frames("top", np.array([store.rows - 1]))[0]
    Image.fromarray(frame).save(tmp_path / "goal.png")
    from_file, from_store = goal_obs(str(tmp_path / "goal.png"), policy), goal_obs(f"{data}#3", policy)
    assert torch.equal(from_file.images["top"], from_store.images["top"]) and torch.equal(from_file.features, from_store.features)


def test_cached_goal_features_are_what_the_encoder_says_of_the_goal(data, trained):
    policy, store = load_policy(trained("frozen")), EpisodeStore.open(data)
    key = train.cache_features(store, policy.encoder, policy.config.encoder)
    learned = to_batch(Windows(store, 1, 1, images=False, features_key=key, goals=Goals("image")).read([0])).obs.goal
    assert torch.allclose(learned.features, goal_obs(f"{data}#0", policy).features, atol=1e-5)


def test_an_instruction_is_embedded_as_in_training(data, trained):
    path = trained("language")
    language = read_header(path).config.language
    assert (language.dim, language.digest, language.width) == (32, "hashed-1", 64), "filled in by train"
    policy = load_policy(path)
    windows = Windows(EpisodeStore.open(data), 1, 1, images=False, goals=goals.goals_for(policy.config, "last", [EpisodeStore.open(data)]))
    learned = to_batch(windows.read([0, len(windows) - 1])).obs.goal
    for row, text in enumerate(("touch the target", "go home")):
        shown = goal_obs(text, policy)
        assert torch.equal(shown.features[0], learned.features[row]) and shown.state.shape == (1, 1, 0)
    altered = replace(policy.config, language=replace(policy.config.language, digest="another"))
    policy.config = altered
    with pytest.raises(UserError, match="hashed is not the text encoder the policy learned with: its digest is hashed-1"):
        goal_obs("go home", policy)


@pytest.mark.parametrize(
    ("name", "goal"),
    [("image", "{data}#0"), ("frozen", "{data}#1"), ("state", "{data}#2"), ("language", "touch the target"), ("diffclone", "{data}#3")],
)
def test_a_policy_flies_to_what_it_is_told(data, trained, tmp_path, name, goal):
    result = evaluate.run(flight(trained(name), tmp_path / "run", goal.format(data=data)))
    assert result.trials == 1 and result.per_trial[0].length > 0


def test_another_goal_is_another_flight(data, trained, tmp_path):
    evaluate.run(flight(trained("language"), tmp_path / "run", "go home"))
    with pytest.raises(UserError, match="goal"):
        evaluate.run(flight(trained("language"), tmp_path / "run", "touch the target"))


def test_training_towards_the_future_is_exactly_resumed(data, tmp_path, monkeypatch):
    config = training(data, tmp_path / "whole", POLICIES["state"], steps=6, save_every_s=0.0)
    config = replace(config, reading=replace(config.reading, goal="future"))
    train.run(config)
    torn, update = replace(config, out=tmp_path / "torn"), train.Imitation.update

    def interrupted(self, batch):
        if self.steps == 3:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(train.Imitation, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train.run(torn)
    monkeypatch.undo()
    train.run(torn)
    whole, resumed = (load_policy(c.out / "policy.pt").state_dict() for c in (config, torn))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    last = replace(config, out=tmp_path / "last", reading=replace(config.reading, goal="last"))
    train.run(last)
    assert not all(torch.equal(value, whole[name]) for name, value in load_policy(last.out / "policy.pt").state_dict().items())


@pytest.mark.parametrize(
    ("name", "goal", "message"),
    [
        ("none", "go home", "goal: 'go home'; .*policy.pt was trained without goals, leave it out"),
        ("language", "", "goal: missing; .*policy.pt is told what to reach by an instruction in words"),
        ("image", "", "goal: missing; .* by a picture: an image file, or STORE#EPISODE, whose last row is meant"),
        ("image", "{data}#4", r"goal: .*fake\.zarr#4; it has 4 episodes: valid 0 to 3"),
        ("image", "absent.png", r"goal: absent\.png: no such file"),
        ("image", "{tmp}/large.png", r"goal: .*large\.png is \(20, 30\) px \(height, width\); camera top of the policy has \(16, 16\)"),
        ("image", "{tmp}/text.png", r"goal: .*text\.png: not an image"),
        ("image", "{tmp}", "goal: .*: not an image"),
        ("image", "{tmp}#0", "not a robolearn store"),
        ("state", "{tmp}/large.png", r"goal: '.*large\.png'; the policy is told what to reach by a state: STORE#EPISODE"),
        ("language", "?!", r"instruction: '\?!'; expected words"),
        (
            "image",
            "{tmp}/other.zarr#0",
            r"goal: .*other\.zarr is of another robot \(policy != store\): cameras\.top: \[16, 16\] != \[24, 24\]",
        ),
    ],
)
def test_a_wrong_goal_is_one_line_and_leaves_nothing(data, trained, tmp_path, name, goal, message):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "text.png").write_text("no image")
    if "other" in goal:
        episode, spec = EpisodeStore.open(data).read(0), EpisodeStore.open(data).spec
        with EpisodeStore.create(tmp_path / "other.zarr", replace(spec, cameras={"top": (24, 24)})) as other:
            other.append(replace(episode, images={"top": np.zeros((len(episode), 24, 24, 3), np.uint8)}))
    with pytest.raises(UserError, match=message) as error:
        evaluate.run(flight(trained(name), tmp_path / "run", goal.format(data=data, tmp=tmp_path)))
    assert "\n" not in str(error.value) and not (tmp_path / "run").exists()


def test_training_in_words_needs_words(data, tmp_path):
    store, config = EpisodeStore.open(data), training(data, tmp_path / "run", POLICIES["language"])
    with EpisodeStore.create(tmp_path / "mute.zarr", store.spec) as mute:
        mute.extend([replace(store.read(i), meta={"success": True}) for i in range(2)])
    with pytest.raises(UserError, match=r"mute\.zarr: no episode has an instruction"):
        train.run(replace(config, data=tmp_path / "mute.zarr"))
    assert not config.out.exists()


def test_a_picture_of_one_camera_is_not_enough_for_two(data, trained, tmp_path):
    policy = load_policy(trained("image"))
    policy.spec = replace(policy.spec, cameras={"top": (16, 16), "wrist": (16, 16)})
    with pytest.raises(UserError, match="one picture; the policy sees top, wrist: STORE#EPISODE shows all of them"):
        goal_obs(str(tmp_path / "goal.png"), policy)
