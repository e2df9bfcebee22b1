"""What docs/CLIENTS.md and the examples show is what happens."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import carla
import pytest

from carlarl_client.errors import BY_CODE, BadAnswer, ClientClosed, ConnectionFailed
from tests.client.small_world import World
from tests.stack import ROOT

EXAMPLES = ROOT / "client/examples"
DOCS = ROOT / "docs/CLIENTS.md"
FILES = [DOCS, ROOT / "README.md", ROOT / "client/README.md"]
BLOCKS = [
    block
    for file in FILES
    for block in re.findall(r"^```python\n(.*?)^```$", file.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_in_the_docs_runs(block: str, gateway_url: str) -> None:
    here = re.sub(r"http://(localhost|127\.0\.0\.1):8080", gateway_url, block)
    here = here.replace("ws://localhost:8080", gateway_url.replace("http", "ws", 1))
    here = here.replace("range(1200)", "range(20)")
    # No test here depends on the machine being fast.
    here = re.sub(
        r'(PolicyClient\("[^"]+")', r"\1, timeout=20.0", re.sub(r", timeout=[\d.]+", "", here)
    )
    here = re.sub(r"SafeDriver\(client", "SafeDriver(client, deadline=20.0", here)
    here = here.replace(", deadline=0.05", "")
    names: dict[str, object] = {}
    exec(compile(here, "docs", "exec"), names)
    if "drive" in names:  # a function that wants a world
        world = World()
        names["drive"](world, world.vehicle)  # type: ignore[operator]
        assert world.info["progress"] > 0.0


def test_there_were_blocks() -> None:
    assert len(BLOCKS) == 11


def test_every_exception_is_in_the_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([A-Z_]+)`", DOCS.read_text(), re.MULTILINE)
    assert dict(rows) == {
        kind.__name__: kind.default_code
        for kind in (*BY_CODE.values(), ConnectionFailed, BadAnswer, ClientClosed)
    }


def test_files_that_are_linked_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", DOCS.read_text()):
        assert (DOCS.parent / target).exists(), target


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_carla_example_drives(gateway_url: str) -> None:
    world = World()
    driver = example("drive_carla").drive(world, world.vehicle, gateway_url, 2.0, deadline=20.0)
    assert driver.steps == world.frame == 40
    assert world.info["progress"] > 0.0
    assert not world.sensors[0].alive
    assert world.get_settings() == carla.WorldSettings()


def test_the_plain_example_asks(gateway_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain = example("plain")
    assert plain.main(gateway_url, timeout=20.0) == 0
    assert "throttle=" in capsys.readouterr().out
    assert plain.main("http://127.0.0.1:9", timeout=20.0) == 1
    assert "CONNECTION_FAILED" in capsys.readouterr().err


def test_the_leaderboard_loads_its_example(tmp_path: Path) -> None:
    """As it does: the file's folder first on the path, its name imported."""
    script = (
        f"import sys; sys.path[:0] = [{str(EXAMPLES)!r}, {str(ROOT / 'client/src')!r}]\n"
        "import importlib; module = importlib.import_module('leaderboard_agent')\n"
        "agent = getattr(module, module.get_entry_point())('localhost', 2000, 0)\n"
        f"agent.setup({str(EXAMPLES / 'leaderboard_agent.json')!r}); agent.destroy()\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=tmp_path)


def test_the_evaluation_example_runs(gateway_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    example("evaluate_sb3").main(gateway_url, max_steps=30)
    assert float(capsys.readouterr().out.split()[1]) > 0.0


def test_the_overhead_example_measures(
    gateway_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overhead = example("overhead")
    monkeypatch.setattr(overhead, "CALLS", 20)
    measured = overhead.main(gateway_url)
    assert list(measured) == ["http.client", "PolicyClient", "SafeDriver"]
    assert all(cpu > 0.0 for _, cpu in measured.values())
    assert len(capsys.readouterr().out.splitlines()) == 5
