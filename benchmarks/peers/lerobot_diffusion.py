"""LeRobot's diffusion policy through its public calls: predict_action_chunk, and the update of its training script.

Images arrive as its processors hand them over, float32 and normalised: that work is not counted for it.
"""

from __future__ import annotations

from importlib.metadata import version

import torch
from policy_speed import PolicyContestant, Setup, count_parameters, serve


class LeRobotDiffusion(PolicyContestant):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        from lerobot.configs.types import FeatureType, PolicyFeature  # pyright: ignore[reportMissingImports]
        from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig  # pyright: ignore[reportMissingImports]
        from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy  # pyright: ignore[reportMissingImports]

        images = {
            f"observation.images.{name}": PolicyFeature(type=FeatureType.VISUAL, shape=(3, setup.pixels, setup.pixels))
            for name in setup.cameras
        }
        config = DiffusionConfig(
            input_features={"observation.state": PolicyFeature(type=FeatureType.STATE, shape=(setup.state,)), **images},
            output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(setup.action,))},
            n_obs_steps=setup.history,
            horizon=setup.horizon,
            n_action_steps=setup.execute,
            down_dims=setup.widths,
            kernel_size=setup.kernel,
            pretrained_backbone_weights=None,
            use_group_norm=True,
            noise_scheduler_type=setup.sampler.upper(),
            num_train_timesteps=setup.train_steps,
            num_inference_steps=setup.sample_steps,
            device=setup.device,
        )
        self.policy = DiffusionPolicy(config).to(setup.device)
        self.optimizer = config.get_optimizer_preset().build(self.policy.parameters())
        self.versions = {name: version(name) for name in ("lerobot", "torch")}
        self.parameters = count_parameters(network=self.policy.diffusion.unet, encoder=self.policy.diffusion.rgb_encoder)
        self.one, self.many = self._batch(1), self._batch(setup.batch)
        self.autocast = torch.autocast(torch.device(setup.device).type, torch.bfloat16, enabled=setup.precision == "bfloat16")

    def plan(self) -> None:
        self.policy.eval()
        with self.autocast:
            self.policy.predict_action_chunk(self.one)

    def update(self) -> None:
        self.policy.train()
        with self.autocast:
            loss, _ = self.policy.forward(self.many)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 10.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        loss.item()

    def _batch(self, rows: int) -> dict[str, torch.Tensor]:
        s = self.setup
        batch = {f"observation.images.{name}": torch.randn(rows, s.history, 3, s.pixels, s.pixels) for name in s.cameras}
        batch["observation.state"] = torch.randn(rows, s.history, s.state)
        batch["action"] = torch.rand(rows, s.horizon, s.action) * 2 - 1
        batch["action_is_pad"] = torch.zeros(rows, s.horizon, dtype=torch.bool)
        return {name: value.to(s.device) for name, value in batch.items()}


if __name__ == "__main__":
    serve(LeRobotDiffusion)
