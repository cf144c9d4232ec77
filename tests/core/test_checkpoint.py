"""Policy files: whole or absent, data only, and refused for another robot."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hardware.types import ArraySpec, RobotSpec
from robolearn.core import checkpoint, config
from robolearn.core.checkpoint import load_policy, load_state, read_header, save_checkpoint, save_state
from robolearn.core.errors import UserError
from robolearn.core.types import Policy

SPEC = RobotSpec(
    name="fake",
    cameras={"front": (8, 6)},
    state={"q": ArraySpec(("a", "b"), ("rad", "rad"), (-1.0, -1.0), (1.0, 1.0))},
    action=ArraySpec(("a", "b"), ("rad", "rad"), (-1.0, -1.0), (1.0, 1.0)),
    action_mode="joint_pos",
    rate_hz=10.0,
)


class Linear(Policy):
    def __init__(self, width: int, spec: RobotSpec) -> None:
        super().__init__()
        self.spec, self.history, self.horizon = spec, 1, 1
        self.net = nn.Linear(spec.state_dim, width)
        self.tied = self.net  # shares memory on purpose
        self.register_buffer("seen", torch.zeros((), dtype=torch.bool))


@dataclass(frozen=True)
class LinearConfig:
    width: int = 3

    def build(self, spec: RobotSpec) -> Linear:
        return Linear(self.width, spec)


@pytest.fixture(autouse=True)
def trust_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "TRUSTED", (*config.TRUSTED, __name__.split(".")[0]))


def saved(folder: Path) -> tuple[Path, Linear]:
    policy = LinearConfig(5).build(SPEC)
    policy.seen.fill_(True)
    save_checkpoint(folder / "policy.safetensors", policy, LinearConfig(5), {"steps": 12})
    return folder / "policy.safetensors", policy


def test_a_policy_comes_back_bit_for_bit_and_alone(tmp_path: Path) -> None:
    path, policy = saved(tmp_path)
    loaded = load_policy(path, SPEC)
    assert not loaded.training and loaded.spec == SPEC
    assert loaded.state_dict().keys() == policy.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(loaded.state_dict().values(), policy.state_dict().values(), strict=True))
    header = read_header(path)
    assert (header.config, header.meta) == (LinearConfig(5), {"steps": 12})
    assert [p.name for p in tmp_path.iterdir()] == ["policy.safetensors"]


def test_another_robot_is_refused_with_every_difference(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    other = replace(SPEC, cameras={"front": (8, 8)}, rate_hz=20.0)
    with pytest.raises(UserError) as caught:
        load_policy(path, other)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert "cameras.front: [8, 6] != [8, 8]; rate_hz: 10.0 != 20.0" in message


def rewritten(path: Path, **changes: object) -> Path:
    """The same file with another header."""
    with checkpoint._open(path) as file:
        header = json.loads(file.metadata()["robolearn"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, metadata={"robolearn": json.dumps(header | changes)})
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"format": "x"}, r"damaged header 'robolearn'"),
        ({"spec": {"name": "arm"}}, r"damaged header 'robolearn': KeyError"),
        ({"format": 2}, "format 2 is newer than this robolearn reads"),
        ({"policy": {"type": "subprocess:Popen"}}, "policy: type: 'subprocess:Popen' is not trusted"),
        ({"policy": {"type": f"{__name__}:LinearConfig", "width": 4}}, "weights do not fit Linear"),
        ({"policy": {"type": f"{__name__}:LinearConfig", "wdth": 4}}, "wdth: unknown field; valid: width"),
        ({"policy": {"type": "hardware.types:ArraySpec", "names": [], "units": [], "low": [], "high": []}}, "has no build"),
    ],
)
def test_bad_headers_are_refused(tmp_path: Path, changes: dict, expected: str) -> None:
    path = rewritten(saved(tmp_path)[0], **changes)
    with pytest.raises(UserError, match=expected) as caught:
        load_policy(path)
    assert str(path) in str(caught.value)


def test_damaged_foreign_and_absent_files_are_refused(tmp_path: Path) -> None:
    path, _ = saved(tmp_path)
    whole = path.read_bytes()
    for kept in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(UserError, match="not a policy checkpoint"):
            load_policy(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match="not a robolearn policy"):
        load_policy(path)
    with pytest.raises(UserError, match="no such file"):
        load_policy(tmp_path / "none.safetensors")


def test_training_state_comes_back_and_a_half_file_does_not(tmp_path: Path) -> None:
    net = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    generator = torch.Generator().manual_seed(3)
    path = tmp_path / "state.pt"
    save_state(path, {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "step": 7, "rng": generator.get_state()})
    expected = torch.rand(4, generator=generator)
    state = load_state(path)
    assert state["step"] == 7 and torch.equal(state["net"]["weight"], net.weight)
    generator.set_state(state["rng"])
    assert torch.equal(torch.rand(4, generator=generator), expected)
    optimizer.load_state_dict(state["optimizer"])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="not a training state"):
        load_state(path)
    torch.save({"x": Path("a")}, path)  # a pickled object, not data
    with pytest.raises(UserError, match="not a training state"):
        load_state(path)
    with pytest.raises(UserError, match="no such file"):
        load_state(tmp_path / "none.pt")


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    path, policy = saved(tmp_path)
    before = path.read_bytes()
    with torch.no_grad():
        policy.net.bias[1] = float("nan")
    with pytest.raises(FloatingPointError, match="policy.safetensors: not saved: 'net.bias' holds NaN or infinite weights"):
        save_checkpoint(path, policy, LinearConfig(5))
    assert path.read_bytes() == before
