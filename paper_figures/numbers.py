"""Averages over seeds with their intervals, by themselves and along epochs.

Checked by `tests/test_paper_figures.py`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95


class Average(NamedTuple):
    """A mean over seeds and half the width of its 95 % interval (NaN with one seed), number by number."""

    mean: np.ndarray
    half: np.ndarray

    @property
    def low(self) -> np.ndarray:
        """The interval's lower end."""
        return self.mean - self.half

    @property
    def high(self) -> np.ndarray:
        """The interval's upper end."""
        return self.mean + self.half


class Curve(NamedTuple):
    """A case over epochs or steps.

    Attributes:
        x: epochs or steps.
        average: over seeds; of logarithms, for norms.
        seeds: how many.
    """

    x: np.ndarray
    average: Average
    seeds: int


def over_seeds(values: ArrayLike) -> Average:
    """Mean over the first axis (seeds, independent), and half of Student's interval mean ± t·s/√n."""
    from scipy.special import stdtrit

    array = np.asarray(values, dtype=np.float64)
    n, mean = len(array), array.mean(axis=0)
    if n == 1:
        return Average(mean, np.full_like(mean, np.nan))
    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return Average(mean, quantile * array.std(axis=0, ddof=1) / np.sqrt(n))


def accuracy_by_epoch(runs: Sequence[Mapping[str, Any]]) -> Curve:
    """Test accuracy by epoch, percent, of runs, one a seed, over the epochs that every run reached."""
    epochs = [run["epochs"] for run in runs]
    shortest = min(len(of) for of in epochs)
    values = [[100 * entry["test_accuracy"] for entry in of[:shortest]] for of in epochs]
    return Curve(np.array([entry["epoch"] for entry in epochs[0][:shortest]]), over_seeds(values), len(runs))
