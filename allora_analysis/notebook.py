"""What the notebooks in `notebooks/` share: their sizes, verdicts and tables as Markdown, sliders that leave a picture.

A figure is shown as a PNG of its pixels alone, so that equal figures are equal files. IPython and
ipywidgets (the extra `notebooks`) are imported only when a notebook calls. Checked by `tests/test_notebooks.py`.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from allora_analysis.validation import ArgumentError, several

if TYPE_CHECKING:
    import numpy as np
    from IPython.display import Markdown
    from matplotlib.figure import Figure

    from allora_analysis.claims.claim import Claim
    from allora_analysis.claims.ledger import Row
    from allora_analysis.study import Table

SMALL = "ALLORA_NOTEBOOKS_SMALL"
"""Set to 1, every notebook runs with sizes that fit continuous integration."""
LEDGER = "ALLORA_NOTEBOOKS_LEDGER"
"""Set to a file of the ledger's (`python -m allora_analysis --json FILE`), the notebooks show its rows."""
# What a row of the ledger is made from, in the repository.
SOURCES = ("allora_analysis/**/*.*", "experiments/results", "experiments/results/**/*")
MANY = 8  # rows, from which on they are folded away
DPI, LABEL = 100, 9  # pixels to the inch for a figure whose labels have so many points
SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\|*_<>$~`[]#"} | {"\n": "<br>"})


def small() -> bool:
    """Whether the environment asks for small sizes."""
    return os.environ.get(SMALL, "0") not in ("", "0")


def sized(full: Any, reduced: Any) -> Any:
    """The first of two sizes, or the second where the environment asks for small ones."""
    return reduced if small() else full


class Toy(NamedTuple):
    """The layer on which the notebooks try their formulas: X (4×3), Y (4×2), W (3×2), and an adapter of rank 1.

    Attributes:
        x: four samples of three inputs.
        y: their targets, two numbers each.
        w: the pretrained weight, as §3.1 writes it; LoRA's W* is its transpose.
        a: LoRA's A (1×3).
        b: a B (2×1), for what is to happen after the start.
    """

    x: np.ndarray
    y: np.ndarray
    w: np.ndarray
    a: np.ndarray
    b: np.ndarray


def toy() -> Toy:
    """A layer of the same numbers in every notebook.

    Example:
        >>> from allora_analysis.notebook import toy
        >>> toy().x.shape
        (4, 3)
    """
    import numpy as np

    rng = np.random.default_rng(0)
    return Toy(*(rng.standard_normal(shape) for shape in ((4, 3), (4, 2), (3, 2), (1, 3), (2, 1))))


def begin() -> Markdown:
    """A notebook's first call: the house style, and figures as PNGs that depend on their content alone."""
    import matplotlib
    from IPython import get_ipython
    from IPython.display import Markdown
    from matplotlib.figure import Figure

    from allora_analysis import __version__
    from allora_analysis.plotting import STYLE

    matplotlib.rcParams.update(STYLE)
    shell = get_ipython()
    if shell is not None:
        shell.display_formatter.formatters["image/png"].for_type(Figure, png)
    return Markdown(f"allora_analysis {__version__}, {'small' if small() else 'full'} sizes")


def png(figure: Figure) -> bytes:
    """A figure as PNG."""
    from PIL import Image

    drawn, content = io.BytesIO(), io.BytesIO()
    # Labels come out alike, whether a figure was drawn for a screen or for a page in print.
    size = figure.axes[0].xaxis.label.get_size() if figure.axes else LABEL
    figure.savefig(drawn, format="png", dpi=round(DPI * LABEL / size), bbox_inches="tight", facecolor="white")
    # 256 colors, which a line drawing does not exceed by much: a third of the size.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    return content.getvalue()


def escaped(text: str) -> str:
    """A text as Markdown shows it unchanged in a table's cell."""
    return text.translate(SPECIAL)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Markdown:
    """A table."""
    from IPython.display import Markdown

    lines = [f"**{escaped(title)}**", ""] if title else []
    lines += [_line(columns), "|" + "---|" * len(columns), *map(_line, rows)]
    return Markdown("\n".join(lines))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(escaped, cells))} |"


def shown(table: Table, fold: str = "") -> Markdown:
    """A study's table."""
    result = markdown(table.columns, table.rows, table.title)
    result.data = f"{escaped(table.finding)}\n\n" * bool(table.finding) + result.data
    result.data += "".join(f"\n\n{escaped(note)}" for note in table.notes)
    if fold:
        result.data = f"<details>\n<summary>{fold}</summary>\n\n{result.data}\n\n</details>"
    return result


def rows(*only: str) -> list[Row]:
    """The ledger's rows for some claims, for all without any: checked now, or read where `LEDGER` names a file."""
    from allora_analysis.claims import ledger

    claims = ledger.select(ledger.all_claims(), only or None)
    path = os.environ.get(LEDGER)
    return read(Path(path), claims) if path else ledger.run(claims)[0]


def read(path: Path, claims: Sequence[Claim]) -> list[Row]:
    """The rows of these claims in a file of the ledger's (`python -m allora_analysis --json FILE`), of a whole run."""
    found = {entry["id"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))["claims"]}
    return [_read(claim, found[claim.id]) for claim in claims]


def of_today(path: Path, root: Path) -> bool:
    """Whether a file of the ledger's (`--json`) is what a run would give now.

    Args:
        path: the file.
        root: the repository's folder.

    Returns:
        False unless the file is newer than the package and the records, and says of itself that it was made by these
        versions, of the committed records, with the usual seed, and has a verdict on every row as it stands here.
    """
    from allora_analysis.claims.claim import spaced
    from allora_analysis.claims.ledger import all_claims
    from allora_analysis.study import environment

    sources = (one for pattern in SOURCES for one in root.glob(pattern) if "__pycache__" not in one.parts)
    if path.stat().st_mtime <= max(one.stat().st_mtime for one in sources):
        return False
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        made, now = ({**one, "threads": None} for one in (document["environment"], environment()))
        found = [(one["id"], one["statement"], one["reading"]) for one in document["claims"] if one["verdict"]]
        seeds = {one["evidence"]["seed"] for one in document["claims"]}
    except (ValueError, KeyError, TypeError):  # another file
        return False
    rows = [(one.id, one.statement, one.reading and spaced(one.reading)) for one in all_claims()]
    return made == now and found == rows and seeds <= {0, None} and "own_records" not in document


def _read(claim: Claim, entry: dict[str, Any]) -> Row:
    from allora_analysis.claims.claim import Evidence, Finding, Size
    from allora_analysis.claims.ledger import Row

    seen = _numbers(entry["evidence"])
    evidence = Evidence(**seen | {"interval": seen["interval"] and tuple(seen["interval"])})
    size = entry["size"] and Size(**entry["size"])
    told = {name: entry[name] for name in ("verdict", "corrected", "answer", "at_paper", "condition", "flips_if")}
    return Row(claim, Finding(size=size, evidence=evidence, **told))


def _numbers(item: Any) -> Any:
    # With the numbers that the ledger's document has signs for.
    if isinstance(item, dict):
        return {name: _numbers(value) for name, value in item.items()}
    if isinstance(item, list):
        return [*map(_numbers, item)]
    return {"∞": math.inf, "−∞": -math.inf}.get(item, item) if isinstance(item, str) else item


def verdicts(*only: str) -> Markdown:
    """The ledger's rows for some claims, as a table; of many, folded away."""
    found = rows(*only)
    return verdict_table(found, "All of them" if len(found) > MANY else "")


def verdict_table(rows: Sequence[Row], title: str = "") -> Markdown:
    """Rows of the ledger: verdict, id, the sentence and who says it, what came out, and how large it is."""
    from allora_analysis.render.size import size_text
    from allora_analysis.render.view import SETTING, sentence, summary, views

    if failed := [f"{row.claim.id} ({row.error})" for row in rows if row.finding is None]:
        raise ArgumentError(f"rows: the check failed of {'; '.join(failed)}")
    of = views(rows)
    cells = [
        [one.word, one.id, sentence(one.statement, one.where), one.answer, one.setting, size_text(one.size)]
        for one in of
    ]
    headings = ("verdict", "claim", "statement", "what came out", SETTING, "size")
    result = markdown(headings, cells)
    if title:
        result.data = f"<details>\n<summary>{title}: {summary(of)}</summary>\n\n{result.data}\n\n</details>"
    return result


@dataclass(frozen=True)
class Slider:
    """A live widget over a figure; where nothing runs, its picture in the middle of the ranges, and words for both."""

    panel: Any
    picture: bytes
    caption: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        picture = base64.b64encode(self.picture).decode()
        return {**self.panel._repr_mimebundle_(), "image/png": picture, "text/plain": self.caption}


def slider(draw: Callable[..., Figure], **values: Sequence[Any]) -> Slider:
    """Sliders for a figure's arguments, each over the values given.

    The figure is drawn at both ends and in the middle before anything is shown, so that a slider that cannot be moved
    fails when the notebook is run and not when it is read.
    """
    import ipywidgets

    stops = {name: several(name, of) for name, of in values.items()}
    middle = {name: of[len(of) // 2] for name, of in stops.items()}
    for end in (0, -1):
        draw(**{name: of[end] for name, of in stops.items()})
    picture = png(draw(**middle))
    widgets = {
        name: ipywidgets.SelectionSlider(options=of, value=middle[name], description=name, continuous_update=False)
        for name, of in stops.items()
    }
    panel = ipywidgets.interactive(draw, {"auto_display": True}, **widgets)
    at = ", ".join(f"{name} = {value}" for name, value in middle.items())
    return Slider(panel, picture, f"at {at}; run the cell for the sliders")
