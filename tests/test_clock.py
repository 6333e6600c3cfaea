"""Clock: what a block took is what it took, whether it ended well, and whatever ran before it."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sidbench import clock

MB = 2**20


def touch(megabytes: int, chunk: int = 8) -> None:
    """Hold memory for a while, in pieces that an allocator likes to keep for itself."""
    held = [np.ones(chunk * MB // 8) for _ in range(megabytes // chunk)]
    time.sleep(3 * clock.TICK)
    assert len(held) == megabytes // chunk


def test_a_span_has_the_seconds_of_its_block() -> None:
    with clock.span() as span:
        time.sleep(0.05)
    assert 0.05 <= span.seconds < 5


def test_a_span_ends_with_its_block_however_that_ends() -> None:
    def fail() -> None:
        time.sleep(0.02)
        raise KeyError

    with pytest.raises(KeyError), clock.span() as span:
        fail()
    assert span.seconds >= 0.02


def test_memory_is_what_the_block_added_whatever_was_freed_before() -> None:
    peaks = []
    for _ in range(3):
        with clock.span() as span:
            touch(96)
        peaks.append(span.peak_mb)
    assert all(80 < peak < 200 for peak in peaks), peaks


def test_a_block_that_needs_nothing_is_told_so() -> None:
    held = np.ones(64 * MB // 8)
    with clock.span() as span:
        time.sleep(3 * clock.TICK)
    assert span.peak_mb < 16
    assert held[0] == 1


def test_a_rate_is_the_median_of_several_repeats() -> None:
    pauses = iter([0.01, 0.2, 0.01, 0.01, 0.01] + [0.01] * 200)
    rate = clock.items_per_second(lambda: time.sleep(next(pauses)), 10)
    assert 10 / 0.1 < rate <= 10 / 0.01


def test_a_long_repeat_is_believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 6.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    assert clock.items_per_second(lambda: None, 12) == 2
