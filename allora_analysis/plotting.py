"""One style for every figure: colors by role and by arm, sizes, provenance in the file.

Imported only when a figure is drawn. Checked by `tests/test_plotting.py`.
"""

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from allora_analysis import arms
from allora_analysis.validation import ArgumentError

# Roles are grays, reds and violets, which no arm has; told apart with any of the usual color vision deficiencies.
COLOURS = {
    "bound": "#B3202A",
    "attained": "#F29A92",
    "predicted": "#8A3FB5",
    "measured": "#000000",
    "dropout": "#F0506E",
    "plain": "#505050",
    "other": "#C3B5D6",
}


class Look(NamedTuple):
    """How an arm is written and drawn, the same in every figure; no two arms of one differ by color alone."""

    label: str
    colour: str
    marker: str


ARMS = {name: Look(arm.label, arm.colour, arm.marker) for name, arm in arms.ARMS.items()}
_COLOUR_AND_MARKER = {
    "sgd": (COLOURS["predicted"], "o"),
    "momentum": ("#C3A5EA", "s"),
    "adam": (COLOURS["bound"], "^"),
    "adamw": (COLOURS["attained"], "D"),
}
OPTIMIZERS = {name: Look(label, *_COLOUR_AND_MARKER[name]) for name, label in arms.OPTIMIZERS.items()}
OPTIMIZERS["allora_adamw"] = ARMS["allora_adamw"]
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: text in a PDF stays text
    "svg.hashsalt": "allora_analysis",
}
COLUMN = 4.6  # inches: one panel
PAGE = 5.5  # inches: the text width of the paper's own page; what is drawn for print is no wider
PAGE_STYLE = STYLE | {
    "font.size": 7,
    "axes.titlesize": 7.5,
    "legend.fontsize": 6.5,
    "legend.handlelength": 1.6,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
}


def shades(n: int) -> list[tuple[float, float, float, float]]:
    """Colors, dark to light, for n levels of a quantity: drop rates, keep probabilities, η². No arm's own."""
    return [colormaps["viridis"](0.85 * index / max(1, n - 1)) for index in range(n)]


def style() -> AbstractContextManager:
    """The house style, for as long as a figure is drawn: legends and texts read it when they are made."""
    return rc_context(STYLE)


def page_style() -> AbstractContextManager:
    """The house style in the sizes of a printed page."""
    return rc_context(PAGE_STYLE)


def page(height: float, rows: int = 1, columns: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """An empty figure as wide as a page's text, of rows × columns panels."""
    with page_style():
        figure = Figure(figsize=(PAGE, height), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, axes


def panels(columns: int = 1, rows: int = 1) -> tuple[Figure, list]:
    """An empty figure of rows × columns panels in the house style."""
    with style():
        figure = Figure(figsize=(COLUMN * columns, 3.4 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def check_path(path: Path) -> None:
    """Refuse a figure's path whose ending names no picture format."""
    known = FigureCanvasBase.get_supported_filetypes().keys() - {"pgf"}  # which runs LaTeX
    if path.suffix.removeprefix(".").lower() not in known:
        raise ArgumentError(f"--figure must end in one of {', '.join(sorted(known))}; received {path.name!r}")


def save(figure: Figure, path: Path, description: str, source: str | None = None) -> None:
    """Write a figure, what made it in the file's metadata. No date, so the same figure is the same bytes."""
    keys = {"png": ("Description", "Source"), "svg": ("Description", "Source"), "pdf": ("Subject", "Keywords")}
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    kind = path.suffix.removeprefix(".").lower()
    told = {name: text for name, text in zip(keys.get(kind, ()), (description, source), strict=False) if text}
    drawn = io.BytesIO()  # matplotlib's own writers fail in their own ways where a disk is full
    with style():
        figure.savefig(drawn, format=kind or None, metadata=(told | dates.get(kind, {})) or None)
    path.write_bytes(drawn.getbuffer())
