"""Chunks with absolute times: late rows are dropped, later chunks replace earlier ones."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hardware.schedule import Schedule
from hardware.types import Command, Source


def row(time: float, value: float = 0.0) -> Command:
    return Command(time, np.array([value], np.float32), Source.POLICY)


def taken(schedule: Schedule, now: float) -> float | None:
    found = schedule.due(now)
    return None if found is None else float(found.action[0])


def test_rows_come_at_their_times_and_once() -> None:
    schedule = Schedule(0.1)
    assert schedule.replace([row(1.0, 1), row(1.1, 2)], 0.95) == 0
    assert [taken(schedule, t) for t in (0.99, 1.0, 1.05, 1.1, 1.2)] == [None, 1, None, 2, None]


def test_rows_of_the_past_are_dropped_and_counted() -> None:
    schedule = Schedule(0.1)
    assert schedule.replace([row(1.0, 1), row(1.1, 2), row(1.2, 3)], 1.15) == 1
    assert taken(schedule, 1.15) == 2
    schedule.replace([row(1.3, 4), row(1.4, 5)], 1.2)
    assert taken(schedule, 1.45) == 5  # what nobody asked for in time is not caught up with
    assert schedule.late == 3


def test_a_later_chunk_replaces_the_rest_of_the_earlier_one() -> None:
    schedule = Schedule(0.1)
    schedule.replace([row(1.0, 1), row(1.1, 2), row(1.2, 3)], 0.9)
    schedule.replace([row(1.1, 20), row(1.2, 30)], 1.0)
    assert [taken(schedule, t) for t in (1.0, 1.1, 1.2)] == [1, 20, 30]


def test_times_that_do_not_grow_are_no_rows() -> None:
    schedule = Schedule(0.1)
    assert schedule.replace([row(1.0, 1), row(1.0, 2), row(0.95, 3), row(float("nan"), 4), row(1.1, 5)], 1.0) == 3
    assert [taken(schedule, t) for t in (1.0, 1.1)] == [1, 5]


def test_a_row_flown_is_not_flown_again_by_a_chunk_of_the_same_instant() -> None:
    schedule = Schedule(0.1)
    schedule.replace([row(1.0, 1), row(1.1, 2)], 1.0)
    assert taken(schedule, 1.0) == 1
    assert schedule.replace([row(1.0, 10), row(1.1, 20)], 1.0) == 1
    assert [taken(schedule, t) for t in (1.0, 1.1)] == [None, 20]


@given(st.lists(st.tuples(st.floats(0, 10), st.lists(st.floats(0, 12), max_size=8)), max_size=8))
def test_time_never_goes_back(chunks: list[tuple[float, list[float]]]) -> None:
    schedule, last = Schedule(0.1), -1.0
    for now, times in sorted(chunks, key=lambda chunk: chunk[0]):
        schedule.replace([row(t) for t in times], now)
        found = schedule.due(now)
        if found is not None:
            assert last < found.time <= now
            last = found.time
