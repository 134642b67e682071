"""What is reported of a gradient's entrywise standard deviation. Checked by `tests/test_gradient_std_summary.py`."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from allora_analysis.gradient_std.entries import GradientMoments

QUANTILES = (1, 5, 25, 75, 95, 99)


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

    Returns:
        The estimate.
    """
    return float(odd.flat[even.argmax()] + even.flat[odd.argmax()]) / 2


def signal_to_noise(mean: Float[np.ndarray, "rows columns"], std: Float[np.ndarray, "rows columns"]) -> float | None:
    """The median of |mean|/std over the entries with std > 0.

    Args:
        mean: the mean gradient.
        std: its standard deviation.

    Returns:
        The median; None if no entry has a spread.
    """
    spread = std > 0
    return float(np.median(np.abs(mean[spread]) / std[spread])) if spread.any() else None
