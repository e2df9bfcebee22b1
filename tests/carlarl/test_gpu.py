"""Which format `USE_GPU=1` serves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from carlarl.serving import gpu
from carlarl.serving.triton_server import TritonError
from tests.stack import ROOT


def test_a_version_in_no_format_for_gpus(tmp_path: Path) -> None:
    """What is installed here does not matter: nothing runs this on a GPU by itself."""
    shutil.copytree(ROOT / "model_repository", tmp_path / "model_repository")
    path = tmp_path / "model_repository" / "carla_policy-v0.2.0" / "config.pbtxt"
    path.write_text(path.read_text().replace('"onnx,torchscript"', '"tensorrt"'))
    with pytest.raises(TritonError, match=r"USE_GPU=1: v0\.2\.0 was exported as tensorrt, and"):
        gpu.chosen_format(tmp_path / "model_repository", "v0.2.0")
