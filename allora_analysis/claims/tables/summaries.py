"""What the reported cells say about each contrast: tests, intervals, and the sample sizes that they would need.

The verdict rests on exact sign flips of the cluster means (each cluster a unit), Holm-adjusted over `CONTRASTS`; tests
over cells are shown beside it, and are too sure of themselves. Checked by `tests/test_claims_tables_contrasts.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.claims.tables.contrasts import CONTRASTS, Gaps, gaps
from allora_analysis.statistics import clustered_test, holm, paired_test, required_n, sign_flip_test
from allora_analysis.statistics.z_tests import rate
from allora_analysis.validation import count, positive, several, vector


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
        adjusted_p_value: the same, Holm-adjusted over all contrasts.
        smallest_p_value: the least that this many clusters can give, before adjustment.
        smallest_adjusted_p_value: the least after Holm's adjustment, whatever the gaps of this and of the other
            contrasts: above the level, no gaps could have decided it.
        t_p_value: Student's t over clusters.
        wilcoxon_clusters: signed ranks over clusters.
        sign_clusters: signs over clusters.
        wilcoxon_cells: signed ranks over cells, as if these were independent.
        sign_cells: signs over cells, likewise.
        clusters_needed: clusters at which sign flips can reject at all after Holm's first step and Student's t over
            clusters of this mean and spread has the wanted power there; None where the mean gap is 0.
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


def clusters_to_reject(level: float) -> int:
    """The least number of clusters at which two-sided sign flips can reject at all: 2^{1 − n} ≤ level.

    Args:
        level: size of the test (family-wise level over the number of contrasts, at Holm's first step).

    Returns:
        n.
    """
    return int(np.ceil(1 - np.log2(rate("level", level)) - 1e-12))


def clusters_needed(means: ArrayLike, level: float, power: float, family: int = len(CONTRASTS)) -> int | None:
    """Clusters of this mean and spread that are needed, at Holm's strictest step level/family.

    Args:
        means: the cluster means at hand.
        level: family-wise size of the test.
        power: wanted power of Student's t over clusters.
        family: number of contrasts.

    Returns:
        The larger of that n and the least at which flips reject with this power; None where the mean is 0. That is
        `clusters_to_reject`, where all clusters must share a sign, or one more.
    """
    return _needed(vector("means", means), level / count("family", family), power)


def _needed(means: Float[np.ndarray, " clusters"], step: float, power: float) -> int | None:
    from scipy.special import ndtr

    mean, spread = float(means.mean()), float(means.std(ddof=1))
    if not mean:
        return None
    least = clusters_to_reject(step)
    one_sign = ndtr(mean / spread) ** least + ndtr(-mean / spread) ** least
    return max(required_n(mean, spread, power, step), least + int(one_sign < power))


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
    """All contrasts, Holm-adjusted together.

    Args:
        level: family-wise size of the tests; intervals have confidence 1 − level.
        power: for the clusters needed.

    Returns:
        One summary a contrast, by name.
    """
    found = {contrast.name: gaps(contrast.table, contrast.better, contrast.worse) for contrast in CONTRASTS}
    flips = [sign_flip_test(list(item.by_cluster().values())).p_value for item in found.values()]
    least = smallest_adjusted([len(item.by_cluster()) for item in found.values()])
    return {
        name: summary(name, item, (float(p_value), smallest), level, power)
        for (name, item), p_value, smallest in zip(found.items(), holm(flips), least, strict=True)
    }


def smallest_adjusted(clusters: Sequence[int]) -> list[float]:
    """The least Holm-adjusted p-value that each contrast can have, whatever the gaps: Holm's of 2^{1 − n}.

    An adjusted p-value rises with every p-value of the family, and n clusters, none of mean 0, give 2^{1 − n} or more.

    Args:
        clusters: of each contrast of the family, n.

    Returns:
        One p-value a contrast.
    """
    return [float(p_value) for p_value in holm([2.0 ** (1 - count("clusters", n)) for n in clusters])]


def summary(name: str, item: Gaps, adjusted: tuple[float, float], level: float, power: float) -> Summary:
    """One contrast's summary.

    Args:
        name: the contrast's.
        item: its gaps.
        adjusted: p-value of the sign flips, and the least that it could have been, both from the family.
        level: the intervals have confidence 1 − level.
        power: for the clusters needed.

    Returns:
        The summary.
    """
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
    )
