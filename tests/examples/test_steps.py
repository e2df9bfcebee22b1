"""The example `steps`: what is committed is exported and served by the real parts, and it laps."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from converters.artifact import artifact
from examples.drive import to_json
from examples.train import read_table
from tests.policy_spec.controls import numbers
from tests.stack import ROOT, running_stack

ARTIFACTS = ROOT / "examples" / "artifacts" / "steps"


def test_the_card_has_the_table_that_it_was_trained_with() -> None:
    signature = artifact.load(ARTIFACTS / "v0.1.0").card.signature
    assert signature.control is not None
    rows = [numbers(signature.control, index) for index in range(15)]
    np.testing.assert_allclose(rows, read_table(), atol=1e-7)


@pytest.mark.live
def test_it_is_served_and_laps(
    tmp_path: Path, carlarl: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    repository = str(tmp_path / "model_repository")
    exported = carlarl("export", "--artifacts", str(ARTIFACTS), "--repository", repository)
    assert exported.returncode == 0, exported.stderr
    recorded = np.load(ARTIFACTS / "v0.1.0" / "observations.npy")
    request = {"observations": [to_json(row) for row in recorded], "policyActions": True}
    with running_stack("--repository", repository) as stack:
        driven = carlarl("drive", "--laps", "1", "--json", "--url", stack.gateway_url)
        answer = httpx.post(f"{stack.gateway_url}/predict", json=request).json()
        curl = next(line for line in stack.output().splitlines() if "curl" in line)
        shown = subprocess.run(shlex.split(curl), capture_output=True, text=True, check=True).stdout
    assert driven.returncode == 0, driven.stderr
    result = json.loads(driven.stdout)
    assert (result["version"], result["laps"], result["offTrack"]) == ("v0.1.0", 1, 0)
    # Sampled ones: each is the row of the table that the policy's own action names.
    controls = [list(action.values()) for action in answer["actions"]]
    np.testing.assert_allclose(controls, read_table()[answer["policyActions"]], atol=1e-7)
    assert len(set(answer["policyActions"])) > 5
    assert json.loads(shown)["actions"][0].keys() == {"throttle", "brake", "steer"}
