"""A model whose process was killed: Triton calls it ready still, and answers no request."""

import signal
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.gateway.processes import check_envelope, predict, status, until
from tests.stack import Stack, running_stack

pytestmark = pytest.mark.live


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A stack whose supervision is asleep, or it would start Triton again."""
    with running_stack() as stack:
        stack.process.send_signal(signal.SIGSTOP)
        try:
            yield stack
        finally:
            stack.process.send_signal(signal.SIGCONT)


def kill_model(stack: Stack, part: str) -> None:
    """Kill the processes of Python models whose file's path has `part` in it."""
    found = [
        process
        for process in psutil.Process(stack.process.pid).children(recursive=True)
        if process.name() == "triton_python_backend_stub" and part in process.cmdline()[1]
    ]
    assert found
    for process in found:
        process.kill()


def test_readiness_follows(own_stack: Stack) -> None:
    url = own_stack.gateway_url
    kill_model(own_stack, "/carla_policy_fused-v0.2.0/")
    until(lambda: predict(url).status_code == 200, 5)  # the ensemble's processes live
    assert status(url + "/readyz") == 200
    kill_model(own_stack, "/policy_onnx-v0.2.0/")
    until(lambda: status(url + "/readyz") == 503, 3)
    check_envelope(httpx.get(url + "/readyz"), 503, "SERVICE_UNAVAILABLE")
