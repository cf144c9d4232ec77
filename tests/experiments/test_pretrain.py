"""The pretrain verb: what it leaves behind, that policies take it, what it refuses, how it resumes."""

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import hardware
from hardware import RobotConfig
from robolearn.cli import parse
from robolearn.core.checkpoint import load_state
from robolearn.core.errors import UserError
from robolearn.core.run import read_metrics
from robolearn.data.store import EpisodeStore
from robolearn.experiments import encoder_file, pretrain
from robolearn.experiments.encoder_file import load_weights, save_encoder
from robolearn.experiments.pretrain import Config, run
from robolearn.learners.pretraining import LearningConfig, Pretraining
from robolearn.learners.pretraining.byol import ByolConfig
from robolearn.learners.pretraining.keypoints import KeypointsConfig
from robolearn.learners.pretraining.mae import MaeConfig
from robolearn.learners.pretraining.moco import MocoConfig
from robolearn.learners.pretraining.taco import TacoConfig
from robolearn.learners.pretraining.time_contrastive import TimeContrastiveConfig
from robolearn.learners.pretraining.vip import VipConfig
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.encoders.resnet import ResNetConfig
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
            store.append(rollout(robot, operator, task, np.random.default_rng([0, index])))
    return path


@pytest.fixture
def config(data, tmp_path):
    return Config(
        data=data,
        out=tmp_path / "run",
        encoder=EYES,
        objective=MaeConfig(width=16, grid=4),
        learning=LearningConfig(precision="float32", warmup=2, lr=1e-3),
        steps=6,
        batch_size=8,
        validation=0.3,
        probe_rows=100,
    )


def result(config: Config) -> dict:
    return json.loads((config.out / "done.json").read_text())


def weights(config: Config) -> dict[str, torch.Tensor]:
    return load_file(config.out / "encoder.safetensors")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_leaves_an_encoder_and_says_what_can_be_read_from_it(config, data, capsys):
    run(config)
    assert {p.name for p in config.out.iterdir()} == {"config.yaml", "metrics.jsonl", "encoder.safetensors", "done.json"}
    done = result(config)
    states = set(EpisodeStore.open(data).spec.state)
    for kind in ("probe_before", "probe_after", "probe_pixels"):
        assert set(done[kind]) == states and all(-5 < score <= 1 for score in done[kind].values())
    assert done["probe_before"] != done["probe_after"]
    assert (done["steps"], done["objective"], done["encoder"]) == (6, "Mae", "from scratch") and np.isfinite(done["val_loss"])
    rows = read_metrics(config.out / "metrics.jsonl")
    name = next(iter(states))
    assert rows[0]["step"] == 0 and rows[0][f"probe_before/{name}"] == done["probe_before"][name]
    assert rows[-1]["step"] == 6 and rows[-1][f"probe_after/{name}"] == done["probe_after"][name]
    assert "16 x 16 pixels" in (said := capsys.readouterr().out) and name in said and f"{done['probe_after'][name]:.3f}" in said


@pytest.mark.parametrize(
    "objective",
    [MocoConfig(queue=32), ByolConfig(hidden=16), TimeContrastiveConfig(), VipConfig(), TacoConfig(), KeypointsConfig(patch=3)],
)
def test_every_objective_runs_to_its_end(config, objective):
    run(replace(config, objective=objective, steps=2))
    assert result(config)["steps"] == 2


def test_a_policy_takes_it_by_its_path(config):
    run(config)
    path = str(config.out / "encoder.safetensors")
    torch.manual_seed(5)
    for tune in ("full", "none"):
        encoder = replace(EYES, tune=tune).build({"top": (16, 16)})
        assert load_weights(encoder, path) == "file:encoder.safetensors"
        assert same(dict(encoder.state_dict()), weights(config))


def test_it_may_start_from_weights(config, tmp_path):
    run(config)
    start = replace(EYES, weights=str(config.out / "encoder.safetensors"))
    again = replace(config, out=tmp_path / "again", encoder=start, learning=replace(config.learning, lr=1e-30, weight_decay=0.0))
    run(again)
    assert same(weights(again), weights(config)) and result(again)["encoder"] == "file:encoder.safetensors"


def test_one_network_for_all_cameras_fits_one_for_each_and_the_only_ones_fits_all(tmp_path):
    two, path = {"front": (32, 32), "wrist": (32, 32)}, tmp_path / "encoder.safetensors"
    shared, own = ResNetConfig(tune="none", size=32), ResNetConfig(size=32)
    torch.manual_seed(0)
    save_encoder(path, written := shared.build(two), shared)
    load_weights(encoder := own.build(two), str(path))
    weight = "net.conv1.weight"
    for camera in two:
        assert torch.equal(encoder.nets[camera].get_parameter(weight), written.nets["shared"].get_parameter(weight))
    save_encoder(path, written := own.build({"front": (32, 32)}), own)
    load_weights(encoder := shared.build({"other": (32, 32)}), str(path))
    assert torch.equal(encoder.nets["shared"].get_parameter(weight), written.nets["front"].get_parameter(weight))
    save_encoder(path, own.build(two), own)
    load_weights(own.build({"wrist": (32, 32)}), str(path))  # the other camera's network is not needed
    with pytest.raises(
        UserError, match=r"ResNet of front, wrist does not fit ResNet of front, wrist: 'nets.shared.* is missing; give both"
    ):
        load_weights(shared.build(two), str(path))


def test_low_rank_adaptation_begins_from_it(tmp_path):
    path = tmp_path / "encoder.safetensors"
    shared = ResNetConfig(tune="none", size=32)
    save_encoder(path, shared.build({"front": (32, 32)}), shared)
    load_weights(adapted := replace(shared, tune="lora", rank=2).build({"front": (32, 32)}), str(path))
    save_encoder(path, adapted, replace(shared, tune="lora", rank=2))
    with pytest.raises(UserError, match="lora_down' has no place in it"):  # what was learned must not be lost without a word
        load_weights(shared.build({"front": (32, 32)}), str(path))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(EYES, keypoints=6), r"encoder.keypoints: 6; expected 4, with which /.*/encoder.safetensors was made"),
        (replace(EYES, strides=(1,)), r"encoder.strides: \[1\]; expected \[2\], with which"),  # the tensors are as large
        (ResNetConfig(size=32), r"encoder.type: robolearn.*:ResNetConfig; expected robolearn.*:SmallCnnConfig, with which"),
    ],
)
def test_what_does_not_fit_is_one_line(config, other, message):
    run(config)
    with pytest.raises(UserError, match=message) as error:
        load_weights(other.build({"top": (16, 16)}), str(config.out / "encoder.safetensors"))
    assert "\n" not in str(error.value)


def test_settings_that_change_only_training_may_differ(config):
    run(config)
    other = replace(EYES, tune="none", crop=0.9, shift=2, color=0.1, weights="x")
    load_weights(encoder := other.build({"top": (16, 16)}), str(config.out / "encoder.safetensors"))
    assert same(dict(encoder.state_dict()), weights(config))


def test_a_setting_younger_than_the_file_had_its_default(tmp_path, monkeypatch):
    top, path = {"top": (32, 32)}, tmp_path / "encoder.safetensors"
    said = encoder_file.to_dict
    monkeypatch.setattr(encoder_file, "to_dict", lambda *args, **more: {k: v for k, v in said(*args, **more).items() if k != "size"})
    save_encoder(path, ResNetConfig().build(top), ResNetConfig())
    monkeypatch.undo()
    load_weights(ResNetConfig().build(top), str(path))
    with pytest.raises(UserError, match="encoder.size: 32; expected 0, with which"):
        load_weights(ResNetConfig(size=32).build(top), str(path))


def test_a_loss_that_only_a_gpu_has_not_looked_at_makes_no_encoder(config, monkeypatch):
    update = Pretraining.update
    monkeypatch.setattr(Pretraining, "update", lambda self, clip: update(self, clip) | {"loss": torch.tensor(float("nan"))})
    with pytest.raises(UserError, match="learning.lr: 0.001; the loss is nan at step 6: lower it"):
        run(config)
    assert not (config.out / "encoder.safetensors").exists()


def test_too_little_memory_is_one_line(config, monkeypatch):
    monkeypatch.setattr(Pretraining, "update", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    with pytest.raises(UserError, match=r"out of GPU memory at batch_size 8: --batch_size 4 halves the batch; --cache_mb 0 keeps"):
        run(config)


@pytest.mark.parametrize("objective", [MocoConfig(queue=32, momentum=0.9), TacoConfig()])
def test_an_interrupted_run_resumes_and_ends_where_a_whole_one_does(config, tmp_path, monkeypatch, objective):
    config = replace(config, objective=objective)
    run(config)
    torn = replace(config, out=tmp_path / "torn", save_every_s=0.0)
    update = Pretraining.update

    def interrupted(self, clip):
        if self.steps == 4:
            raise KeyboardInterrupt
        return update(self, clip)

    monkeypatch.setattr(Pretraining, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(torn)
    monkeypatch.undo()
    assert (torn.out / "training.pt").exists() and not (torn.out / "encoder.safetensors").exists()
    run(torn)
    assert same(weights(torn), weights(config)) and not (torn.out / "training.pt").exists()
    for name in ("steps", "probe_before", "probe_after", "probe_pixels", "val_loss"):
        assert result(torn)[name] == result(config)[name], name
    assert [row["step"] for row in read_metrics(torn.out / "metrics.jsonl")] == [0, 6]


def test_ctrl_c_keeps_every_update_that_was_done(config, tmp_path, monkeypatch):
    run(config)
    torn = replace(config, out=tmp_path / "torn")  # saves once a minute: only the signal makes it save
    update = Pretraining.update

    def interrupted(self, clip):
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGINT)  # in the middle of an update
        return update(self, clip)

    monkeypatch.setattr(Pretraining, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(torn)
    monkeypatch.undo()
    assert load_state(torn.out / "training.pt")["steps"] == 3
    run(torn)
    assert same(weights(torn), weights(config))


def test_a_finished_run_is_not_repeated(config, monkeypatch):
    run(config)
    written = (config.out / "encoder.safetensors").stat().st_mtime_ns
    monkeypatch.setattr(pretrain.EpisodeStore, "open", None)
    run(config)
    assert (config.out / "encoder.safetensors").stat().st_mtime_ns == written


def test_held_out_episodes_are_never_trained_on(config, monkeypatch):
    seen = []
    read = pretrain.Clips._read

    def spy(self, episodes, rows):
        seen.append((self.episodes.tolist(), set(episodes.tolist())))
        return read(self, episodes, rows)

    monkeypatch.setattr(pretrain.Clips, "_read", spy)
    run(config)
    sets = {tuple(allowed) for allowed, _ in seen}
    train, held_out = sorted(sets, key=len, reverse=True)
    assert len(sets) == 2 and not set(train) & set(held_out) and len(train) + len(held_out) == 6
    assert all(drawn <= set(allowed) for allowed, drawn in seen)


def test_without_held_out_episodes_there_is_no_score(config):
    run(replace(config, validation=0.0))
    done = result(config)
    assert done["probe_after"] == {} and "val_loss" not in done


def test_minutes_end_a_run_too(config):
    run(replace(config, steps=10**6, minutes=0.002))
    assert 0 < result(config)["steps"] < 10**6


def test_names_are_enough_on_the_command_line(data, tmp_path):
    words = [
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--objective.type",
        "moco",
        "--objective.queue",
        "32",
        "--encoder.type",
        "cnn",
    ]
    parsed = parse("pretrain", Config, [*words, "--encoder.keypoints", "4", "--objective.views.scale", "0.5", "1.0", "--steps", "1"])
    assert isinstance(parsed.objective, MocoConfig) and parsed.objective.queue == 32 and parsed.objective.views.scale == (0.5, 1.0)
    assert isinstance(parsed.encoder, SmallCnnConfig) and parsed.encoder.keypoints == 4


def test_a_wrong_name_lists_the_objectives_and_nothing_else(data, tmp_path):
    with pytest.raises(UserError, match="expected module:Class, or one of byol, keypoints, mae, moco, taco, time_contrastive, vip$"):
        parse("pretrain", Config, ["--data", str(data), "--out", str(tmp_path / "run"), "--objective.type", "mocoo"])


@pytest.mark.parametrize("name", sorted(p.stem for p in pretrain.Path("configs/pretrain").glob("*.yaml")))
def test_the_configs_are_valid(name):
    assert parse("pretrain", Config, [f"configs/pretrain/{name}.yaml", "--seed", "3"]).seed == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: 0 updates; expected more than 0"),
        ({"batch_size": 1}, "batch_size: 1 clips; expected at least 2"),
        ({"validation": 1.0}, "validation: 1.0 of the episodes; expected 0 to below 1"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not here"),
        ({"cameras": ("wrist",)}, "cameras: 'wrist' is not in the data of fake; valid: top"),
        ({"encoder": ResNetConfig(tune="lora", size=32)}, "encoder.tune: lora; pretraining trains the whole network"),
        (
            {"objective": KeypointsConfig(), "encoder": ResNetConfig(size=32)},
            "objective.type: keypoints: ResNet's features are no keypoints",
        ),
        ({"objective": TacoConfig(steps=5000)}, "no episode has the 5001 rows that a clip of this objective needs"),
        ({"encoder": replace(EYES, weights="nowhere.safetensors")}, "SmallCnn has no public weights"),
        ({"learning": LearningConfig(lr=float("inf"), precision="float32")}, "learning.lr: inf; the loss is nan"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(config, change, message):
    with pytest.raises(UserError, match=message) as error:
        run(replace(config, **change))
    assert "\n" not in str(error.value)
    assert not config.out.exists() or not (config.out / "encoder.safetensors").exists()


def test_it_does_not_resume_on_data_that_changed(config, monkeypatch):
    config = replace(config, save_every_s=0.0)
    monkeypatch.setattr(pretrain, "save_encoder", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.undo()
    monkeypatch.setattr(pretrain, "split", lambda store, fraction, rng: ([np.arange(3)], [np.arange(3, 4)]))
    with pytest.raises(UserError, match=r"training.pt: .*the data changed; --overwrite starts anew"):
        run(config)
