"""The wheel of the client: built, unpacked by itself, imported without what it does not need."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.client.scripted import scripted, silent
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
OTHERS = [minor for minor in range(8, 14) if minor != sys.version_info.minor]
ASKS = """
import asyncio, pickle, sys, time
import carlarl_client.carla, carlarl_client.leaderboard
from carlarl_client import AsyncPolicyClient, PolicyClient, PolicyError, SafeDriver

url, silent = sys.argv[1:]
seen = {"speed": 25.5, "steering": 0.1, "sensors": [0.8, 0.2, 0.5, 0.9, 0.1]}

async def ask(url, timeout):
    async with AsyncPolicyClient(url, timeout=timeout) as client:
        return await client.predict(seen, deterministic=True)

def predict(url, timeout):
    with pickle.loads(pickle.dumps(PolicyClient(url, timeout=timeout))) as client:
        return client.predict(seen, deterministic=True)

def ask_twin(url, timeout):
    return asyncio.run(ask(url, timeout))

with PolicyClient(url, timeout=20.0) as client:
    actions = [client.predict(seen).action, SafeDriver(client, deadline=20.0).step(seen).action]
actions += [predict(url, 20.0).action, ask_twin(url, 20.0).action]
assert [action.steer for action in actions] == [-0.25] * 4, actions
for call in (predict, ask_twin):
    for other, code in ((silent, "DEADLINE_EXCEEDED"), ("http://a..b", "CONNECTION_FAILED")):
        started = time.monotonic()
        try:
            call(other, 0.2)
        except PolicyError as error:
            copied = pickle.loads(pickle.dumps(error))
            assert str(copied) == str(error), copied
            assert (copied.code, copied.outage) == (code, True), copied
        else:
            raise AssertionError(other)
        assert time.monotonic() - started < 5.0
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
    assert [line.split()[1].split(">")[0] for line in always] == ["httpcore", "httpx"]


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


def interpreter(minor: int) -> str | None:
    """A Python of this version that runs: the one on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    on_path = shutil.which(f"python3.{minor}")
    for path in [on_path, *sorted(map(str, pyenv.glob(f"3.{minor}.*/bin/python")))]:
        # What is on the path may be a name that only says how to choose one.
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            return path
    return None


@pytest.mark.parametrize("minor", OTHERS, ids="3.{}".format)
def test_it_asks_on_other_pythons(wheel: Path, tmp_path: Path, minor: int) -> None:
    """With the newest httpx that this Python can have."""
    python = interpreter(minor)
    if python is None:
        pytest.skip(f"the client was not run on Python 3.{minor}, which is not on this machine")
    needed, installed = str(tmp_path / "needed"), str(tmp_path / "installed")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    download = [*pip, "download", "--quiet", "--dest", needed, "httpx>=0.26,<1"]
    result = subprocess.run(download, capture_output=True, text=True, timeout=300)
    if result.returncode != 0:
        why = (result.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        pytest.skip(f"the client was not run on Python 3.{minor}, no httpx for it: {why}")
    install = [*pip, "install", "--no-index", "--find-links", needed, "--target", installed, wheel]
    subprocess.run(install, check=True, capture_output=True, timeout=300)
    script = f"import sys; sys.path.insert(0, {installed!r})\n{ASKS}"
    with scripted() as server, silent() as url:
        result = subprocess.run(
            [python, "-W", "error", "-I", "-S", "-c", script, server.url, url],
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().startswith(installed)


@pytest.mark.parametrize("path", sorted((ROOT / "client").rglob("*.py")), ids=lambda it: it.name)
def test_the_syntax_is_that_of_3_8(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_no_part_of_the_project_is_imported() -> None:
    others = {"gateway", "carlarl", "converters", "triton_backend", "perf", "examples"}
    for module in (ROOT / "client").rglob("*.py"):
        lines = (line.strip() for line in module.read_text(encoding="utf-8").splitlines())
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        assert not others.intersection(line.split()[1].split(".")[0] for line in imports), module
