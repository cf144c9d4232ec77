import pytest

from robolearn.core.errors import UserError
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.policies.bc_transformer import BcTransformerConfig
from robolearn.testing import SPEC
from tests.policies.test_every_step import SeesPast

SMALL = {"history": 4, "width": 32, "layers": 2, "heads": 2, "dropout": 0.0}


class TestMixture(SeesPast):
    config = BcTransformerConfig(**SMALL)


class TestMixtureOverChunks(SeesPast):
    config = BcTransformerConfig(**SMALL, horizon=4, modes=2, units="gaussian")

    def test_it_answers_with_a_chunk_in_physical_units(self):
        """Without a range to hold it, an answer may leave the action's a little."""
        policy, batch = self.build(), self.batch(3, seed=1)
        assert policy.act(batch.obs).shape == (3, 4, 3)


class TestPlainRegressionWithFrozenEyes(SeesPast):
    config = BcTransformerConfig(**SMALL, modes=0, encoder=SmallCnnConfig(tune="none", channels=(8,), strides=(2,), keypoints=4))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BcTransformerConfig(width=30, heads=4), "policy.width: 30 numbers; 4 heads need a multiple of 4"),
        (BcTransformerConfig(heads=0), "policy.heads: 0 heads; expected at least 1"),
        (BcTransformerConfig(modes=-2), "policy.modes: -2 Gaussians; expected at least 0"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(config, message):
    with pytest.raises(UserError, match=message):
        config.build(SPEC)
