"""An encoder's weights as a file: safetensors with a JSON header. A policy's file holds its encoder's weights, too."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from robolearn.core.config import to_dict
from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic
from robolearn.models.augment import Augment
from robolearn.models.encoders.base import CameraEncoder, EncoderConfig

_HEADER = "robolearn-encoder"
_POLICY = "robolearn"  # the header of a policy's file, see core.checkpoint
_COUNTER = "num_batches_tracked"  # of BatchNorm; nothing that is computed depends on it
# Of an encoder's config: where the weights came from, what is trained, what only training does to images. The weights fit, and give equal
# features of equal parts of the images, whatever these say.
NO_MATTER = {"weights", "tune", "blocks", "rank", "per_camera"} | {f.name for f in fields(Augment)}
_OWN = (_COUNTER, "lora_down", "lora_up")  # what a network may begin with itself


def save_encoder(path: Path, encoder: CameraEncoder, config: EncoderConfig, meta: Mapping[str, Any] | None = None) -> None:
    """Write what `encoder.weights: path` reads back. Whole or absent. meta: JSON data, how it was trained."""
    header = {
        "robolearn": version("robolearn"),
        "encoder": to_dict(config, annotation=object),
        "cameras": {camera: list(size) for camera, size in encoder.cameras.items()},
        "meta": dict(meta or {}),
    }
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in encoder.state_dict().items()}
    write_atomic(path, save(tensors, metadata={_HEADER: json.dumps(header)}))


def load_weights(encoder: CameraEncoder, weights: str) -> str:
    """Fill `encoder` and say from where. UserError: it does not fit, or what it brings is no number."""
    origin = _fill(encoder, weights)
    for name, value in encoder.state_dict().items():
        if value.is_floating_point() and not value.isfinite().all():
            raise UserError(f"encoder.weights: {weights}: {name!r} holds NaN or infinite numbers")
    return origin


def _fill(encoder: CameraEncoder, weights: str) -> str:
    """From a file that pretrain, train or save_encoder wrote, else whatever its kind can load.

    A network that all cameras share fits each camera's own, and the only camera's fits one that is shared. UserError: it does not fit.
    """
    path = Path(weights).expanduser()
    found = _read(path) if path.is_file() else None
    if found is None:
        return encoder.load_weights(weights)
    tensors, cameras, settings = found
    _check_settings(settings, encoder.config, path)
    wanted = encoder.state_dict()
    chosen = {name: source for name in wanted if (source := _source(name, tensors, encoder.cameras, cameras)) is not None}
    problem = next((f"{name!r} is missing" for name in wanted if name not in chosen and not name.endswith(_OWN)), None)
    used, strangers = set(chosen.values()), [[c] for c in cameras if c not in encoder.cameras]
    left = [n for n in tensors if n not in used and not n.endswith(_COUNTER) and n.split(".")[1:2] not in strangers]
    problem = problem or next((f"{name!r} has no place in it" for name in left), None)
    for name, source in chosen.items():
        if problem is None and (mine := tuple(wanted[name].shape)) != (its := tuple(tensors[source].shape)):
            problem = f"{name!r} is {its}; expected {mine}"
        if problem is None and wanted[name].is_floating_point() != tensors[source].is_floating_point():
            problem = f"{name!r} is {tensors[source].dtype}; expected {wanted[name].dtype}"
    if problem:
        kind = type(encoder).__name__
        raise UserError(
            f"encoder.weights: {path}: {kind} of {', '.join(cameras)} does not fit {kind} of {', '.join(encoder.cameras)}: {problem}; "
            "give both the same settings (where encoder.tune is none, all cameras share one network)"
        )
    encoder.load_state_dict({name: tensors[source] for name, source in chosen.items()}, strict=False)
    return f"file:{path.name}"


def settings_that_matter(config: EncoderConfig) -> dict[str, Any]:
    return {name: value for name, value in to_dict(config, object).items() if name not in NO_MATTER}


def _check_settings(its: Mapping[str, Any], config: EncoderConfig, path: Path) -> None:
    """UserError for what no shape of a tensor tells, such as strides. What the file does not say was not to be chosen then."""
    mine, usual = settings_that_matter(config), to_dict(type(config)(), object)
    for name, value in mine.items():
        if (there := its.get(name, usual[name])) != value:
            raise UserError(f"encoder.{name}: {value}; expected {there}, with which {path} was made")


def _read(path: Path) -> tuple[dict[str, Tensor], list[str], Mapping[str, Any]] | None:
    """(tensors, cameras, settings) of an encoder's or a policy's file; None for one of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if _HEADER in metadata:
                header, prefix = json.loads(metadata[_HEADER]), ""
                settings, cameras = dict(header["encoder"]), list(header["cameras"])
            elif _POLICY in metadata:
                header, prefix = json.loads(metadata[_POLICY]), "encoder."
                if (settings := header["policy"].get("encoder")) is None:
                    raise UserError(f"encoder.weights: {path}: this policy has no encoder")
                settings, cameras = dict(settings), list(header["spec"]["cameras"])
            else:
                return None
            tensors = {n.removeprefix(prefix): file.get_tensor(n) for n in file.keys() if n.startswith(prefix)}  # noqa: SIM118 not a dict
    except SafetensorError:
        return None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"encoder.weights: {path}: damaged header: {type(error).__name__}: {error}") from error
    return tensors, cameras, settings


def _source(name: str, tensors: Mapping[str, Tensor], mine: Collection[str], its: list[str]) -> str | None:
    """The name in the file of one of the encoder's tensors: nets.CAMERA.conv1.weight may be nets.shared.conv1.weight there."""
    part, _, rest = name.partition(".")
    owner, _, rest = rest.partition(".")
    others = ["shared"] if owner in mine else []
    if len(its) == 1 and (owner == "shared" or (owner in mine and len(mine) == 1)):
        others += its
    return next((n for n in (name, *(f"{part}.{other}.{rest}" for other in others)) if n in tensors), None)
