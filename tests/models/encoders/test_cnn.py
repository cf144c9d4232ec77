import pytest

from robolearn.core.errors import UserError
from robolearn.models.encoders.cnn import SmallCnnConfig
from robolearn.testing import EncoderContract

SMALL = SmallCnnConfig(channels=(8, 8), strides=(2, 2), keypoints=4)


class TestSmallCnn(EncoderContract):
    config = SMALL


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="SmallCnn has no public weights"):
        SMALL.build({"top": (32, 32)}).load_weights("org/model")
    with pytest.raises(UserError, match="encoder.tune: lora is for pretrained networks"):
        SmallCnnConfig(tune="lora").build({"top": (32, 32)})
    with pytest.raises(UserError, match="2 channels .* but 1 strides"):
        SmallCnnConfig(channels=(8, 8), strides=(2,)).build({"top": (32, 32)})
    for width in (28, 4, 0):
        with pytest.raises(UserError, match=f"encoder.channels: {width}; expected multiples of 8"):
            SmallCnnConfig(channels=(width, 32, 32)).build({"top": (32, 32)})
