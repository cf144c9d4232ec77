"""Our diffusion policy: from raw uint8 frames to a chunk in physical units; the update of `robolearn train`, moving average included."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from policy_speed import PolicyContestant, Setup, count_parameters, serve

sys.path.insert(0, str(Path(__file__).parents[2]))

from hardware.types import ArraySpec, RobotSpec
from robolearn.core.types import Batch, Obs
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.models.encoders.resnet import ResNetConfig
from robolearn.models.packed import pack
from robolearn.models.precision import Precision, autocast, halve
from robolearn.policies.diffusion import DiffusionConfig, DiffusionPolicy


def _array(count: int) -> ArraySpec:
    return ArraySpec(tuple(f"x{i}" for i in range(count)), ("",) * count, (-1.0,) * count, (1.0,) * count)


class OurDiffusion(PolicyContestant):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        sizes = dict.fromkeys(setup.cameras, (setup.pixels, setup.pixels))
        spec = RobotSpec("speed", sizes, {"state": _array(setup.state)}, _array(setup.action), "joint_pos", 10.0)
        config = DiffusionConfig(
            history=setup.history,
            horizon=setup.horizon,
            encoder=ResNetConfig(depth=18, norm="group", head="keypoints", keypoints=32),
            widths=setup.widths,
            kernel=setup.kernel,
            blocks=2,
            sampler=setup.sampler,
            sample_steps=setup.sample_steps,
            train_steps=setup.train_steps,
        )
        self.policy: DiffusionPolicy = config.build(spec)
        rng = np.random.default_rng(0)
        self.policy.fit_normalizers(rng.uniform(-1, 1, (64, setup.state)), rng.uniform(-1, 1, (64, setup.action)))
        self.policy.to(setup.device)
        self.precision: Precision = setup.precision
        self.learner = Imitation(self.policy, ImitationConfig(precision=self.precision))
        self.versions = {name: version(name) for name in ("robolearn", "torch")}
        assert self.policy.encoder is not None
        self.parameters = count_parameters(network=self.policy.net, encoder=self.policy.encoder)
        self.one, self.many, self.flown = self._batch(1), self._batch(setup.batch), False

    def plan(self) -> None:
        if not self.flown:  # as PolicyPilot does
            if self.precision == "bfloat16":
                halve(self.policy)
            pack(self.policy)
        self.flown = True
        with autocast(torch.device(self.setup.device), self.precision):
            self.policy.act(self.one.obs)

    def update(self) -> None:
        self.learner.update(self.many)

    def _batch(self, rows: int) -> Batch:
        s = self.setup
        images = {name: torch.randint(256, (rows, s.history, 3, s.pixels, s.pixels), dtype=torch.uint8) for name in s.cameras}
        state = torch.rand(rows, s.history, s.state) * 2 - 1
        action = torch.rand(rows, s.horizon, s.action) * 2 - 1
        return Batch(Obs(images, state), action, torch.zeros(rows, s.horizon, dtype=torch.bool)).to(s.device)


if __name__ == "__main__":
    serve(OurDiffusion)
