"""The train verb on the fake arm's episodes: what it leaves behind, what it refuses, how it resumes."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import load_file

import hardware
from hardware import RobotConfig
from robolearn.cli import parse
from robolearn.core.checkpoint import load_policy, load_state, read_header, save_state
from robolearn.core.errors import UserError
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.experiments import train, vision
from robolearn.experiments.encoder_file import save_encoder
from robolearn.experiments.train import Config, run
from robolearn.experiments.train_config import check
from robolearn.experiments.vision import features_key
from robolearn.learners.imitation import ImitationConfig
from robolearn.learners.pretraining import rows_of
from robolearn.learners.pretraining.keypoints import PretrainConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.encoders.resnet import ResNetConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for

FAKE = RobotConfig(body="fake", image_size=16)
EYES = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4, crop=1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Six scripted episodes."""
    path = tmp_path_factory.mktemp("data") / "fake.zarr"
    with hardware.open(FAKE) as robot, EpisodeStore.create(path, robot.spec) as store:
        task, operator = task_for(FAKE.body), operator_for(robot, np.random.default_rng(0))
        for index in range(6):
            episode = rollout(robot, operator, task, np.random.default_rng([0, index]))
            store.append(replace(episode, meta=dict(episode.meta) | {"success": index != 5}))
    return path


@pytest.fixture
def config(data, tmp_path):
    return Config(
        data=data,
        out=tmp_path / "run",
        policy=DiffusionConfig(horizon=4, widths=(8, 16), sample_steps=4),
        pretrain=PretrainConfig(steps=3, batch_size=8),
        imitation=ImitationConfig(precision="float32", warmup=2),
        steps=6,
        batch_size=8,
        validation=0.2,
    )


def result(config: Config) -> dict:
    return json.loads((config.out / "done.json").read_text())


def obs(config: Config, policy):
    return to_batch(Windows(EpisodeStore.open(config.data), policy.history, policy.horizon).read(np.arange(3))).obs


def actions(config: Config) -> torch.Tensor:
    policy = load_policy(config.out / "policy.pt")
    policy.seed(0)
    return policy.act(obs(config, policy))


@pytest.mark.parametrize("encoder", [EYES, replace(EYES, tune="none")])
def test_a_checkpoint_of_its_own_flies(config, encoder):
    config = replace(config, policy=replace(config.policy, encoder=encoder))
    run(config)
    assert {p.name for p in config.out.iterdir()} >= {"policy.pt", "config.yaml", "done.json"}
    assert not (config.out / "training.pt").exists()
    assert actions(config).shape == (3, 4, 2)
    done = result(config)
    assert done["steps"] == 6 and np.isfinite(done["val_loss"]) and "no checkpoint was selected" in done["choice"]
    assert done["encoder"] == ("self-supervised on this dataset" if encoder.frozen else "from scratch, with the policy")
    assert (config.out / "encoder.safetensors").exists() == encoder.frozen
    assert read_header(config.out / "policy.pt").meta["encoder"] == done["encoder"]


def test_an_encoder_may_be_pretrained_and_then_tuned(config):
    config = replace(config, policy=replace(config.policy, encoder=replace(EYES, shift=1)), pretrain=replace(config.pretrain, tuned=True))
    run(config)
    assert result(config)["encoder"] == "self-supervised on this dataset, tuned with the policy"
    pretrained = load_file(config.out / "encoder.safetensors")
    tuned = load_policy(config.out / "policy.pt").encoder.state_dict()
    assert pretrained.keys() == tuned.keys()
    assert not torch.equal(pretrained["nets.top.0.weight"], tuned["nets.top.0.weight"])


def test_a_frozen_encoder_has_learned_from_the_images_first(config):
    config = replace(config, policy=replace(config.policy, encoder=replace(EYES, tune="none")))
    run(config)
    again = replace(config, out=config.out.with_name("untaught"), pretrain=replace(config.pretrain, lr=0.0))
    run(again)
    learned, untaught = (load_file(c.out / "encoder.safetensors") for c in (config, again))
    assert not any(torch.equal(learned[name], untaught[name]) for name in learned if name.endswith("0.weight"))


def test_frozen_features_are_cached_and_are_what_the_policy_sees_at_run_time(config):
    config = replace(config, policy=replace(config.policy, encoder=replace(EYES, tune="none")))
    run(config)
    policy = load_policy(config.out / "policy.pt")
    store = EpisodeStore.open(config.data)
    key = train.cache_features(store, policy.encoder, policy.config.encoder)  # nothing left to do: the same key
    assert store.has_features(key)
    windows = Windows(store, policy.history, policy.horizon, features_key=key)
    batch = to_batch(windows.read(np.array([0, 7, 20])))
    with torch.no_grad():
        live = policy.encoder(batch.obs.images)
    assert torch.allclose(batch.obs.features, live, atol=1e-5)
    assert not torch.allclose(batch.obs.features[0], batch.obs.features[2], atol=1e-3), "different images, different features"


def test_what_is_held_out_or_failed_gives_neither_units_nor_images(config, data, monkeypatch):
    seen, fit = [], train.ChunkPolicy.fit_normalizers
    monkeypatch.setattr(train.ChunkPolicy, "fit_normalizers", lambda self, *given: seen.extend(given) or fit(self, *given))
    shown, frames = set(), EpisodeStore.frames

    def spy(self, camera, rows):
        shown.update(rows.tolist())
        return frames(self, camera, rows)

    learn = vision.pretrain
    monkeypatch.setattr(vision, "pretrain", lambda *args: monkeypatch.setattr(EpisodeStore, "frames", frames) or learn(*args))
    monkeypatch.setattr(EpisodeStore, "frames", spy)
    run(replace(config, episodes="successful", policy=replace(config.policy, encoder=replace(EYES, tune="none"))))
    store, policy = EpisodeStore.open(data), load_policy(config.out / "policy.pt")
    (training,), _ = train.split(store, config.validation, np.random.default_rng(config.seed))
    own = rows_of(store, training[training != 5])
    assert len(own) < store.rows and shown == set(own.tolist())
    state, _, features = seen
    assert len(state) == len(own)
    np.testing.assert_array_equal(features, store.features(features_key(policy.encoder, policy.config.encoder))[own])


def test_it_does_not_go_on_with_features_of_another_encoder(config, tmp_path, monkeypatch):
    file, frozen = tmp_path / "eyes.safetensors", replace(EYES, tune="none", weights=str(tmp_path / "eyes.safetensors"))

    def begun():
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(train, "save_checkpoint", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            run(config)

    config = replace(config, save_every_s=0.0, policy=replace(config.policy, encoder=frozen))
    save_encoder(file, frozen.build({"top": (16, 16)}), frozen)
    begun()
    save_encoder(file, frozen.build({"top": (16, 16)}), frozen)
    with pytest.raises(UserError, match=r"training.pt: began on features SmallCnn-.*: the encoder's weights changed since"):
        run(config)
    state = load_state(config.out / "training.pt")
    del state["features"]
    save_state(config.out / "training.pt", state)  # as an earlier version left it
    run(config)
    assert result(config)["steps"] == 6


def test_augmentations_that_a_frozen_encoder_does_not_see_are_named(config, capsys):
    run(replace(config, steps=1, policy=replace(config.policy, encoder=replace(EYES, tune="none", crop=0.9, color=0.1))))
    assert "frozen encoder: its random crop, color is left out" in capsys.readouterr().err.replace("\n", " ")


def test_pretrained_weights_from_a_file_are_named_in_the_result(config, tmp_path):
    encoder = ResNetConfig(tune="none")
    torch.manual_seed(3)
    torch.save(encoder.build({"top": (16, 16)}).net("top").net.state_dict(), tmp_path / "resnet18.pth")
    config = replace(config, policy=replace(config.policy, encoder=replace(encoder, weights=str(tmp_path / "resnet18.pth"))), steps=2)
    run(config)
    assert result(config)["encoder"] == "file:resnet18.pth"
    with pytest.raises(UserError, match="pretrained ResNet needs weights"):
        run(replace(config, out=tmp_path / "other", policy=replace(config.policy, encoder=encoder)))
    assert not (tmp_path / "other").exists()


def test_policy_bc_is_one_word_away(config, data):
    words = f"--data {data} --out {config.out} --steps 2 --policy.type bc --policy.hidden 8 --policy.horizon 2".split()
    run(parse("train", Config, words))
    header = read_header(config.out / "policy.pt")
    assert isinstance(header.config, BcConfig) and header.config.hidden == (8,) and header.config.horizon == 2


@pytest.mark.parametrize("file", sorted(Path("configs/train").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_configs_are_valid(file):
    config = parse("train", Config, [str(file), "--seed", "3"])
    check(config)
    assert config.seed == 3 and type(config.policy).__module__.startswith("robolearn.policies.")


def test_an_interrupted_training_resumes_and_ends_where_a_whole_one_does(config, tmp_path, monkeypatch):
    run(config)
    torn = replace(config, out=tmp_path / "torn", save_every_s=0.0)
    update = train.Imitation.update

    def interrupted(self, batch):
        if self.steps == 4:
            raise KeyboardInterrupt
        return update(self, batch)

    monkeypatch.setattr(train.Imitation, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(torn)
    monkeypatch.undo()
    assert (torn.out / "training.pt").exists() and not (torn.out / "policy.pt").exists()
    run(torn)
    assert result(torn)["steps"] == 6
    assert torch.equal(actions(torn), actions(config))


def test_ctrl_c_keeps_every_update_that_was_done(config, tmp_path, monkeypatch):
    run(config)
    torn = replace(config, out=tmp_path / "torn")  # saves once a minute: only the signal makes it save
    update = train.Imitation.update

    def interrupted(self, batch):
        if self.steps == 4:
            os.kill(os.getpid(), signal.SIGINT)  # in the middle of an update
        return update(self, batch)

    monkeypatch.setattr(train.Imitation, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(torn)
    monkeypatch.setattr(train.Imitation, "update", update)
    assert load_state(torn.out / "training.pt")["steps"] == 5
    run(torn)
    assert torch.equal(actions(torn), actions(config))


def test_a_policy_that_will_not_look_says_so(config, capsys):
    run(config)
    assert "no encoder: the policy sees states only, not the cameras (top)" in capsys.readouterr().err.replace("\n", " ")


def test_a_finished_training_is_not_repeated(config, monkeypatch):
    run(config)
    written = (config.out / "policy.pt").stat().st_mtime_ns
    monkeypatch.setattr(train.EpisodeStore, "open", None)  # it must not even look at the data
    run(config)
    assert (config.out / "policy.pt").stat().st_mtime_ns == written


def test_failed_episodes_can_be_left_out_and_validation_is_never_trained_on(config, monkeypatch):
    made = []

    class Spy(Windows):
        def __init__(self, *args, **settings):
            super().__init__(*args, **settings)
            made.append([set(map(int, chosen)) for chosen in settings["episodes"]][0])

    monkeypatch.setattr(train, "Windows", Spy)
    run(replace(config, episodes="successful", steps=1))
    training, held_out = made
    assert len(held_out) == 1 and not training & held_out and 5 not in training


def test_minutes_end_a_training_too(config):
    run(replace(config, steps=10**6, minutes=0.002))
    assert 0 < result(config)["steps"] < 10**6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: 0 updates; expected more than 0"),
        ({"validation": 1.0}, "validation: 1.0 of the episodes; expected 0 to below 1"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not here"),
        ({"device": "gpu"}, r"device: 'gpu' is not here .*; valid: auto, cpu, cuda"),
        ({"save_every_s": -1.0}, "save_every_s: -1.0 s; expected at least 0"),
        ({"device": "meta"}, "device: 'meta' is not here .it computes nothing.; valid: auto, cpu, cuda"),
        ({"imitation": ImitationConfig(lr=0.0)}, "imitation.lr: 0.0 per update; expected more than 0"),
        ({"imitation": ImitationConfig(clip=-1.0)}, "imitation.clip: -1.0 .*; expected more than 0"),
        ({"imitation": ImitationConfig(warmup=-5)}, "imitation.warmup: -5 updates; expected at least 0"),
        ({"imitation": ImitationConfig(weight_decay=-1.0)}, "imitation.weight_decay: -1.0 per update; expected at least 0"),
        ({"imitation": ImitationConfig(ema_power=-2.0)}, "imitation.ema_power: -2.0 ; expected more than 0"),
        ({"policy": DiffusionConfig(horizon=4, widths=(8, 16), kernel=4)}, "policy.kernel: 4 actions; expected an odd number"),
        ({"imitation": ImitationConfig(encoder_lr=0.1)}, "imitation.encoder_lr: 0.1, but this policy has no encoder that learns"),
        ({"policy": DiffusionConfig(horizon=5, widths=(8, 16))}, "policy.horizon: 5 actions; 2 widths need a multiple of 2"),
        ({"policy": DiffusionConfig(horizon=4, state=("pose",))}, "state: 'pose' is not in the data of fake"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(config, change, message):
    with pytest.raises(UserError, match=message) as error:
        run(replace(config, **change))
    assert "\n" not in str(error.value) and not config.out.exists()


def test_a_run_inside_the_dataset_is_refused(config, data):
    with pytest.raises(UserError, match="out: .*: lies inside the dataset .*; expected a folder of its own"):
        run(replace(config, out=data / "run"))
    assert not (data / "run").exists()


def test_it_does_not_resume_on_actions_that_changed(config, data, tmp_path, monkeypatch):
    """As many rows as before, in a store of the same name."""
    copied = Path(shutil.copytree(data, tmp_path / "copy.zarr"))
    config = replace(config, data=copied, save_every_s=0.0)
    monkeypatch.setattr(train, "save_checkpoint", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    actions = zarr.open(str(copied), mode="r+")["action"]
    actions[:] = actions[:] / 2
    with pytest.raises(UserError, match=r"training.pt: began on other episodes: .*copy.zarr was changed since; --overwrite starts anew"):
        run(config)


def test_it_does_not_resume_on_data_that_changed(config, monkeypatch):
    config = replace(config, save_every_s=0.0)
    monkeypatch.setattr(train, "save_checkpoint", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    monkeypatch.setattr(train, "split", lambda store, fraction, rng: ([np.arange(3)], [np.arange(3, 4)]))
    with pytest.raises(UserError, match=r"training.pt: .*the data changed; --overwrite starts anew"):
        run(config)


def test_the_help_names_every_policy_and_encoder(capsys):
    with pytest.raises(SystemExit):
        parse("train", Config, ["--help"])
    said = " ".join(re.sub("[^a-z_. -]", " ", capsys.readouterr().out).split())
    places = Path(train.__file__).parents[1]
    kinds = [path.stem for place in ("policies", "models/encoders") for path in (places / place).glob("[!_]*.py")]
    assert all(re.search(rf"\b{kind}\b", said) for kind in kinds if kind not in ("chunk", "base")), said
