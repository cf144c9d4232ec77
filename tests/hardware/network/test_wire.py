"""Messages: what goes in comes out, and whatever else comes is refused, never run, never believed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware.network import wire
from hardware.types import HardwareError

msgpack = pytest.importorskip("msgpack")


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_an_array_arrives_to_the_bit_and_is_the_receivers(dtype: type, shape: tuple[int, ...]) -> None:
    sent = np.random.default_rng(0).integers(0, 2, shape).astype(dtype)
    got = wire.unpack(wire.pack({"x": sent}))["x"]
    assert (got.dtype, got.shape) == (sent.dtype, sent.shape)
    assert got.tobytes() == sent.tobytes()
    assert got.flags.writeable


def test_the_order_in_memory_is_the_array_not_its_strides() -> None:
    sent = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)
    np.testing.assert_array_equal(wire.unpack(wire.pack(sent)), sent)


@pytest.mark.parametrize("value", [object(), np.array([object()]), np.array(["x"]), np.zeros(1, complex), {1, 2}, 2**70])
def test_what_may_not_travel(value: object) -> None:
    with pytest.raises(HardwareError, match="message: "):
        wire.pack([value])


def test_too_much_is_refused_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    data = wire.pack(np.zeros(1000, np.uint8))
    monkeypatch.setattr(wire, "LIMIT", 1000)
    with pytest.raises(HardwareError, match=r"bytes; at most 1000: fewer or smaller images"):
        wire.pack(np.zeros(1000, np.uint8))
    with pytest.raises(HardwareError, match=r"bytes; at most 1000"):
        wire.unpack(data)


def array(dtype: object, shape: object, values: object) -> bytes:
    return msgpack.packb(msgpack.ExtType(1, msgpack.packb((dtype, shape, values))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pickle.dumps([1]),
        msgpack.packb(msgpack.ExtType(7, b"")),
        array("|O", [1], bytes(8)),
        array("<f4", [2], bytes(4)),
        array("<f4", [-1], b""),
        array("<f4", [0, 2**63], b""),
        array("<f4", "x", bytes(4)),
        array("<f4", [1] * 9, bytes(4)),
        array("<f4", [1.0], bytes(4)),
        array("<f4", [1], "text"),
        array(["<f4"], [1], bytes(4)),
        msgpack.packb(msgpack.ExtType(1, b"\x93")),
        b"\x91" * 5000,
        b"\xdd\xff\xff\xff\xff",
        msgpack.packb({(1, 2): 3}),
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(HardwareError, match="message: "):
        wire.unpack(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_refusal(data: bytes) -> None:
    try:
        wire.unpack(data)
    except HardwareError as error:
        assert "\n" not in str(error)
