"""Bias-corrected, accelerated bootstrap interval (Efron 1987), through SciPy. Checked by `tests/test_statistics.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from allora_analysis.statistics.z_tests import rate
from allora_analysis.validation import ArgumentError, count, vector


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., Any],
    confidence: float,
    generator: np.random.Generator,
    resamples: int = 9999,
) -> tuple[float, float]:
    """BCa interval of a statistic of independent values.

    Where all values are equal there is nothing to resample: the interval is the statistic itself, twice.

    Args:
        values: the sample, at least two values.
        statistic: of one vector; faster if it takes `axis`, as `numpy.mean` does.
        confidence: in (0, 1).
        generator: draws the resamples.
        resamples: how many.

    Returns:
        Lower and upper end.

    Raises:
        ArgumentError: fewer than two values, or a statistic whose resamples give no BCa interval (all of them equal).
    """
    from scipy.stats import bootstrap

    sample, level, resamples = vector("values", values), rate("confidence", confidence), count("resamples", resamples)
    if sample.size < 2:
        raise ArgumentError(f"values: at least 2 are needed for a bootstrap interval, received {sample.size}")
    if (sample == sample[0]).all():
        return (constant := float(statistic(sample))), constant
    # SciPy renamed the argument in 1.15.
    named = "rng" if "rng" in inspect.signature(bootstrap).parameters else "random_state"
    options = {"confidence_level": level, "n_resamples": resamples, "method": "BCa", named: generator}
    with np.errstate(all="ignore"):
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a degenerate resampling distribution is told below, as an error
            interval = bootstrap((sample,), statistic, **options).confidence_interval
    if not np.isfinite([interval.low, interval.high]).all():
        raise ArgumentError("statistic: no BCa interval, its resamples (or leave-one-out values) are all equal")
    return float(interval.low), float(interval.high)
