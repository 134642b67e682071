"""What choosing the best of several settings gains by chance alone: the expected largest of equal, noisy accuracies.

Settings that are equally good and measured with independent normal noise of deviation σ differ by that noise; the best
of n is reported E[max of n standard normals]·σ above their common accuracy. Checked by
`tests/test_claims_tables_setup.py`.
"""

from __future__ import annotations

import numpy as np

from allora_analysis.validation import count


def expected_maximum(tries: int) -> float:
    """E[max(Z₁, …, Z_n)] of independent standard normals: ∫ x·n·φ(x)·Φ(x)^{n − 1} dx, by Gauss–Legendre.

    0 for n = 1, 1/√π for 2, 3/(2√π) for 3.

    Args:
        tries: n, 1 to 1,000.

    Returns:
        The expectation, in standard deviations.

    Examples:
        >>> from allora_analysis.claims.tables.selection import expected_maximum
        >>> round(expected_maximum(2), 4)
        0.5642
    """
    from scipy.special import ndtr

    n = count("tries", tries, 1, 1000)
    node, weight = np.polynomial.legendre.leggauss(200)
    x = 12 * node
    density = n * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi) * ndtr(x) ** (n - 1)
    return float(12 * weight @ (x * density))
