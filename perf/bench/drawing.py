"""How pictures look, and how they are kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER, REST = "#1c2330", "#5d6675", "#e4e7ec", "#fefefe", "#a9b1bd"
SERIES = ("#2463a6", "#d1702a", "#2b8c7d", "#a83f5b", "#7a5ba6", "#8b8f3a")
WIDTH = 4.9
"""Inches: narrow, so that the text can be read on a telephone."""

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor"), PAPER),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.axisbelow": True,
    "grid.linewidth": 0.8,
    **dict.fromkeys(("xtick.labelcolor", "ytick.labelcolor"), MUTED),
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
}


def styled() -> Any:
    """Give the context in which figures are drawn."""
    return mpl.rc_context(_STYLE)


def new(height: float, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure of so many inches' height, with axes below each other."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 1, squeeze=False)
    return figure, list(axes[:, 0])


def save(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    with styled():
        figure.savefig(path, dpi=200)


def note(figure: Figure, text: str) -> None:
    """Write below a figure where it comes from."""
    figure.supxlabel(text, fontsize=7.5, color=MUTED, x=0.99, ha="right")
