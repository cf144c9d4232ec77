"""What BC-RNN and BC-Transformer share: which chunks are taught where, and that a robot sees what training saw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hardware.types import Observation, Source
from robolearn.core.types import Past
from robolearn.data.episode import Episode
from robolearn.data.store import EpisodeStore
from robolearn.data.tensors import to_batch
from robolearn.data.windows import Windows
from robolearn.policies.bc_rnn import BcRnnConfig
from robolearn.policies.bc_transformer import BcTransformerConfig
from robolearn.runtime.policy_pilot import PolicyPilot
from robolearn.testing import SPEC, PolicyContract

ROBOT = replace(SPEC, cameras={})
CONFIGS = [
    BcRnnConfig(history=4, horizon=3, hidden=16, modes=2),
    BcTransformerConfig(history=4, horizon=3, width=16, layers=1, heads=2, modes=0),
]


class SeesPast(PolicyContract):
    """The contract for policies that are taught along the history: the same way back to the middle at every step."""

    def batch(self, rows, seed=0):
        batch = super().batch(rows, seed)
        state = np.zeros((*batch.obs.state.shape[:2], 3), np.float32)
        state[..., : batch.obs.state.shape[-1]] = batch.obs.state
        action = torch.from_numpy(np.clip(-0.1 * state, [-0.1, -0.1, 0], [0.1, 0.1, 1]).astype(np.float32))
        action[:, -1] = 0
        steps = torch.arange(self.config.history).expand(rows, -1)
        past = Past(action, torch.zeros(steps.shape), steps, torch.ones(steps.shape, dtype=torch.bool))
        return replace(batch, obs=replace(batch.obs, past=past))


def walk(rows: int, seed: int) -> tuple[Episode, list[Observation]]:
    rng = np.random.default_rng(seed)
    state = {name: rng.uniform(part.low, part.high, (rows, part.dim)).astype(np.float32) for name, part in ROBOT.state.items()}
    action = np.repeat(np.linspace(-0.1, 0.1, rows, dtype=np.float32)[:, None], 3, axis=1)
    time = np.arange(rows) / ROBOT.rate_hz
    zeros = np.zeros(rows, np.float32)
    source = np.full(rows, Source.HUMAN, np.uint8)
    episode = Episode(time, {}, state, action, action, zeros, np.zeros(rows, bool), source)
    return episode, [Observation(t, {}, {name: part[i] for name, part in state.items()}) for i, t in enumerate(time)]


@pytest.fixture
def windows(tmp_path):
    def read(policy, stride=1):
        with EpisodeStore.create(tmp_path / f"{stride}.zarr", ROBOT) as store:
            store.append(walk(12, 0)[0])
            store.append(walk(9, 1)[0])
        return Windows(EpisodeStore.open(store.path), policy.history, policy.horizon, stride=stride, past=True)

    return read


def fitted(config, windows):
    torch.manual_seed(0)
    policy = config.build(ROBOT)
    policy.fit_normalizers(windows.lowdim("state"), windows.lowdim("action"))
    return policy


@pytest.mark.parametrize("config", CONFIGS)
def test_a_robot_gets_the_answer_that_training_would_give_there(config, windows):
    rows = windows(config)
    policy = fitted(config, rows)
    policy.seed(3)
    logged = []
    for row in range(12, 21):  # the second episode: the first must not be looked into
        obs = to_batch(rows.read(np.array([row]))).obs
        logged.append(policy.act(replace(obs, past=None))[0, 0])
    pilot = PolicyPilot(policy, chunk=1, seed=3)
    flown = [torch.from_numpy(pilot.decide(observation).action) for observation in walk(9, 1)[1]]
    assert torch.equal(torch.stack(flown), torch.stack(logged))


@pytest.mark.parametrize("stride", [1, 2])
def test_every_step_is_taught_the_chunk_that_began_there(windows, stride):
    rows = windows(CONFIGS[0], stride)
    policy = fitted(CONFIGS[0], rows)
    chunks, counts = policy._taught(to_batch(rows.read(np.arange(len(rows)))))
    taught = policy.action_norm.unnormalize(chunks)
    for i, (row, first, last) in enumerate([*((r, 0, 11) for r in range(12)), *((r, 12, 20) for r in range(12, 21))]):
        for t in range(policy.history):
            began = row - stride * (policy.history - 1 - t)
            assert counts[i, t].tolist() == [float(began >= first)] * policy.horizon
            if began >= first:
                ahead = began + stride * np.arange(policy.horizon)
                done = rows.column("action")[np.minimum(ahead, last)]
                done[np.ix_(ahead > last, ROBOT.steps)] = 0  # past the end the arm stays
                assert np.allclose(taught[i, t].numpy(), done, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS)
def test_what_was_done_before_the_episode_began_teaches_nothing(config, windows):
    rows = windows(config)
    policy = fitted(config, rows).eval()
    batch = to_batch(rows.read(np.array([0, 1])))
    past = batch.obs.past
    assert past is not None and past.real.tolist() == [[False] * 3 + [True], [False] * 2 + [True] * 2]
    nonsense = replace(past, action=torch.where(past.real.unsqueeze(-1), past.action, torch.tensor(7.0)))
    assert policy.loss(batch)[1] == policy.loss(replace(batch, obs=replace(batch.obs, past=nonsense)))[1]


@pytest.mark.parametrize("config", CONFIGS)
def test_padded_actions_reach_no_step_of_the_history(config, windows):
    rows = windows(config)
    policy = fitted(replace(config, mask_pad=True), rows).eval()
    batch = to_batch(rows.read(np.array([10, 11])))
    assert batch.pad.tolist() == [[False, False, True], [False, True, True]]
    other = torch.where(batch.pad.unsqueeze(-1), torch.tensor(5.0), batch.action)
    assert policy.loss(batch)[1] == policy.loss(replace(batch, action=other))[1]
    assert policy.loss(batch)[1] != policy.loss(replace(batch, action=batch.action + 0.01))[1]


def test_what_was_done_along_the_history_is_learned_from(windows):
    rows = windows(CONFIGS[0])
    policy = fitted(CONFIGS[0], rows).eval()
    batch = to_batch(rows.read(np.array([6])))
    past = batch.obs.past
    assert past is not None
    other = replace(past, action=past.action + 0.05)
    assert policy.loss(batch)[1] != policy.loss(replace(batch, obs=replace(batch.obs, past=other)))[1]
    with pytest.raises(ValueError, match="Obs.past is missing"):
        policy.loss(replace(batch, obs=replace(batch.obs, past=None)))
