"""A table of numbers with a line for each row: CSV with a header, or JSON lines."""

from __future__ import annotations

import csv
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from robolearn.core.errors import UserError

SUFFIXES = (".csv", ".jsonl")
MAX_BYTES = 1 << 28
MAX_COLUMNS = 10_000
_PEEK = 1 << 16  # bytes of a first line


def header(path: Path) -> list[str]:
    """The columns' names, from the first line alone. Empty: not such a table."""
    try:
        with path.open("rb") as file:
            line = file.readline(_PEEK).decode("utf-8-sig")
        if path.suffix == ".csv":
            return [cell.strip() for cell in next(csv.reader([line]), [])]
        return list(dict(_cells(json.loads(line))))
    except (OSError, ValueError, TypeError, csv.Error, RecursionError, UserError):
        return []


def read_table(path: Path, words: frozenset[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Columns of numbers, float64 (T,) each, and of the columns called one of `words` the first row's text.

    UserError, with the line: no table, a cell that is no number, rows that differ in columns, none at all.
    """
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path.name} has more than {MAX_BYTES >> 20} MiB; split it into episodes")
    names: list[str] = []
    numbers, said = array("d"), {}
    try:
        for line, cells in _lines(path):
            if not names:
                names = list(cells)
            if list(cells) != names:
                differ = sorted(set(cells) ^ set(names))
                raise UserError(f"{path.name} line {line}: columns differ from the first row's in {', '.join(differ)[:120] or 'order'}")
            for name, cell in cells.items():
                if name in words:
                    said.setdefault(name, str(cell))
                    continue
                try:
                    numbers.append(float(cell))
                except (ValueError, TypeError, OverflowError) as error:
                    raise UserError(f"{path.name} line {line}: column {name} holds {str(cell)[:40]!r}; expected a number") from error
    except (csv.Error, ValueError, RecursionError) as error:
        raise UserError(f"{path.name} is damaged: {' '.join(str(error).split())[:160]}") from error
    columns = [name for name in names if name not in words]
    if not columns:
        raise UserError(f"{path.name} holds no row of numbers")
    table = np.frombuffer(numbers, np.float64).reshape(-1, len(columns))
    return {name: table[:, i] for i, name in enumerate(columns)}, said


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number of the line from 1 on, its cells by column), empty lines aside."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".jsonl":
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _unique(path, list(_cells(json.loads(line))), number)
            return
        reader = csv.reader(file)
        names = [cell.strip() for cell in next(reader, [])]
        for cells in reader:
            if len(cells) != len(names) and cells:
                raise UserError(f"{path.name} line {reader.line_num}: {len(cells)} cells; the header has {len(names)}")
            if cells:
                yield reader.line_num, _unique(path, list(zip(names, cells, strict=True)), reader.line_num)


def _unique(path: Path, cells: list[tuple[str, Any]], line: int) -> dict[str, Any]:
    made = dict(cells)
    if len(made) != len(cells) or len(cells) > MAX_COLUMNS:
        raise UserError(f"{path.name} line {line}: {len(cells)} columns of {len(made)} names; at most {MAX_COLUMNS}, each name once")
    return made


def _cells(row: Any) -> Iterator[tuple[str, Any]]:
    """One JSON line's columns: a list gives name.0, name.1, ..."""
    if not isinstance(row, dict):
        raise UserError(f"a line holds {type(row).__name__}; expected an object")
    for name, value in row.items():
        if isinstance(value, list):
            yield from ((f"{name}.{i}", element) for i, element in enumerate(value))
        else:
            yield name, value
