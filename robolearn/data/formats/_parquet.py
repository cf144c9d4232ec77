"""Columns of parquet files as numbers, with the sizes that a header claims checked first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robolearn.core.errors import UserError
from robolearn.data.formats._reader import require_memory


def open_parquet(file: Path) -> pq.ParquetFile:
    """A parquet file's header. UserError: none, or damaged."""
    if not file.is_file():
        raise UserError(f"{file.parent.name}/{file.name} is not here")
    try:
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{file.name}: no parquet file that can be read ({' '.join(str(error).split())[:100]})") from error


def read_groups(parquet: pq.ParquetFile, groups: Sequence[int], columns: Sequence[str], name: str) -> pa.Table:
    """These columns of these row groups. UserError: a column that is missing; more rows or bytes than an episode's memory takes."""
    known = parquet.schema_arrow.names
    for column in columns:
        if column not in known:
            raise UserError(f"{name}: has no column {column!r}; it has {', '.join(known)}")
    metadata = parquet.metadata
    for group in groups:
        for index in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(index)
            if any(chunk.path_in_schema == c or chunk.path_in_schema.startswith(f"{c}.") for c in columns):
                require_memory(f"{name}: {chunk.path_in_schema}", (max(chunk.num_values, 0), 8))
                require_memory(f"{name}: {chunk.path_in_schema}", (max(chunk.total_uncompressed_size, 0),))
    try:
        return parquet.read_row_groups(list(groups), columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{name}: damaged ({' '.join(str(error).split())[:100]})") from error


def numbers(table: pa.Table, key: str, width: int) -> np.ndarray:
    """(rows, width) in the recorded dtype; lists in lists are laid flat, a float that is missing is NaN.

    UserError: other gaps, ragged rows, no numbers, another width.
    """
    column: Any = table.column(key).combine_chunks()
    values = column.storage if isinstance(column, pa.ExtensionArray) else column
    got = 1
    while True:
        if values.null_count and pa.types.is_floating(values.type):
            values = values.fill_null(np.nan)  # pandas stores NaN in lists as missing
        if values.null_count:
            raise UserError(f"{key}: {values.null_count} values are missing")
        if not (pa.types.is_list(values.type) or pa.types.is_large_list(values.type) or pa.types.is_fixed_size_list(values.type)):
            break
        span: Any = pc.min_max(pc.list_value_length(values)).as_py()  # pyright: ignore[reportAttributeAccessIssue]
        if len(values) and span["min"] != span["max"]:
            raise UserError(f"{key}: rows have {span['min']} to {span['max']} numbers")
        got *= span["max"] or 0
        values = values.flatten()
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type) or pa.types.is_boolean(values.type)):
        raise UserError(f"{key}: holds {values.type}; expected numbers")
    if len(table) and got != width:
        raise UserError(f"{key}: rows have {got} numbers; meta/info.json says {width}")
    return values.to_numpy(zero_copy_only=False).reshape(len(table), width)
