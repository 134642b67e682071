"""Paired contrasts between arms over the reported cells, the questions that they answer, and what the cells say.

A cell is one (model, data set, η²) of Tables 3 and 4 or one (model, rank, task) of Table 1. Cells are not independent:
the three η² of one (model, data set) share the model and the test set, and Table 1's eight tasks are answered by one
fine-tuned model. The unit is therefore the cluster, a (model, data set) or a (model, rank), with the mean of its cells.

The ledger's verdicts follow the rule of `statistics.directional`, a question of `QUESTIONS` a family (`judged`).
`contrast_summaries` shows beside that what stricter and laxer readings would give: two-sided, Holm over all nine
contrasts; signed ranks, signs and t. Checked by `tests/test_claims_tables_contrasts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.claims.cases import Case, Cases
from allora_analysis.claims.claim import Evidence, Finding, Size
from allora_analysis.claims.tables.arithmetic import TABLES, by_key, exact
from allora_analysis.claims.tables.reported import TABLE_1, TASKS, Cell
from allora_analysis.statistics import (
    Judgement,
    clustered_test,
    decide,
    holm,
    judge_family,
    paired_test,
    required_n,
    sides,
    sign_flip_test,
    units_to_reject,
)
from allora_analysis.statistics.z_tests import rate
from allora_analysis.validation import ArgumentError, count, positive, several, vector

Label = tuple[str, ...]
MARGIN = 0.5
"""Percentage points: arms that differ by less are called equal. Half a point is what the desk experiments ask for."""


RULE = (
    "exact sign flips of cluster means, one-sided at 0.05, Holm within the question; interval: the means that neither "
    "one-sided test rejects, 90 %"
)


@dataclass(frozen=True)
class Contrast:
    """Two arms of one table; a positive gap says that `better`, the arm that the paper says is better, is."""

    name: str
    table: str
    better: str
    worse: str


CONTRASTS = tuple(
    Contrast(f"{better} − {worse}", table, better, worse)
    for table, better, worse in (
        ("Table 3", "ALLoRA", "LoRA"),
        ("Table 3", "ALLoRA-0", "LoRA"),
        ("Table 1", "ALLoRA", "DoRA"),
        ("Table 1", "ALLoRA-0", "DoRA"),
        ("Table 4", "ALLoRA", "ALLoRA-OD"),
        ("Table 4", "ALLoRA", "ASF-LoRA"),
        ("Table 4", "ALLoRA", "LoRA×η"),
        ("Table 4", "LoRA×η", "ASF-LoRA"),
        ("Table 4", "ALLoRA-OD", "ASF-LoRA"),
    )
)
EQUAL = Contrast("ALLoRA-0 − ALLoRA", "Table 3", "ALLoRA-0", "ALLoRA")
"""The contrast of which the paper says that there is no evident difference."""
BY_NAME = {contrast.name: contrast for contrast in (*CONTRASTS, EQUAL)}
QUESTIONS = {
    "Table 1: is ALLoRA better than DoRA?": ("ALLoRA − DoRA", "ALLoRA-0 − DoRA"),
    "Table 3: is ALLoRA better than LoRA, with dropout and without?": (
        "ALLoRA-0 − ALLoRA",
        "ALLoRA − LoRA",
        "ALLoRA-0 − LoRA",
    ),
    "Table 4: is ALLoRA better than the rest of the family?": (
        "ALLoRA − ALLoRA-OD",
        "ALLoRA − ASF-LoRA",
        "ALLoRA − LoRA×η",
    ),
    "Table 4: is ASF-LoRA worse than the others?": ("LoRA×η − ASF-LoRA", "ALLoRA-OD − ASF-LoRA"),
}


@dataclass(frozen=True)
class Gaps:
    """A contrast's gaps in percentage points, one a cell, with labels.

    Attributes:
        values: better − worse.
        labels: each cell's full label: (model, data set, η²) or (model, rank, task).
        clusters: each cell's cluster: (model, data set) or (model, rank).
    """

    values: Float[np.ndarray, " cells"]
    labels: tuple[Label, ...]
    clusters: tuple[Label, ...]

    def by_cluster(self) -> dict[Label, float]:
        """The mean gap of each cluster, in order of appearance."""
        return _averages(self.values, self.clusters)

    def by_part(self, parts: Sequence[int] = (0, 1, 2)) -> dict[str, float]:
        """The mean gap by each part of the labels: by model, by data set and by η²; by model, by rank and by task."""
        found: dict[str, float] = {}
        for part in parts:
            found |= _averages(self.values, [label[part] for label in self.labels])
        return found


def _averages(values: Iterable[float], labels: Sequence) -> dict:
    groups: dict = {}
    for value, label in zip(values, labels, strict=True):
        groups.setdefault(label, []).append(float(value))
    return {label: float(np.mean(group)) for label, group in groups.items()}


def gap(better: float, worse: float) -> float:
    """Better − worse of two printed numbers, exact before the last conversion."""
    return float(exact(better) - exact(worse))


def gaps(table: str, better: str, worse: str, cells: Sequence[Cell] | None = None) -> Gaps:
    """The gaps between two arms of a table.

    Args:
        table: "Table 1", "Table 3" or "Table 4".
        better: one arm.
        worse: the other.
        cells: instead of the table's own (Tables 3 and 4 only).

    Returns:
        One gap a cell.

    Raises:
        ArgumentError: an arm that the table does not have.
    """
    accuracies = _accuracies(table, cells)
    arms = dict.fromkeys(arm for *_, arm in accuracies)
    for name, arm in (("better", better), ("worse", worse)):
        if arm not in arms:
            raise ArgumentError(f"{name} must be one of {', '.join(arms)} in {table}; received {arm!r}")
    labels = tuple(key[:3] for key in accuracies if key[3] == better)
    values = np.array([gap(accuracies[(*label, better)], accuracies[(*label, worse)]) for label in labels])
    return Gaps(values, labels, tuple(label[:2] for label in labels))


def _accuracies(table: str, cells: Sequence[Cell] | None) -> dict[Label, float]:
    if table == "Table 1":
        return {
            (row.model, f"r = {row.rank}", task, row.arm): accuracy
            for row in TABLE_1
            for task, accuracy in zip(TASKS, row.accuracies, strict=True)
        }
    if table not in TABLES:
        raise ArgumentError(f"table must be one of Table 1, {', '.join(TABLES)}; received {table!r}")
    return {
        (m, d, f"η² = {eta:g}", arm): value
        for (m, d, eta, arm), value in by_key(TABLES[table] if cells is None else cells).items()
    }


def of(name: str, cells: Sequence[Cell] | None = None) -> Gaps:
    """The gaps of a contrast by its name."""
    contrast = BY_NAME[name]
    return gaps(contrast.table, contrast.better, contrast.worse, cells)


def family(name: str) -> dict[str, Float[np.ndarray, " clusters"]]:
    """The cluster means of all contrasts of the question that a contrast belongs to."""
    (names,) = (names for names in QUESTIONS.values() if name in names)
    return {other: np.array(list(of(other).by_cluster().values())) for other in names}


def judged(
    means: dict[str, ArrayLike], level: float = 0.05, power: float = 0.8, margin: float = MARGIN
) -> dict[str, Judgement]:
    """The contrasts of one question, judged by the rule of `statistics.directional` on their cluster means."""
    return judge_family(means, "sign flips", level, power, {EQUAL.name: margin} if EQUAL.name in means else None, 1e-9)


def split(means: Mapping[str, ArrayLike], margins: Mapping[str, float]) -> dict[str, Float[np.ndarray, " clusters"]]:
    """The samples that `cases.test` takes: a comparison's differences, or its distances to the two margins."""
    found = {}
    for name, values in means.items():
        named = sides(np.asarray(values), margins.get(name))
        found |= {name if len(named) == 1 else f"{name}, side {i}": side for i, side in enumerate(named, 1)}
    return found


def joined(samples: Mapping[str, Float[np.ndarray, " clusters"]]) -> dict[str, list[Float[np.ndarray, " clusters"]]]:
    """The sides of each comparison again, from what `split` made of them."""
    found: dict[str, list] = {}
    for name, values in samples.items():
        found.setdefault(name.partition(", side ")[0], []).append(values)
    return found


def by_the_rule(
    cases: Cases, name: str, answers: Mapping[str, str], more: Mapping[str, Any] | None = None, margin: float = MARGIN
) -> Finding:
    """A sentence about one contrast, judged within its question; answers may hold {mean}, {p}, {cells}, {clusters}."""
    means, found = family(name), of(name)
    tested = cases.test(
        split(means, {EQUAL.name: margin}), lambda samples: decide(joined(samples), grain=1e-9)[name].verdict
    )
    one = judged(means, margin=margin)[name]
    told = {
        "mean": f"{one.mean:+.2f}",
        "p": f"{one.adjusted_p_value:.2g}",
        "cells": f"{int((found.values > 0).sum())} of {found.values.size}",
        "clusters": f"{int((means[name] > 0).sum())} of {one.n}",
    }
    measured = asdict(one) | {f"{kind} above 0": told[kind] for kind in ("cells", "clusters")} | dict(more or {})
    measured |= {"by model, by data set or rank, by setting": found.by_part()}
    needed = "no number of clusters, at a mean or spread of 0" if one.needed is None else f"{one.needed} clusters"
    if one.needed_interval is not None:
        needed += f" of this mean and spread ({one.needed_interval[0]} to {one.needed_interval[1]})"
    undecided = tested.verdict == "undecided"
    predicted = {"mean gap": "above 0" if one.margin is None else f"within ± {one.margin:g}"}
    return tested.finding(
        {verdict: words.format(**told) for verdict, words in answers.items()},
        evidence=Evidence(predicted, measured, RULE, tolerance=one.margin, interval=one.interval, n=one.n),
        size=Size(one.mean, "percentage points", f"the mean gap {name}", *(one.interval or (None, None))),
        corrected=f"would be decided by {needed}" if undecided else None,
        flips_if=needed if undecided else "cluster means of which the adjusted p-value is above 0.05",
        at_paper=bool(one.mean > 0) if one.margin is None else bool(abs(one.mean) < one.margin),
    )


def everywhere(
    cases: Cases, values: Mapping[str, float], answer: str, more: Mapping[str, Any] | None = None
) -> Finding:
    """A sentence that claims every case, of printed gaps: one not above 0 refutes it; {k} of {n} in the answer."""
    tested = cases.test(
        {name: [value] for name, value in values.items()},
        lambda samples: "holds" if all(value > 0 for (value,) in samples.values()) else "refuted",
    )
    passed, against = sum(value > 0 for value in values.values()), {n: v for n, v in values.items() if v <= 0}
    source = "order of printed numbers; whether it is more than chance: the rows that are tested"
    measured = {"above 0": passed, "not above 0": against} | dict(more or {})
    return tested.finding(
        {"refuted": answer.format(k=passed, n=len(values)), "holds": f"Yes: in all {len(values)}."},
        evidence=Evidence({"above 0": len(values)}, measured, source, n=len(values)),
        size=Size(100 * passed / len(values), "%", "of the cases in which the sentence is true as printed"),
        flips_if="every one of the printed gaps above 0",
        at_paper=passed == len(values),
    )


def average_is(
    cases: Cases, stated: float, names: Sequence[str], printed: Callable[[str], Mapping[str, float]]
) -> Finding:
    """Whether mean gaps over all cells round to the one decimal stated; `printed`: the same cluster by cluster."""
    judged = cases.judge(
        [Case(name, (name, printed(name))) for name in names],
        measure=lambda one: {", ".join(cluster): value for cluster, value in of(one[0]).by_cluster().items()},
        printed=lambda one, seen: (
            abs(float(np.mean(list(seen.values()))) - stated) <= 0.05 + 1e-9
            and all(abs(seen[cluster] - value) <= 0.1 + 1e-9 for cluster, value in one[1].items())
        ),
    )
    means = [float(of(name).values.mean()) for name in names]
    between = " and ".join(f"{value:.2f}" for value in means)
    return judged.finding(
        {"holds": f"Yes: {between} points on average over the cells of the table."},
        evidence=judged.evidence("rounding to the one decimal stated", lambda one: one[1], tolerance=0.05),
        size=Size(float(np.mean(means)), "percentage points", "the mean gap", min(means), max(means)),
        flips_if=f"a mean gap outside {stated:g} ± 0.05",
    )


@dataclass(frozen=True)
class Summary:
    """What the reported cells say about a contrast; gaps in percentage points, p-values two-sided.

    Attributes:
        contrast: its name.
        cells: number of cells.
        positive: cells in favour of the arm said to be better.
        negative: cells against it.
        mean: mean gap.
        clusters: number of clusters.
        clusters_positive: clusters with a positive mean.
        interval: Student's t interval of the mean over clusters.
        p_value: exact sign flips of the cluster means.
        adjusted_p_value: the same, Holm-adjusted over all nine contrasts.
        smallest_p_value: the least that this many clusters can give, before adjustment.
        smallest_adjusted_p_value: the least after that adjustment, whatever the gaps of this and the other contrasts.
        t_p_value: Student's t over clusters.
        wilcoxon_clusters: signed ranks over clusters.
        sign_clusters: signs over clusters.
        wilcoxon_cells: signed ranks over cells, as if these were independent.
        sign_cells: signs over cells, likewise.
        clusters_needed: clusters at which sign flips can reject at all after Holm's first step and Student's t over
            clusters of this mean and spread has the wanted power there; None where the mean gap is 0.
        by_the_rule: one-sided and within its question, as the ledger judges it.
    """

    contrast: str
    cells: int
    positive: int
    negative: int
    mean: float
    clusters: int
    clusters_positive: int
    interval: tuple[float, float]
    p_value: float
    adjusted_p_value: float
    smallest_p_value: float
    smallest_adjusted_p_value: float
    t_p_value: float
    wilcoxon_clusters: float
    sign_clusters: float
    wilcoxon_cells: float
    sign_cells: float
    clusters_needed: int | None
    by_the_rule: Judgement


def clusters_needed(means: ArrayLike, level: float, power: float, family: int = len(CONTRASTS)) -> int | None:
    """Clusters of this mean and spread that two-sided tests need, at Holm's strictest step level/family.

    Args:
        means: the cluster means at hand.
        level: family-wise size of the test.
        power: wanted power of Student's t over clusters.
        family: number of contrasts.

    Returns:
        The larger of that n and the least at which flips reject with this power (where all clusters must share a sign,
        or one more); None where the mean is 0.
    """
    from scipy.special import ndtr

    values, step = vector("means", means), level / count("family", family)
    centre, spread = float(values.mean()), float(values.std(ddof=1))
    if not centre:
        return None
    least = units_to_reject(step / 2)
    one_sign = ndtr(centre / spread) ** least + ndtr(-centre / spread) ** least
    return max(required_n(centre, spread, power, step), least + int(one_sign < power))


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
    """The nine contrasts: by the ledger's rule, and two-sided with Holm over all of them.

    Args:
        level: family-wise size of the tests; intervals have confidence 1 − level.
        power: for the clusters needed.

    Returns:
        One summary a contrast, by name.
    """
    rate("level", level)
    found = {contrast.name: of(contrast.name) for contrast in CONTRASTS}
    rule = {}
    for names in QUESTIONS.values():
        rule |= judged(family(names[0]), level, power)
    flips = [sign_flip_test(list(item.by_cluster().values())).p_value for item in found.values()]
    least = smallest_adjusted([len(item.by_cluster()) for item in found.values()])
    return {
        name: _summary(name, item, (float(p_value), smallest), (level, power), rule[name])
        for (name, item), p_value, smallest in zip(found.items(), holm(flips), least, strict=True)
    }


def smallest_adjusted(clusters: Sequence[int]) -> list[float]:
    """The least two-sided p-value after Holm that each contrast can have, whatever the gaps: Holm's of 2^{1 − n}."""
    return [float(p_value) for p_value in holm([2.0 ** (1 - count("clusters", n)) for n in clusters])]


def _summary(name: str, item: Gaps, adjusted: tuple, sizes: tuple, rule: Judgement) -> Summary:
    level, power = sizes
    means = np.array(list(item.by_cluster().values()))
    zeros, cell_zeros = np.zeros_like(means), np.zeros_like(item.values)
    clustered = clustered_test(item.values, item.clusters, 1 - level)
    return Summary(
        contrast=name,
        cells=item.values.size,
        positive=int((item.values > 0).sum()),
        negative=int((item.values < 0).sum()),
        mean=float(item.values.mean()),
        clusters=means.size,
        clusters_positive=int((means > 0).sum()),
        interval=clustered.interval,
        p_value=clustered.p_value,
        adjusted_p_value=adjusted[0],
        smallest_p_value=sign_flip_test(means).smallest_p_value,
        smallest_adjusted_p_value=adjusted[1],
        t_p_value=clustered.t_p_value,
        wilcoxon_clusters=paired_test(means, zeros, "wilcoxon").p_value,
        sign_clusters=paired_test(means, zeros, "sign").p_value,
        wilcoxon_cells=paired_test(item.values, cell_zeros, "wilcoxon").p_value,
        sign_cells=paired_test(item.values, cell_zeros, "sign").p_value,
        clusters_needed=clusters_needed(means, level, power),
        by_the_rule=rule,
    )
