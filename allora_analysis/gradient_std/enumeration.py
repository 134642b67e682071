"""The moments of a masked gradient over all masks, each with its probability: exact, for a tiny model.

Checked by `tests/test_gradient_std_estimator.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from allora_analysis.gradient_std.estimator import MaskedGradient
from allora_analysis.validation import ArgumentError

LIMIT = 20  # mask entries: a million masks
CHUNK = 1024


def exact_moments(
    model: MaskedGradient,
) -> tuple[Float[np.ndarray, "rows columns"], Float[np.ndarray, "rows columns"]]:
    """Mean and standard deviation of each entry: E G = Σ_v P(v) G(v), P(v) = Π p^{v_j}(1 − p)^{1 − v_j}, in two passes.

    Args:
        model: at most 20 mask entries in all.

    Returns:
        Mean and standard deviation, float64.

    Raises:
        ArgumentError: too many mask entries.
    """
    size, keep = model.mask_size, model.keep_prob
    if size > LIMIT:
        raise ArgumentError(f"model must have at most {LIMIT} mask entries to enumerate all masks, received {size}")
    codes = np.arange(2**size)[:, None] >> np.arange(size) & 1
    weights = np.prod(np.where(codes == 1, keep, 1 - keep), axis=1)
    gradients = np.concatenate([_gradients(model, codes[at : at + CHUNK]) for at in range(0, len(codes), CHUNK)])
    mean = np.tensordot(weights, gradients, 1)
    return mean, np.sqrt(np.tensordot(weights, (gradients - mean) ** 2, 1))


def _gradients(model: MaskedGradient, codes: np.ndarray) -> np.ndarray:
    left, right = model.factors(torch.as_tensor(codes, dtype=torch.bool, device=model.below.device))
    return torch.einsum("kni,knj->kij", left, right).double().cpu().numpy()
