"""What the README shows is what happens."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import click
import pytest
import yaml

from carlarl.cli import cli
from converters.repository import certificate, repository
from gateway.config.settings import Settings, is_live
from tests.stack import ROOT, Stack

README = (ROOT / "README.md").read_text()
SETTINGS, FORMATS = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("SETTINGS", "FORMATS"))
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
CURLS = [
    (command, answer)
    for (kind, command), (_, answer) in zip(BLOCKS, BLOCKS[1:], strict=False)
    if kind == "bash" and command.startswith("curl")
]
VARY = {"timestamp", "timingMs", "git"}


@pytest.mark.parametrize(("command", "shown"), CURLS, ids=[c.split()[2] for c, _ in CURLS])
def test_curl(command: str, shown: str, stack: Stack) -> None:
    here = command.replace("http://localhost:8080", stack.gateway_url)
    answer = subprocess.run(here, shell=True, capture_output=True, text=True, check=True).stdout
    _assert_shows(json.loads(shown), json.loads(answer))


def _assert_shows(shown: dict[str, Any], real: dict[str, Any]) -> None:
    """All that is shown is in the real answer, but for what varies."""
    assert set(shown) <= set(real)
    for name in set(shown) - VARY:
        if name == "actions":
            for row, real_row in zip(shown[name], real[name], strict=True):
                assert row == pytest.approx(real_row, abs=1e-5)
        else:
            assert shown[name] == real[name], name
    for name in VARY & set(shown):
        assert type(shown[name]) is type(real[name])


def test_there_were_curls() -> None:
    assert len(CURLS) == 3


def test_make_targets_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert {"run", "test", "drive"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_commands_are_there() -> None:
    perf = "".join((ROOT / "perf" / f"{name}.md").read_text() for name in ("README", "RESULTS"))
    text = README + SETTINGS + FORMATS + perf
    for name, rest in re.findall(r"carlarl ([a-z][a-z0-9-]+)([^\n`]*)", text):
        command: click.Command = cli.commands[name]
        if isinstance(command, click.Group):
            command = command.commands[rest.split()[0]]
        options = {flag for option in command.params for flag in option.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, name


def test_settings_are_the_real_ones() -> None:
    rows = [line.split("|")[1:3] for line in SETTINGS.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`([A-Z_]+)`", row[0])]
    assert {name.lower() for name in names} == set(Settings.model_fields) - {"git_commit"}
    usual = README.split("## Settings")[1].split("\n## ")[0]
    rows += [line.split("|")[1:3] for line in usual.splitlines() if line.startswith("| `")]
    for variables, defaults in rows:
        shown = re.findall(r"`([^`]+)`", defaults)
        for name, default in zip(re.findall(r"`([A-Z_]+)`", variables), shown, strict=False):
            real = Settings.model_fields[name.lower()].default
            real = int(real) if isinstance(real, bool) else real
            assert default == (",".join(real) if isinstance(real, tuple) else str(real)), name


def test_settings_that_change_live_are_marked() -> None:
    for line in SETTINGS.splitlines():
        if line.startswith("| `"):
            names = re.findall(r"`([A-Z_]+)`", line.split("|")[1])
            assert {is_live(name.lower()) for name in names} == {"; live" in line}, line


def test_files_that_are_linked_exist() -> None:
    for folder, text in ((ROOT, README), (ROOT / "docs", SETTINGS + FORMATS)):
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
            assert (folder / target).exists(), target


def test_policies_are_as_their_cards_say() -> None:
    section = README.split("## The policies that come with it")[1]
    for version in ("v0.1.0", "v0.2.0"):
        card = yaml.safe_load((ROOT / "artifacts" / version / "model_card.yaml").read_text())
        told = card["performance_metrics"]
        row = next(line for line in section.splitlines() if line.startswith(f"| {version} |"))
        assert f"{told['laps_completed']} of {told['laps_attempted']}" in row
        assert f"{told['mean_speed_kmh']:.1f} km/h" in row
        assert f"{told['training_steps']:,} steps" in row


def test_certificate_is_the_repository_s() -> None:
    root = ROOT / "model_repository"
    lines = [
        line
        for one in repository.versions(root)
        for line in certificate.lines(one.version, certificate.read(root, one.version))
    ]
    head, *rows = (f"| {' | '.join(cells)} |\n" for cells in (certificate.COLUMNS, *lines))
    assert rows
    assert "".join([head, "|---" * len(certificate.COLUMNS), "|\n", *rows]) in FORMATS
