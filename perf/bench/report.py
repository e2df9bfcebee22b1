"""One page about a benchmark, and its pictures: `python -m perf.bench.report results.json`.

The page needs no network and no script, and follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from html import escape
from pathlib import Path

import click
from matplotlib.figure import Figure as Picture

from perf.bench import charts, drawing
from perf.bench.results import Results, ResultsError, load, merged
from perf.bench.tables import tables

PAGE = "report.html"

_STYLE = """
:root { color-scheme: light dark; %(light)s }
@media (prefers-color-scheme: dark) { :root { %(dark)s } }
body { background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif;
  max-width: 46rem; margin: 2rem auto; padding: 0 1.25rem }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem }
figure { margin: 1rem 0 }
figure svg { display: block; width: 100%%; max-width: 38rem; height: auto }
figure svg text { font-family: system-ui, sans-serif !important }
.muted, figcaption, th { color: var(--muted) }
.table { overflow-x: auto }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid var(--grid); padding: .35rem .45rem; text-align: right }
th:first-child, td:first-child { text-align: left }
caption { text-align: left }
code { overflow-wrap: anywhere }
.verdict { border-left: 3px solid var(--series-3); padding-left: .85rem }
.verdict.grows { border-color: var(--series-2) }
"""

_FIGURES: dict[str, tuple[str, Callable[[Results], Picture | None], str]] = {
    "latency": (
        "Latency",
        charts.latency,
        "Closed loop: each caller waits for its answer before it asks again, so a stall hides the "
        "requests that it held up. Open loop: requests are due at a fixed rate, and latency counts "
        "from when one was due, answered in time or not.",
    ),
    "layers": (
        "Who owns each millisecond",
        charts.layers,
        "Medians of one caller, closed loops. What a call of Triton takes above the policy is "
        "Triton's, with the hand-over to its Python process. What a request in JSON takes above a "
        "call of the model that the gateway calls is the gateway's.",
    ),
    "concurrency": (
        "Throughput over concurrency",
        charts.concurrency,
        "Closed loops, the smallest batch that was measured.",
    ),
    "peers": (
        "Beside other ways to serve the same policy",
        charts.peers,
        "Closed loop, the same JSON, one system at a time on the same cores, in turns.",
    ),
    "memory": (
        "Memory",
        lambda results: charts.memory(results.memory) if len(results.memory) > 1 else None,
        "Proportional set size of the processes under load, without mapped files. Closed loop. "
        "What is in /dev/shm is part of the other two.",
    ),
}


def write(results: Results, folder: Path) -> Path:
    """Write the page and a PNG of each figure that the results have; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    below = {
        "latency": [table.html() for table in tables(results)],
        "memory": [
            f'<p class="verdict {one.kind}">{escape(one.text)}</p>' for one in results.verdicts
        ],
    }
    sections = []
    for name, (title, draw, caption) in _FIGURES.items():
        if (picture := draw(results)) is not None:
            drawing.save(picture, folder / f"{name}.png")
            figure = drawing.svg(picture, name, escape(title))
            more = "".join(below.get(name, []))
            sections.append(
                f"<h2>{escape(title)}</h2>\n<figure>{figure}"
                f"<figcaption>{escape(caption)}</figcaption></figure>{more}"
            )
    page = folder / PAGE
    page.write_text(_page(results, sections), encoding="utf-8")
    return page


def _page(results: Results, sections: list[str]) -> str:
    light, dark = (
        "; ".join(f"--{name}: {shades[index]}" for name, shades in drawing.PALETTE.items())
        for index in (0, 1)
    )
    when = datetime.fromisoformat(results.started).strftime("%-d %B %Y, %H:%M %Z")
    ended = " It was ended early." if results.interrupted else ""
    settings = [f"{name}={value}" for name, value in sorted(results.settings.items())]
    packages = [f"{name} {version}" for name, version in results.machine.packages.items()]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>CarlaRL benchmark, {when}</title>
<style>{_STYLE % {"light": light, "dark": dark}}</style>
</head>
<body>
<h1>CarlaRL benchmark</h1>
<p class="muted">{when}, on {escape(str(results.machine))}.{ended}</p>
<p><code>{escape(results.command)}</code></p>
{"".join(sections) or "<p>Nothing was measured.</p>"}
{_list("Not measured", results.left_out)}
{_list("Settings that are not the defaults", settings)}
{_list("Software", [results.machine.system, *packages])}
</body>
</html>
"""


def _list(title: str, lines: list[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


@click.command()
@click.argument(
    "files",
    nargs=-1,
    required=True,
    metavar="RESULTS…",
    type=click.Path(dir_okay=False, path_type=Path),
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the page and the PNGs. [default: report/ beside the results]",
)
def main(files: tuple[Path, ...], output: Path | None) -> None:
    """Write one page about results files: of the layers, of peers, of memory."""
    try:
        found = merged([load(file) for file in files])
    except ResultsError as error:
        raise click.ClickException(str(error)) from None
    click.echo(write(found, output or files[0].parent / "report"))


if __name__ == "__main__":
    main()
