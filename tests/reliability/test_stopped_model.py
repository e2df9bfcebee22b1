"""The active policy's process is stopped for a while, under vehicles at 20 Hz."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests import page
from tests.carlarl.test_supervision import model
from tests.gateway.processes import status, until
from tests.gateway.streams import metric
from tests.gateway.test_late_answers import (
    DISTRUSTED,
    ENSEMBLE,
    FUSED,
    remove_fused,
    serving,
    wait_in_use,
)
from tests.gateway.vehicles import driving
from tests.stack import ROOT, Stack

pytestmark = pytest.mark.reliability

STOPPED_S = (0.5, 1.2, 1.5, 3.0)
PARTS = {FUSED: FUSED, ENSEMBLE: "policy_onnx-v0.2.0"}


@pytest.fixture(params=PARTS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Stack, str]]:
    """A new one for each case, as the pauses before a restart grow with each fall."""
    repository = Path(shutil.copytree(ROOT / "model_repository", tmp_path / "repository"))
    if request.param == ENSEMBLE:
        remove_fused(repository)
    with serving(repository, RESTART_TRIES="99") as stack:
        yield stack, request.param


def counted(url: str) -> dict[str, float]:
    names = ("stale", "unhealthy")
    return {name: metric(url, f'{DISTRUSTED}{{reason="{name}"}}') for name in names}


@pytest.mark.parametrize("vehicles", [1, 64])
@pytest.mark.parametrize("seconds", STOPPED_S)
def test_every_action_is_of_its_step(
    service: tuple[Stack, str], seconds: float, vehicles: int
) -> None:
    stack, name = service
    url = stack.gateway_url
    statuses, wrong, outages = Counter[int](), [], []
    before = counted(url)
    for streams in (False, True):
        until(lambda: status(url + "/readyz") == 200, 60)
        with driving(url, vehicles, streams=streams) as drive:
            wait_in_use(stack, name)
            struck = time.monotonic()
            process = model(stack, f"/{PARTS[name]}/")
            process.suspend()
            time.sleep(seconds)
            with contextlib.suppress(psutil.NoSuchProcess):  # Triton was started again already
                process.resume()
            time.sleep(4)  # the process ends by then, if it does
            settled = time.monotonic()
            until(lambda settled=settled, drive=drive: drive.last_good > settled, 60)
            outages.append(drive.longest_gap(struck))
            time.sleep(1)
        statuses += drive.statuses
        wrong += drive.wrong
    found = {key: f"{value - before[key]:.0f}" for key, value in counted(url).items()}
    good = statuses[200]
    skipped = statuses.pop(204, 0)
    print(
        page.add(
            *("stopped", "fused" if name == FUSED else "ensemble", f"{seconds:g}", str(vehicles)),
            *(f"{statuses.total() + skipped:,}", f"{good:,}", str(len(wrong))),
            *(f"{statuses.total() - good:,}", f"{skipped:,}", found["stale"], found["unhealthy"]),
            f"{max(outages):.1f}",
        )
    )
    assert wrong == []
    assert set(statuses) <= {200, 429, 503, 504}, statuses
