"""What falls is started again, the probes say the truth meanwhile, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from carlarl.serving.child_process import ChildProcess
from carlarl.serving.cleanup import SHARED_MEMORY
from carlarl.serving.supervision import Keeper, ServeError
from tests.gateway.processes import check_envelope, predict, status, until
from tests.stack import ROOT, Stack, running_stack

pytestmark = pytest.mark.live

AGAIN = "starting it again in"


@pytest.fixture(scope="module")
def module_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Path]]:
    """A stack on a repository of its own, with two gateway workers."""
    target = tmp_path_factory.mktemp("supervision") / "model_repository"
    shutil.copytree(ROOT / "model_repository", target)
    with running_stack(MODEL_REPOSITORY=str(target), WORKERS="2", RESTART_TRIES="99") as stack:
        yield stack, target


@pytest.fixture
def own_stack(module_stack: tuple[Stack, Path]) -> tuple[Stack, Path]:
    """That stack, at work: whatever a test before did is over."""
    until(lambda: works(module_stack[0]), 60)
    return module_stack


def triton(stack: Stack) -> psutil.Process:
    (found,) = [
        process
        for process in psutil.Process(stack.process.pid).children()
        if process.name() == "tritonserver"
    ]
    return found


def gateway(stack: Stack) -> psutil.Process:
    (found,) = [
        process
        for process in psutil.Process(stack.process.pid).children()
        if process.cmdline()[1:] == ["-m", "gateway"]
    ]
    return found


def model(stack: Stack, part: str) -> psutil.Process:
    """The process of the Python model whose file's path has `part` in it."""
    (found,) = [one for one in triton(stack).children() if part in one.cmdline()[1]]
    return found


def worker(stack: Stack) -> psutil.Process:
    return next(one for one in gateway(stack).children() if "spawn_main" in " ".join(one.cmdline()))


def works(stack: Stack) -> bool:
    """Whether every worker answers, as far as one can tell from outside."""
    try:
        return all(
            status(stack.gateway_url + "/readyz") == predict(stack.gateway_url).status_code == 200
            for _ in range(6)
        )
    except httpx.TransportError:
        return False


def falls(stack: Stack) -> int:
    return stack.output().count(AGAIN)


def test_a_killed_triton_comes_back(own_stack: tuple[Stack, Path]) -> None:
    stack, _ = own_stack
    url, before, old = stack.gateway_url, falls(stack), triton(stack)
    old.kill()
    seen: list[httpx.Response] = []  # by either worker: the other may not have looked yet
    until(lambda: seen.append(httpx.get(url + "/readyz")) or seen[-1].status_code == 503, 10)
    check_envelope(seen[-1], 503, "SERVICE_UNAVAILABLE")
    until(lambda: works(stack), 60)
    metrics = httpx.get(url + "/metrics").text
    for name in ("carla_rl_golden_failures_total", "carla_rl_golden_seconds_count"):
        (line,) = [line for line in metrics.splitlines() if line.startswith(name)]
        assert float(line.split()[1]) > 0
    assert falls(stack) == before + 1
    assert "Triton ended with status -9" in stack.output()
    assert not old.is_running()
    assert len(list(SHARED_MEMORY.glob(f"carlarl-{stack.process.pid}-*/*/python"))) == 1


def test_a_dead_model_is_seen_though_triton_calls_it_ready(own_stack: tuple[Stack, Path]) -> None:
    """Of a version that is not the active one, so that no golden inference tells."""
    stack, _ = own_stack
    before, old = falls(stack), triton(stack)
    model(stack, "/preprocess-v0.1.0/").kill()
    until(lambda: falls(stack) == before + 1, 30)
    assert "has died, that of the model preprocess-v0.1.0 version 1000" in stack.output()
    until(lambda: not old.is_running(), 30)
    until(lambda: works(stack), 60)


@pytest.mark.parametrize(
    "part",
    [
        "/preprocess-v0.1.0/",
        pytest.param("/carla_policy_fused-v0.2.0/1", marks=pytest.mark.reliability),
    ],
)
def test_a_stopped_model_comes_back(own_stack: tuple[Stack, Path], part: str) -> None:
    """Of a version that is not the active one, and the fused one, which the ensemble replaces."""
    stack, _ = own_stack
    old = model(stack, part)
    old.suspend()
    until(lambda: not old.is_running(), 60)
    until(lambda: works(stack) and model(stack, part).is_running(), 60)


def test_a_killed_gateway_and_a_killed_worker_come_back(own_stack: tuple[Stack, Path]) -> None:
    stack, _ = own_stack
    one, before = worker(stack), falls(stack)
    one.kill()
    until(lambda: not one.is_running() and works(stack), 60)
    assert falls(stack) == before, "the gateway sees to its workers by itself"
    old = gateway(stack)
    family = [old, *old.children(recursive=True)]
    old.kill()
    until(lambda: falls(stack) == before + 1, 30)
    until(lambda: works(stack), 60)
    assert psutil.wait_procs(family, timeout=10)[1] == []
    folders = SHARED_MEMORY.glob(f"carlarl-{stack.process.pid}-*/*/")
    assert len(list(folders)) == 2  # Triton's, and that of the metrics of the new workers


@pytest.mark.reliability
def test_while_triton_is_away_all_say_so(own_stack: tuple[Stack, Path]) -> None:
    """With its repository moved away it can't come back before the test lets it."""
    stack, target = own_stack
    url, before = stack.gateway_url, falls(stack)
    aside = target.with_name("aside")
    target.rename(aside)
    try:
        triton(stack).kill()
        until(lambda: falls(stack) == before + 2, 30)
        assert f"{target}: no such model repository" in stack.output()
        until(lambda: all(status(url + "/readyz") == 503 for _ in range(12)), 20)
        answer = predict(url)
        check_envelope(answer, 503, "SERVICE_UNAVAILABLE")
        assert int(answer.headers["retry-after"]) >= 1
        assert httpx.get(url + "/livez").status_code == 200
        until(lambda: httpx.get(url + "/healthz").json()["status"] == "degraded")
    finally:
        aside.rename(target)
    until(lambda: works(stack), 60)


def child(script: str) -> ChildProcess:
    """The smallest part there can be: a shell that ends by itself or by a signal."""
    return ChildProcess(["sh", "-c", script], os.environ, 1)


CRASH, FAIL = "kill -SEGV $$", "exit 1"


def watch(keeper: Keeper) -> None:
    """Look until the keeper gives up."""
    for _ in range(3000):
        keeper.look()
        time.sleep(0.01)


def test_it_gives_up_after_so_many_tries() -> None:
    said: list[str] = []
    with pytest.raises(ServeError, match="status -11\nit was started again 2 times in a row"):
        watch(Keeper(lambda: child(CRASH), 2, said.append))
    again = [line for text in said for line in text.splitlines()[1:]]
    assert again == [f"{AGAIN} 0.5 s (1 of 2)", f"{AGAIN} 1 s (2 of 2)"]


def test_what_a_restart_can_not_cure_is_told_at_once() -> None:
    said: list[str] = []

    def missing() -> ChildProcess:
        raise FileNotFoundError("nothing there")

    with pytest.raises(ServeError, match="^it ended with status 1$"):
        watch(Keeper(lambda: child(FAIL), 3, said.append))
    with pytest.raises(ServeError, match="can't be started: nothing there"):
        Keeper(missing, 3, said.append).look()
    assert said == []


@pytest.mark.parametrize("fault", ["exit", "start"])
def test_what_worked_before_is_tried_again(fault: str) -> None:
    said: list[str] = []
    begun: list[ChildProcess] = []

    def start() -> ChildProcess:
        if begun and fault == "start":
            raise OSError("no room")
        begun.append(child(FAIL))
        return begun[-1]

    keeper = Keeper(start, 1, said.append)
    keeper.look()
    keeper.works()
    with pytest.raises(ServeError, match="1 times in a row; giving up"):
        watch(keeper)
    assert len(said) == 1
