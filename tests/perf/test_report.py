"""The report of a small real measurement, in a real browser."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from perf.bench import machine, report
from perf.bench.results import MemorySample, Results, merged
from perf.load import closed_loop, in_process, open_loop
from perf.load.target import Target
from perf.studies import memory
from tests.browser import Browser, browser, program
from tests.stack import ROOT, Stack

FIGURES = ["latency", "layers", "concurrency", "peers", "memory"]


@pytest.fixture(scope="module")
def results(stack: Stack, watched: list[MemorySample]) -> Results:
    """What was measured of the stack; the layers and peers that are not there have its figures."""
    target = Target(stack.gateway_url)
    alone, many = (closed_loop.run(target, callers, 1) for callers in (1, 4))
    due = open_loop.run(target, 50, 1, 1)
    floor = in_process.run(ROOT / "model_repository", "v0.2.0", "onnx", 0.2, 1)
    batch = msgspec.structs.replace(many, batch_size=8)
    fused = msgspec.structs.replace(
        alone, layer="triton-http", target="carla_policy_fused-v0.2.0", tool="perf_analyzer"
    )
    peers = [msgspec.structs.replace(one, system="another") for one in (alone, many)]
    return Results(
        started="2026-01-02T03:04:05+00:00",
        command="carlarl bench run --rate 50 <&>",
        machine=machine.facts(),
        settings={"WORKERS": "1"},
        measurements=[alone, many, due, floor, batch, fused, *peers],
        left_out=["a third: can't be <installed>"],
        memory=watched,
        verdicts=[memory.judge(watched, part) for part in memory.PARTS],
    )


@pytest.fixture(scope="module")
def page(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report.write(results, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = program()
    if path is None:
        pytest.skip("the report was not seen by a browser: apt-get install chromium")
    with browser(path, offline=True) as running:
        yield running


def test_the_page_holds_all_it_needs(page: Path) -> None:
    text = page.read_text()
    assert re.findall(r'<svg id="(\w+)"', text) == FIGURES
    assert "<script" not in text
    # Names of XML's vocabularies look like addresses and are none.
    names = ("http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink")
    addresses = re.findall(r"https?://[^\s\"'<)]+", text)
    assert set(addresses) <= {*names}
    assert "carlarl bench run --rate 50 &lt;&amp;&gt;" in text
    assert "a third: can&#x27;t be &lt;installed&gt;" in text


def test_each_figure_says_which_loop_it_comes_from(page: Path) -> None:
    for figure in page.read_text().split("<figure>")[1:]:
        assert re.search(r"closed loop", figure.partition("</figure>")[0], re.IGNORECASE)
    assert "open loop, 50/s due" in page.read_text()


def test_each_figure_is_a_picture_too(page: Path) -> None:
    for name in FIGURES:
        data = (page.parent / f"{name}.png").read_bytes()
        width, height = struct.unpack(">II", data[16:24])
        assert data.startswith(b"\x89PNG")
        assert width > 900
        assert height > 500


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_a_browser_without_a_network_shows_it(
    chromium: Browser, page: Path, width: int, scheme: str
) -> None:
    chromium.open(page.as_uri(), width, scheme)
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    boxes = chromium.evaluate(
        "[...document.querySelectorAll('figure svg')].map(s => {"
        " const b = s.getBoundingClientRect();"
        " return [s.id, b.width, b.height, s.querySelectorAll('text').length] })"
    )
    assert [box[0] for box in boxes] == FIGURES
    for _, wide, high, texts in boxes:
        assert 300 <= wide <= width
        assert high > 100
        assert texts > 3
    shades = chromium.evaluate(
        "[document.body, document.querySelector('svg text')].map("
        " (e, i) => getComputedStyle(e)[i ? 'fill' : 'backgroundColor'])"
    )
    paper, ink = (sum(map(int, re.findall(r"\d+", shade)[:3])) for shade in shades)
    assert (paper > ink) == (scheme == "light")

    assert chromium.complaints() == []
    asked = chromium.asked()
    assert page.as_uri() in asked
    assert all(url.startswith(("file:", "data:")) for url in asked)


def test_the_command(results: Results, tmp_path: Path) -> None:
    results.save(tmp_path / "kept.json")
    done = _report(tmp_path / "kept.json")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()) == tmp_path / "report" / "report.html"

    (tmp_path / "bad.json").write_text("{}")
    done = _report(tmp_path / "bad.json")
    assert done.returncode == 1
    assert "not a results file" in done.stderr


def _report(file: Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a process: output of other threads of the tests is not in its own."""
    command = [sys.executable, "-m", "perf.bench.report", str(file)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_results_without_measurements_make_a_page(results: Results, tmp_path: Path) -> None:
    nothing = msgspec.structs.replace(results, measurements=[], memory=[], interrupted=True)
    text = report.write(nothing, tmp_path).read_text()
    assert "Nothing was measured" in text
    assert "ended early" in text


def test_results_of_several_commands_make_one_page(results: Results, tmp_path: Path) -> None:
    layers = msgspec.structs.replace(results, memory=[], command="one")
    long = msgspec.structs.replace(results, measurements=[], command="two", interrupted=True)
    text = report.write(merged([layers, long]), tmp_path).read_text()
    assert re.findall(r'<svg id="(\w+)"', text) == FIGURES
    assert "one; two" in text
    assert "ended early" in text
