"""YAML <-> dataclasses: exact both ways, and every mistake named in one line."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robolearn.cli import parse
from robolearn.core import config as config_module
from robolearn.core.config import from_dict, load_config, read_yaml, save_config, to_dict
from robolearn.core.errors import UserError
from robolearn.models.encoders.base import EncoderConfig
from robolearn.models.encoders.cnn import SmallCnnConfig


class Color(Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Inner:
    lr: float = 1e-3
    name: str = "inner"


@dataclass(frozen=True)
class Other:
    depth: int = 2

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"depth: {self.depth} layers; expected at least 1")


class Buildable(Protocol):
    def build(self) -> int: ...


@dataclass(frozen=True)
class Three:
    def build(self) -> int:
        return 3


@dataclass(frozen=True)
class Config:
    path: Path = Path("a/b")
    mode: Literal["fast", "slow"] = "fast"
    size: tuple[int, int] = (84, 84)
    names: tuple[str, ...] = ()
    limit: float | None = None
    seed: int = 0
    video: bool = False
    color: Color = Color.RED
    inner: Inner = Inner(lr=3e-4)
    choice: Inner | Other = Other()
    parts: dict[str, Inner] = field(default_factory=dict)
    stack: tuple[Inner | Other, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Required:
    store: Path
    inner: Inner = Inner()


@pytest.fixture(autouse=True)
def trust_this_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "TRUSTED", (*config_module.TRUSTED, __name__.split(".")[0]))


def write(folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    path.write_text(text)
    return path


def test_every_annotation_loads(tmp_path: Path) -> None:
    text = f"""
path: x/y
mode: slow
size: [96, 48]
names: [a, b]
limit: 1e-4
seed: 7
video: true
color: BLUE
inner: {{name: z}}
choice: {{type: '{__name__}:Inner', lr: 2}}
parts: {{left: {{lr: 1}}, right: {{}}}}
stack: [{{type: '{__name__}:Other', depth: 3}}]
extra: {{a: [1, x]}}
"""
    loaded = load_config(write(tmp_path, text), Config)
    assert loaded == Config(
        path=Path("x/y"),
        mode="slow",
        size=(96, 48),
        names=("a", "b"),
        limit=1e-4,
        seed=7,
        video=True,
        color=Color.BLUE,
        inner=Inner(lr=3e-4, name="z"),  # what the file leaves out keeps this field's default, not the class's
        choice=Inner(lr=2.0),
        parts={"left": Inner(lr=1.0), "right": Inner()},
        stack=(Other(3),),
        extra={"a": [1, "x"]},
    )
    assert isinstance(loaded.choice, Inner) and isinstance(loaded.choice.lr, float)
    save_config(loaded, tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml", Config) == loaded


@given(
    lr=st.floats(allow_nan=False),
    name=st.text(st.characters(exclude_categories=["Cs"])),
    limit=st.none() | st.floats(allow_nan=False),
    seed=st.integers(),
    stack=st.lists(st.builds(Inner, lr=st.just(math.inf)) | st.builds(Other, depth=st.integers(1, 9))),
)
def test_saved_configs_load_back_equal(tmp_path_factory: pytest.TempPathFactory, lr, name, limit, seed, stack) -> None:
    config = Config(inner=Inner(lr, name), limit=limit, seed=seed, stack=tuple(stack), choice=Inner(lr))
    path = tmp_path_factory.mktemp("config") / "c.yaml"
    save_config(config, path)
    assert load_config(path, Config) == config
    assert from_dict(object, to_dict(config, object)) == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sede: 1", "sede: unknown field; valid: path, mode, size"),
        ("inner: {lrr: 1}", "inner.lrr: unknown field; valid: lr, name"),
        ("seed: 1.5", "seed: 1.5 is not valid; expected int"),
        ("seed: true", "seed: True is not valid; expected int"),
        ("video: 1", "video: 1 is not valid; expected bool"),
        ("mode: medium", "mode: 'medium' is not valid; expected 'fast' | 'slow'"),
        ("size: [1, 2, 3]", "size: [1, 2, 3] has 3 values; expected 2"),
        ("size: [1, x]", "size.1: 'x' is not valid; expected int"),
        ("limit: much", "limit: 'much' is not valid; expected float | null"),
        ("color: GREEN", "color: 'GREEN' is not valid; expected RED | BLUE"),
        ("inner: 3", "inner: 3 is not valid; expected "),
        ("parts: {left: {lr: x}}", "parts.left.lr: 'x' is not valid; expected float"),
        ("choice: {depth: 0}", "choice: depth: 0 layers; expected at least 1"),
        ("choice: {type: 'os:system'}", "choice.type: 'os:system' is not trusted; expected module:Class of robolearn or hardware"),
        ("choice: {type: 'robolearn.core.errors:UserError'}", "is not a config dataclass"),
        ("choice: {type: 'hardware.types:ArmState'}", "'hardware.types:ArmState' does not fit"),
        ("choice: {type: 'robolearn.core:Nothing'}", "does not exist"),
        ("choice: {type: 'robolearn.nowhere:X'}", "does not exist"),
        ("stack: [{depth: 1}]", "stack.0: `type: module:Class` is missing"),
        ("seed: 1\nseed: 2", "'seed' is given twice"),
        ("- 1", "the top is a list; expected a mapping"),
        ("a: [", "not YAML"),
    ],
)
def test_mistakes_name_file_field_and_choices(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_config(path, Config)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot read: No such file"):
        load_config(tmp_path / "none.yaml", Config)


def test_a_missing_field_is_named_or_held_open(tmp_path: Path) -> None:
    path = write(tmp_path, "inner: {lr: 2}")
    with pytest.raises(UserError, match=r"c\.yaml: store: missing; expected Path"):
        load_config(path, Required)
    assert load_config(path, Required, missing="open").store == "open"


def test_overrides_lie_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "inner: {lr: 2, name: kept}")
    assert load_config(path, Config, {"inner.lr": "1e-2", "seed": 3}) == Config(inner=Inner(0.01, "kept"), seed=3)
    with pytest.raises(UserError, match=r"seed\.x: 'seed' is 1, not a mapping"):
        load_config(write(tmp_path, "seed: 1"), Config, {"seed.x": 2})


def test_a_protocol_accepts_what_has_its_methods() -> None:
    @dataclass(frozen=True)
    class Holder:
        part: Any = None

    Holder.__annotations__["part"] = Buildable
    assert from_dict(Holder, {"part": {"type": f"{__name__}:Three"}}).part == Three()
    with pytest.raises(UserError, match="does not fit; expected Buildable"):
        from_dict(Holder, {"part": {"type": f"{__name__}:Inner"}})


def test_only_plain_data_is_written() -> None:
    with pytest.raises(TypeError, match="not ndarray|not set"):
        to_dict(Config(extra={"a": {1, 2}}))


@pytest.mark.parametrize(("text", "message"), [("? [1, 2]\n: 3\n", "plain text"), ("a: " + "[" * 3000 + "]" * 3000, "nested too deeply")])
def test_yaml_that_is_no_config_is_a_user_error(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_yaml(tmp_path / "c.yaml")


@dataclass(frozen=True)
class Sees:
    encoder: EncoderConfig | None = None


def test_a_bare_type_is_a_module_beside_the_base_class() -> None:
    assert from_dict(Sees, {"encoder": {"type": "cnn", "keypoints": 3}}) == Sees(SmallCnnConfig(keypoints=3))
    for name in ("chess", "base", "_backbone", "../cnn", ""):
        with pytest.raises(UserError, match=r"encoder.type: '.*' is not there; expected module:Class, or one of cnn, pretrained, resnet$"):
            from_dict(Sees, {"encoder": {"type": name}})


def test_options_pick_classes_before_their_fields_are_read(tmp_path: Path) -> None:
    assert parse("x", Sees, ["--encoder.type", "cnn", "--encoder.keypoints", "5"]) == Sees(SmallCnnConfig(keypoints=5))
    (tmp_path / "c.yaml").write_text("encoder: {keypoints: 7}")
    assert parse("x", Sees, [str(tmp_path / "c.yaml"), "--encoder.type=cnn"]) == Sees(SmallCnnConfig(keypoints=7))
    with pytest.raises(UserError, match="--encoder.type: expected a name behind it"):
        parse("x", Sees, ["--encoder.type"])
