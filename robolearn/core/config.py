"""Configs: YAML text <-> frozen dataclasses, typed by their annotations. No interpolation; no inheritance of files but presets.

A mapping may hold `type: module:Class`, which picks the dataclass it builds; only modules of this project are imported. A bare name
is a module beside the class that is asked for: `type: act` where a robolearn.policies.chunk:ChunkConfig is expected is the dataclass
of robolearn.policies.act. A dataclass that names a folder of `PRESETS` takes `preset: name`: that file's values, under those given beside
it.
"""

from __future__ import annotations

import math
import pkgutil
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from importlib import import_module
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic

C = TypeVar("C")
MAX_NODES = 1_000_000  # values of one file
TRUSTED = ("robolearn", "hardware")  # a config or a checkpoint from a stranger must not import anything else


def load_config(path: Path, cls: type[C], overrides: Mapping[str, Any] | None = None, missing: Any = MISSING) -> C:
    """Read `path` as a `cls`.

    overrides: dotted field -> value, laid over the file. missing: what a required field holds that neither gives;
    by default that is an error. Raises UserError: one line with file, dotted field, value and the valid choices.
    """
    return from_dict(cls, nested(overrides or {}, read_yaml(path), str(path)), str(path), missing)


def nested(dotted: Mapping[str, Any], into: dict[str, Any] | None = None, where: str = "config") -> dict[str, Any]:
    """`into` with `a.b.c` -> value laid over it, as mappings of mappings. UserError: there is something else in the way."""
    data: dict[str, Any] = {} if into is None else into
    for path, value in dotted.items():
        *parents, last = path.split(".")
        node = data
        for name in parents:
            if node.get(name) is None:
                node[name] = {}
            node = node[name]
            if not isinstance(node, dict):
                raise UserError(f"{where}: {path}: '{name}' is {node!r}, not a mapping")
        node[last] = value
    return data


def save_config(config: Any, path: Path) -> None:
    """Write every field as YAML; `load_config` gives an equal config back."""
    write_atomic(path, yaml.safe_dump(to_dict(config), sort_keys=False, width=140).encode())


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read: {getattr(error, 'strerror', None) or error}") from error
    except RecursionError as error:
        raise UserError(f"{path}: not a config: nested too deeply") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {error}") from error
    except (ValueError, AttributeError, LookupError, TypeError) as error:  # PyYAML's own, of !!int x and 2024-99-99
        raise UserError(f"{path}: not YAML: a date or number in it is none") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(f"{path}: the top is a {type(data).__name__}; expected a mapping of field: value")
    return data


def to_dict(config: Any, annotation: Any = None) -> Any:
    """Plain data (YAML and JSON). `type` is written where `annotation` alone does not tell the class; annotation=object: always."""
    if is_dataclass(config) and not isinstance(config, type):
        cls = type(config)
        hints = get_type_hints(cls)
        data = {f.name: to_dict(getattr(config, f.name), hints[f.name]) for f in fields(cls) if f.init}
        named = annotation is None or _dataclasses(annotation) == [cls]
        return data if named else {"type": f"{cls.__module__}:{cls.__qualname__}", **data}
    if isinstance(config, Enum):
        return config.name
    if isinstance(config, Path):
        return str(config)
    if isinstance(config, Mapping):
        inner = get_args(annotation)[1] if _holds(annotation, Mapping) else object
        return {str(key): to_dict(value, inner) for key, value in config.items()}
    if isinstance(config, list | tuple):
        args = get_args(annotation) if _holds(annotation, Sequence) else (object, ...)
        inner = args if len(args) == len(config) and Ellipsis not in args else args[:1] * len(config)
        return [to_dict(value, kind) for value, kind in zip(config, inner, strict=True)]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    raise TypeError(f"a config holds plain data and dataclasses, not {type(config).__name__}")


def from_dict(cls: type[C], data: Mapping[str, Any], where: str = "config", missing: Any = MISSING) -> C:
    """The inverse of `to_dict`; cls=object takes the class from `type`. `where` opens every error."""
    return _build(cls, data, _Place(where, "", missing), None)


def require_finite(config: Any, field: str = "") -> None:
    """UserError for the first number of a config, by its dotted name, that is NaN or infinite: none of them means anything."""
    if isinstance(config, float) and not math.isfinite(config):
        raise UserError(f"{field}: {config}; expected a finite number")
    if is_dataclass(config):
        parts: Any = ((f.name, getattr(config, f.name)) for f in fields(config))
    elif isinstance(config, Mapping):
        parts = config.items()
    else:
        parts = enumerate(config) if isinstance(config, list | tuple) else ()
    for name, value in parts:
        require_finite(value, f"{field}.{name}" if field else str(name))


class _Place:
    """Where we are in the file, for errors."""

    def __init__(self, where: str, field: str, missing: Any) -> None:
        self.where, self.field, self.missing = where, field, missing

    def inside(self, name: str | int) -> _Place:
        return _Place(self.where, f"{self.field}.{name}" if self.field else str(name), self.missing)

    def error(self, problem: str) -> UserError:
        return UserError(f"{self.where}: {self.field + ': ' if self.field else ''}{problem}")


def _value(annotation: Any, value: Any, place: _Place, default: Any) -> Any:
    """`value` as `annotation` wants it. default: the field's own, whose class and values a mapping refines."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return _union(args, value, place, default)
    if isinstance(value, Mapping) and ("type" in value or _dataclasses(annotation)):
        return _build(annotation, value, place, default)
    if annotation is Any or annotation is object:
        return value
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in args):
            return value
    elif annotation is None or annotation is type(None):
        if value is None:
            return None
    elif _holds(annotation, Sequence):
        if isinstance(value, list | tuple):
            return _sequence(origin, args, value, place)
    elif _holds(annotation, Mapping):
        if isinstance(value, Mapping):
            return {_value(args[0], k, place.inside(k), None): _value(args[1], v, place.inside(k), None) for k, v in value.items()}
    elif isinstance(annotation, type):
        fits, converted = _scalar(annotation, value)
        if fits:
            return converted
    raise place.error(f"{_shown(value)} is not valid; expected {_describe(annotation)}")


def _shown(value: Any) -> str:
    """As the file has it. Python writes out no number of more than 4300 digits."""
    try:
        return repr(value)
    except ValueError:
        return "a number of thousands of digits"


def _scalar(kind: type, value: Any) -> tuple[bool, Any]:
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return True, float(value)  # YAML 1.1 reads 1e-4 as text
        except (ValueError, OverflowError):
            return False, None
    if issubclass(kind, Enum):
        return (value in kind.__members__, kind.__members__.get(value)) if isinstance(value, str) else (isinstance(value, kind), value)
    if issubclass(kind, Path):
        return (True, kind(value)) if isinstance(value, str | Path) else (False, None)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    return isinstance(value, kind), value


def _union(members: Sequence[Any], value: Any, place: _Place, default: Any) -> Any:
    """The member that takes the value as it is wins over one that converts it."""
    if isinstance(value, Mapping) and (found := [m for member in members for m in _dataclasses(member)]):
        return _build(Union[tuple(found)], value, place, default)  # noqa: UP007 the members are known at run time only
    results = []
    for member in members:
        try:
            result = _value(member, value, place, default)
        except UserError:
            continue
        if type(result) is type(value) and result == value:
            return result
        results.append(result)
    if results:
        return results[0]
    raise place.error(f"{_shown(value)} is not valid; expected {_describe(Union[tuple(members)])}")  # noqa: UP007


def _sequence(origin: Any, args: tuple, value: Sequence[Any], place: _Place) -> Any:
    fixed = origin is tuple and not (len(args) == 2 and args[1] is Ellipsis)
    if fixed and len(value) != len(args):
        raise place.error(f"{list(value)!r} has {len(value)} values; expected {len(args)}")
    inner = args if fixed else args[:1] * len(value)
    items = [_value(a, v, place.inside(i), None) for i, (a, v) in enumerate(zip(inner, value, strict=True))]
    return items if origin is list else tuple(items)


def _build(annotation: Any, data: Any, place: _Place, default: Any) -> Any:
    """One dataclass. Fields the data leaves out keep the value of `default` where that is of the same class."""
    if not isinstance(data, Mapping):
        raise place.error(f"{data!r} is not valid; expected a mapping of field: value")
    cls = _class(annotation, data, place, default)
    if "preset" in data and (folder := getattr(cls, "PRESETS", None)):
        data, default = _over_preset(folder, data, place.inside("preset")), None
    hints, known = get_type_hints(cls), {f.name: f for f in fields(cls) if f.init}
    for name in data:
        if name not in known and name != "type":
            raise place.inside(name).error(f"unknown field; valid: {', '.join(known)}")
    base = default if type(default) is cls else None
    values: dict[str, Any] = {}
    absent = []
    for name, f in known.items():
        own = getattr(base, name) if base is not None else f.default_factory() if f.default_factory is not MISSING else f.default
        if name in data:
            values[name] = _value(hints[name], data[name], place.inside(name), own)
        elif own is not MISSING:
            values[name] = own
        else:
            absent.append(name)
    if absent and place.missing is MISSING:
        raise place.inside(absent[0]).error(f"missing; expected {_describe(hints[absent[0]])}")
    if absent:
        return _incomplete(cls, values | dict.fromkeys(absent, place.missing))
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise place.error(str(error)) from error


def presets(folder: str) -> list[str]:
    """The names of the presets in configs/`folder`."""
    return sorted(path.name.removesuffix(".yaml") for path in (files("configs") / folder).iterdir() if path.name.endswith(".yaml"))


def preset_values(folder: str, name: str) -> dict[str, Any]:
    """What configs/`folder`/`name`.yaml says. KeyError: there is none."""
    if name not in presets(folder):
        raise KeyError(name)
    with as_file(files("configs") / folder / f"{name}.yaml") as path:
        return read_yaml(path)


def _over_preset(folder: str, data: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    try:
        under = preset_values(folder, str(data["preset"]))
    except KeyError:
        raise place.error(f"{data['preset']!r} is not one; valid: {', '.join(presets(folder))}") from None
    return _laid_over(under, {name: value for name, value in data.items() if name != "preset"})


def _laid_over(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = {name: _laid_over(under[name], over[name]) for name in under if name in over and _mappings(under[name], over[name])}
    return {**under, **over, **both}


def _mappings(*values: Any) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _incomplete(cls: type, values: Mapping[str, Any]) -> Any:
    """A default with holes for the command line to fill; its own checks wait until then."""
    config = object.__new__(cls)
    for name, value in values.items():
        object.__setattr__(config, name, value)
    return config


def _class(annotation: Any, data: Mapping[str, Any], place: _Place, default: Any) -> type:
    candidates = _dataclasses(annotation)
    if "type" not in data:
        if type(default) in candidates or (isinstance(annotation, type) and is_dataclass(default) and isinstance(default, annotation)):
            return type(default)
        if len(candidates) == 1:
            return candidates[0]
        raise place.error(f"`type: module:Class` is missing; valid: {_describe(annotation)}")
    here = place.inside("type")
    if ":" not in str(data["type"]):
        return _beside(str(data["type"]), candidates, here)
    module, _, name = str(data["type"]).partition(":")
    if module.split(".")[0] not in TRUSTED or not name:
        raise here.error(f"{data['type']!r} is not trusted; expected module:Class of {' or '.join(TRUSTED)}")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise here.error(f"{data['type']!r} does not exist: {error}") from error
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise here.error(f"{data['type']!r} is not a config dataclass")
    if annotation is not Any and not any(_accepts(kind, cls) for kind in _classes(annotation)):
        raise here.error(f"{data['type']!r} does not fit; expected {_describe(annotation)}")
    return cls


def _beside(name: str, candidates: Sequence[type], here: _Place) -> type:
    """The dataclass of the module `name` in the package of one of the candidates that is one of them, too."""
    valid: list[str] = []
    for kind in candidates:
        package = kind.__module__.rpartition(".")[0]
        if package.split(".")[0] not in TRUSTED:
            continue
        modules = [m.name for m in pkgutil.iter_modules(import_module(package).__path__) if not m.name.startswith("_")]
        modules = [name for name in modules if f"{package}.{name}" != kind.__module__]
        if name in modules:
            module = import_module(f"{package}.{name}")
            own = [c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__ and is_dataclass(c)]
            if fitting := [c for c in own if issubclass(c, kind)]:
                return fitting[-1]
        valid += modules
    raise here.error(f"{name!r} is not there; expected module:Class, or one of {', '.join(valid) or '(none)'}")


def _accepts(kind: type, cls: type) -> bool:
    if getattr(kind, "_is_protocol", False):  # protocols with attributes refuse issubclass
        return all(hasattr(cls, name) for name, value in vars(kind).items() if callable(value) and not name.startswith("_"))
    return issubclass(cls, kind)


def _classes(annotation: Any) -> list[type]:
    if get_origin(annotation) in (Union, types.UnionType):
        return [c for member in get_args(annotation) for c in _classes(member)]
    return [annotation] if isinstance(annotation, type) else []


def _dataclasses(annotation: Any) -> list[type]:
    return [c for c in _classes(annotation) if is_dataclass(c)]


def _holds(annotation: Any, kind: type) -> bool:
    """Is this a tuple[...], list[...], dict[...] whose elements are typed?"""
    origin = get_origin(annotation)
    return isinstance(origin, type) and issubclass(origin, kind)


def _describe(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " | ".join(map(repr, get_args(annotation)))
    if get_origin(annotation) in (Union, types.UnionType):
        return " | ".join(map(_describe, get_args(annotation)))
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return " | ".join(annotation.__members__)
    if isinstance(annotation, type) and not get_args(annotation):
        return f"{annotation.__module__}:{annotation.__qualname__}" if is_dataclass(annotation) else annotation.__name__
    return str(annotation).replace("typing.", "")


class PlainLoader(yaml.SafeLoader):
    """Refuses aliases of aliases of aliases: a kilobyte of them stands for gigabytes, as text and where they are merged."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _count(node, {})
        return node


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are once every alias is written out. ConstructorError: too many, or without an end."""
    if id(node) not in known:
        known[id(node)] = MAX_NODES  # while it is open: one that holds itself
        parts = [] if isinstance(node, yaml.ScalarNode) else node.value
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in parts for part in pair]
        known[id(node)] = 1 + sum(_count(part, known) for part in parts)
    if known[id(node)] >= MAX_NODES:
        raise yaml.constructor.ConstructorError(None, None, f"more than {MAX_NODES} values, with its aliases written out", node.start_mark)
    return known[id(node)]


class _Loader(PlainLoader):
    """PyYAML keeps the last of two equal keys without a word; a config must not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                raise yaml.constructor.ConstructorError(None, None, "a field's name must be plain text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)
