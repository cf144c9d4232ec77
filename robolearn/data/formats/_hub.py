"""Datasets of the Hugging Face Hub: hf://owner/name[@revision] becomes a folder in the library's own cache."""

from __future__ import annotations

import re
from pathlib import Path

from robolearn.core.errors import UserError

PREFIX = "hf://"
_ADDRESS = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)(?:@(.+))?")


def download(address: str) -> tuple[Path, str]:
    """(the folder, its commit). What the cache holds is not downloaded again. UserError: no such dataset, no network, no space."""
    found = _ADDRESS.fullmatch(address.rstrip("/"))
    if not found:
        raise UserError(f"{address}: expected hf://owner/name or hf://owner/name@revision")
    from huggingface_hub import snapshot_download  # slow to import, and seldom needed

    try:
        folder = Path(snapshot_download(found[1], repo_type="dataset", revision=found[2]))
    except Exception as error:  # requests, httpx, xet: each of its transports brings its own errors
        line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{address}: cannot be downloaded: {line.strip()[:300]}; a downloaded folder works too: --path FOLDER") from error
    return folder, folder.name
