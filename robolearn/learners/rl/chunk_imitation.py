"""A chunk policy in the actor's place: it imitates the chunks that turned out well (AWR, Peng et al. 2019, through its own loss)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robolearn.agents.agent import Agent
from robolearn.core.types import Batch, Metrics
from robolearn.learners.imitation import Imitation, ImitationConfig
from robolearn.policies.chunk import ChunkPolicy

if TYPE_CHECKING:
    from robolearn.learners.rl.actor_loss import ActorLoss
    from robolearn.learners.rl.critic_loss import Walked

WARMUP = 50  # updates


class ChunkImitation:
    """The agent's policy becomes the moving average of a copy that learns."""

    def __init__(self, agent: Agent, actor_loss: ActorLoss):
        assert agent.policy is not None
        self.agent, self.actor_loss, self.horizon = agent, actor_loss, agent.policy.horizon
        config = ImitationConfig(lr=agent.config.actor.lr, schedule="constant", warmup=WARMUP, precision=agent.config.update.precision)
        learning = agent.config.chunks.build(agent.spec).to(agent.device)  # fresh: of an average nothing learns
        learning.load_state_dict(agent.policy.state_dict())
        learning.generator.set_state(agent.policy.generator.get_state())
        learning.prepare()
        self.imitation = Imitation(learning, config)
        assert isinstance(self.imitation.policy, ChunkPolicy)
        agent.policy = self.imitation.policy

    def update(self, walked: Walked, batch: Batch) -> Metrics:
        """One step. Rows count by what became of their first action; not at all where that is not known."""
        steps = len(walked.z) // len(batch.action)
        z, action, earned, counts = (value[::steps] for value in (walked.z, walked.action, walked.earned, walked.counts))
        weight = self.actor_loss.weights(z, action, earned, counts)[0] * self.actor_loss.examples(counts, batch)
        if not bool(weight.any()):
            return {}
        action, pad = batch.action[:, : self.horizon], batch.pad[:, : self.horizon]
        metrics = self.imitation.update(Batch(batch.obs, action, pad, weight=weight / weight.mean()))
        return {f"policy_{name}": value for name, value in metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        return self.imitation.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.imitation.load_state_dict(state)
