"""A policy behind a socket: the same actions to the bit as without, and an episode whose server is gone, hangs, or is new."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hardware.network.client import Client
from hardware.network.wire import pack, unpack
from hardware.types import HardwareError, NoDecision, Observation, RobotSpec
from robolearn.core.errors import UserError
from robolearn.core.types import Obs, Policy
from robolearn.experiments.goals import goal_obs
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.models.language.hashed import HashedConfig
from robolearn.policies.bc import BcConfig
from robolearn.policies.decision_transformer import DecisionTransformerConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.runtime import remote_policy
from robolearn.runtime.async_pilot import AsyncPilot
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.runtime.remote_policy import RemotePolicy
from robolearn.runtime.served_policy import ServedPolicy
from robolearn.testing import PolicyContract
from tests.agents import tiny
from tests.hardware.network.serving import ANYWHERE, served
from tests.runtime.test_async_pilot import Slow, look

pytest.importorskip("zmq")

CNN = SmallCnnConfig(channels=(8,), strides=(2,), keypoints=4)
SMALL: dict[str, Any] = {"horizon": 6, "widths": (16, 32), "train_steps": 8, "sample_steps": 2}


def built(config: Any) -> Policy:
    contract = PolicyContract()
    contract.config = config
    return contract.build().eval()


@contextmanager
def remote(policy: Policy, folder: Path, digest: str = "d", listen: str = ANYWHERE, **options: Any) -> Iterator[RemotePolicy]:
    with served(ServedPolicy(policy, digest, "float32"), folder, listen) as (address, key_file, _):
        asked = RemotePolicy(address, key_file, **options)
        try:
            yield asked
        finally:
            asked.close()


def observations(spec: RobotSpec, count: int) -> list[Observation]:
    rng = np.random.default_rng(5)
    return [
        Observation(
            step / spec.rate_hz,
            {name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in spec.cameras.items()},
            {name: rng.uniform(-0.1, 0.1, part.dim).astype(np.float32) for name, part in spec.state.items()},
        )
        for step in range(count)
    ]


def flown(pilot: PolicyPilot, spec: RobotSpec) -> list[tuple[np.ndarray, dict[str, float]]]:
    """Two episodes of decisions, each told what became of it; the notes without the times."""
    found = []
    for episode in range(2):
        pilot.seed(7 + episode)
        pilot.reset()
        for observation in observations(spec, 12):
            command = pilot.decide(observation)
            pilot.feedback(0.9 * command.action, 0.5)
            found.append((command.action, {name: value for name, value in command.notes.items() if name != "inference_ms"}))
    return found


def agent() -> Policy:
    return tiny.agent(**tiny.IN_SAMPLE, model={}, planner={}, policy={})


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (lambda: built(DiffusionConfig(**SMALL, encoder=CNN)), {"chunk": 4}),
        (lambda: built(DiffusionConfig(**SMALL, prefix=2)), {"chunk": 3, "prefix": 2}),
        (lambda: built(BcConfig(hidden=(16,), horizon=6)), {"chunk": 1, "ensemble": 0.1}),
        (lambda: built(DecisionTransformerConfig(history=4, horizon=3, width=32, layers=1)), {"chunk": 2, "target": 3.0}),
        (agent, {"chunk": 1}),
    ],
    ids=["noise and pictures", "prefix", "ensemble", "past", "agent that plans, remembers and hears"],
)
def test_it_gives_the_same_actions_to_the_bit(make: Any, options: dict[str, Any], tmp_path: Path) -> None:
    policy = make()
    beside = flown(PolicyPilot(deepcopy(policy), **options), policy.spec)
    with remote(policy, tmp_path / "keys") as asked:
        there = flown(PolicyPilot(asked, **options), policy.spec)
    assert len(there) == len(beside) == 24
    for (far, far_notes), (near, near_notes) in zip(there, beside, strict=True):
        assert far.tobytes() == near.tobytes()
        assert far_notes == near_notes
    assert len({action.tobytes() for action, _ in there}) >= 12, "the answers depend on what is seen"


@pytest.mark.parametrize("kind", ["image", "language"])
def test_a_goal_is_seen_by_the_policys_own_eyes(kind: str, tmp_path: Path) -> None:
    if kind == "image":
        from PIL import Image

        policy = built(BcConfig(hidden=(16,), horizon=4, goal="image", encoder=CNN, cameras=("wrist",)))
        pixels = np.random.default_rng(0).integers(0, 256, (*policy.spec.cameras["wrist"], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "goal.png")
        goal = str(tmp_path / "goal.png")
    else:
        policy, goal = built(BcConfig(hidden=(16,), horizon=4, goal="language", language=HashedConfig(width=6, dim=12))), "go home"
    near = goal_obs(goal, policy)
    with remote(policy, tmp_path / "keys") as asked:
        far = goal_obs(goal, asked)
        assert near is not None
        assert far is not None
        assert near.features is not None
        assert far.features is not None
        assert torch.equal(near.features, far.features)
        there = flown(PolicyPilot(asked, 2, goal=far), policy.spec)
    beside = flown(PolicyPilot(policy, 2, goal=near), policy.spec)
    assert [action.tobytes() for action, _ in there] == [action.tobytes() for action, _ in beside]


def act(asked: RemotePolicy, **change: Any) -> Any:
    """What the server says to a question like a pilot's, with something changed."""
    spec = asked.spec
    seen = observations(spec, 1)[0]
    obs = {
        "images": {name: image[None, None] for name, image in seen.images.items()},
        "state": np.concatenate([seen.state[name] for name in spec.state])[None, None],
        "features": None,
        "goal": None,
        "past": None,
    }
    asked._open()
    return asked._client.ask("act", obs | change, np.empty((0, spec.action.dim), np.float32), [])["chunk"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": np.zeros((1, 1, 99), np.float32)}, r"state: float32 \(1, 1, 99\); expected float32 \(1, 1, "),
        ({"state": np.zeros((1, 3, 2), np.float32)}, r"state: float32 \(1, 3, 2\)"),
        ({"state": np.zeros((1, 1, 2), np.float64)}, "state: float64"),
        ({"state": "x"}, "state: str; expected float32"),
        ({"images": {}}, "act: no image of "),
        ({"images": {"nose": np.zeros((1, 1, 8, 8, 3), np.uint8)}}, "not one of this robot: KeyError"),
        ({"images": [1]}, "not one of this robot"),
        ({"goal": {}}, "not one of this robot"),
        ({"past": {}}, "not one of this robot"),
        ({"past": 3}, "not one of this robot"),
    ],
)
def test_what_is_no_observation_is_refused_and_the_next_answered(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with remote(built(BcConfig(hidden=(16,), horizon=4, history=1, encoder=CNN)), tmp_path / "keys") as asked:
        with pytest.raises(HardwareError, match=message):
            act(asked, **change)
        assert act(asked).shape == (4, asked.spec.action.dim)


def test_what_is_no_question_is_refused(tmp_path: Path) -> None:
    with remote(built(BcConfig(hidden=(16,), horizon=4, history=1)), tmp_path / "keys") as asked:
        asked._open()
        for what, arguments in (("act", []), ("begin", ["x"]), ("loss", [{}]), ("encode", [{}]), ("embed", ["go"])):
            with pytest.raises(HardwareError, match="no request; valid: begin, act|no pictures of goals|is not told in words"):
                asked._client.ask(what, *arguments)


def test_one_robot_at_a_time(tmp_path: Path) -> None:
    with served(ServedPolicy(Slow(), "d"), tmp_path / "keys") as (address, key_file, _):
        first, second = (RemotePolicy(address, key_file) for _ in range(2))
        first.reset()
        with pytest.raises(HardwareError, match="in use by another client"):
            second.reset()
        first.close()
        second.reset()
        second.close()


def test_a_server_that_dies_is_silence_and_the_next_episode_finds_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of waiting for an answer that cannot come."""
    monkeypatch.setattr(remote_policy, "ANSWER_S", 0.5)
    said: list[str] = []
    with remote(Slow(), tmp_path / "keys", say=said.append) as asked:
        pilot = PolicyPilot(asked, 2)
        pilot.reset()
        assert pilot.decide(look(0)).action[0] == 0.0
        address = asked.address
        assert pilot.decide(look(1)).action[0] == pytest.approx(0.01)
        place = tmp_path / "keys"
    for step in (2, 3):
        with pytest.raises(NoDecision, match="got no answer|not"):
            pilot.decide(look(step))
    assert len(said) == 1
    with served(ServedPolicy(Slow(), "d"), place, address):
        with pytest.raises(NoDecision):  # it knows nothing of this episode
            pilot.decide(look(4))
        pilot.reset()
        assert pilot.decide(look(5)).action[0] == 5.0
        asked.close()
    with served(ServedPolicy(Slow(), "other"), place, address):
        with pytest.raises(UserError, match=r"has another checkpoint now \(other, was d\)"):
            pilot.reset()
        asked.close()


def test_a_server_that_is_started_anew_in_an_episode_does_not_go_on_with_it(tmp_path: Path) -> None:
    with served(ServedPolicy(Slow(), "d"), tmp_path / "keys") as (address, key_file, _):
        asked = RemotePolicy(address, key_file)
        asked.reset()
    with served(ServedPolicy(Slow(), "d"), tmp_path / "keys", address):
        for _ in range(2):
            with pytest.raises(NoDecision, match="started anew"):
                asked.act(Obs({}, torch.zeros(1, 1, 2)))
        asked.reset()
        assert asked.act(Obs({}, torch.zeros(1, 1, 2))).shape == (1, 6, 2)
        asked.close()


def test_no_server_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_policy, "RESTART_S", 0.0)
    monkeypatch.setattr(Client, "open", lambda self: self.hello(0.1))
    with remote(Slow(), tmp_path / "keys") as asked:
        pass
    with pytest.raises(HardwareError, match=r"`hello` got no answer in 0\.1 s; nobody listens there"):
        asked.reset()


def test_beside_the_loop_the_last_chunk_is_flown_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that hangs: two tenths of a second until its answer is given up."""
    monkeypatch.setattr(remote_policy, "ANSWER_S", 0.2)
    policy = Slow()
    with remote(policy, tmp_path / "keys") as asked:
        pilot = AsyncPilot(asked, 2)
        pilot.reset()
        assert pilot.decide(look(0)).action[0] == 0.0
        policy.free.clear()
        flown = []
        for step in range(1, 6):
            flown.append(round(float(pilot.decide(look(step)).action[0]), 2))
            if pilot._pending is not None:
                pilot._pending.exception(20)
        assert flown == [0.01, 0.02, 0.03, 0.04, 0.05]
        with pytest.raises(NoDecision):
            pilot.decide(look(6))
        policy.free.set()
        pilot.reset()
        assert pilot.decide(look(7)).action[0] == 7.0
        pilot.close()


def test_what_the_policy_raises_is_told_and_the_server_lives_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Slow()
    with remote(policy, tmp_path / "keys") as asked:
        asked.reset()
        act_as_before = policy.act
        monkeypatch.setattr(policy, "act", lambda obs: 1 / 0)
        with pytest.raises(HardwareError, match="ZeroDivisionError: division by zero"):
            asked.act(Obs({}, torch.zeros(1, 1, 2)))
        monkeypatch.setattr(policy, "act", act_as_before)
        assert asked.act(Obs({}, torch.zeros(1, 1, 2))).shape == (1, 6, 2)


def test_nothing_in_a_message_is_a_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is MessagePack of plain values and arrays alone."""
    import pickle

    def never(*_: object, **__: object) -> None:
        raise AssertionError("pickled")

    with remote(Slow(), tmp_path / "keys") as asked:
        for name in ("dumps", "loads", "dump", "load"):
            monkeypatch.setattr(pickle, name, never)
        asked.reset()
        asked.act(Obs({}, torch.zeros(1, 1, 2)))
    assert unpack(pack({"a": [1, np.zeros(2, np.float32)]}))["a"][0] == 1
