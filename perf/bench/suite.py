"""What `carlarl bench run` measures: the layers of one stack, under each load of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

import httpx

from perf.load import closed_loop, in_process, open_loop, perf_analyzer
from perf.load.generator import LoadError
from perf.load.measurement import Layer, Measurement
from perf.load.perf_analyzer import Protocol
from perf.load.processes import answers
from perf.load.target import Target, ensemble, fused, gateway

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
LAYERS: tuple[Layer, ...] = get_args(Layer)
IN_PROCESS_S = 2.0
"""The policy alone is steady: this long is enough for it."""
PERF_ANALYZER_START_S = 1.5


@dataclass(frozen=True)
class Plan:
    """What to measure; every load is the product of its parts."""

    batch_sizes: tuple[int, ...] = (1,)
    concurrency: tuple[int, ...] = (1, 32)
    duration: float = 5.0
    """Seconds of one measurement."""
    formats: tuple[str, ...] = ()
    """Empty for the one that is served."""
    versions: tuple[str, ...] = ()
    """Empty for the active one."""
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


@dataclass(frozen=True)
class Job:
    """One measurement to make."""

    name: str
    seconds: float
    """How long it will take, about."""
    measure: Callable[[], Measurement]


@dataclass
class Work:
    """The jobs of one round, and what can't be measured."""

    jobs: list[Job] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def work(plan: Plan, stack: Stack) -> Work:
    """Find out what of the plan can be measured here. Raises TargetError without a gateway."""
    found = Work()
    protocols = [one for one in PROTOCOLS if f"triton-{one}" in plan.layers]
    if protocols and (why := _no_triton(stack)):
        found.left_out.append(f"triton-http, triton-grpc: {why}")
        protocols = []
    if "gateway" in plan.layers and not closed_loop.have_wrk():
        found.left_out.append(
            "wrk: missing (apt-get install wrk); perf.load.generator takes its place"
        )
    for version in plan.versions or (None,):
        target = gateway(stack.url, version, stack.api_key)
        for form in plan.formats or (target.format,):
            label = f"{target.version} {form}"
            served = form == target.format
            if "in-process" in plan.layers:
                found.jobs.extend(_in_process(plan, stack, target.version, form))
            if protocols:
                names = [ensemble(target.version, None if served else form)]
                names += [fused(target.version)] if served else []
                held = [name for name in names if answers(_model_url(stack, name))]
                if not held:
                    found.left_out.append(f"Triton, {label}: it has not loaded {names[0]}")
                for protocol in protocols:
                    found.jobs.extend(_triton(plan, stack, target, form, protocol, held))
            if "gateway" in plan.layers and served:
                found.jobs.extend(_gateway(plan, target))
            elif "gateway" in plan.layers:
                found.left_out.append(f"gateway, {label}: it serves {target.format}")
    return found


def run(found: Work, repeats: int, on_job: Callable[[Job, float], None]) -> Iterator[Measurement]:
    """Measure all jobs, one round after another, so that a drift of the machine is in the spread.

    `on_job` gets each job that begins, and the seconds that those after it will take. A job that
    fails is left out from then on.
    """
    rounds = [job for _ in range(repeats) for job in found.jobs]
    failed: set[int] = set()
    for place, job in enumerate(rounds):
        on_job(job, sum(one.seconds for one in rounds[place + 1 :] if id(one) not in failed))
        if id(job) in failed:
            continue
        try:
            yield job.measure()
        except LoadError as error:
            failed.add(id(job))
            found.left_out.append(f"{job.name}: {error}")


def _no_triton(stack: Stack) -> str | None:
    """Say why Triton can't be measured; None where it can."""
    if (missing := perf_analyzer.missing()) is not None:
        return missing
    try:
        httpx.get(f"http://{stack.triton_http}/v2", timeout=5, trust_env=False)
    except httpx.TransportError:
        return (
            f"no Triton answers at {stack.triton_http}; say where it is with TRITON_URL, or "
            "TRITON_HTTP_PORT and TRITON_GRPC_PORT"
        )
    return None


def _model_url(stack: Stack, model: str) -> str:
    return f"http://{stack.triton_http}/v2/models/{model}/ready"


def _in_process(plan: Plan, stack: Stack, version: str, form: str) -> Iterable[Job]:
    seconds = min(plan.duration, IN_PROCESS_S)
    for batch in plan.batch_sizes:
        name = f"in-process, {version} {form}, batch {batch}"
        measure = partial(in_process.run, stack.repository, version, form, seconds, batch)
        yield Job(name, seconds, measure)


def _triton(
    plan: Plan, stack: Stack, target: Target, form: str, protocol: Protocol, models: list[str]
) -> Iterable[Job]:
    address = stack.triton_http if protocol == "http" else stack.triton_grpc
    facts = {"sensors": target.sensors, "version": target.version, "form": form}
    for model in models:
        load = partial(perf_analyzer.run, model, protocol, address, **facts)  # type: ignore[arg-type]
        for batch in plan.batch_sizes:
            for count in plan.concurrency:
                name = f"triton-{protocol}, {model}, batch {batch}, {count} callers"
                measure = partial(load, count, plan.duration, batch)
                yield Job(name, plan.duration + PERF_ANALYZER_START_S, measure)


def _gateway(plan: Plan, target: Target) -> Iterable[Job]:
    label = f"gateway, {target.version} {target.format}"
    seconds = plan.duration
    for batch in plan.batch_sizes:
        for count in plan.concurrency:
            measure = partial(closed_loop.run, target, count, seconds, batch)
            yield Job(f"{label}, batch {batch}, {count} callers", seconds, measure)
        for rate in plan.rates:
            measure = partial(open_loop.run, target, rate, seconds, batch)
            yield Job(f"{label}, batch {batch}, {rate:g}/s", seconds, measure)
