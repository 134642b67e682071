"""What the estimator finds: moments of each entry of a gradient, as NumPy arrays; its readers need no torch.

Checked by `tests/test_gradient_std_estimator.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


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
