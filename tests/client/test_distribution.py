"""The wheel of the client: built, unpacked by itself, imported without what it does not need."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.stack import ROOT

NEEDED = ("httpx", "httpcore", "h11", "anyio", "certifi", "idna", "sniffio", "typing_extensions")
PLAIN = """
import importlib.util, sys
assert importlib.util.find_spec("numpy") is None
import carlarl_client
for extra in ("numpy", "carla", "gymnasium", "stable_baselines3"):
    assert extra not in sys.modules, extra
carlarl_client.PolicyClient("http://127.0.0.1:1").close()
print(carlarl_client.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = f"import flit_core.buildapi as b; print(b.build_wheel({str(folder)!r}))"
    name = subprocess.run(
        [sys.executable, "-c", build],
        cwd=ROOT / "client",
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.strip()
    return folder / name


def test_the_wheel_has_all_of_it(wheel: Path) -> None:
    source = ROOT / "client/src/carlarl_client"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        lines = archive.read(metadata).decode().splitlines()
    modules = {f"carlarl_client/{path.name}" for path in source.glob("*.py")}
    assert modules | {"carlarl_client/py.typed"} == {
        name for name in names if name.startswith("carlarl_client/")
    }
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "Requires-Python: >=3.8" in lines
    always = [line for line in lines if line.startswith("Requires-Dist") and "extra" not in line]
    assert [line.split()[1].split(">")[0] for line in always] == ["httpx"]


def test_it_is_imported_alone(wheel: Path, tmp_path: Path) -> None:
    """In an interpreter that has nothing but the wheel, httpx and what httpx needs."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for name in NEEDED:
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None:
            place = Path(found.origin)
            place = place.parent if place.name == "__init__.py" else place
            (tmp_path / place.name).symlink_to(place)
    script = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PLAIN}"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().startswith(str(tmp_path))


def test_no_part_of_the_project_is_imported() -> None:
    others = {"gateway", "carlarl", "converters", "triton_backend", "perf", "examples"}
    for module in (ROOT / "client").rglob("*.py"):
        lines = (line.strip() for line in module.read_text(encoding="utf-8").splitlines())
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        assert not others.intersection(line.split()[1].split(".")[0] for line in imports), module
