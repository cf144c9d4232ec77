import copy
import io
from dataclasses import replace

import pytest
import torch

from robolearn.core.errors import UserError
from robolearn.core.types import Batch
from robolearn.learners.fit import fit
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.precision import autocast
from robolearn.policies.bc import BcConfig
from robolearn.policies.diffusion import DiffusionConfig
from robolearn.testing import PolicyContract


class _Data(PolicyContract):
    __test__ = False
    config = DiffusionConfig(widths=(8, 16), horizon=4, sample_steps=4)


class _Plain(PolicyContract):
    """Without noise: its loss does not depend on what is computed at once."""

    __test__ = False
    config = BcConfig(hidden=(16,), dropout=0.0, horizon=4, mask_pad=True)


def learner(**settings) -> Imitation:
    return Imitation(_Data().build(), ImitationConfig(precision="float32", warmup=4, **settings))


def batch(seed: int = 0) -> Batch:
    return _Data().batch(8, seed)


def test_the_learning_rate_warms_up_and_falls_with_progress():
    imitation = learner(lr=1e-2)
    rates = []
    for step in range(8):
        imitation.progress = step / 8
        rates.append(imitation.update(batch())["lr"])
    assert rates[0] == pytest.approx(1e-2 / 4)
    assert max(rates) == rates[3] and rates[3] < 1e-2
    imitation.progress = 1.0
    assert imitation.update(batch())["lr"] == pytest.approx(0.0)
    constant = learner(lr=1e-2, schedule="constant")
    constant.progress = 1.0
    assert [constant.update(batch())["lr"] for _ in range(5)][-1] == 1e-2


def test_the_result_is_the_average_and_not_what_is_being_trained():
    imitation = learner()
    for _ in range(6):
        imitation.update(batch())
    trained, averaged = imitation.trained.state_dict(), imitation.policy.state_dict()
    assert imitation.policy is not imitation.trained
    assert not torch.equal(trained["net.head.weight"], averaged["net.head.weight"])
    assert torch.equal(trained["action_norm.scale"], averaged["action_norm.scale"])


def test_a_resumed_training_goes_on_as_if_nothing_had_happened():
    straight = learner()
    for seed in range(6):
        straight.update(batch(seed))
    first = learner()
    for seed in range(3):
        first.update(batch(seed))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = learner()
    second.load_state_dict(torch.load(file, weights_only=True))
    for seed in range(3, 6):
        second.update(batch(seed))
    assert second.steps == 6
    for name, value in straight.policy.state_dict().items():
        assert torch.equal(second.policy.state_dict()[name], value), name


def weighted() -> Batch:
    """Rows that count differently, and chunks that end early."""
    pad = torch.arange(4) >= torch.tensor([4, 1, 3, 4, 2, 4, 1, 4]).unsqueeze(1)
    return replace(batch(), pad=pad, weight=torch.linspace(0.1, 2.0, 8))


@pytest.mark.parametrize("parts", [2, 3, 8, 20])
def test_a_batch_in_parts_gives_the_update_of_the_whole(parts):
    def learn(accumulate):
        policy = _Plain().build()
        imitation = Imitation(policy, ImitationConfig(precision="float32", warmup=1, accumulate=accumulate))
        return [imitation.update(weighted()) for _ in range(5)], imitation.policy.state_dict()

    (whole, expected), (cut, found) = learn(1), learn(parts)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-5), name
    for a, b in zip(whole, cut, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4) and b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
    assert whole[-1]["loss"] < whole[0]["loss"]


def test_parts_need_to_be_one_at_least():
    with pytest.raises(UserError, match="imitation.accumulate: 0 parts of a batch; expected at least 1"):
        learner(accumulate=0)


def test_dropout_goes_on_where_it_was():
    class Dropping(_Data):
        config = BcConfig(hidden=(16,), dropout=0.5, horizon=4)

    def learn(broken_off):
        torch.manual_seed(3)
        imitation = Imitation(Dropping().build(), ImitationConfig(precision="float32", warmup=1))
        torch.manual_seed(3)
        for seed in range(4):
            if seed == 2 and broken_off:
                state = copy.deepcopy(imitation.state_dict())
                imitation = Imitation(Dropping().build(), ImitationConfig(precision="float32", warmup=1))
                imitation.load_state_dict(state)
            imitation.update(batch(seed))
        return imitation.policy.state_dict()

    whole, resumed = learn(False), learn(True)
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_loss_that_is_not_finite_stops_before_it_spoils_the_weights():
    imitation = learner()
    before = {k: v.clone() for k, v in imitation.trained.state_dict().items()}
    bad = batch()
    bad.action[0, 0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="loss is nan at step 0"):
        imitation.update(bad)
    assert all(torch.equal(v, before[k]) for k, v in imitation.trained.state_dict().items())


def test_a_frozen_encoder_stays_as_it_was():
    from robolearn.models.encoders.cnn import SmallCnnConfig

    class Frozen(_Data):
        config = DiffusionConfig(widths=(8, 16), horizon=4, encoder=SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=2))

    policy = Frozen().build()
    before = {k: v.clone() for k, v in policy.encoder.state_dict().items()}
    imitation = Imitation(policy, ImitationConfig(weight_decay=0.1))
    imitation.update(Frozen().batch(4))
    assert all(torch.equal(v, before[k]) for k, v in imitation.policy.encoder.state_dict().items())


def test_the_encoder_may_learn_more_slowly_and_goes_on_so():
    from robolearn.models.encoders.cnn import SmallCnnConfig

    class Seeing(_Data):
        config = BcConfig(hidden=(8,), dropout=0.0, horizon=4, encoder=SmallCnnConfig(channels=(8,), strides=(2,), keypoints=2, crop=1.0))

    def learn(scale, broken_off=False):
        torch.manual_seed(0)
        imitation = Imitation(Seeing().build(), way := ImitationConfig(precision="float32", warmup=1, weight_decay=0.0, encoder_lr=scale))
        start = {name: p.detach().clone() for name, p in imitation.trained.named_parameters()}
        for seed in range(2):
            if seed == 1 and broken_off:
                state = copy.deepcopy(imitation.state_dict())
                imitation = Imitation(Seeing().build(), way)
                imitation.load_state_dict(state)
            imitation.update(Seeing().batch(4, seed))
        return {name: p.detach() - start[name] for name, p in imitation.trained.named_parameters()}

    def moved(found, own):
        return torch.stack([change.abs().max() for name, change in found.items() if name.startswith("encoder.") == own]).max().item()

    plain, slow = learn(None), learn(0.01)
    assert moved(slow, own=False) == pytest.approx(moved(plain, own=False), rel=0.1)
    assert moved(slow, own=True) == pytest.approx(0.01 * moved(plain, own=True), rel=0.2)
    again = learn(0.01, broken_off=True)
    assert all(torch.equal(again[name], change) for name, change in slow.items())


@pytest.mark.parametrize(
    ("scale", "message"),
    [(0.0, "imitation.encoder_lr: 0.0 times lr; expected more than 0"), (0.1, "no encoder that learns; expected none")],
)
def test_a_learning_rate_of_the_encoder_needs_one(scale, message):
    with pytest.raises(UserError, match=message):
        learner(encoder_lr=scale)


def test_bfloat16_is_used_when_asked_for_and_learns_the_same():
    losses = {}
    for precision in ("float32", "bfloat16"):
        imitation = Imitation(_Data().build(), ImitationConfig(precision=precision, warmup=1, lr=3e-3, schedule="constant"))
        losses[precision] = sum(imitation.update(batch())["loss"] for _ in range(40)) / 40
    assert losses["bfloat16"] != losses["float32"] and losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)
    with autocast(torch.device("cpu"), "float32"):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


class _Counting:
    """Stands where a learner does: counts, and takes `cost` seconds of a clock that only it moves."""

    progress = 0.0

    def __init__(self, cost: float, clock: list[float]):
        self.seen, self.cost, self.clock = [], cost, clock

    def update(self, batch):
        self.seen.append(self.progress)
        self.clock[0] += self.cost
        return {"loss": 1.0}

    def state_dict(self):
        return {}


def test_fit_ends_at_the_steps_or_the_seconds_and_counts_earlier_attempts(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("robolearn.learners.fit.time.monotonic", lambda: clock[0])
    counting = _Counting(0.5, clock)
    assert fit(counting, iter([None] * 99), steps=10) == (10, 5.0)
    assert counting.seen == pytest.approx([i / 10 for i in range(10)])

    counting = _Counting(0.5, clock)
    waited = []
    steps, seconds = fit(
        counting, iter([None] * 99), steps=100, seconds=4.0, done_steps=20, done_seconds=2.0, on_step=lambda s, t, m: waited.append((s, t))
    )
    assert (steps, seconds) == (24, 4.0) and waited[-1] == (24, 4.0)
    assert counting.seen[0] == 0.5, "progress is of the whole training"
