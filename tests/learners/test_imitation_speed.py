"""Where an update's time goes, on the Push-T state policy: what is not the network's own should be next to nothing.

python -m pytest -m bench -s tests/learners/test_imitation_speed.py
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hardware import RobotConfig, spec_of
from robolearn.core.types import Batch, Obs
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.policies.diffusion import DiffusionConfig

STEPS, ROWS = 200, 256


@pytest.mark.bench
def test_what_is_not_the_networks_own_is_little():
    torch.manual_seed(0)
    torch.set_num_threads(1)
    policy = DiffusionConfig().build(spec_of(RobotConfig(body="pusht:state")))
    state, action = torch.rand(ROWS, policy.history, policy.spec.state_dim), torch.rand(ROWS, policy.horizon, policy.spec.action.dim)
    policy.fit_normalizers(state[:, 0].numpy(), action[:, 0].numpy())
    learner = Imitation(policy, ImitationConfig())
    spent: dict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable) -> Callable:
        def measured(*words: Any, **options: Any) -> Any:
            started = time.thread_time()  # of this thread alone: others on the machine do not count
            result = call(*words, **options)
            spent[name].append(1e3 * (time.thread_time() - started))
            return result

        return measured

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learner._forward, "_loss", timed("forward", policy.loss))
        patch.setattr(torch.Tensor, "backward", timed("backward", torch.Tensor.backward))
        patch.setattr(torch.nn.utils, "clip_grad_norm_", timed("clip", torch.nn.utils.clip_grad_norm_))
        patch.setattr(learner.optimizer, "step", timed("optimizer", learner.optimizer.step))
        patch.setattr(learner.average, "update_parameters", timed("average", learner.average.update_parameters))
        update = timed("update", learner.update)
        for step in range(10 + STEPS):
            if step == 10:
                spent.clear()
            update(Batch(Obs({}, state), action, torch.zeros(ROWS, policy.horizon, dtype=torch.bool)))
    median = {name: float(np.median(values)) for name, values in spent.items()}
    own = median["forward"] + median["backward"]
    print(
        "\nms of one thread per update:", {name: round(value, 2) for name, value in median.items()}, f"network {own / median['update']:.0%}"
    )
    assert own > 0.9 * median["update"]
