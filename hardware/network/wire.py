"""What travels: numbers, words, lists, mappings and arrays, as MessagePack. Nothing in a message is ever run."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from hardware.network import library
from hardware.types import HardwareError

VERSION = 2  # grows when an older side would misunderstand
LIMIT = 64 * 2**20  # bytes of one message: a history of several cameras fits
_ARRAY = 1  # MessagePack's extension type of ours
_DTYPES = ("|b1", "|u1", "<i4", "<i8", "<f4", "<f8")


def pack(message: Any) -> bytes:
    """HardwareError for what may not travel, or is too much of it."""
    try:
        data = library("msgpack").packb(message, default=_foreign)
    except (TypeError, ValueError, OverflowError) as error:
        raise HardwareError(f"message: {error}") from error
    if len(data) > LIMIT:
        raise HardwareError(f"message: {len(data)} bytes; at most {LIMIT}: fewer or smaller images")
    return data


def unpack(data: bytes) -> Any:
    """The inverse; arrays are fresh and writable. HardwareError, whatever the bytes are."""
    if len(data) > LIMIT:
        raise HardwareError(f"message: {len(data)} bytes; at most {LIMIT}")
    try:
        return library("msgpack").unpackb(data, ext_hook=_array)
    except HardwareError:
        raise
    except Exception as error:  # MessagePack has a dozen ways to be none
        raise HardwareError(f"message: not one of ours: {type(error).__name__}") from error


def _foreign(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray):
        raise TypeError(f"a {type(value).__name__} may not travel")
    if value.dtype.str not in _DTYPES:
        raise TypeError(f"an array of {value.dtype} may not travel; valid: {', '.join(_DTYPES)}")
    msgpack = library("msgpack")
    return msgpack.ExtType(_ARRAY, msgpack.packb((value.dtype.str, value.shape, value.tobytes())))


def _array(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY:
        raise HardwareError(f"message: extension {code}; valid: {_ARRAY}")
    dtype, shape, values = library("msgpack").unpackb(data)
    fine = dtype in _DTYPES and isinstance(shape, list) and len(shape) <= 8 and isinstance(values, bytes)
    if not fine or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise HardwareError(f"message: not an array: {dtype!r:.40}, shape {shape!r:.40}; valid: {', '.join(_DTYPES)}")
    if math.prod(shape) * np.dtype(dtype).itemsize != len(values):
        raise HardwareError(f"message: an array of {dtype}, shape {shape}, in {len(values)} bytes")
    return np.frombuffer(values, dtype).reshape(shape).copy()
