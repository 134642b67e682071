"""The article to start with, `docs/few_steps.md`: its numbers computed, its quotes and verdicts from the ledger's rows.

A placeholder is {{ kind name }}: a field of a row (said, where, answer, size, of), its link (claim) or card, an
explorable, the recorded runs, or a number of `numbers`. Checked by `tests/test_docs_article.py`.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from allora_analysis import dropout_sgd, tikhonov
from allora_analysis.claims import s3_1_small_runs as laboratory
from allora_analysis.claims.ledger import Row
from allora_analysis.claims.masked_descent import Sgd
from allora_analysis.laboratory.table import RESULTS, read
from allora_analysis.plotting import COLOURS
from allora_analysis.render import view
from allora_analysis.render.markdown import escaped
from allora_analysis.statistics import one_sided
from allora_analysis.study import signed, text
from docs.site import claims, explorables
from docs.site.prose import ROOT

SOURCE = ROOT / "docs" / "few_steps.md"
PLACEHOLDER = re.compile(r"\{\{ (\w+) ?([\w.-]*) \}\}")
KEEP, CONDITION, PAPER_DROP, STEPS, NOISE = 0.7, 10.0, 0.05, 300, 1.0
"""As the explorables' sliders stand at first, but for the paper's own drop rate."""


def announced(home: str) -> str:
    """The home page in Markdown, with the way to the article below its picture.

    Args:
        home: Markdown.
    """
    way = "**Start here:** [Does LoRA's dropout work in few steps?](few_steps.md) Eight screens, four to play with."
    first, _, rest = home.partition("\n\n![")
    return f"---\nhide: [navigation]\n---\n\n{first}\n\n{way}\n\n![{rest}"


def page(rows: Sequence[Row]) -> str:
    """The article, in Markdown.

    Args:
        rows: the ledger's rows.
    """
    known, told = {row.claim.id: view.view(row) for row in rows}, numbers()
    # What stands before the title is for who reads the source.
    _, title, body = SOURCE.read_text(encoding="utf-8").partition("# Does")
    assert title, f"{SOURCE.name}: its title does not begin with Does"
    filled = PLACEHOLDER.sub(lambda match: _filled(match[1], match[2], known, told), title + body)
    return (
        f"---\ntitle: Does LoRA's dropout work in few steps?\nhide: [navigation]\nsearch: {{boost: 3}}\n---\n\n{filled}"
    )


def _filled(kind: str, name: str, known: Mapping[str, view.View], told: Mapping[str, str]) -> str:
    if kind in ("number", "explorable", "runs"):
        return {"number": told.get, "explorable": explorables.figure, "runs": lambda _: runs()}[kind](name)
    one = known[name]
    of = one.size.of if one.size else ""
    return {
        "said": lambda: escaped(one.statement),
        "where": lambda: escaped(one.where),
        "answer": lambda: escaped(one.answer),
        "size": lambda: escaped(view.size_text(one.size)),
        "of": lambda: escaped(of),
        "claim": lambda: f"[`{name}`](claims/{name}.md)",
        "card": lambda: claims.card(one, "", statement=False),
    }[kind]()


@cache
def numbers() -> dict[str, str]:
    """The article's numbers, written as it writes them.

    Returns:
        Text by name.
    """
    gap, at_paper = (_ridge_gap(keep) for keep in (KEEP, 1 - PAPER_DROP))
    with_dropout, without = race()
    best = [int(np.argmin(risk)) for risk in (with_dropout, without)]
    return {
        "keep_prob": text(KEEP),
        "condition": text(CONDITION),
        "paper_drop": text(PAPER_DROP),
        "ridge_gap": f"{100 * gap:.0f} %",
        "ridge_gap_paper": f"{100 * at_paper:.0f} %",
        "steps": str(STEPS),
        "dropout_end": text(with_dropout[-1], 3),
        "plain_end": text(without[-1], 3),
        "dropout_best": text(with_dropout[best[0]], 3),
        "plain_best": text(without[best[1]], 3),
        "dropout_step": str(best[0]),
        "plain_step": str(best[1]),
        "seeds": str(len(differences()[0.4, laboratory.STEPS[0]])),
    }


def _ridge_gap(keep_prob: float) -> float:
    singular = np.geomspace(1, 1 / CONDITION, 8)
    return tikhonov.nearest_ridge(np.diag(singular), np.ones((8, 1)), keep_prob, "output").distance


def race() -> tuple[np.ndarray, np.ndarray]:
    """Risks by step with dropout and without, as the explorable `pays` draws them at first.

    Returns:
        Two arrays of `STEPS` + 1.
    """
    singular, angles = np.geomspace(1, 1 / 4, 4), np.pi * (np.arange(8)[:, None] + 0.5) * np.arange(1, 5) / 8
    x, w = singular * np.cos(angles) / 2, np.full(4, 0.5)
    noise = NOISE * float(np.linalg.norm(x @ w)) / np.sqrt(8)
    one = Sgd(x, w, noise, KEEP, 0.1 * KEEP, STEPS, "output")
    run = dropout_sgd.trajectory(x, one.labels, KEEP, one.rate, STEPS, w_true=one.truth)
    return run.risk, run.risk_plain


@cache
def differences() -> dict[tuple[float, int], np.ndarray]:
    """Test accuracy with dropout less without, in points, by drop rate and steps: a number for each seed."""
    table, found = read(RESULTS / "digits.jsonl"), {}
    for steps in laboratory.STEPS:
        by_rate = laboratory.cells(steps)
        for rate in (0.05, 0.4):
            gaps = table.differences(by_rate[rate], by_rate[0.0], "accuracy", laboratory.SEEDS["input"])
            found[rate, steps] = 100 * np.array(gaps)
    return found


def runs() -> str:
    """The recorded runs as an SVG: a dot a seed, a bar for the mean and its 90 % interval."""
    reach = 1.05 * max(float(np.abs(gaps).max()) for gaps in differences().values())
    rows, at = [], lambda value: 340 + 300 * value / reach
    for index, ((rate, steps), gaps) in enumerate(sorted(differences().items(), key=lambda item: item[0][::-1])):
        y, found = 44 + 66 * index, one_sided(gaps, "t")
        low, high = found.interval
        rows.append(f'<text x="0" y="{y - 24}">drop rate {rate:g}, {steps} steps</text>')
        dots = zip(gaps, np.resize([-14, -7, 0, 7, 14], len(gaps)), strict=True)
        rows += [f'<circle cx="{at(gap):.1f}" cy="{y + shift}" r="2.5"/>' for gap, shift in dots]
        rows.append(f'<path class="interval" d="M {at(low):.1f} {y} H {at(high):.1f}"/>')
        rows.append(f'<circle class="mean" cx="{at(found.mean):.1f}" cy="{y}" r="6"/>')
    end = 38 + 66 * len(differences())
    ticks = [-int(reach), 0, int(reach)]
    rows += [f'<text class="tick" x="{at(tick):.1f}" y="{end + 4}">{signed(tick, 0)}</text>' for tick in ticks]
    told = "; ".join(f"drop rate {r:g}, {s} steps: {signed(np.mean(g), 1)}" for (r, s), g in differences().items())
    label = f'role="img" aria-label="Mean points by drop rate and steps. {told}"'
    zero = f'<path class="zero" d="M {at(0)} 10 V {end - 14}"/>'
    return (
        f'<figure class="runs" style="--tone: {COLOURS["dropout"]}">'
        f'<svg viewBox="0 0 660 {end + 12}" {label}>{zero}{"".join(rows)}</svg>'
        "<figcaption>Points of test accuracy that dropout gains, a dot a seed; the bar is the mean with its 90 % "
        "interval (<code>python -m experiments.laboratory --part contrasts</code>).</figcaption></figure>"
    )
