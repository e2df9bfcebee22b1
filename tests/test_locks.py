"""The lock files hold what the project asks for, by hash, and name no registry."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.stack import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {"requirements.lock": (), "requirements-tools.lock": ("bench", "convert", "drive")}


@pytest.mark.parametrize("name", EXTRAS)
def test_lock_is_as_the_project_asks(name: str) -> None:
    """Else: make lock."""
    text = (ROOT / name).read_text()
    asked = [*PROJECT["dependencies"]]
    for extra in EXTRAS[name]:
        asked += PROJECT["optional-dependencies"][extra]
    locked = re.findall(r"^([\w.-]+)==([^\s;]+)", text, re.MULTILINE)
    for requirement in map(Requirement, asked):
        plain = re.sub(r"[-_.]+", "-", requirement.name).lower()
        versions = [version for package, version in locked if package == plain]
        assert versions, f"{requirement} is not in {name}"
        assert any(version in requirement.specifier for version in versions), requirement


@pytest.mark.parametrize("name", EXTRAS)
def test_every_package_has_hashes_and_none_a_place(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+ .*\\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
