"""Weights from a file, a hub or the web, as plain tensors: nothing in a file is ever run."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file

from robolearn.core.errors import UserError

HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")  # whichever a model on the hub has


def fetch(weights: str, wanted: str = "weights of this encoder") -> tuple[dict[str, Any], str]:
    """What a file holds and where it came from.

    weights: a file if there is one, else `https://...`, else a model on the Hugging Face hub (`owner/name`, or `owner/name/file`).
    wanted: what such a file should hold, for the error. UserError names every place that was tried.
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return _read(path), f"file:{path.name}"
    if weights.startswith((".", "/", "~")):
        raise UserError(f"encoder.weights: {path}: no such file; expected a .pth or .safetensors file with {wanted}")
    web = weights.startswith("https://")
    try:
        found = _download(weights) if web else _from_hub(weights)
    except Exception as error:  # no network, no such model, not a model name: the answer is the same
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise UserError(
            f"encoder.weights: no file '{weights}', and the {'web' if web else 'hub'} did not give '{weights}' either "
            f"({type(error).__name__}: {reason}); give a local .pth or .safetensors file with {wanted}, "
            "or leave it empty: a frozen encoder is then pretrained on the dataset, another begins at random"
        ) from error
    return _read(found), f"{'web' if web else 'hub'}:{weights}"


def _read(path: Path) -> dict[str, Any]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # three libraries, many kinds
        raise UserError(f"{path}: encoder weights cannot be read: {_reason(str(error))}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: encoder weights cannot be read: it holds a {type(state).__name__}, not tensors by name")
    return state


def _reason(message: str) -> str:
    mend = "; where you trust it, load it with its own project and torch.save only the state dict"
    if "TorchScript" in message:
        return f"it is a TorchScript program, and a program is not run for its weights{mend}"
    if found := re.search(r"GLOBAL (\S+)", message):
        return f"beside tensors it holds a {found[1]}, which only its own code could read{mend}"
    if "nsupported" in message:
        return "neither tensors that torch saved nor safetensors"
    return message.splitlines()[0]


def _from_hub(address: str) -> Path:
    from huggingface_hub import hf_hub_download  # slow to import
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; what failed in the end is said in one line
    owner, name, *file = address.split("/", 2)
    missing: Exception | None = None
    for candidate in file or HUB_FILES:
        try:
            return Path(hf_hub_download(f"{owner}/{name}", candidate))
        except LocalEntryNotFoundError:  # the hub is out of reach, whatever the file is called
            raise
        except EntryNotFoundError as error:
            missing = error
    raise missing or FileNotFoundError(address)


def _download(address: str) -> Path:
    """Kept in torch's own cache. Many projects call their file model.pt: the name tells the addresses apart."""
    name = f"{hashlib.sha256(address.encode()).hexdigest()[:16]}-{Path(urlparse(address).path).name}"
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(path))  # whole or not at all
    return path
