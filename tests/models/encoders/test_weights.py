"""Where weights come from, and what is said where they do not."""

import argparse
import pickle
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18, resnet50

from robolearn.core.errors import UserError
from robolearn.models.encoders._weights import fetch
from robolearn.models.encoders.pretrained import PretrainedConfig
from robolearn.models.encoders.resnet import ResNetConfig

TOP = {"top": (32, 32)}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file(tmp_path, suffix):
    state, path = {"a": torch.ones(2)}, tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    read, origin = fetch(str(path))
    assert torch.equal(read["a"], state["a"]) and origin == f"file:weights{suffix}"


def test_a_hub(tmp_path, monkeypatch):
    from huggingface_hub.errors import EntryNotFoundError

    asked = []

    def download(model: str, name: str) -> str:
        asked.append((model, name))
        if name != "pytorch_model.bin":
            raise EntryNotFoundError(f"no {name}")
        torch.save({"a": torch.zeros(1)}, tmp_path / name)
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert fetch("owner/model")[1] == "hub:owner/model"
    assert asked == [("owner/model", n) for n in ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")]
    asked.clear()
    with pytest.raises(UserError, match="the hub did not give 'owner/model/deep/other.bin' either"):
        fetch("owner/model/deep/other.bin")
    assert asked == [("owner/model", "deep/other.bin")]


def test_the_web(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda url, path: torch.save({"a": torch.tensor(len(url))}, path))
    address, other = "https://example.org/models/r-50.pth.tar?download=1", "https://example.org/r-50.pth.tar"
    assert fetch(address)[1] == f"web:{address}" and len(list((tmp_path / "checkpoints").glob("*-r-50.pth.tar"))) == 1
    assert [int(fetch(where)[0]["a"]) for where in (other, address)] == [len(other), len(address)], "one name, two files"
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_: pytest.fail("it is there already"))
    assert "a" in fetch(address)[0]

    def refused(*_: str) -> None:
        raise OSError("HTTP Error 404: Not Found\nsecond line")

    monkeypatch.setattr("torch.hub.download_url_to_file", refused)
    with pytest.raises(UserError, match="the web did not give 'https://example.org/none' either .OSError: HTTP Error 404: Not Found."):
        fetch("https://example.org/none")


def test_weights_that_are_nowhere(monkeypatch):
    encoder = ResNetConfig(tune="none").build(TOP)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as without a network, without the wait
    for address in ("org/model", "neither-file-nor-address"):
        with pytest.raises(UserError, match=f"no file '{address}', and the hub did not give '{address}' either") as error:
            encoder.load_weights(address)
        assert "\n" not in str(error.value) and "the weights of resnet18 (timm/resnet18.tv_in1k)" in str(error.value)


def test_files_that_are_more_than_tensors(tmp_path):
    def reason(path: Path) -> str:
        with warnings.catch_warnings(), pytest.raises(UserError) as error:
            warnings.simplefilter("ignore")
            fetch(str(path))
        return str(error.value).split("cannot be read: ")[1]

    torch.save({"model": {}, "args": argparse.Namespace(lr=1)}, tmp_path / "args.pth")
    assert reason(tmp_path / "args.pth").startswith(
        "beside tensors it holds a argparse.Namespace, which only its own code could read; where"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(torch.nn.Linear(1, 1)).save(tmp_path / "program.pt")
    assert reason(tmp_path / "program.pt").startswith("it is a TorchScript program")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"haiku": [1.0]}, protocol=5))
    (tmp_path / "broken.pth").write_bytes(b"no weights")
    for name in ("other.pkl", "broken.pth"):
        assert reason(tmp_path / name) == "neither tensors that torch saved nor safetensors"
    (tmp_path / "broken.safetensors").write_bytes(b"no weights")
    assert reason(tmp_path / "broken.safetensors")
    torch.save([torch.ones(1)], tmp_path / "list.pth")
    assert reason(tmp_path / "list.pth") == "it holds a list, not tensors by name"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer4.1.bn2.bias"), "not resnet18: 'layer4.1.bn2.bias' is missing"),
        (lambda s: [s.pop(n) for n in list(s) if "layer4" in n], "not resnet18: 'layer4.0.conv1.weight' and 24 more tensors are missing"),
        (lambda s: s.update({"layer5.conv1.weight": torch.ones(1)}), "'layer5.conv1.weight' has no place in it"),
        (lambda s: s.update({"conv1.weight": torch.ones(64, 3, 3, 3)}), r"'conv1.weight' is \(64, 3, 3, 3\); expected \(64, 3, 7, 7\)"),
        (lambda s: s.clear(), "not resnet18: no tensor is named as one of torchvision or timm, .* would; its entries: r3m"),
    ],
)
def test_every_tensor_must_find_its_place(tmp_path, change, message):
    encoder = ResNetConfig(tune="none").build(TOP)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = resnet18().state_dict()
    change(state)
    torch.save({"r3m": {f"module.convnet.{n}": v for n, v in state.items() if not n.startswith("fc.")}}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=message) as error:
        encoder.load_weights(str(tmp_path / "model.pt"))
    assert "\n" not in str(error.value)
    if "missing" in message or "place" in message:
        assert "(read as saved by r3m; known: torchvision or timm, moco v1 and v2, " in str(error.value)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_a_projection_may_be_missing_only_where_it_is_not_wanted(tmp_path):
    state = {f"module.convnet.{n}": v for n, v in resnet50().state_dict().items() if not n.startswith("fc.")}
    torch.save({"vip": state}, tmp_path / "m.pt")
    PretrainedConfig(model="vip_resnet50", head="mean", tune="none", size=32).build(TOP).load_weights(str(tmp_path / "m.pt"))
    with pytest.raises(UserError, match="'fc.weight' and 1 more tensors are missing"):
        PretrainedConfig(model="vip_resnet50", tune="none", size=32).build(TOP).load_weights(str(tmp_path / "m.pt"))
