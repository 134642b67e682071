"""Binomial probabilities and mean absolute deviations against high precision."""

import math

import mpmath
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from allora_analysis.deviation import enumeration
from tests.brute_force import deviation as reference


def probability(k, n, p):
    with mpmath.workdps(50):
        log = mpmath.loggamma(n + 1) - mpmath.loggamma(k + 1) - mpmath.loggamma(n - k + 1)
        return float(mpmath.exp(log + k * mpmath.log(mpmath.mpf(p)) + (n - k) * mpmath.log(1 - mpmath.mpf(p))))


@pytest.mark.parametrize("p", [1e-6, 1e-3, 0.1, 0.5])
@pytest.mark.parametrize("n", [1, 2, 7, 40, 1000, 10**6, 10**9, 10**12])
def test_probabilities(n, p):
    spread = math.sqrt(n * p * (1 - p))
    k = np.unique(np.clip(np.round(n * p + spread * np.array([-7, -3, -1, 0, 0.5, 2, 6, 8])), 0, n))
    k = np.union1d(k, np.arange(min(n, 3) + 1)) if n < 100 else k
    found = enumeration.binomial_probabilities(k, np.full_like(k, float(n)), p)
    for value, chance in zip(k, found, strict=True):
        truth = probability(int(value), n, p)
        assert chance == pytest.approx(truth, rel=1e-11)


@pytest.mark.parametrize("p", [1e-6, 0.001, 0.2, 0.5])
@pytest.mark.parametrize("n", [1, 2, 5, 10, 1000, 10**6, 10**12])
def test_mean_absolute_deviation(n, p):
    found = enumeration.binomial_deviation(np.array([float(n)]), p)[0]
    assert found == pytest.approx(reference.binomial_deviation(n, p), rel=1e-11)


def test_series_meets_the_table():
    k = np.arange(1.0, 40.0)
    with mpmath.workdps(30):
        truth = [
            float(mpmath.loggamma(v + 1) - (v + 0.5) * mpmath.log(v) + v - mpmath.log(2 * mpmath.pi) / 2)
            for v in map(int, k)
        ]
    np.testing.assert_allclose(enumeration.stirling_error(k), truth, rtol=2e-14, atol=2e-15)


@pytest.mark.parametrize("trials", [1.0, 30.0, 1e4, 1e8])
@pytest.mark.parametrize("p", [1e-4, 0.5])
def test_window_holds_all_that_matters(trials, p):
    k = enumeration.window(trials, p)
    assert len(k) == enumeration.window_length(trials, p)
    assert np.sum(enumeration.binomial_probabilities(k, np.full_like(k, trials), p)) == pytest.approx(1.0, abs=1e-11)
    if trials == 1:
        assert list(k) == [0, 1]
    assert len(k) < 60 + 25 * math.sqrt(trials * p)


def test_wrong_shape_is_rejected_by_the_hook(request):
    if not request.config.option.untyped:
        with pytest.raises(TypeCheckError):
            enumeration.binomial_probabilities(np.ones(2), np.ones(3), 0.5)
