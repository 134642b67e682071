"""The gradient's variance split into masks and minibatches, by a nested design: M minibatches, K masks within each.

Entry e of the gradient on minibatch j under mask k: G_jk = μ + b_j + ε_jk, minibatches independent, masks independent
within and across minibatches. Then Var G = σ²_minibatch + σ²_mask with σ²_mask = E Var(G | minibatch) (which may differ
between minibatches) and σ²_minibatch = Var E(G | minibatch). Checked by `tests/test_gradient_std_summary.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from allora_analysis.validation import ArgumentError, count, matrix, vector


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

    Returns:
        The components.

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
    whole = _estimate(gram, spreads, masks, everything)
    left_out = np.array([_estimate(gram, spreads, masks, np.delete(everything, j)) for j in everything])
    stderr = np.sqrt((len(everything) - 1) * left_out.var(axis=0))
    mask, minibatch, total = (float(value) for value in whole)
    return Components(mask, float(stderr[0]), minibatch, float(stderr[1]), total, float(stderr[2]))


def _estimate(
    gram: Float[np.ndarray, "M M"], within: Float[np.ndarray, " M"], masks: int, chosen: np.ndarray
) -> np.ndarray:
    # Σ_j ‖Ḡ_j − Ḡ‖² = Σ_j ⟨j, j⟩ − Σ_jl ⟨j, l⟩/m over the chosen minibatches, whatever point they were centred on.
    part = gram[np.ix_(chosen, chosen)]
    between = (np.trace(part) - part.sum() / len(chosen)) / (len(chosen) - 1)
    mask = within[chosen].mean()
    minibatch = between - mask / masks
    return np.array([mask, minibatch, mask + minibatch])
