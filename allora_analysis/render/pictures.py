"""Which of the drawn pictures belongs to a claim, small enough to embed. Checked by `tests/test_report.py`.

The pictures are the files that `python -m paper_figures` draws into the repository's `docs/`. Where that folder is not
beside the package, as after a plain install, the page has none.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "docs"
WIDTH = 1400  # pixels: twice a column of the page
COLOURS = 128

# Claims by id, or by section where a picture is about all of it.
ABOUT = {
    "figure_1": ("3.1-figure-1", "3.1-figure-1-cifar10"),
    "figure_2": (
        "3.1-figure-2-left",
        "4-figure-2-measured",
        "4-figure-2-measured-smollm2",
        "4-figure-2-tapers",
        "T2-epoch-of-best",
        "T2-long",
        "T2-short",
        "T2-overfit",
    ),
    "figure_3": ("F3", "D", "A", "4.4-average", "4.4-better-than-lora", "4.4-no-difference", "6-better-than-lora"),
    "figure_4": ("F4", "E", "5.1", "5.2"),
    "figure_5": ("4-adaptor", "4-inversely-proportional"),
    "ripple": ("3.3",),
    "zero_initialisation": ("3.2-saddle-lora", "3.2-saddle-starts", "3.2-escape"),
    "deviation": ("3.1-bound", "3.1-bound-order", "3.1-benefit-large-n"),
    "crossover": ("3.1-sgd-crossover", "3.1-sgd-training-fit"),
    "escape": (
        "4-escape",
        "4-escape-fixed-rate",
        "4-figure-2-slower",
        "4-figure-2-right",
        "4-escape-optimisers",
        "4-effective-rate",
    ),
    "eta_squared": ("4-table-3-desk",),
    "procedures": ("T3-procedure", "T3-procedure-laboratory"),
    "laboratory": (
        "3.1-figure-2-left-laboratory",
        "3.1-figure-2-left-bottleneck-laboratory",
        "4-better-than-lora-laboratory",
        "4.5-better-than-dora-laboratory",
        "4-eta-needs-no-tuning-laboratory",
        "6-other-adaptors-laboratory",
    ),
    "width": ("4-width-factor", "4-width-transfer", "4-width-first-step"),
    "transformer": (
        "3.3-transformer",
        "3.3-transformer-series",
        "3.3-transformer-gradient",
        "3.3-transformer-measured",
    ),
    "learning_rates": ("4-own-best-rate", "4-own-best-rate-sgd", "4-own-best-rate-smollm2"),
}


@dataclass(frozen=True)
class Picture:
    """A picture to embed: its name, its size in pixels, its content as a data URI, and what it shows in words."""

    name: str
    width: int
    height: int
    source: str
    description: str


def name_for(identifier: str) -> str | None:
    """The picture about a claim."""
    keys = (identifier, identifier.partition("-")[0])  # a claim's own before its section's
    return next((name for key in keys for name, about in ABOUT.items() if key in about), None)


def load(name: str, folder: Path | None = None) -> Picture | None:
    """A drawn picture, scaled down and with few colors, so that a page of many stays small.

    Args:
        name: its name.
        folder: where it was drawn; None for the repository's `docs/`.

    Returns:
        The picture; None where it was not drawn.
    """
    from PIL import Image

    path = (FOLDER if folder is None else folder) / f"{name}.png"
    if not path.is_file():
        return None
    with Image.open(path) as drawn:
        described = str(drawn.info.get("Description", name)).removeprefix(f"{name}: ")
        page = Image.new("RGBA", drawn.size, "white")
        page.alpha_composite(drawn.convert("RGBA"))
    scale = min(1.0, WIDTH / page.width)
    small = page.convert("RGB").resize(
        (round(page.width * scale), round(page.height * scale)), Image.Resampling.LANCZOS
    )
    content = io.BytesIO()
    small.quantize(COLOURS, dither=Image.Dither.NONE).save(content, "PNG", optimize=True)
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return Picture(name, small.width, small.height, f"data:image/png;base64,{encoded}", described)
