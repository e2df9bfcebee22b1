"""What `carlarl bench run` measures: the layers of one stack, under each load of a plan."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import httpx

from perf.load import closed_loop, in_process, open_loop, perf_analyzer
from perf.load.generator import LoadError
from perf.load.measurement import Layer, Measurement
from perf.load.processes import answers
from perf.load.target import Target, ensemble, fused, gateway

LAYERS: tuple[Layer, ...] = get_args(Layer)
IN_PROCESS_S = 2.0
"""The policy alone is steady: this long is enough for it."""

Jobs = dict[str, Callable[[], Measurement]]
"""The measurements to make in a round, by name."""


@dataclass(frozen=True)
class Plan:
    """What to measure; every load is the product of its parts."""

    batch_sizes: tuple[int, ...] = (1,)
    concurrency: tuple[int, ...] = (1, 32)
    duration: float = 5.0
    """Seconds of one measurement."""
    rates: tuple[float, ...] = ()
    """Requests a second, of open loops."""
    layers: tuple[str, ...] = LAYERS
    repeats: int = 1


@dataclass(frozen=True)
class Stack:
    """A gateway, and where its Triton listens."""

    url: str
    triton_http: str
    triton_grpc: str
    repository: Path
    api_key: str | None = None
    runs: bool = False
    """Whether it ran before, and others may ask it."""


def jobs(plan: Plan, stack: Stack) -> tuple[Jobs, list[str]]:
    """Return what of the plan can be measured here, and a sentence for each part that can't.

    Raises TargetError without a gateway.
    """
    found, left_out = Jobs(), list[str]()
    target = gateway(stack.url, stack.api_key)
    policy: dict[str, Any] = {"version": target.version, "form": target.format}
    layers = plan.layers
    if target.stateful:
        layers = tuple(layer for layer in layers if layer == "gateway")
        if layers != plan.layers:
            left_out.append(f"all but the gateway: {target.version} has a memory")
    if "in-process" in layers:
        seconds = min(plan.duration, IN_PROCESS_S)
        for batch in plan.batch_sizes:
            measure = partial(in_process.run, stack.repository, seconds, batch, **policy)
            found[f"in-process, batch {batch}"] = measure
    if any(layer.startswith("triton") for layer in layers):
        found |= _triton(plan, stack, target, left_out)
    if "gateway" in plan.layers:
        if not closed_loop.have_wrk():
            missing = "wrk: missing (apt-get install wrk)"
            left_out.append(f"{missing}; perf.load.generator takes its place")
        found |= _gateway(plan, target)
    return found, left_out


def run(
    jobs: Jobs, repeats: int, on_job: Callable[[str, int], None], left_out: list[str]
) -> Iterator[Measurement]:
    """Measure all jobs, one round after another, so that a drift of the machine is in the spread.

    `on_job` gets the name of each job that begins, and how many were done. A job that fails is left
    out from then on.
    """
    failed: set[str] = set()
    for done, (name, measure) in enumerate(list(jobs.items()) * repeats):
        on_job(name, done)
        if name not in failed:
            try:
                yield measure()
            except LoadError as error:
                failed.add(name)
                left_out.append(f"{name}: {error}")


def _triton(plan: Plan, stack: Stack, target: Target, left_out: list[str]) -> Jobs:
    found = Jobs()
    models, why = [ensemble(target.version), fused(target.version)], perf_analyzer.missing()
    try:
        httpx.get(f"http://{stack.triton_http}/v2", timeout=5, trust_env=False)
    except httpx.TransportError:
        why = why or (
            f"no Triton answers at {stack.triton_http}; say where it is with TRITON_URL, or "
            "TRITON_HTTP_PORT and TRITON_GRPC_PORT"
        )
    if why is not None:
        left_out.append(f"triton-http, triton-grpc: {why}")
        return found
    policy: dict[str, Any] = {"version": target.version, "form": target.format}
    for protocol, model in product(("http", "grpc"), models):
        if f"triton-{protocol}" not in plan.layers:
            continue
        if not answers(f"http://{stack.triton_http}/v2/models/{model}/ready"):
            left_out.append(f"triton-{protocol}: it has not loaded {model}")
            continue
        address = stack.triton_http if protocol == "http" else stack.triton_grpc
        load = partial(perf_analyzer.run, model, protocol, address, space=target.space)
        for batch, count in product(plan.batch_sizes, plan.concurrency):
            name = f"triton-{protocol}, {model}, batch {batch}, {count} callers"
            found[name] = partial(load, count, plan.duration, batch, **policy)
    return found


def _gateway(plan: Plan, target: Target) -> Jobs:
    found, seconds = Jobs(), plan.duration
    for batch in plan.batch_sizes:
        for count in plan.concurrency:
            measure = partial(closed_loop.run, target, count, seconds, batch)
            found[f"gateway, batch {batch}, {count} callers"] = measure
        for rate in plan.rates:
            measure = partial(open_loop.run, target, rate, seconds, batch)
            found[f"gateway, batch {batch}, {rate:g}/s"] = measure
    return found
