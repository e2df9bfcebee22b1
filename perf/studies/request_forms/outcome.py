"""What came of one measurement."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec
import psutil


class Outcome(msgspec.Struct):
    """Requests of one client in one stretch of time."""

    requests_per_s: float
    p50_ms: float
    answers: dict[str, int]
    """Requests by the status of their answers, or by what else became of them."""
    gateway_us: float = 0.0
    """Microseconds of processor time that the gateway's process took for a request."""


Drive = Callable[[int, float], Outcome]
"""Sends requests on so many connections for about so many seconds."""


def outcome(latencies_s: Sequence[float], seconds: float, answers: dict[str, int]) -> Outcome:
    """Put it together from the latency of each request."""
    p50 = statistics.median(latencies_s) * 1000 if latencies_s else 0.0
    return Outcome(len(latencies_s) / seconds, p50, answers)


def observed(drive: Drive, connections: int, seconds: float, service: int) -> Outcome:
    """Drive, and look at the gateway's processor time; `service` is the id of `carlarl serve`."""
    before = _processor_s(service)
    came = drive(connections, seconds)
    used = _processor_s(service) - before
    came.gateway_us = used * 1e6 / max(1, sum(came.answers.values()))
    return came


def _processor_s(service: int) -> float:
    """Give the seconds of `carlarl serve` and all below it, but for Triton's processes."""
    root = psutil.Process(service)
    processes = {one.pid: one for one in (root, *root.children(recursive=True))}
    for one in list(processes.values()):
        if one.name() == "tritonserver":
            for part in (one, *one.children(recursive=True)):
                processes.pop(part.pid, None)
    return sum(sum(one.cpu_times()[:2]) for one in processes.values())
