"""How pictures look, and how they are kept: PNGs, and SVGs for a page that is light or dark."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

PALETTE = {
    "ink": ("#1c2330", "#e8ebf0"),
    "muted": ("#5d6675", "#9aa4b4"),
    "grid": ("#e4e7ec", "#333b49"),
    "paper": ("#fefefe", "#161a22"),
    "series-1": ("#2463a6", "#6ea8e6"),
    "series-2": ("#d1702a", "#f0a066"),
    "series-3": ("#2b8c7d", "#5cc4b3"),
    "series-4": ("#a83f5b", "#e6839d"),
    "series-5": ("#7a5ba6", "#b49be0"),
    "series-6": ("#8b8f3a", "#c6ca6d"),
    "rest": ("#a9b1bd", "#5c6677"),
}
"""Name → colour on a light page and on a dark one."""

INK, MUTED, GRID, PAPER, *SERIES, REST = (light for light, _ in PALETTE.values())
WIDTH = 4.9
"""Inches: narrow, so that the text can be read on a telephone."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.axisbelow": True,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
}


def styled() -> Any:
    """Give the context in which figures are drawn."""
    return mpl.rc_context(_STYLE)


def new(height: float, rows: int = 1, shared: bool = False) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many inches' height, with axes below each other."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False, sharex=shared)
    return figure, list(axes[:, 0])


def save(figure: Figure, path: Path) -> None:
    """Write a PNG, as on a light page."""
    with styled():
        figure.savefig(path, dpi=200)


def svg(figure: Figure, name: str, title: str) -> str:
    """Give an SVG element whose colours are the page's variables, for use in a page once."""
    text = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)
    drawn = re.sub(r'(<svg [^>]*?)\bwidth="[^"]*"', r"\1", drawn, count=1)
    drawn = re.sub(r'(<svg [^>]*?)\bheight="[^"]*"', r"\1", drawn, count=1)
    for variable, (light, _) in PALETTE.items():
        drawn = drawn.replace(light, f"var(--{variable})")
    return drawn.replace("<svg ", f'<svg id="{name}" role="img" aria-label="{title}" ', 1)


def note(figure: Figure, text: str) -> None:
    """Write below a figure where it comes from."""
    figure.supxlabel(text, fontsize=7.5, color=MUTED, x=0.99, ha="right")
