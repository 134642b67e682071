"""One style for every figure: colours by role, sizes, provenance in the file. Imported only when a figure is drawn."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure

from allora_analysis.validation import ArgumentError

# Okabe and Ito's colours, told apart by readers with any of the usual colour vision deficiencies.
COLOURS = {
    "bound": "#D55E00",
    "attained": "#E69F00",
    "predicted": "#0072B2",
    "measured": "#000000",
    "dropout": "#CC79A7",
    "plain": "#009E73",
    "other": "#56B4E9",
}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "savefig.dpi": 200,
    "svg.hashsalt": "allora_analysis",
}
COLUMN = 4.6  # inches: one panel


def style() -> AbstractContextManager:
    """The house style, for as long as a figure is drawn: legends and texts read it when they are made.

    Returns:
        A context manager.
    """
    return rc_context(STYLE)


def panels(columns: int = 1, rows: int = 1) -> tuple[Figure, list]:
    """An empty figure of rows × columns panels in the house style.

    Args:
        columns: panels side by side.
        rows: panels one above the other.

    Returns:
        The figure and its axes, row by row.
    """
    with style():
        figure = Figure(figsize=(COLUMN * columns, 3.4 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def check_path(path: Path) -> None:
    """Refuse a figure's path whose ending names no picture format.

    Args:
        path: the path.

    Raises:
        ArgumentError: an ending that matplotlib cannot write.
    """
    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ArgumentError(f"--figure must end in one of {', '.join(sorted(known))}; received {path.name!r}")


def save(figure: Figure, path: Path, description: str) -> None:
    """Write a figure with its description (the study and its config) in the file's metadata.

    Args:
        figure: the figure.
        path: the file.
        description: what made it.
    """
    key = {"png": "Description", "svg": "Description", "pdf": "Subject"}.get(path.suffix.removeprefix(".").lower())
    with style():
        figure.savefig(path, metadata={key: description} if key else None)
