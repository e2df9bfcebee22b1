"""Turns of the connections that were refused."""

import time

from gateway.security.backoff import LONGEST_S, SHARE, Backoff


def test_turns_come_one_after_the_other() -> None:
    backoff = Backoff()
    took = 0.0001
    began = time.perf_counter() - took
    pauses = [backoff.pause_s(began) for _ in range(5)]
    assert pauses == sorted(pauses)
    assert pauses[0] >= took / SHARE
    assert pauses[4] >= 4.9 * took / SHARE


def test_nobody_waits_longer_than_told() -> None:
    backoff = Backoff()
    assert [backoff.pause_s(time.perf_counter() - 60) for _ in range(3)] == [LONGEST_S] * 3


def test_who_comes_later_does_not_wait_for_turns_that_are_over() -> None:
    backoff = Backoff()
    backoff.pause_s(time.perf_counter() - 0.001)
    time.sleep(0.002 / SHARE)
    assert backoff.pause_s(time.perf_counter()) < 0.001 / SHARE
