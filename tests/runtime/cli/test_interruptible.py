"""Work in a thread: its value, its errors, and signals meanwhile."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from ortgpt.cli.interruptible import call_interruptibly
from ortgpt.errors import OptionError


def test_the_value_is_that_of_the_work_in_a_thread_of_that_name() -> None:
    assert call_interruptibly(lambda: threading.current_thread().name, "worker") == "worker"


def test_an_error_is_the_works_own() -> None:
    error = OptionError("rows", "is bad")

    def work() -> None:
        raise error

    with pytest.raises(OptionError) as caught:
        call_interruptibly(work, "worker")
    assert caught.value is error


def test_an_interrupt_does_not_wait_for_the_work() -> None:
    release = threading.Event()

    def work() -> None:
        signal.raise_signal(signal.SIGINT)
        assert release.wait(60)

    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        call_interruptibly(work, "worker")
    assert time.monotonic() - begin < 30
    release.set()
