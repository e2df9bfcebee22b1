"""One page about a benchmark, and its pictures: `python -m perf.bench.report results.json`.

The page needs no network and no script, and follows the reader's light or dark setting.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path

import click
from matplotlib.figure import Figure

from perf.bench import charts, drawing, report_tables
from perf.bench.report_tables import callers, number
from perf.bench.results import Results, ResultsError, load, merged
from perf.studies import memory
from perf.studies.peers import chart

PAGE = "report.html"

_STYLE = """
:root { color-scheme: light dark; %(light)s }
@media (prefers-color-scheme: dark) { :root { %(dark)s } }
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 1.75rem; line-height: 1.2; letter-spacing: -.015em; margin: 0 0 .4rem }
h2 { font-size: 1.2rem; letter-spacing: -.01em; margin: 3rem 0 .35rem }
p { margin: .35rem 0 1rem }
a { color: var(--series-1) }
.small { font-size: .82rem; margin-top: .5rem }
.muted, figcaption, dt { color: var(--muted) }
code { font: .88em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
code span { display: inline-block; max-width: 100%%; overflow-wrap: anywhere }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem;
  margin: 1.75rem 0 0; padding: 0 }
.facts div { border: 1px solid var(--grid); border-radius: .6rem; padding: .8rem 1rem }
.facts dt { font-size: .82rem; line-height: 1.35 }
.facts dd { margin: .15rem 0 0; font-size: 1.5rem; font-weight: 650; letter-spacing: -.02em;
  font-variant-numeric: tabular-nums }
.facts dd small { font-size: .9rem; font-weight: 400; color: var(--muted) }
figure { margin: 1.1rem 0 0 }
figure svg { display: block; width: 100%%; max-width: 38rem; height: auto }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif !important }
figcaption { font-size: .88rem; margin-top: .5rem }
.table { overflow-x: auto; margin: 1rem 0 0 }
table { border-collapse: collapse; width: 100%%; font-size: .86rem;
  font-variant-numeric: tabular-nums }
th { color: var(--muted); font-weight: 500; text-align: right; vertical-align: bottom;
  border-bottom: 1px solid var(--grid); padding: .35rem 0 .35rem .9rem; line-height: 1.3 }
td { text-align: right; border-bottom: 1px solid var(--grid); padding: .38rem 0 .38rem .9rem;
  white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
td.reason { text-align: left; white-space: normal; color: var(--muted) }
tr.own td { font-weight: 650 }
.verdict { border-left: 3px solid var(--series-3); padding: .1rem 0 .1rem .85rem; margin: .6rem 0 }
.verdict.grows { border-color: var(--series-2) }
details { margin-top: 1rem; font-size: .9rem }
summary { cursor: pointer; color: var(--muted) }
ul { padding-left: 1.2rem; margin: .5rem 0 }
"""


def write(results: Results, folder: Path) -> Path:
    """Write the page and a PNG for each figure that the results have; gives the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: dict[str, tuple[str, Figure | None, str, str]] = {
        "latency": (
            "Latency",
            charts.latency(results),
            "Closed loop: each caller waits for its answer before it asks again, so that a stall "
            "hides the requests it held up. Open loop: requests are due at a fixed rate, and "
            "latency counts from when one was due, answered in time or not.",
            report_tables.latency(results),
        ),
        "layers": (
            "Who owns each millisecond",
            charts.layers(results),
            "Medians of one caller, closed loops. The policy alone is the floor; what a call of "
            "Triton takes above it is Triton's and the hand-over's to its Python process; what a "
            "request in JSON takes above a call of the model that the gateway calls is the "
            "gateway's.",
            "",
        ),
        "concurrency": (
            "Throughput over concurrency",
            charts.concurrency(results),
            "Closed loops, the smallest batch that was measured.",
            "",
        ),
        "batches": (
            "Throughput over batch size",
            charts.batches(results),
            "Closed loops, each layer at the highest concurrency that it was measured with.",
            "",
        ),
        "peers": (
            "Beside other ways to serve the same policy",
            chart.peers(results),
            "Closed loop, the same JSON, one system at a time on the same cores, in turns.",
            report_tables.peers(results),
        ),
        "memory": (
            "Memory",
            charts.memory(results.memory) if len(results.memory) > 1 else None,
            "Proportional set size of the process trees under load, without mapped files. Closed "
            "loop. What is in /dev/shm is part of the other two.",
            _verdicts(results),
        ),
    }
    sections = []
    for name, (title, figure, caption, more) in figures.items():
        if figure is None:
            continue
        drawing.save(figure, folder / f"{name}.png")
        drawn = drawing.svg(figure, name, escape(title))
        sections.append(
            f"<section><h2>{escape(title)}</h2>\n<figure>{drawn}"
            f"<figcaption>{escape(caption)}</figcaption></figure>{more}</section>"
        )
    page = folder / PAGE
    page.write_text(_page(results, sections), encoding="utf-8")
    return page


def _page(results: Results, sections: Sequence[str]) -> str:
    light, dark = (
        "; ".join(f"--{name}: {shades[index]}" for name, shades in drawing.PALETTE.items())
        for index in (0, 1)
    )
    when = datetime.fromisoformat(results.started).strftime("%-d %B %Y, %H:%M %Z")
    command = " ".join(f"<span>{escape(word)}</span>" for word in results.command.split(" "))
    ended = " It was ended early." if results.interrupted else ""
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
<main>
<h1>CarlaRL benchmark</h1>
<p class="muted">{when}, on {escape(str(results.machine))}.{ended}</p>
<p><code>{command}</code></p>
{_facts(results)}
{"".join(sections) or "<p>Nothing was measured.</p>"}
{_left_out(results)}
{_details(results)}
</main>
</body>
</html>
"""


def _facts(results: Results) -> str:
    gateway = [one for one in charts.ours(results) if one.layer == "gateway"]
    closed = [one for one in gateway if one.loop == "closed"]
    if not closed:
        return ""
    smallest = min(one.batch_size for one in closed)
    closed = [one for one in closed if one.batch_size == smallest]
    low, high = min(one.concurrency for one in closed), max(one.concurrency for one in closed)
    few = [one for one in closed if one.concurrency == low]
    many = [one for one in closed if one.concurrency == high]
    facts = [
        (f"median latency, {callers(low)}", number(few, "p50"), "ms"),
        (f"99th percentile, {callers(high)}", number(many, "p99"), "ms"),
        (f"requests answered, {callers(high)}", number(many, "rate"), "/s"),
    ]
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value} <small>{unit}</small></dd></div>"
        for name, value, unit in facts
    )
    note = f"POST /predict. {charts.loops(closed)}."
    return f'<dl class="facts">{cells}</dl>\n<p class="muted small">{escape(note)}</p>'


def _verdicts(results: Results) -> str:
    try:
        verdicts = [memory.judge(results.memory, part) for part in memory.PARTS]
    except ValueError as error:
        return f"<p>{escape(str(error))}</p>"
    return "".join(f'<p class="verdict {one.kind}">{escape(one.text)}</p>' for one in verdicts)


def _left_out(results: Results) -> str:
    if not results.left_out:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in results.left_out)
    return f"<section><h2>Not measured</h2><ul>{lines}</ul></section>"


def _details(results: Results) -> str:
    settings = "".join(
        f"<li><code>{escape(name)}={escape(value)}</code></li>"
        for name, value in sorted(results.settings.items())
    )
    packages = ", ".join(f"{name} {version}" for name, version in results.machine.packages.items())
    return (
        "<details><summary>Settings and software</summary>"
        f"<ul>{settings or '<li>All settings are the defaults.</li>'}</ul>"
        f"<p>{escape(results.machine.system)}; {escape(packages)}.</p></details>"
    )


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
