"""How many standard errors a sampled mean may be off, where the standard deviation is estimated from the same sample.

Checked by `tests/test_claims_3_3.py`.
"""

from __future__ import annotations

import numpy as np

FALSE_FAIL = 1e-6  # two-sided, of a comparison


def standard_errors(n: int) -> float:
    """Student's two-sided quantile t_{n − 1}: |mean − μ| is above that many of s/√n once in 1/`FALSE_FAIL` samples.

    Exact for normal samples; for others in the limit of large n. Of a difference of two means with n each it is an
    upper limit. Source: Student 1908. Checked by `tests/test_claims_3_3.py::test_standard_errors`. 4.89, the normal
    law's, as n → ∞.
    """
    from scipy.special import stdtrit

    return -float(stdtrit(n - 1, FALSE_FAIL / 2))


def source(n: int) -> str:
    """Where the tolerance comes from, in words."""
    rate = f"1e{np.log10(FALSE_FAIL):.0f}"
    return (
        f"{standard_errors(n):.3g} standard errors: Student's t of n − 1 = {n - 1}, false-fail rate {rate} a "
        "comparison, n fixed beforehand"
    )
