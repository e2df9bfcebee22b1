"""The bound on what waits, on the real stack."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.gateway.processes import check_envelope, predict


def test_the_gateway_refuses_what_would_wait_too_long(
    run_gateway: Callable[..., str], triton_http: str
) -> None:
    """A full queue is 429 at once, and what was accepted is answered."""
    url = run_gateway(
        TRITON_URL=f"http://{triton_http}",
        MAX_WAITING="8",
        CALLS_IN_FLIGHT="1",
        REQUEST_TIMEOUT_MS="20000",
    )
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda _: predict(url, 4), range(200)))
    codes = {answer.status_code for answer in answers}
    assert codes == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            check_envelope(answer, 429, "RESOURCE_EXHAUSTED")
            assert int(answer.headers["retry-after"]) > 0
        else:
            assert len(answer.json()["actions"]) == 4
