"""What the estimator finds and what is reported of it, in NumPy: moments over entries, variance components, seeds.

**Masks and minibatches**, by a nested design: M minibatches, K masks within each. Entry e of the gradient on minibatch
j under mask k: G_jk = μ + b_j + ε_jk, minibatches independent, masks independent within and across minibatches. Then
Var G = σ²_minibatch + σ²_mask with σ²_mask = E Var(G | minibatch) (which may differ between minibatches) and
σ²_minibatch = Var E(G | minibatch).

**Seeds.** Entries of the gradient are not comparable across seeds, summaries are. Seed i's gradient has the total
variance T_i (masks and minibatches, averaged over entries), estimated as T̂_i with a standard error s_i over its
minibatches. On the scale of relative changes, log T̂_i = m + u_i + e_i: u_i is what the seed (initialization and order
of the data) does, e_i the error of measuring it with finitely many minibatches and masks, Var e_i ≈ (s_i/T̂_i)² (delta
method). Checked by `tests/test_gradient_std_summary.py`.

**Does a standard deviation fall or rise over training?** One test a case, over seeds, stated before any run. A case is
a data set, an optimizer and a statistic s (the average over entries, or the worst entry, of the standard deviation over
masks). Seed i changes by Δ_i = log(s_i(last epoch)/s_i(first epoch)), natural logarithm: 0.1 is about 10 %. Seeds are
independent and s is one number a run, so no entry is compared across seeds. The null is E Δ = 0, the test Student's t
over seeds (assumes normal Δ), Holm's correction over the whole family of cases. A case **falls** (rises) if its
adjusted p-value is at most `LEVEL` and its mean change is below (above) 0; otherwise it is **unclear**. The 95 %
interval of each case stands beside it, uncorrected; a case that falls or rises excludes 0 from it. Figure 1's own
sentence is judged one-sided in `claims.s3_1_figure_1`, beside these. Checked by `tests/test_gradient_std_summary.py`,
with planted trends, a planted absence of any, and the power claimed here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.statistics import Difference, paired_family
from allora_analysis.validation import (
    ArgumentError,
    choice,
    count,
    finite,
    matrix,
    representable,
    several,
    unit_scaled,
    vector,
)

QUANTILES = (1, 5, 25, 75, 95, 99)
BATCHES = ("probe", "fresh", "no_dropout_fresh")
KEPT = {
    "probe": ("mean", "q05", "q25", "q95", "worst_held_out"),
    "fresh": ("mean", "worst_held_out"),
    "no_dropout_fresh": ("mean", "worst_held_out"),
    "decomposition": ("mask", "minibatch", "total", "total_stderr"),
}
"""What a record holds of each epoch beside accuracy and loss: what rows and figures read."""
DIGITS = 7
"""To which a record's numbers are rounded; float32 holds as many."""


@dataclass(frozen=True)
class GradientMoments:
    """Moments of each entry of a gradient, over K masks (or minibatches).

    Attributes:
        k: how many.
        mean: mean gradient.
        std: standard deviation, √ of the unbiased variance.
        mean_even: mean over the masks 0, 2, 4, …
        mean_odd: over the masks 1, 3, 5, …
        std_even: standard deviation over the even masks; they choose the worst entry that the odd ones measure.
        std_odd: over the odd masks, likewise.
        average: mean over entries of `std`.
        average_stderr: its standard error over masks, from the batch means of 2 to 8 segments; None below 16.
    """

    k: int
    mean: Float[np.ndarray, "rows columns"]
    std: Float[np.ndarray, "rows columns"]
    mean_even: Float[np.ndarray, "rows columns"]
    mean_odd: Float[np.ndarray, "rows columns"]
    std_even: Float[np.ndarray, "rows columns"]
    std_odd: Float[np.ndarray, "rows columns"]
    average: float
    average_stderr: float | None


def summarise(moments: GradientMoments) -> dict[str, float | None]:
    """The distribution over entries of the standard deviation, its worst entry, and its size beside the mean gradient.

    - `mean` (with `mean_stderr` over masks), `median`, `q01` … `q99`, `max`: over entries. `max` is biased upward.
    - `worst_held_out`: the entry that is largest on the even masks, measured on the odd ones, and the other way round;
      the mean of both. Chosen and measured on different masks, it is not biased by the choice.
    - `relative_mean` = ‖std‖_F/‖mean‖_F, ‖mean‖² estimated without bias by the product of the two halves' means; None
      where that is not above 0.
    - `snr_median`: the median of |mean|/std over the entries with a spread. Without any signal it is about 0.67/√K.

    Args:
        moments: the moments over masks.

    Returns:
        The numbers by name, in the gradient's unit but for the last two.
    """
    std = moments.std
    quantiles = {f"q{q:02d}": float(value) for q, value in zip(QUANTILES, np.percentile(std, QUANTILES), strict=True)}
    signal = float(np.sum(moments.mean_even * moments.mean_odd))
    relative = float(np.linalg.norm(std)) / math.sqrt(signal) if signal > 0 else None
    return {
        "mean": moments.average,
        "mean_stderr": moments.average_stderr,
        "median": float(np.median(std)),
        **quantiles,
        "max": float(std.max()),
        "worst_held_out": worst_held_out(moments.std_even, moments.std_odd),
        "relative_mean": relative,
        "snr_median": signal_to_noise(moments.mean, std),
    }


def worst_held_out(even: Float[np.ndarray, "rows columns"], odd: Float[np.ndarray, "rows columns"]) -> float:
    """½(odd[argmax even] + even[argmax odd]): the worst entry, chosen on one half and measured on the other.

    Args:
        even: estimates from the even masks.
        odd: from the odd masks.

    Raises:
        ArgumentError: no entries, or not as many of one as of the other.
    """
    even, odd = np.asarray(even), np.asarray(odd)  # lists too
    if even.shape != odd.shape or not even.size:
        raise ArgumentError(f"even, odd: two arrays of one shape are needed, received {even.shape} and {odd.shape}")
    return float(odd.flat[even.argmax()] + even.flat[odd.argmax()]) / 2


def signal_to_noise(mean: Float[np.ndarray, "rows columns"], std: Float[np.ndarray, "rows columns"]) -> float | None:
    """The median of |mean|/std over the entries with std > 0."""
    spread = std > 0
    return float(np.median(np.abs(mean[spread]) / std[spread])) if spread.any() else None


@dataclass(frozen=True)
class Components:
    """Variance components averaged over the gradient's entries, each with its standard error over minibatches.

    Attributes:
        mask: σ²_mask.
        mask_stderr: its standard error.
        minibatch: σ²_minibatch; an unbiased estimate, so it can be below 0.
        minibatch_stderr: its standard error.
        total: their sum.
        total_stderr: its standard error.
    """

    mask: float
    mask_stderr: float
    minibatch: float
    minibatch_stderr: float
    total: float
    total_stderr: float


@representable()
def components(means: ArrayLike, within: ArrayLike, masks: int) -> Components:
    """ANOVA's estimator for a one-way nested design, averaged over entries.

    σ̂²_mask = mean_j s_j² and σ̂²_minibatch = mean_e Var_j(Ḡ_j) − σ̂²_mask/K, both unbiased (Var_j with M − 1). Both are
    averages over entries, so they need of the Ḡ_j only their inner products. The standard errors are the jackknife's
    over minibatches, which are the independent units: entries are not independent of one another.
    Source: Searle, Casella and McCulloch, Variance Components (1992), §3.5; Efron and Stein (1981).

    Args:
        means: Ḡ_j, the gradient averaged over K masks (M × entries), M ≥ 3.
        within: s_j², the unbiased variance over masks averaged over entries (M,).
        masks: K, at least 1; 1 only without dropout, where `within` is 0.

    Raises:
        ArgumentError: shapes that do not match, M < 3.
    """
    averages, spreads, masks = matrix("means", means), vector("within", within), count("masks", masks)
    if averages.shape[0] < 3 or averages.shape[0] != spreads.size:
        raise ArgumentError(
            f"means must have a row for each of 3 or more minibatches and within as many entries, received "
            f"{averages.shape[0]} rows and {spreads.size} entries"
        )
    centred = averages - averages.mean(axis=0)
    gram = centred @ centred.T / averages.shape[1]
    everything = np.arange(spreads.size)
    whole = _components(gram, spreads, masks, everything)
    left_out = np.array([_components(gram, spreads, masks, np.delete(everything, j)) for j in everything])
    left_out, unit = unit_scaled(left_out)  # no square overflows or vanishes
    stderr = np.ldexp(np.sqrt((len(everything) - 1) * left_out.var(axis=0)), unit)
    mask, minibatch, total = (float(value) for value in whole)
    return Components(mask, float(stderr[0]), minibatch, float(stderr[1]), total, float(stderr[2]))


def _components(
    gram: Float[np.ndarray, "M M"], within: Float[np.ndarray, " M"], masks: int, chosen: np.ndarray
) -> np.ndarray:
    # Σ_j ‖Ḡ_j − Ḡ‖² = Σ_j ⟨j, j⟩ − Σ_jl ⟨j, l⟩/m over the chosen minibatches, whatever point they were centered on.
    part = gram[np.ix_(chosen, chosen)]
    between = (np.trace(part) - part.sum() / len(chosen)) / (len(chosen) - 1)
    mask = within[chosen].mean()
    minibatch = between - mask / masks
    return np.array([mask, minibatch, mask + minibatch])


@dataclass(frozen=True)
class SeedComponent:
    """Variance components of log T̂: 0.01 is a spread of about 10 %.

    Attributes:
        seed: σ²_seed = Var u; an unbiased estimate up to the delta method, so it can be below 0.
        seed_stderr: its standard error, the jackknife's over seeds.
        measurement: the mean of Var e_i, the error of one seed's T̂.
    """

    seed: float
    seed_stderr: float
    measurement: float


@representable()
def seed_component(totals: ArrayLike, stderrs: ArrayLike) -> SeedComponent:
    """σ̂²_seed = Var_i(log T̂_i) − mean_i (s_i/T̂_i)², the variance over seeds with n − 1.

    The method of moments for a random effect measured with known errors; its standard error is the jackknife's over
    seeds, the independent units. Source: Searle, Casella and McCulloch, Variance Components (1992), §3.5.

    Args:
        totals: T̂_i, above 0 (n ≥ 3 seeds).
        stderrs: s_i, 0 or above (n).

    Raises:
        ArgumentError: fewer than 3 seeds, shapes that do not match, a total that is not above 0.
    """
    values, errors = vector("totals", totals), vector("stderrs", stderrs)
    if values.size < 3 or values.size != errors.size:
        raise ArgumentError(
            f"totals and stderrs must hold one number for each of 3 or more seeds, received {values.size} and "
            f"{errors.size}"
        )
    if values.min() <= 0 or errors.min() < 0:
        raise ArgumentError(
            f"totals must be above 0 and stderrs 0 or above, received {values.min():g} and {errors.min():g}"
        )
    logs, noise = np.log(values), (errors / values) ** 2
    rest = [np.delete(np.arange(values.size), i) for i in range(values.size)]
    left_out = np.array([_excess(logs[kept], noise[kept]) for kept in rest])
    stderr = float(np.sqrt((values.size - 1) * left_out.var()))
    return SeedComponent(_excess(logs, noise), stderr, float(noise.mean()))


def _excess(logs: Float[np.ndarray, " n"], noise: Float[np.ndarray, " n"]) -> float:
    return float(logs.var(ddof=1) - noise.mean())


def over_seeds(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """Averages over seeds, epoch by epoch, over the epochs that all runs have, with the standard error over seeds."""
    # From three seeds on, the seed's variance component of the logarithm of the total variance stands beside them (None
    # where a seed's total is 0).
    length = min(len(run) for run in runs)
    found: dict[str, Any] = {}
    for part, statistic in (
        (None, "test_accuracy"),
        *((batch, statistic) for batch in BATCHES for statistic in ("mean", "worst_held_out")),
        *(("decomposition", which) for which in ("mask", "minibatch", "total")),
    ):
        name = statistic if part is None else f"{part}_{statistic}"
        values = np.array([[(e if part is None else e[part])[statistic] for e in run[:length]] for run in runs])
        found[name] = values.mean(axis=0)
        many = len(runs) > 1
        found[f"{name}_stderr"] = values.std(axis=0, ddof=1) / math.sqrt(len(runs)) if many else [None] * length
    return found | _seed_components([run[:length] for run in runs])


def _seed_components(runs: list[list[dict[str, Any]]]) -> dict[str, Any]:
    # By epoch, of the logarithm of the total variance; three seeds or more have one, unless a total is 0.
    if len(runs) < 3:
        return {}
    epochs = [[epoch["decomposition"] for epoch in several_seeds] for several_seeds in zip(*runs, strict=True)]
    found = [
        seed_component(*([one[name] for one in epoch] for name in ("total", "total_stderr")))
        if all(one["total"] > 0 for one in epoch)
        else None
        for epoch in epochs
    ]
    return {
        f"log_total_{name}": [None if one is None else getattr(one, of) for one in found]
        for name, of in (
            ("seed_variance", "seed"),
            ("seed_variance_stderr", "seed_stderr"),
            ("measurement_variance", "measurement"),
        )
    }


LEVEL = 0.05
POWER = 0.8
AVERAGE, WORST = "mean", "worst_held_out"


@dataclass(frozen=True)
class Trend:
    """Δ of each seed, a natural logarithm, and its test in the family that the case belongs to."""

    change: Difference

    @property
    def direction(self) -> str:
        """The word: "falls", "rises" or "unclear"."""
        return {-1: "falls", 0: "unclear", 1: "rises"}[self.change.sign]


def values(runs: Sequence[Sequence[Mapping[str, Any]]], statistic: str, batch: str = "probe") -> np.ndarray:
    """A statistic of some runs, epoch by epoch."""
    choice("batch", batch, BATCHES)
    rows = [[epoch[batch][statistic] for epoch in run] for run in several("runs", runs)]
    if len({len(row) for row in rows}) != 1:
        raise ArgumentError(f"runs must have one number of epochs, received {sorted({len(row) for row in rows})}")
    return np.asarray(rows, dtype=np.float64)


@representable()
def changes(series: ArrayLike, first: int = 0) -> Float[np.ndarray, " seeds"]:
    """Δ_i = log(s_i(last)/s_i(first)) of each seed."""
    array = finite("series", series)
    if array.ndim != 2 or array.shape[1] < 2:
        raise ArgumentError(f"series must be (seeds, epochs), at least 2 epochs, received shape {array.shape}")
    start = count("first", first, 0, array.shape[1] - 2)
    if (array <= 0).any():
        raise ArgumentError(f"series must be above 0, or it has no logarithm; received {array.min():g}")
    return np.log(array[:, -1]) - np.log(array[:, start])


def family_of_trends(series: Mapping[Any, ArrayLike], first: int = 0) -> dict[Any, Trend]:
    """The trend of each case, the p-values adjusted over all of them."""
    moved = {case: changes(series[case], first) for case in several("series", series)}
    return {case: Trend(change) for case, change in paired_family(moved, LEVEL, POWER).items()}
