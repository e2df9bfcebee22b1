"""The lock files hold what the project asks for, by hash, and name no registry."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement

from tests.stack import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGES = ("gateway", "triton", "triton-gpu")
EXTRAS = {
    "requirements.lock": ("traces",),
    "requirements-tools.lock": ("bench", "convert", "drive"),
}


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


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_s_lock_is_as_the_image_asks(name: str) -> None:
    """And in the versions of requirements.lock, which `make audit` looks up. Else: make lock."""
    pinned = re.compile(r"^([\w.-]+)==([^\s;]+)", re.MULTILINE)
    locked = dict(pinned.findall((ROOT / "docker" / f"{name}.lock").read_text()))
    whole = set(pinned.findall((ROOT / "requirements.lock").read_text()))
    assert {one for one in locked.items() if one[0] != "onnxruntime-gpu"} <= whole
    lines = (ROOT / "docker" / f"{name}.txt").read_text().splitlines()
    for requirement in (Requirement(line) for line in lines if not line.startswith("#")):
        assert locked[requirement.name] in requirement.specifier, requirement


@pytest.mark.parametrize("name", [*EXTRAS, *(f"docker/{name}.lock" for name in IMAGES)])
def test_every_package_has_hashes_and_none_a_place(name: str) -> None:
    text = (ROOT / name).read_text()
    entries = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert len(entries) >= (5 if "triton" in name else 15)
    for entry in entries:
        assert re.match(r"[\w.-]+==\S+ .*\\\n    --hash=sha256:[0-9a-f]{64}", entry), entry
    assert "://" not in text
    assert "--index-url" not in text
    assert "--find-links" not in text
