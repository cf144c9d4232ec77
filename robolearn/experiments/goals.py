"""What a policy is told to reach: from the episodes while it learns, from the command line when it flies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from robolearn.core.checkpoint import read_header
from robolearn.core.errors import UserError
from robolearn.core.types import Obs, Policy
from robolearn.data.goals import GoalRow, Goals, all_instructions
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch, to_obs
from robolearn.data.windows import Windows, restrict
from robolearn.policies.chunk import ChunkConfig, ChunkPolicy
from robolearn.runtime.remote_policy import RemotePolicy

SHOWN = {
    "image": "a picture: an image file, or STORE#EPISODE, whose last row is meant",
    "state": "a state: STORE#EPISODE, whose last row is meant",
    "language": "an instruction in words",
}


def with_language(config: ChunkConfig) -> ChunkConfig:
    """The config with what only the text encoder knows, its size and digest, filled in. UserError: it cannot be had."""
    if config.goal != "language" or config.language is None:
        return config
    encoder = config.language.build()
    return replace(config, language=replace(config.language, dim=encoder.dim, digest=encoder.digest))


def goals_for(config: ChunkConfig, row: GoalRow, stores: Sequence[EpisodeStore]) -> Goals | None:
    """What Windows shows a policy of this config as its goals; `row`: of an image or a state."""
    if config.goal == "none":
        return None
    if config.goal != "language" or config.language is None:
        return Goals(config.goal, row)
    texts = all_instructions(stores)
    if not texts:
        raise UserError(f"{stores[0].url}: no episode has an instruction (meta: instruction, instructions, task); policy.goal: language")
    return Goals("language", row, dict(zip(texts, config.language.build().embed(texts), strict=True)))


def check_goal(checkpoint: Path, goal: str) -> None:
    """UserError: a policy that is told what to reach and was not, or the other way round."""
    config = read_header(checkpoint).config
    require_goal(str(checkpoint), config.goal if isinstance(config, ChunkConfig) else "none", goal)


def require_goal(checkpoint: str, kind: str, goal: str) -> None:
    """The same where it is known what kind of goal the policy is told."""
    if goal and kind == "none":
        raise UserError(f"goal: {goal!r}; {checkpoint} was trained without goals, leave it out")
    if kind != "none" and not goal:
        raise UserError(f"goal: missing; {checkpoint} is told what to reach by {SHOWN[kind]}")


def goal_obs(goal: str, policy: Policy) -> Obs | None:
    """What the command line says, as the policy was shown it in training (B = 1, T = 1); None for a policy without goals.

    UserError: no such file or episode, another size or robot, another text encoder.
    """
    if not isinstance(policy, ChunkPolicy | RemotePolicy) or (kind := _kind(policy)) == "none":
        return None
    if kind == "language":
        return to_obs({}, np.zeros((1, 1, 0), np.float32), _embedded(goal, policy)[:, None])
    place, _, episode = goal.rpartition("#")
    if place and episode.isdecimal():
        shown = _last_row(place, int(episode), policy)
    elif kind == "image":
        shown = _picture(Path(goal), policy)
    else:
        raise UserError(f"goal: {goal!r}; the policy is told what to reach by {SHOWN['state']}")
    if kind == "state":
        return shown
    if isinstance(policy, RemotePolicy):
        return replace(shown, features=policy.encode(shown))
    policy.eval()
    with torch.no_grad():  # once, and not at every decision
        return replace(shown, features=policy.encode(shown.to(next(policy.parameters()).device)))


def _kind(policy: ChunkPolicy | RemotePolicy) -> str:
    return policy.goal if isinstance(policy, RemotePolicy) else policy.config.goal


def _embedded(text: str, policy: ChunkPolicy | RemotePolicy) -> np.ndarray:
    """(1, E), by the policy's own text encoder."""
    if isinstance(policy, RemotePolicy):
        return policy.embed(text)
    assert policy.config.language is not None
    return policy.config.language.build().embed([text])


def _last_row(place: str, episode: int, policy: ChunkPolicy | RemotePolicy) -> Obs:
    image = _kind(policy) == "image"
    cameras, state = (list(policy.spec.cameras), []) if image else ([], list(policy.spec.state))
    store = EpisodeStore.open(place)
    if not 0 <= episode < len(store):
        raise UserError(f"goal: {place}#{episode}; it has {len(store)} episodes: valid 0 to {len(store) - 1}")
    differences = restrict(policy.spec, cameras, state).diff(restrict(store.spec, cameras, state))
    if shown := [line for line in differences if line.startswith(("cameras", "state"))]:
        raise UserError(f"goal: {place} is of another robot (policy != store): {'; '.join(shown)}")
    goals = Goals("image" if image else "state")
    windows = Windows(store, 1, 1, cameras=cameras, state_keys=state, episodes=[[episode]], images=image, goals=goals)
    goal = to_batch(windows.read([0])).obs.goal
    assert goal is not None
    return goal


def _picture(path: Path, policy: ChunkPolicy | RemotePolicy) -> Obs:
    if len(policy.spec.cameras) != 1:
        raise UserError(f"goal: {path}: one picture; the policy sees {', '.join(policy.spec.cameras)}: STORE#EPISODE shows all of them")
    try:
        with Image.open(path) as file:
            pixels = np.array(file.convert("RGB"))
    except FileNotFoundError as error:
        raise UserError(f"goal: {path}: no such file; expected {SHOWN['image']}") from error
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"goal: {path}: not an image: {error}") from error
    camera, size = next(iter(policy.spec.cameras.items()))
    if pixels.shape[:2] != tuple(size):
        raise UserError(f"goal: {path} is {pixels.shape[:2]} px (height, width); camera {camera} of the policy has {tuple(size)}")
    return to_obs({camera: pixels[None, None]}, np.zeros((1, 1, 0), np.float32))
