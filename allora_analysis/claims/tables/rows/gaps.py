"""Sentences of the paper that say one arm is better: tested on the reported cells, clustered, Holm-adjusted.

A verdict comes from exact two-sided sign flips over the (model, data set) or (model, rank) means, adjusted over the
nine contrasts of `tables.contrasts`. With so few clusters most are `undecided`, those of six clusters whatever their
gaps are; the row says so, and how many clusters would do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from allora_analysis.claims.ledger import Claim, Evidence, Finding
from allora_analysis.claims.tables import arithmetic, contrasts, summaries
from allora_analysis.claims.tables.rows.numbers import COMMAND, TEST

LEVEL, POWER = 0.05, 0.8
DEVIATIONS = (0.1, 0.25, 0.5, 1.0, 2.0)
# Two arms count as equal if they differ by less than the improvement that the paper reports over LoRA.
MARGIN = 0.28


def direction(summary: summaries.Summary, level: float) -> str:
    """The verdict on "this arm is better": by the adjusted p-value, then the mean's sign.

    Args:
        summary: of the contrast.
        level: family-wise.

    Returns:
        holds, refuted or undecided.
    """
    if summary.adjusted_p_value > level:
        return "undecided"
    return "holds" if summary.mean > 0 else "refuted"


def better(name: str) -> Callable[[], Finding]:
    """The check of one contrast.

    Args:
        name: of the contrast.

    Returns:
        The check.
    """

    def check() -> Finding:
        found = summaries.contrast_summaries(LEVEL, POWER)[name]
        verdict = direction(found, LEVEL)
        seeds = {f"{d:g}": n for d, n in summaries.seeds_needed(found.mean, DEVIATIONS, POWER, LEVEL).items()}
        measured = dataclasses.asdict(found) | {"seeds_needed_by_paired_std": seeds}
        if name == "ALLoRA − LoRA":
            mended = contrasts.gaps("Table 3", "ALLoRA", "LoRA", arithmetic.with_exchanged())
            measured["mean_as_figure_3_has_it"] = float(mended.values.mean())
        source = (
            f"level {LEVEL} over {len(contrasts.CONTRASTS)} contrasts (Holm), exact two-sided sign flips of cluster "
            f"means; interval: Student's t, {1 - LEVEL:.0%}"
        )
        evidence = Evidence({"mean": "> 0"}, measured, source, interval=found.interval, n=found.clusters)
        return Finding(verdict, evidence, needed(found) if verdict == "undecided" else None)

    return check


def needed(found: summaries.Summary) -> str:
    """What an undecided contrast shows, and the n that it needs.

    Args:
        found: its summary.

    Returns:
        One sentence.
    """
    wanted = "no n at a mean gap of 0" if found.clusters_needed is None else f"{found.clusters_needed} clusters"
    least = summaries.clusters_to_reject(LEVEL / len(contrasts.CONTRASTS))
    could = f"{least} at least to reject whatever the other contrasts show"
    if found.smallest_adjusted_p_value > LEVEL:
        best = f"adjusted p {found.smallest_adjusted_p_value:.2g} at best"
        could = f"no gaps whatever of {found.clusters} clusters could decide it: {best}; {least} could"
    return (
        f"needs {wanted} of this spread ({could}); mean {found.mean:+.2f} points, "
        f"{found.positive} of {found.cells} cells and {found.clusters_positive} of {found.clusters} clusters positive; "
        f"p = {found.p_value:.3g}, adjusted {found.adjusted_p_value:.2g}"
    )


def no_difference() -> Finding:
    """§4.4's "no evident difference": the 1 − 2·level interval over clusters within ± `MARGIN` (two one-sided tests).

    Returns:
        The finding.
    """
    from allora_analysis.statistics import clustered_test, required_n

    found = contrasts.gaps("Table 3", "ALLoRA-0", "ALLoRA")
    test = clustered_test(found.values, found.clusters, 1 - 2 * LEVEL)
    low, high = test.interval
    outside = low >= MARGIN or high <= -MARGIN
    verdict = "holds" if low > -MARGIN and high < MARGIN else "refuted" if outside else "undecided"
    spread = float(np.std(list(found.by_cluster().values()), ddof=1))
    clusters = required_n(MARGIN, spread, (1 + POWER) / 2, 2 * LEVEL)  # at 0, where both one-sided tests must reject
    measured = {"mean": test.mean_difference, "p_value": test.p_value, "t_p_value": test.t_p_value}
    source = f"two one-sided t-tests over clusters, level {LEVEL}, margin {MARGIN}: the improvement reported over LoRA"
    evidence = Evidence({"mean": 0.0}, measured, source, tolerance=MARGIN, interval=test.interval, n=test.n_clusters)
    return Finding(verdict, evidence, f"needs {clusters} clusters of this spread" if verdict == "undecided" else None)


BETTER = (
    (
        "4.4-better-than-lora",
        "§4.4, Figure 3 left",
        "ALLoRA in general admits better accuracy over plain LoRA",
        "ALLoRA − LoRA",
    ),
    (
        "A-dropout-free-better",
        "Abstract",
        "ALLoRA admits better accuracy than LoRA on various settings (read: as the abstract's solution is called "
        '"Dropout-free", ALLoRA-0)',
        "ALLoRA-0 − LoRA",
    ),
    (
        "4.5-better-than-dora",
        "§6; Table 1",
        "ALLoRA admits … better accuracy than recent successful LoRA variants such as DoRA",
        "ALLoRA − DoRA",
    ),
    ("4.5-allora-0-better-than-dora", "§4.5", "ALLoRA-0 … boosted accuracy … over DoRA", "ALLoRA-0 − DoRA"),
    (
        "5.1-better-than-od",
        "§5.1",
        "Overall speaking, ALLoRA has better accuracy than ALLoRA-OD",
        "ALLoRA − ALLoRA-OD",
    ),
    ("5.2-better-than-asf", "§5.2", "ALLoRA has a significant advantage over ASF-LoRA", "ALLoRA − ASF-LoRA"),
    (
        "5.2-better-than-eta",
        "§5.2",
        "ALLoRA is significantly better than LoRA with a comparable fixed scaling factor",
        "ALLoRA − LoRA×η",
    ),
    (
        "5.2-asf-significantly",
        "§5.2",
        "ASF-LoRA's accuracy [is] significantly lower than LoRA with a comparable fixed scaling factor",
        "LoRA×η − ASF-LoRA",
    ),
    (
        "5.2-better-family",
        "§5.2",
        "Adaptive Learning Rate is in general a better solution family than Adaptive Scaling Factor (read: ALLoRA-OD, "
        "its other member, is better than ASF-LoRA as well)",
        "ALLoRA-OD − ASF-LoRA",
    ),
)
"""Sentences by row: id, place, statement, contrast."""


def claims() -> tuple[Claim, ...]:
    """The rows about sentences that need a test.

    Returns:
        The claims.
    """
    tested = tuple(Claim(id, where, words, better(name), COMMAND, TEST) for id, where, words, name in BETTER)
    statement = (
        "there is no evident difference between ALLoRA and ALLoRA-0 (read: over models and data sets less than the "
        f"{MARGIN} points that the paper reports as a gain over LoRA, by two one-sided t-tests)"
    )
    return (*tested, Claim("4.4-no-difference", "§4.4, Figure 3 right", statement, no_difference, COMMAND, TEST))
