"""Rows <-> the bytes of one Zarr file: a compressed chunk, or a shard of compressed frames with its index at the end."""

from __future__ import annotations

import numpy as np

from robolearn.data.codecs import with_checksum, without_checksum, zstd_compress, zstd_decompress
from robolearn.data.layout import LEVEL, Column

MISSING = np.uint64(2**64 - 1)  # in a shard's index: no such chunk
INDEX_ENTRY = 16  # bytes: offset and length, uint64 each


def encode_block(column: Column, rows: np.ndarray) -> bytes:
    """One file of numbers; up to `file_rows` rows, the rest of it zeros."""
    block = np.zeros((column.file_rows, *column.tail), column.dtype)
    block[: len(rows)] = rows
    return with_checksum(zstd_compress(block.tobytes(), LEVEL))


def decode_block(column: Column, data: bytes) -> np.ndarray:
    """(file_rows, ...). ValueError: damaged."""
    content = without_checksum(data) if column.checked else data
    shape = (column.file_rows, *column.tail)
    size = int(np.prod(shape)) * column.dtype.itemsize
    return np.frombuffer(zstd_decompress(content, size), column.dtype.newbyteorder("<")).reshape(shape)


def encode_frames(column: Column, frames: np.ndarray) -> list[bytes]:
    """The chunks of these frames, in order; the last may hold fewer frames than the others."""
    assert column.codec is not None
    step = column.codec.rows
    return [with_checksum(column.codec.encode(frames[i : i + step])) for i in range(0, len(frames), step)]


def shard_index(column: Column, sizes: list[int]) -> bytes:
    """What follows the chunks of a shard: their offsets and lengths, and a checksum."""
    index = np.full((chunks_per_shard(column), 2), MISSING, "<u8")
    index[: len(sizes), 1] = sizes
    index[: len(sizes), 0] = np.cumsum([0, *sizes])[:-1]
    return with_checksum(index.tobytes())


def parse_index(column: Column, tail: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(offsets, lengths) int64 (chunks,) from a shard's last bytes; length 0: missing. ValueError: damaged."""
    size = index_bytes(column)
    if len(tail) < size:
        raise ValueError("cut short")
    index = np.frombuffer(without_checksum(tail[-size:]), "<u8").reshape(-1, 2)
    there = index[:, 1] != MISSING
    most = 2 * column.codec.rows * int(np.prod(column.tail)) + (1 << 20)  # pyright: ignore[reportOptionalMemberAccess]
    if (index[there, 1] > most).any() or (index[there, 0] >> 62).any():
        raise ValueError("its index holds absurd numbers")
    return np.where(there, index[:, 0], 0).astype(np.int64), np.where(there, index[:, 1], 0).astype(np.int64)


def index_bytes(column: Column) -> int:
    return chunks_per_shard(column) * INDEX_ENTRY + 4


def chunks_per_shard(column: Column) -> int:
    assert column.codec is not None
    return column.file_rows // column.codec.rows
