"""Ctrl-C is noted, the second one raises, and the handlers of before come back."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from robolearn.core.interrupt import deferred_interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_is_noted_and_the_second_raises(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with deferred_interrupt() as interrupt:
        assert not interrupt.wanted
        os.kill(os.getpid(), number)
        assert interrupt.wanted
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_where_everything_is_whole_the_first_raises() -> None:
    with deferred_interrupt() as interrupt:
        with pytest.raises(KeyboardInterrupt), interrupt.at_once():
            os.kill(os.getpid(), signal.SIGINT)
        assert not interrupt.wanted
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.wanted, "deferred again"
        with pytest.raises(KeyboardInterrupt), interrupt.at_once():
            raise AssertionError("who wanted to stop before need not wait any longer")


def test_another_thread_changes_nothing() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with deferred_interrupt() as interrupt:
            seen.append((interrupt.wanted, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, before)]
