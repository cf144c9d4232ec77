"""A policy on another computer (`robolearn serve --checkpoint`) that a pilot flies like any other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hardware.network.client import ANSWER_S, Client, NoAnswer
from hardware.types import HardwareError, NoDecision, RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Obs, Past, Policy
from robolearn.data.tensors import to_obs
from robolearn.policies._action_space import ActionSpace

FIRST_S = 20.0  # an episode's first answer: a GPU may have to be woken
RESTART_S = 30.0  # an episode waits so long for a server that is being started anew


class RemotePolicy(Policy):
    """Everything that a pilot asks of a policy: its spec, chunks, prefixes, goals, seeds, memory and notes.

    No answer in time is NoDecision, and so is every further one of the episode: the last chunk is flown to its end, then the governor stops
    the robot for silence. The next episode (`reset`) finds the server again, or a new one of the same checkpoint. Raises HardwareError for
    what the server refuses. say: gets a line when the server is lost.
    """

    def __init__(self, address: str, key_file: Path, say: Callable[[str], None] = lambda line: None) -> None:
        super().__init__()
        self.address, self._say, self._client = address, say, Client(address, key_file, "policy")
        try:
            facts = self._client.hello()
        finally:
            self._client.close()  # until it is asked
        self.spec = RobotSpec.from_dict(facts["spec"])
        self.history, self.horizon, self.prefix = facts["history"], facts["horizon"], facts["prefix"]
        self.sees_past, self.target, self.goal, self.digest = facts["sees_past"], facts["target"], facts["goal"], facts["digest"]
        if facts["space"]:
            self.space = ActionSpace(self.spec)  # for its mean, which depends on the spec alone
        if facts["hears"]:
            self.executed = self._executed
        self.notes: dict[str, float] = {}
        self._seed: int | None = None
        self._done: list[np.ndarray] = []  # actions that the server was not told of
        self._asked, self._began = False, False
        self._lost = ""  # why this episode gets no more answers

    def seed(self, seed: int) -> None:
        """From the next `reset` on."""
        self._seed = seed

    def reset(self) -> None:
        """A new episode. Waits for a server that is gone; HardwareError where none comes, UserError where it has another checkpoint."""
        ends = monotonic() + RESTART_S
        self._done, self.notes = [], {}
        while True:
            try:
                self._open()
                self._client.ask("begin", self._seed)
                break
            except NoAnswer:
                if monotonic() > ends:
                    raise
        self._seed, self._asked, self._began, self._lost = None, False, True, ""

    def act(self, obs: Obs) -> Float[Tensor, "B H A"]:
        return self.sample(obs, 1)[:, 0]

    def sample(
        self, obs: Obs, n: int, generator: torch.Generator | None = None, prefix: Float[Tensor, "B D A"] | None = None
    ) -> Float[Tensor, "B n H A"]:
        """One chunk for one observation: n = 1, B = 1, the server's own noise."""
        if n != 1 or generator is not None:
            raise ValueError(f"n: {n} chunks with {generator}; a remote policy gives one, of its own noise")
        if not self._began:
            self.reset()
        if self._lost:
            raise NoDecision(self._lost)
        decided = np.empty((0, self.spec.action.dim), np.float32) if prefix is None else prefix[0].numpy()
        done, self._done = self._done, []
        try:
            answer = self._client.ask("act", shown(obs), decided, done, within_s=ANSWER_S if self._asked else FIRST_S)
        except NoAnswer as error:
            self._lost = str(error)
            self._say(self._lost)
            raise NoDecision(self._lost) from error
        self._asked, self.notes = True, answer["notes"]
        return torch.from_numpy(answer["chunk"])[None, None]

    def encode(self, obs: Obs) -> Float[Tensor, "B T E"] | None:
        """Features of a goal's images, as the server's encoder sees them."""
        self._open()
        features = self._client.ask("encode", shown(obs), within_s=FIRST_S)
        return None if features is None else torch.from_numpy(features)

    def embed(self, text: str) -> np.ndarray:
        """(1, E) of an instruction, by the server's text encoder."""
        self._open()
        return self._client.ask("embed", text, within_s=FIRST_S)

    def close(self) -> None:
        self._client.close()

    def _executed(self, action: Tensor) -> None:
        """Told with the next question: whoever flies need not wait for it."""
        self._done.append(action.numpy().copy())

    def _open(self) -> None:
        if not self._client.is_open:
            facts = self._client.open()
            if facts["digest"] != self.digest:
                self._client.close()
                raise UserError(f"{self.address}: has another checkpoint now ({facts['digest']}, was {self.digest}); start anew")


def shown(obs: Obs) -> dict[str, Any]:
    """As arrays. Images as they were before `to_obs`: tensors there lie in memory as they do here, and the answer is the same bits."""
    return {
        "images": {name: image.permute(0, 1, 3, 4, 2).cpu().numpy() for name, image in obs.images.items()},
        "state": obs.state.cpu().numpy(),
        "features": None if obs.features is None else obs.features.cpu().numpy(),
        "goal": None if obs.goal is None else shown(obs.goal),
        "past": None if obs.past is None else {f.name: getattr(obs.past, f.name).cpu().numpy() for f in fields(Past)},
    }


def seen(data: dict[str, Any], spec: RobotSpec, steps: int, goal: bool = False) -> Obs:
    """The inverse. Raises HardwareError for what is no observation of `steps` time steps of this robot. A goal's state may be absent."""
    try:
        images, state, features, wanted, past = (data[name] for name in ("images", "state", "features", "goal", "past"))
        for name, image in images.items():
            _expect(f"image {name}", image, np.uint8, (1, steps, *spec.cameras[name], 3))
        _expect("state", state, np.float32, (1, steps, 0 if goal and not state.size else spec.state_dim))
        if features is not None:
            _expect("features", features, np.float32, (1, steps, features.shape[-1]))
        obs = to_obs(images, state, features)
        return Obs(
            obs.images,
            obs.state,
            obs.features,
            goal=None if wanted is None else seen(wanted, spec, 1, goal=True),
            past=None if past is None else Past(**{f.name: torch.from_numpy(past[f.name]) for f in fields(Past)}),
        )
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise HardwareError(f"observation: not one of this robot: {type(error).__name__}: {error}") from error


def _expect(what: str, array: Any, dtype: type, shape: tuple[int, ...]) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        got = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise HardwareError(f"{what}: {got}; expected {np.dtype(dtype)} {shape}")
