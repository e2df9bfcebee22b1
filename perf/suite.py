"""What `carlarl bench` measures: the layers of one stack, under each load of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import get_args

import httpx

from converters.repository.configs import FUSED, ensemble_name
from perf import closed_loop, in_process, open_loop, perf_analyzer
from perf.perf_analyzer import Protocol
from perf.results import Layer, Measurement
from perf.target import Target, TargetError, gateway
from perf.triton_clients import control_headers

PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)
LAYERS: tuple[Layer, ...] = get_args(Layer)
IN_PROCESS_S = 2.0
"""The floor is steady: this long is enough for it."""
PERF_ANALYZER_START_S = 1.5

_TROUBLES = (
    closed_loop.LoadError,
    in_process.InProcessError,
    perf_analyzer.PerfAnalyzerError,
    TargetError,
)


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
    """Find out what of the plan can be measured here; raises TargetError without a gateway."""
    found = Work()
    protocols = [one for one in PROTOCOLS if f"triton-{one}" in plan.layers]
    models = _models(stack, found.left_out) if protocols else set()
    if "gateway" in plan.layers and not closed_loop.have_wrk():
        found.left_out.append("wrk: missing (apt-get install wrk); perf.generator takes its place")
    for version in plan.versions or (None,):
        target = gateway(stack.url, version, stack.api_key)
        for form in plan.formats or (target.format,):
            label = f"{target.version} {form}"
            if "in-process" in plan.layers:
                found.jobs.extend(_in_process(plan, stack, target.version, form))
            names = _names(target, form)
            if models and not (held := [name for name in names if name in models]):
                found.left_out.append(f"Triton, {label}: it has not loaded {names[0]}")
            elif models:
                for protocol in protocols:
                    found.jobs.extend(_triton(plan, stack, target, form, protocol, held))
            if "gateway" in plan.layers and form != target.format:
                found.left_out.append(f"gateway, {label}: it serves {target.format}")
            elif "gateway" in plan.layers:
                found.jobs.extend(_gateway(plan, target))
    return found


def run(found: Work, repeats: int, on_job: Callable[[Job, float], None]) -> Iterator[Measurement]:
    """Measure all jobs, one round after another, so that a drift of the machine is in the spread.

    `on_job` is told each job that begins, and the seconds that those after it will take. A job that
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
        except _TROUBLES as error:
            failed.add(id(job))
            found.left_out.append(f"{job.name}: {error}")


def _names(target: Target, form: str) -> list[str]:
    """Give the models of a version in a format, the ensemble first."""
    if form == target.format:
        return [ensemble_name(target.version), ensemble_name(target.version, FUSED)]
    return [ensemble_name(target.version, form)]


def _models(stack: Stack, left_out: list[str]) -> set[str]:
    """Give the models that Triton has loaded, none where perf_analyzer can't measure them."""
    if (missing := perf_analyzer.missing()) is not None:
        left_out.append(f"triton-http, triton-grpc: {missing}")
        return set()
    try:
        url = f"http://{stack.triton_http}"
        headers = control_headers(url)
        answer = httpx.post(
            f"{url}/v2/repository/index", headers=headers, timeout=5, trust_env=False
        )
        return {one["name"] for one in answer.json() if one.get("state") == "READY"}
    except (httpx.TransportError, ValueError, TypeError, KeyError):
        left_out.append(
            f"triton-http, triton-grpc: no Triton answers at {stack.triton_http}; say where it is "
            "with TRITON_URL, or TRITON_HTTP_PORT and TRITON_GRPC_PORT"
        )
    return set()


def _in_process(plan: Plan, stack: Stack, version: str, form: str) -> Iterable[Job]:
    seconds = min(plan.duration, IN_PROCESS_S)
    for batch in plan.batch_sizes:
        yield Job(
            f"in-process, {version} {form}, batch {batch}",
            seconds,
            partial(in_process.run, stack.repository, version, form, seconds, batch),
        )


def _triton(
    plan: Plan, stack: Stack, target: Target, form: str, protocol: Protocol, models: list[str]
) -> Iterable[Job]:
    address = stack.triton_http if protocol == "http" else stack.triton_grpc
    for model in models:
        for batch in plan.batch_sizes:
            for callers in plan.concurrency:
                yield Job(
                    f"triton-{protocol}, {model}, batch {batch}, {callers} callers",
                    plan.duration + PERF_ANALYZER_START_S,
                    partial(
                        perf_analyzer.run,
                        model,
                        protocol,
                        address,
                        callers,
                        plan.duration,
                        batch,
                        sensors=target.sensors,
                        version=target.version,
                        form=form,
                    ),
                )


def _gateway(plan: Plan, target: Target) -> Iterable[Job]:
    label = f"gateway, {target.version} {target.format}"
    for batch in plan.batch_sizes:
        for callers in plan.concurrency:
            name = f"{label}, batch {batch}, {callers} callers"
            measure = partial(closed_loop.run, target, callers, plan.duration, batch)
            yield Job(name, plan.duration, measure)
        for rate in plan.rates:
            name = f"{label}, batch {batch}, {rate:g}/s"
            yield Job(
                name, plan.duration, partial(open_loop.run, target, rate, plan.duration, batch)
            )
