"""The ledger as one self-contained HTML page: `python -m allora_analysis --report ledger.html`.

Each claim shows its verdict and its answer; the sentence, the evidence, code and tests are on demand, and are not
printed. Its pictures are the files that `python -m paper_figures` draws into the repository's `docs/`; where that
folder is not beside the package, as after a plain install, the page has none.

Evidence becomes facts, and a row for each quantity with what is predicted and measured. Its text has formulas in
Unicode in the middle of sentences. A browser shows that as it stands; what it lacks are subscripts (B_l, s_max,
Σ_{k≥2}) and powers ((1 + η)^L, 1.7e-16): `html` sets them. Checked by `tests/test_report.py` and
`tests/test_report_browser.py`.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from allora_analysis.claims import ledger
from allora_analysis.claims.claim import VERDICTS, Evidence
from allora_analysis.claims.ledger import Row
from allora_analysis.render.size import outwards
from allora_analysis.render.terminal import evidence_text
from allora_analysis.render.view import BRACKETS, MEANINGS, NOT_IN_THE_PAPER, View, by_part, said_by, views
from allora_analysis.study import environment, text

WORDS = "max|min|vec|true|drop|one|two|out|in|lin|new"  # subscripts that are words
SUBSCRIPT = re.compile(
    rf"(?<=[^\W_]|[‖)\]̃̄∇])_(?:\{{(?P<braced>[^{{}}]+)\}}|(?P<word>(?:{WORDS})(?![a-z])|\d+|[^\W\d_](?![a-z])\*?|[*]))"
)
SUPERSCRIPT = re.compile(r"(?<=\S)\^(?:\{(?P<braced>[^{}]+)\}|(?P<word>-?\w+|[*]))")
POWER = re.compile(r"(?<![\w.])(-?\d+(?:\.\d+)?e[+-]?\d+)(?!\w)")
NOTHING = Markup("–")
FEW = 4  # predictions that fit a line
FIELD = re.compile(r"[A-Za-z0-9.]+(?:_[A-Za-z0-9.]+)+")  # log_change, a name out of the program


def _set(tag: str) -> str:
    return rf"<{tag}>\g<braced>\g<word></{tag}>"


@lru_cache(maxsize=4096)  # many quantities share a name
def html(text: str) -> Markup:
    """A text as HTML."""
    parts = POWER.split(text)
    parts[::2] = [SUPERSCRIPT.sub(_set("sup"), SUBSCRIPT.sub(_set("sub"), str(escape(part)))) for part in parts[::2]]
    return Markup("").join(number(part) if index % 2 else Markup(part) for index, part in enumerate(parts))


def number(text: str) -> Markup:
    """A number as HTML: minus signs, and powers of ten written out, 1.7 × 10⁻¹⁶ for 1.7e-16."""
    mantissa, _, exponent = text.partition("e")
    if not exponent:
        return escape(text.replace("-", "−"))
    factor = "" if mantissa == "1" else f"{mantissa.replace('-', '−')} × "
    return Markup("{}10<sup>{}</sup>").format(factor, str(int(exponent)).replace("-", "−"))


@dataclass(frozen=True)
class Quantity:
    """A row of the evidence's table, as HTML."""

    name: Markup
    predicted: Markup
    measured: Markup


def summary(evidence: Evidence) -> Markup:
    """The evidence in one line, as the ledger's table has it."""
    return html(FIELD.sub(_spaced, evidence_text(evidence)))


def value(thing: Any) -> Markup:
    """Anything that evidence holds, as HTML."""
    if isinstance(thing, np.ndarray | np.generic):
        thing = thing.tolist()
    match thing:
        case None:
            return NOTHING
        case bool():
            return Markup("yes" if thing else "no")
        case int() | float():
            return number(text(thing) if isinstance(thing, float) else str(thing))
        case list() | tuple():
            between = Markup("; " if any(isinstance(item, str) for item in thing) else ", ")
            return Markup("[{}]").format(between.join(value(item) for item in thing)) if thing else Markup("none")
        case Mapping():
            parts = (Markup("{} {}").format(label(str(name)), value(item)) for name, item in thing.items())
            return Markup("; ").join(parts)
    return html(str(thing))


def label(name: str) -> Markup:
    """A quantity's name: formulas set, a field's underscores as spaces."""
    return html(FIELD.sub(_spaced, name) if FIELD.fullmatch(name) else name)


def _spaced(field: re.Match[str]) -> str:
    return field.group().replace("_", " ")


def compared(evidence: Evidence) -> bool:
    """Whether the table sets predictions beside measurements: some share a name, or they are too many for a line."""
    predicted, measured = dict(flat(evidence.predicted)), dict(flat(evidence.measured))
    return len(predicted) > FEW or not predicted.keys().isdisjoint(measured)


def quantities(evidence: Evidence) -> list[Quantity]:
    """Every measured quantity in one table, beside its prediction if they are `compared`, in the evidence's order."""
    predicted = dict(flat(evidence.predicted)) if compared(evidence) else {}
    measured = dict(flat(evidence.measured))
    paths = dict.fromkeys([*predicted, *measured])
    return [
        Quantity(
            Markup(", ").join(label(name) for name in path),
            *(value(side[path]) if path in side else NOTHING for side in (predicted, measured)),
        )
        for path in paths
    ]


def flat(mapping: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Paths of names and what is there; a mapping of no further mappings that lies two deep stays whole, as one row."""
    for name, item in mapping.items():
        path = (*above, str(name))
        together = above and isinstance(item, Mapping) and not any(isinstance(x, Mapping) for x in item.values())
        if isinstance(item, Mapping) and not together:
            yield from flat(item, path)
        else:
            yield path, item


def facts(evidence: Evidence) -> dict[str, Markup]:
    """What the verdict rests on besides the table: error or interval, tolerance, its source, cases, n, seed, time."""
    told = bool(evidence.predicted) and not compared(evidence)
    known = {
        "predicted": value(evidence.predicted) if told else None,
        "error": evidence.error if evidence.error is None else number(text(float(evidence.error), 2)),
        "interval": evidence.interval
        and value([outwards(float(end), 4, bool(up)) for up, end in enumerate(evidence.interval)]),
        "tolerance": evidence.tolerance if evidence.tolerance is None else number(text(float(evidence.tolerance), 2)),
        "judged by": html(evidence.tolerance_source) if evidence.tolerance_source else None,
        "cases": evidence.cases if evidence.cases is None else number(str(evidence.cases)),
        "n": evidence.n if evidence.n is None else number(str(evidence.n)),
        "seed": evidence.seed if evidence.seed is None else escape(evidence.seed),
        "seconds": evidence.seconds if evidence.seconds is None else number(text(float(evidence.seconds), 2)),
    }
    return {name: fact for name, fact in known.items() if fact is not None}


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
        "T2-beyond-chance",
    ),
    "figure_3": (
        "F3",
        "D",
        "A",
        "4.4-average",
        "4.4-better-than-lora",
        "4.4-better-than-lora-beyond-chance",
        "4.4-no-difference",
        "6-better-than-lora",
    ),
    "figure_4": ("F4", "E", "5.1", "5.2"),
    "figure_5": ("4-adaptor", "4-inversely-proportional"),
    "ripple": ("3.3",),
    "zero_initialisation": ("3.2-saddle-lora", "3.2-saddle-starts", "3.2-escape"),
    "deviation": ("3.1-bound", "3.1-bound-order", "3.1-benefit-large-n"),
    "crossover": ("3.1-sgd-crossover", "3.1-sgd-training-fit"),
    "escape": (
        "4-escape",
        "4-escape-fixed-rate-noise",
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
        "3.3-transformer-gradient-at-random",
        "3.3-transformer-measured",
    ),
    "learning_rates": (
        "4-own-best-rate",
        "4-own-best-rate-on-the-update",
        "4-own-best-rate-control",
        "4-own-best-rate-sgd",
        "4-own-best-rate-smollm2",
    ),
}


@dataclass(frozen=True)
class Picture:
    """A picture to embed: its name, its size in pixels, its content as a data URI, and what it shows in words."""

    name: str
    width: int
    height: int
    source: str
    description: str


def picture_of(identifier: str) -> str | None:
    """The picture about a claim."""
    keys = (identifier, identifier.partition("-")[0])  # a claim's own before its section's
    return next((name for key in keys for name, about in ABOUT.items() if key in about), None)


def _drawn_picture(name: str, folder: Path | None) -> Picture | None:
    """A drawn picture of `docs/` or another folder, scaled down and with few colors; None where it was not drawn."""
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


@dataclass(frozen=True)
class Entry:
    """A claim as the template takes it: the view, and what of it is HTML."""

    view: View
    part: str
    search: str
    says: str
    answer: Markup
    printed: Markup
    told: Mapping[str, Markup]
    short: Markup | None
    facts: Mapping[str, Markup]
    quantities: Sequence[Quantity]
    compared: bool
    commands: Sequence[str]
    code: Sequence[str]
    tests: Sequence[str]
    picture: str | None


def _entry(view: View, part: str, drawn: Mapping[str, Picture], own: bool) -> Entry:
    # `own`: this row read the caller's own records, of which there are no pictures.
    name, evidence, who = picture_of(view.id), view.evidence, said_by(view.where)
    mine = f"python -m allora_analysis --only {view.id}" + (" --results FOLDER" if own else "")
    words = (view.id, view.where, view.word, view.statement, view.answer, *view.told.values())
    return Entry(
        view=view,
        part=part,
        search=" ".join((*words, view.command, view.test)).casefold().replace("ς", "σ"),
        says={None: "The paper says", NOT_IN_THE_PAPER: "A sentence that is not in the paper"}.get(who, who),
        answer=html(view.answer) if view.error is None else escape(view.answer),
        printed=html(view.statement),
        told={label: html(text) for label, text in view.told.items()},
        short=summary(evidence) if evidence else None,
        facts=facts(evidence) if evidence else {},
        quantities=quantities(evidence) if evidence else (),
        compared=evidence is not None and compared(evidence),
        commands=tuple(dict.fromkeys((mine, view.command))),
        code=tuple(dict.fromkeys(filter(None, (view.check, *view.code)))),
        tests=tuple(word.strip() for word in view.test.split(",")),
        picture=name if name in drawn and not own else None,
    )


def page(rows: Sequence[Row], folder: Path | None = None, *, own: bool = False, interrupted: bool = False) -> str:
    """The ledger as one HTML document that loads nothing from elsewhere; the same rows give the same bytes."""
    shown = views(rows)
    reads = {row.claim.id for row in rows if own and row.claim.reads is not None}
    names = dict.fromkeys(name for one in shown if (name := picture_of(one.id)) is not None)
    drawn = {name: picture for name in names if (picture := _drawn_picture(name, folder)) is not None}
    parts = {f"part-{index}": title for index, title in enumerate(by_part(shown))}
    entries = {
        key: [_entry(one, key, drawn, one.id in reads) for one in by_part(shown)[title]] for key, title in parts.items()
    }
    counts = {key: Counter(one.view.word for one in of) for key, of in entries.items()}
    total = sum(counts.values(), Counter())
    templates = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template("ledger.html.jinja").render(
        parts=parts,
        entries=entries,
        counts=counts,
        total=total,
        verdicts=[verdict for verdict in (*VERDICTS, "error") if total[verdict]],
        meanings=MEANINGS,
        brackets=BRACKETS,
        all_claims=len(ledger.all_claims()),
        own=own,
        interrupted=interrupted,
        pictures=drawn,
        environment={name: NOTHING if value is None else value for name, value in environment().items()},
        style=_part("ledger.css"),
        script=_part("ledger.js"),
    )


def _part(name: str) -> Markup:
    # Our own files, with nothing of the rows in them.
    return Markup(files(__package__).joinpath("templates", name).read_text(encoding="utf-8"))
