"""The embed verb: features are what the robot will see, computed once, found by train, never taken for another encoder's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hardware
from hardware import RobotConfig
from robolearn.cli import parse
from robolearn.core.checkpoint import save_checkpoint
from robolearn.core.errors import UserError
from robolearn.data import features
from robolearn.data.store import EpisodeStore
from robolearn.experiments import train, vision
from robolearn.experiments.embed import Config, run
from robolearn.experiments.encoder_file import load_weights, save_encoder
from robolearn.experiments.vision import features_key
from robolearn.models.augment import Augment
from robolearn.models.encoders._checkpoints import CHECKPOINTS, Checkpoint, Preparation
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.encoders.pretrained import PretrainedConfig
from robolearn.models.encoders.resnet import ResNetConfig
from robolearn.policies.bc import BcConfig
from robolearn.runtime.rollout import rollout
from robolearn.tasks import operator_for, task_for

FAKE = RobotConfig(body="fake", image_size=16)
EYES = SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4, crop=0.9)
SIZES = {"top": (16, 16)}


def record(store: EpisodeStore, first: int, count: int) -> None:
    with hardware.open(FAKE) as robot:
        task, operator = task_for(FAKE.body), operator_for(robot, np.random.default_rng(0))
        for index in range(first, first + count):
            store.append(rollout(robot, operator, task, np.random.default_rng([0, index])))


@pytest.fixture
def data(tmp_path):
    """Three scripted episodes."""
    with hardware.open(FAKE) as robot:
        spec = robot.spec
    with EpisodeStore.create(tmp_path / "fake.zarr", spec) as store:
        record(store, 0, 3)
    return tmp_path / "fake.zarr"


def encoder(config=EYES, seed: int = 0, sizes=SIZES):
    torch.manual_seed(seed)
    return config.build(sizes)


@pytest.fixture
def weights(tmp_path):
    """A file of some encoder's weights."""
    save_encoder(tmp_path / "encoder.safetensors", encoder(), EYES)
    return str(tmp_path / "encoder.safetensors")


@pytest.fixture
def encoded(monkeypatch):
    """Counts the rows that were encoded."""
    rows: list[int] = []
    real = vision.encode

    def counted(store, encoder, chosen):
        rows.extend(chosen.tolist())
        return real(store, encoder, chosen)

    monkeypatch.setattr(vision, "encode", counted)
    return rows


def test_features_are_what_the_robot_will_see_and_computed_once(data, weights, encoded, capsys):
    config = Config(data=data, encoder=replace(EYES, weights=weights))
    run(config)
    store = EpisodeStore.open(data)
    key = features_key(encoder(), EYES)
    assert capsys.readouterr().out == f"{key}: {store.rows} rows of 8 numbers in {data}, {store.rows} of them new\n"
    images = torch.from_numpy(store.frames("top", np.arange(store.rows))).permute(0, 3, 1, 2).unsqueeze(1)
    with torch.no_grad():
        live = encoder().eval()({"top": images})[:, 0].numpy()
    np.testing.assert_allclose(store.features(key), live, atol=1e-6)
    assert len(encoded) == store.rows
    run(config)
    assert len(encoded) == store.rows and "0 of them new" in capsys.readouterr().out


def test_rows_appended_later_are_encoded_on_the_next_call(data, weights, encoded):
    run(config := Config(data=data, encoder=replace(EYES, weights=weights)))
    rows = len(encoded)
    with EpisodeStore.open(data, "a") as store:
        record(store, 3, 1)
    run(config)
    assert encoded[rows:] == list(range(rows, EpisodeStore.open(data).rows))


def test_train_finds_them_by_itself(data, weights, encoded, tmp_path):
    run(Config(data=data, encoder=replace(EYES, tune="full", weights=weights)))
    rows = len(encoded)
    policy = BcConfig(history=1, horizon=2, hidden=(8,), encoder=replace(EYES, weights=weights, shift=2))
    train.run(train.Config(data=data, out=tmp_path / "run", policy=policy, steps=2, batch_size=4, validation=0.0))
    assert len(encoded) == rows


def test_a_policys_encoder_can_be_asked_for(data, tmp_path, encoded):
    policy = BcConfig(history=1, horizon=2, hidden=(8,), encoder=replace(EYES, tune="full"))
    torch.manual_seed(3)
    built = policy.build(EpisodeStore.open(data).spec)
    built.fit_normalizers(np.eye(built.spec.state_dim), np.eye(built.spec.action.dim))
    save_checkpoint(tmp_path / "policy.pt", built, policy)
    run(Config(data=data, checkpoint=tmp_path / "policy.pt"))
    store = EpisodeStore.open(data)
    (cached,) = store.feature_cache.files()
    assert cached.rows == store.rows == len(encoded)
    frozen = replace(EYES, weights=str(tmp_path / "policy.pt"))
    load_weights(again := encoder(frozen, 9), frozen.weights)
    assert features_key(again, frozen) == cached.key, "train finds them with encoder.weights: policy.pt"
    with pytest.raises(UserError, match="cameras: wrist; the policy's encoder sees top"):
        run(Config(data=data, checkpoint=tmp_path / "policy.pt", cameras=("wrist",)))


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "elsewhere.safetensors"},
        {"tune": "full"},
        {"shift": 3, "color": 0.3, "overlay": 0.1, "view": 0.1},
        {"blocks": 1, "rank": 3},
        {"per_camera": {"top": Augment(crop=0.9, shift=1)}},
    ],
)
def test_what_changes_no_feature_changes_no_key(change):
    other = replace(EYES, **change)
    one, two = encoder(), encoder(other)
    images = {"top": torch.randint(0, 256, (2, 1, 3, 16, 16), dtype=torch.uint8)}
    with torch.no_grad():
        assert torch.equal(one.eval()(images), two.eval()(images))
    assert features_key(one, EYES) == features_key(two, other)


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (replace(EYES, crop=1.0), SIZES),
        (replace(EYES, per_camera={"top": Augment(crop=1.0)}), SIZES),
        (EYES, {"top": (16, 18)}),
        (EYES, {"side": (16, 16)}),
        (replace(EYES, strides=(1,)), SIZES),
        (ResNetConfig(tune="none", size=32), SIZES),
    ],
)
def test_what_changes_features_changes_the_key(config, sizes):
    assert features_key(encoder(config, sizes=sizes), config) != features_key(encoder(), EYES)


def test_one_bit_of_one_weight_changes_the_key_and_a_counter_does_not():
    config = ResNetConfig(tune="none", size=32)
    net = encoder(config)
    before = features_key(net, config)
    assert before == features_key(encoder(config), config)
    for name, value in net.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value.add_(1)
    assert features_key(net, config) == before
    assert features_key(net, replace(config, size=48)) != before
    running = next(value for name, value in net.state_dict().items() if name.endswith("running_mean"))
    running[0] = torch.nextafter(running[0], torch.tensor(9.0))
    assert features_key(net, config) != before


def test_how_images_are_prepared_and_how_the_network_is_made_change_the_key(monkeypatch):
    config = PretrainedConfig(model="small", tune="none", size=32)

    def key(**change):
        known = Checkpoint("test_vit", CHECKPOINTS["mae_vitb"].layouts, Preparation(), "nowhere", options={"num_heads": 2})
        monkeypatch.setitem(CHECKPOINTS, "small", replace(known, **change))
        return features_key(encoder(config), config)

    assert key() == key()
    others = [{"preparation": Preparation(resize=0)}, {"preparation": Preparation(interpolation="bicubic")}, {"options": {"num_heads": 4}}]
    assert len({key(), *(key(**change) for change in others)}) == 4
    before = key()
    monkeypatch.setattr(vision, "FEATURES_VERSION", vision.FEATURES_VERSION + 1)
    assert key() != before


def test_too_little_memory_is_one_line(data, weights, monkeypatch):
    monkeypatch.setattr(vision, "encode", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA out of memory. Tried")))
    with pytest.raises(UserError, match="out of GPU memory for 64 frames at once: --device cpu takes longer; "):
        run(Config(data=data, encoder=replace(EYES, weights=weights)))


def test_stopped_it_goes_on(data, weights, monkeypatch, encoded):
    monkeypatch.setattr(features, "BLOCK", 8)
    whole, config = vision.encode, Config(data=data, encoder=replace(EYES, weights=weights))

    def stops(store, encoder, rows):
        if rows[0] >= 24:
            raise KeyboardInterrupt
        return whole(store, encoder, rows)

    monkeypatch.setattr(vision, "encode", stops)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(vision, "encode", whole)
    assert encoded == list(range(24))
    run(config)
    assert encoded[24:] == list(range(16, EpisodeStore.open(data).rows))


def test_list_and_remove(data, weights, tmp_path, capsys):
    run(Config(data=data, encoder=replace(EYES, weights=weights)))
    save_encoder(tmp_path / "other.safetensors", encoder(seed=1), EYES)
    run(Config(data=data, encoder=replace(EYES, weights=str(tmp_path / "other.safetensors"))))
    one, two = features_key(encoder(), EYES), features_key(encoder(seed=1), EYES)
    (data / "features" / "old.npy").write_bytes(b"written by an earlier version")
    capsys.readouterr()
    run(Config(data=data, list=True))
    said = capsys.readouterr().out
    assert one in said and two in said and "old" in said
    run(Config(data=data, remove="stale"))
    assert capsys.readouterr().out == "removed old\n"
    run(Config(data=data, remove=one))
    assert [p.name for p in (data / "features").iterdir()] == [f"{two}.npy"]
    run(Config(data=data, remove="all"))
    run(Config(data=data, remove="all"))
    assert list((data / "features").iterdir()) == [] and capsys.readouterr().out.endswith("nothing to remove\n")


def test_names_are_enough_on_the_command_line(data):
    words = ["--data", str(data), "--encoder.type", "cnn", "--encoder.weights", "w.safetensors", "--encoder.keypoints", "4"]
    assert parse("embed", Config, words).encoder == SmallCnnConfig(weights="w.safetensors", keypoints=4)
    assert parse("embed", Config, ["--data", str(data), "--list"]).list


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": None}, "encoder: give either --encoder.type and --encoder.weights, or --checkpoint with a policy's file"),
        ({"encoder": EYES}, "encoder.weights: empty; expected a file"),
        ({"cameras": ("wrist",)}, "cameras: 'wrist' is not in the data of fake; valid: top"),
        ({"device": "cuda:99"}, "device: 'cuda:99' is not here"),
        ({"remove": "nothing"}, r"no features 'nothing'; valid: \(none\)"),
        ({"remove": "../x"}, "remove: feature key '../x'"),
        ({"remove": "x", "list": True}, "remove: not together with list"),
        ({"encoder": replace(EYES, weights="nowhere.safetensors")}, "SmallCnn has no public weights"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(data, weights, change, message):
    config = Config(**{"data": data, "encoder": replace(EYES, weights=weights), **change})
    with pytest.raises(UserError, match=message) as error:
        run(config)
    assert "\n" not in str(error.value) and not (data / "features").exists()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_give_no_features(data, tmp_path, bad):
    spoiled = encoder()
    with torch.no_grad():
        next(spoiled.parameters()).view(-1)[3] = bad
    save_encoder(path := tmp_path / "spoiled.safetensors", spoiled, EYES)
    with pytest.raises(UserError, match="encoder.weights: .*spoiled.safetensors: 'nets.* holds NaN or infinite numbers"):
        run(Config(data=data, encoder=replace(EYES, weights=str(path))))


def test_whole_numbers_are_no_weights(data, tmp_path):
    whole = encoder()
    next(whole.parameters()).requires_grad_(False)
    save_encoder(path := tmp_path / "whole.safetensors", whole, EYES)
    tensors, metadata = load_file(path), safe_open(path, "pt").metadata()
    save_file({name: value.to(torch.int64) for name, value in tensors.items()}, path, metadata)
    with pytest.raises(UserError, match="is torch.int64; expected torch.float32"):
        run(Config(data=data, encoder=replace(EYES, weights=str(path))))


@pytest.mark.parametrize(("there", "message"), [(False, "no such file"), (True, "cannot be read as a file that robolearn wrote")])
def test_a_file_that_is_absent_or_damaged_is_called_so(data, tmp_path, there, message):
    path = tmp_path / "e.safetensors"
    if there:
        path.write_bytes(b"")
    with pytest.raises(UserError, match=message):
        run(Config(data=data, encoder=replace(EYES, weights=str(path))))
