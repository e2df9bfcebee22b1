"""What docs/OPERATIONS.md names is there."""

from __future__ import annotations

import asyncio
import re

from carlarl.cli import cli
from gateway.config.settings import Settings
from gateway.observability.metrics import Metrics
from gateway.observability.otlp import ENDPOINT
from tests.stack import ROOT

TEXT = (ROOT / "docs" / "OPERATIONS.md").read_text()


def test_make_targets_and_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|[`\s])make ([a-z0-9-]+)", TEXT)) - {"docker"}
    assert {"run", "docker-run", "deploy-k8s", "test-deploy"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = re.findall(r"carlarl (serve|promote|rollback|export)([^\n`]*)", TEXT)
    for name, rest in commands:
        options = {flag for option in cli.commands[name].params for flag in option.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, name


def test_files() -> None:
    for path in set(re.findall(r"`((?:docker|perf|docs)/[^`\s]+)`", TEXT)):
        assert (ROOT / path).exists(), path


def test_variables() -> None:
    compose = (ROOT / "compose.yaml").read_text()
    for name in set(re.findall(r"`([A-Z][A-Z_]+)`", TEXT)) - {ENDPOINT}:
        assert name.lower() in Settings.model_fields or f"${{{name}:-" in compose, name


def test_series() -> None:
    metrics = Metrics()
    metrics.answered("/predict", "POST", 200, 0.001, None)
    metrics.activated("v0.1.0", "sha256:0", "cpu")
    there = asyncio.run(metrics.exposition()).decode()
    for series in set(re.findall(r"carla_rl_\w+", TEXT)) - {"carla_rl_"}:
        assert re.search(rf"^{series}\b", there, re.MULTILINE), series
