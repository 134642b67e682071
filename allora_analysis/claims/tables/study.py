"""The reported numbers as a study: every disagreement with both numbers, and what the gaps amount to.

A contrast's summary has its gaps, Student's interval and the ledger's rule. Checked by
`tests/test_claims_tables_contrasts.py` and `tests/test_claims_tables_cli.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from allora_analysis.claims.tables.accuracies import commonsense_cells, perception_cells
from allora_analysis.claims.tables.contrasts import CONTRASTS, QUESTIONS, Gaps, family, judged, of
from allora_analysis.claims.tables.reported import DENOMINATORS, disagreements, table_1_parameters
from allora_analysis.statistics import Judgement, required_n
from allora_analysis.statistics.paired import student
from allora_analysis.study import Result, Study, Table, text
from allora_analysis.validation import ArgumentError, positive, probability, several

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What §4.4–§5.2 state as average improvements, percentage points; the other two contrasts have no stated average.
STATED = {
    "ALLoRA − LoRA": 0.3,
    "ALLoRA − DoRA": 0.3,
    "ALLoRA-0 − DoRA": 0.3,
    "ALLoRA − ALLoRA-OD": 0.3,
    "ALLoRA − ASF-LoRA": 1.0,
    "ALLoRA − LoRA×η": 0.9,
}


@dataclass(frozen=True)
class Config:
    """The paper's reported numbers: disagreements between tables, figures and prose; paired tests over the cells."""

    level: float = 0.05
    """Size of the tests, family-wise over the contrasts; intervals have confidence 1 - level."""
    power: float = 0.8
    """Wanted power of the clusters and seeds needed; above the level."""
    standard_deviations: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0)
    """Assumed standard deviations of a seed's paired difference, in percentage points, for the seeds needed."""
    explained: bool = True
    """Also list differences in the last digit, which rounding explains."""


@dataclass(frozen=True)
class Summary:
    """What the reported cells say about a contrast; gaps in percentage points."""

    contrast: str
    cells: int
    positive: int  # cells in favor of the arm said to be better
    negative: int  # cells against it
    mean: float
    clusters: int
    clusters_positive: int  # with a positive mean
    interval: tuple[float, float]  # Student's t interval of the mean over clusters, two-sided
    by_the_rule: Judgement  # one-sided and within its question, as the ledger judges it


def seeds_needed(
    effect: float, standard_deviations: Sequence[float], power: float = 0.8, level: float = 0.05
) -> dict[float, int | None]:
    """Paired runs (seeds) that one cell needs to see a gap, by the standard deviation of a seed's paired difference.

    The tables report means of five runs and no spread, so the deviation is a range and not an estimate.

    Args:
        effect: the gap in percentage points.
        standard_deviations: of the difference between the two arms at one seed, percentage points, above 0.
        power: of the two-sided paired t-test.
        level: size of the test.

    Returns:
        Seeds by standard deviation; None where the gap is 0.
    """
    deviations = [
        positive("standard_deviations", value) for value in several("standard_deviations", standard_deviations)
    ]
    return {d: required_n(effect, d, power, level) if effect else None for d in deviations}


def contrast_summaries(level: float = 0.05, power: float = 0.8) -> dict[str, Summary]:
    """The nine contrasts, judged by the ledger's rule.

    Args:
        level: family-wise size of the tests; intervals have confidence 1 − level.
        power: for the clusters needed.

    Returns:
        One summary a contrast, by name.
    """
    probability("level", level)
    rule: dict[str, Judgement] = {}
    for names in QUESTIONS.values():
        rule |= judged(family(names[0]), level, power)
    names = [contrast.name for contrast in CONTRASTS]
    return {name: _summary(name, of(name), level, rule[name]) for name in names}


def _summary(name: str, item: Gaps, level: float, rule: Judgement) -> Summary:
    means = np.array(list(item.by_cluster().values()))
    return Summary(
        contrast=name,
        cells=item.values.size,
        positive=int((item.values > 0).sum()),
        negative=int((item.values < 0).sum()),
        mean=float(item.values.mean()),
        clusters=means.size,
        clusters_positive=int((means > 0).sum()),
        interval=student(means, 1 - level)[0],
        by_the_rule=rule,
    )


def run(config: Config) -> Result:
    """All disagreements, contrasts and distances to the majority rates."""
    level, power = probability("level", config.level), probability("power", config.power)
    if power <= level:
        raise ArgumentError(f"power must be above level = {level:g} (that much comes by chance), received {power:g}")
    deviations = [
        positive("standard_deviations", d) for d in several("standard_deviations", config.standard_deviations)
    ]
    rows = disagreements(config.explained)
    found = contrast_summaries(level, power)
    seeds = {
        name: {f"{d:g}": n for d, n in seeds_needed(item.mean, deviations, power, level).items()}
        for name, item in found.items()
    }
    cells = (*perception_cells(), *commonsense_cells())
    return Result(
        predicted={
            "disagreements": [row.printed for row in rows],
            "average_improvement": STATED,
            "trainable_percent": {item.where: float(item.printed) for item in table_1_parameters("all")},
        },
        measured={
            "disagreements": [row.recomputed for row in rows],
            "disagreement_places": [row.where for row in rows],
            "disagreement_bases": [row.basis for row in rows],
            "explained_by_rounding": [row.explained_by_rounding for row in rows],
            "average_improvement": {name: found[name].mean for name in STATED},
            **{
                f"trainable_percent_of_{base}": {i.where: float(i.recomputed) for i in table_1_parameters(base)}
                for base in DENOMINATORS
            },
            "contrasts": {name: dataclasses.asdict(item) for name, item in found.items()},
            "seeds_needed_by_paired_std": seeds,
            "above_majority": [dataclasses.asdict(cell) for cell in cells],
        },
    )


def table(config: Config, result: Result) -> Table:
    """The disagreements, those that rounding cannot explain first; contrasts and majority rates as notes.

    The column "rounding?" says whether rounding of inputs and result can explain the difference.
    """
    measured = result.measured
    columns = ("disagreement_places", "disagreement_bases", "disagreements", "explained_by_rounding")
    rows = zip(result.predicted["disagreements"], *(measured[name] for name in columns), strict=True)
    cells = [
        (
            where,
            f"{printed:.2f}",
            f"{recomputed:.4f}",
            f"{printed - recomputed:+.4f}",
            "yes" if explained else "NO",
            basis,
        )
        for printed, where, basis, recomputed, explained in sorted(rows, key=lambda row: row[4])
    ]
    heading = ("printed at", "printed", "recomputed", "difference", "rounding?", "recomputed from")
    return Table("Printed numbers that their recomputation does not round to", heading, cells, notes(config, measured))


def notes(config: Config, measured: dict) -> list[str]:
    """One line a contrast, then the cells that the majority label alone would reach."""
    lines = [
        "",
        "Mean gaps over cells (points), by exact sign flips over clusters: one-sided, Holm within the question,",
        "as the ledger judges them; in brackets Student's interval over clusters:",
    ]
    for name, item in measured["contrasts"].items():
        seeds = ", ".join(f"{n} at {d}" for d, n in measured["seeds_needed_by_paired_std"][name].items())
        (low, high), rule = item["interval"], item["by_the_rule"]
        wanted = f", needs {rule['needed']} clusters" if rule["needed"] else ""
        lines.append(
            f"  {name:19} {item['mean']:+.2f} [{low:+.2f}, {high:+.2f}]  cells {item['positive']}+ {item['negative']}− "
            f"of {item['cells']}, clusters {item['clusters_positive']}+ of {item['clusters']}, "
            f"p = {text(rule['p_value'], 2)}, Holm {text(rule['adjusted_p_value'], 2)}: {rule['verdict']}{wanted}; "
            f"seeds that a cell needs: {seeds}"
        )
    near = [cell for cell in measured["above_majority"] if cell["distance"] is not None]
    near = [cell for cell in near if cell["distance"] <= 1.96 * cell["stderr"]]
    lines += ["", f"Within 1.96 binomial standard errors of the majority label's rate: {len(near)} cells"]
    lines += [f"  {c['where']}: {c['accuracy']:.2f} against {c['majority']:.2f} ± {c['stderr']:.2f}" for c in near]
    lines += [f"Level {config.level:g}, power {config.power:g}; the tables report no spread: deviations are assumed."]
    return lines


def plot(config: Config, result: Result) -> Figure:
    """Every contrast's cells, cluster means and interval on one axis of percentage points."""
    from allora_analysis.plotting import COLOURS, panels

    figure, (axis,) = panels()
    names = [contrast.name for contrast in CONTRASTS]
    for height, contrast in enumerate(CONTRASTS):
        found, summary = of(contrast.name), result.measured["contrasts"][contrast.name]
        means = list(found.by_cluster().values())
        first = height == 0
        axis.plot(found.values, [height + 0.22] * found.values.size, "|", color=COLOURS["other"], label="cell" * first)
        axis.plot(
            means, [height] * len(means), "o", ms=4, mfc="none", color=COLOURS["predicted"], label="cluster" * first
        )
        low, high = summary["interval"]
        axis.plot(
            [low, high],
            [height - 0.22] * 2,
            color=COLOURS["measured"],
            label=f"{1 - config.level:.0%} interval" * first,
        )
        axis.plot(summary["mean"], height - 0.22, "s", ms=4, color=COLOURS["measured"])
    axis.axvline(0, color="0.5", lw=0.8)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("accuracy gap (percentage points)")
    axis.set_title("Reported gaps: cells, clusters, mean over clusters", fontsize=9)
    figure.legend(loc="outside upper center", ncols=3, fontsize=7)
    return figure


STUDY = Study("claims.tables", Config, run, table, plot, "--figure tables.png")
