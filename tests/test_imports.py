"""Imports run one way: between the folders, and between the sub-packages inside a folder.

Every import counts, also one inside a function or under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import ROOT

FOLDERS = {
    "policy_spec": set(),
    "triton_backend": {"policy_spec"},
    "converters": {"policy_spec", "triton_backend"},
    "gateway": {"policy_spec"},
    "perf": {"policy_spec"},
    "carlarl": {"policy_spec", "triton_backend", "converters", "gateway", "perf", "examples"},
    "examples": set(),
    "carlarl_client": set(),
}
"""Folder → the folders that it may import."""

EXCEPTIONS = {
    ("perf", "triton_backend"),
}
"""What breaks that table today. This set may only shrink."""

PARTS = {
    "policy_spec": set(),
    "triton_backend": {"policy_spec"},
    "converters": set(),
    "converters.errors": set(),
    "converters.artifact": {"converters.errors", "policy_spec", "triton_backend"},
    "converters.repository": {
        "converters.artifact",
        "converters.errors",
        "policy_spec",
        "triton_backend",
    },
    "converters.export": {
        "converters.artifact",
        "converters.errors",
        "converters.repository",
        "policy_spec",
        "triton_backend",
    },
    "converters.importers": {
        "converters.artifact",
        "converters.errors",
        "converters.export",
        "policy_spec",
        "triton_backend",
    },
    "gateway.config": set(),
    "gateway.console": set(),
    "gateway.api": {"gateway.config", "policy_spec"},
    "gateway.triton": {"gateway.api", "policy_spec"},
    "gateway.security": {"gateway.api", "gateway.config", "gateway.console"},
    "gateway.observability": {"gateway.api", "gateway.config", "gateway.triton"},
    "gateway.inference": {
        "gateway.api",
        "gateway.config",
        "gateway.observability",
        "gateway.security",
        "gateway.triton",
        "policy_spec",
    },
    "gateway.stream": {
        "gateway.api",
        "gateway.inference",
        "gateway.observability",
        "gateway.security",
        "gateway.triton",
    },
    "gateway.http": {
        "gateway.api",
        "gateway.config",
        "gateway.inference",
        "gateway.observability",
        "gateway.security",
        "gateway.stream",
        "gateway.triton",
        "policy_spec",
    },
    "gateway": {
        "gateway.api",
        "gateway.config",
        "gateway.console",
        "gateway.http",
        "gateway.inference",
        "gateway.observability",
        "gateway.security",
        "gateway.stream",
        "gateway.triton",
        "policy_spec",
    },
    "perf.load": {"policy_spec", "triton_backend"},
    "perf.bench": {"perf.load", "policy_spec"},
    "perf.studies": {
        "perf.bench",
        "perf.load",
        "policy_spec",
        "triton_backend",
    },
    "perf": set(),
    "carlarl.errors": set(),
    "carlarl.serving": {
        "carlarl.errors",
        "converters",
        "gateway",
        "policy_spec",
        "triton_backend",
    },
    "carlarl.promotion": {
        "carlarl.errors",
        "carlarl.serving",
        "converters",
        "gateway",
        "policy_spec",
        "triton_backend",
    },
    "carlarl.commands": {
        "carlarl.errors",
        "carlarl.promotion",
        "carlarl.serving",
        "converters",
        "examples",
        "gateway",
        "perf",
        "policy_spec",
    },
    "carlarl": {"carlarl.commands", "carlarl.errors", "converters.errors", "gateway"},
    "examples": set(),
    "carlarl_client": set(),
}
"""Sub-package → what it may import beside itself: a folder, a sub-package or a module.

Where a folder has sub-packages, its own name stands for the modules that lie directly in it.
"""

LIBRARIES = {
    "torch": {"converters", "examples", "triton_backend"},
    "onnx": {"converters"},
    "tritonclient": {"carlarl", "converters"},
    "fastapi": {"gateway", "perf"},
}
"""Library → the folders that may import it."""


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Return the name and the file of every module of the product below `root`."""
    for base in (root, root / "client" / "src"):
        for path in sorted(base.glob("*/**/*.py")):
            name = path.relative_to(base).with_suffix("").as_posix().replace("/", ".")
            if name.partition(".")[0] in FOLDERS:
                yield name, path


def imports(name: str, source: str) -> set[str]:
    """Return the dotted names that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = name.split(".")[: -node.level] if node.level else []
            module = ".".join([*parents, *filter(None, [node.module])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def part(name: str) -> str | None:
    """Return the row of PARTS that a module belongs to: the longest that begins its name."""
    found = [row for row in PARTS if name == row or name.startswith(f"{row}.")]
    return max(found, key=len, default=None)


def arrows(root: Path) -> dict[tuple[str, str], list[str]]:
    """Return each pair of parts of which the first imports the second, with the modules."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, path in modules(root):
        for imported in imports(name, path.read_text()):
            if imported.partition(".")[0] in (*FOLDERS, "tests"):
                pair = str(part(name)), part(imported) or imported
                if pair[0] != pair[1]:
                    found.setdefault(pair, []).append(f"{name} imports {imported}")
    return found


def refused(pairs: dict[tuple[str, str], list[str]]) -> list[str]:
    """Return the imports that PARTS does not allow."""
    wrong = []
    for (importer, imported), where in pairs.items():
        rows = PARTS.get(importer, set())
        if not any(imported == row or imported.startswith(f"{row}.") for row in rows):
            wrong += where
    return wrong


def check_one_way(pairs: dict[tuple[str, str], list[str]]) -> None:
    """Raise graphlib.CycleError if some parts import each other, directly or not."""
    graph: dict[str, set[str]] = {}
    for importer, imported in pairs:
        graph.setdefault(importer, set()).add(imported)
    graphlib.TopologicalSorter(graph).prepare()


def test_each_part_imports_what_it_may() -> None:
    assert refused(arrows(ROOT)) == []


def test_no_cycle() -> None:
    check_one_way(arrows(ROOT))


def test_the_table_of_folders_holds() -> None:
    between = {
        (importer.partition(".")[0], imported.partition(".")[0])
        for importer, rows in PARTS.items()
        for imported in rows
    }
    allowed = {(folder, imported) for folder, row in FOLDERS.items() for imported in row}
    found = {pair for pair in between - allowed if pair[0] != pair[1]}
    assert found == EXCEPTIONS


def test_every_package_has_a_row() -> None:
    """A new folder, or a new sub-package beside others that have rows, says what it may import."""
    folders = {path.parent.name for path in ROOT.glob("[!.]*/__init__.py")} - {"tests"}
    assert folders <= set(FOLDERS)
    names = [name.split(".") for name, _ in modules(ROOT)]
    packages = {".".join(name[:2]) for name in names if len(name) > 2}
    divided = {row.partition(".")[0] for row in PARTS if "." in row}
    assert {name for name in packages if name.partition(".")[0] in divided} <= set(PARTS)
    assert {part(".".join(name)) for name in names} - set(PARTS) == set()


def test_libraries_stay_where_they_belong() -> None:
    found: dict[str, set[str]] = {library: set() for library in LIBRARIES}
    for name, path in modules(ROOT):
        for imported in imports(name, path.read_text()):
            library = imported.partition(".")[0]
            if library in LIBRARIES:
                found[library].add(name.partition(".")[0])
    assert found == LIBRARIES


@pytest.mark.parametrize(
    "line",
    [
        "from carlarl.cli import main",
        "import carlarl.cli",
        "def later():\n    from carlarl import cli",
        "if TYPE_CHECKING:\n    from carlarl.cli import main",
        "async def later():\n    class A:\n        import carlarl.cli",
        "from ..cli import main",
        "from .. import cli",
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, line: str) -> None:
    """Wherever it stands: `carlarl.cli` imports the commands, so that this is a cycle, too."""
    for name, text in (("commands/new.py", line), ("cli.py", "from carlarl.commands import new")):
        path = tmp_path / "carlarl" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    pairs = arrows(tmp_path)
    (wrong,) = refused(pairs)
    assert wrong.startswith("carlarl.commands.new imports carlarl.cli")
    with pytest.raises(graphlib.CycleError):
        check_one_way(pairs)


def test_the_command_line_imports_lazily() -> None:
    """`carlarl --help` must not wait for what only some commands need."""
    program = "import sys, carlarl.cli; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = ("torch", "onnx", "numpy", "rich", "httpx", "perf", "examples", "carlarl.serving")
    loaded = done.stdout.split()
    assert [name for name in loaded if name.startswith(heavy)] == []
