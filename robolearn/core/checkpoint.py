"""Policies and training states as files. A policy file is safetensors with a JSON header: no code in it is ever run."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hardware.types import RobotSpec
from robolearn.core.config import from_dict, to_dict
from robolearn.core.errors import UserError
from robolearn.core.files import write_atomic
from robolearn.core.types import Policy

FORMAT = 1  # grows when an older robolearn could not read the file
_HEADER = "robolearn"


def digest_of(path: Path) -> str:
    """What evaluations and episodes call a checkpoint: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


@runtime_checkable
class PolicyConfig(Protocol):
    """A dataclass that says everything about a policy but its weights and its robot."""

    def build(self, spec: RobotSpec) -> Policy: ...


@dataclass(frozen=True)
class Header:
    """What a policy file says about itself, read without its weights."""

    config: PolicyConfig
    spec: RobotSpec
    meta: Mapping[str, Any]  # JSON data: how it was trained
    robolearn: str  # version that wrote it


def save_checkpoint(path: Path, policy: Policy, config: PolicyConfig, meta: Mapping[str, Any] | None = None) -> None:
    """Write one file that `load_policy` turns back into this policy. Statistics travel as Normalizer buffers.

    Raises UserError where the disk refuses, FloatingPointError for weights that are not finite; nothing is left behind then.
    """
    if spoiled := next((name for name, value in policy.named_parameters() if not value.isfinite().all()), None):
        raise FloatingPointError(f"{path}: not saved: {spoiled!r} holds NaN or infinite weights")
    header = {
        "format": FORMAT,
        "robolearn": version("robolearn"),
        "policy": to_dict(config, annotation=object),
        "spec": policy.spec.to_dict(),
        "meta": dict(meta or {}),
    }
    # safetensors refuses tensors that share memory (tied weights); clones do not.
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in policy.state_dict().items()}
    write_atomic(path, save(tensors, metadata={_HEADER: json.dumps(header)}))


def read_header(path: Path) -> Header:
    """Raises UserError for a file that is missing, damaged, foreign or newer than this program."""
    with _open(path) as file:
        text = (file.metadata() or {}).get(_HEADER)
    if text is None:
        raise UserError(f"{path}: not a robolearn policy (no '{_HEADER}' header)")
    try:
        header = json.loads(text)
        if header["format"] > FORMAT:
            raise UserError(f"{path}: format {header['format']} is newer than this robolearn reads (up to {FORMAT}); update robolearn")
        config = from_dict(object, header["policy"], f"{path}: policy")
        if not isinstance(config, PolicyConfig):
            raise UserError(f"{path}: policy.type: {header['policy']['type']!r} has no build(spec)")
        return Header(config, RobotSpec.from_dict(header["spec"]), header["meta"], header["robolearn"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: damaged header '{_HEADER}': {type(error).__name__}: {error}") from error


def load_policy(path: Path, spec: RobotSpec | None = None, device: torch.device | str = "cpu") -> Policy:
    """Rebuild a policy in eval mode. spec: the robot it is meant for; every difference is named in a UserError."""
    header = read_header(path)
    if spec is not None and (differences := header.spec.diff(spec)):
        raise UserError(f"{path}: policy does not fit this robot (policy != robot): {'; '.join(differences)}")
    policy = header.config.build(header.spec)
    load_weights_into(path, policy)
    return policy.to(device).eval()


def load_weights_into(path: Path, policy: Policy) -> Mapping[str, Any]:
    """A policy file's weights into a policy of the same kind, in place; returns its meta. Raises UserError."""
    with _open(path) as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        header = json.loads((file.metadata() or {}).get(_HEADER, "{}"))
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{path}: weights do not fit {type(policy).__name__}: {error}") from error
    return header.get("meta", {})


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a training (tensors and plain data: weights, optimizer, step, generators) to resume from."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    write_atomic(path, buffer.getvalue())


def load_state(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The inverse of `save_state`. Raises UserError for a file that is missing, damaged or holds anything but data."""
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a training state") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, IndexError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0]
        raise UserError(f"{path}: not a training state: {reason}; --overwrite starts anew") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: not a training state: it holds a {type(state).__name__}; --overwrite starts anew")
    return state


def _open(path: Path) -> Any:
    if path.is_dir():
        raise UserError(f"{path}: is a folder; expected a policy checkpoint, such as its policy.pt")
    try:
        return safe_open(path, framework="pt")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; expected a policy checkpoint") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a policy checkpoint: {error}") from error
