"""The comparison with peers, on the plain one, which needs no environment of its own here."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from perf.bench.results import load
from perf.load.generator import LoadError
from perf.studies.peers import comparison
from perf.studies.peers.systems import PEERS

PLAIN = replace(PEERS["fastapi_onnxruntime"], environment=Path(sys.prefix))


@pytest.mark.reliability
def test_one_peer_is_measured_and_those_that_fail_are_named(tmp_path: Path) -> None:
    wrong = replace(
        PLAIN,
        name="wrong",
        model=PLAIN.model.format(name="v0.1.0", number="1000"),
        requirements=("x",),
    )
    broken = replace(PLAIN, name="broken", command="""python -c "raise SystemExit('no | way')\"""")
    said: list[str] = []
    found = comparison.measure([PLAIN, wrong, broken], 1, 1, (1, 4), say=said.append)

    measured = [(one.system, one.concurrency) for one in found.measurements]
    assert measured == [("carlarl", 1), ("carlarl", 4), (PLAIN.name, 1), (PLAIN.name, 4)]
    assert all(one.requests_per_s > 0 and not one.failed for one in found.measurements)
    reasons = dict(line.split(": ", 1) for line in found.left_out)
    assert reasons.keys() == {"wrong", "broken"}
    assert "and this gateway" in reasons["wrong"]
    assert "no | way" in reasons["broken"]

    table = comparison.markdown(found).split("\n\n")[1].splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert [line.split(" |")[0] for line in table[2:]] == [
        "| **carlarl**",
        "| fastapi_onnxruntime (fastapi==0.165.0)",
        "| wrong (x)",
        "| broken (fastapi==0.165.0)",
    ]
    assert "not measured: " in table[-1]
    assert "ended with status 1: no / way" in table[-1]
    assert "--peer=fastapi_onnxruntime" in comparison.markdown(found)
    assert comparison.keep(found, tmp_path) == tmp_path / "peers.json"
    assert (tmp_path / "peers.md").read_text() == comparison.markdown(found)
    assert load(tmp_path / "peers.json") == found


def test_what_cannot_be_installed_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LoadError, match="can't be installed: .*file"):
        PEERS["fastapi_onnxruntime"].install(tmp_path / "file")


def test_every_peer_is_described_where_it_runs() -> None:
    folder = Path(comparison.__file__).parent
    for name, peer in PEERS.items():
        module = "fastapi_app" if name.startswith("fastapi") else name
        assert "Tuned" in (folder / f"{module}.py").read_text()
        assert module in peer.command or module in str(peer.variables)
        assert all("==" in requirement for requirement in peer.requirements)
