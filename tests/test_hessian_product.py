"""§3.2's closed forms in Δ: gradient, Hessian, spectrum, condition numbers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import hessian, validation
from allora_analysis.hessian import product
from tests.brute_force import hessian as reference
from tests.hessian_problems import assert_close, low_rank
from tests.stat_assert import assert_close_to_stderr, assert_rejects, detectable


@pytest.mark.parametrize(("n", "d", "c"), [(6, 4, 3), (3, 5, 2), (4, 4, 4), (1, 1, 1)])
def test_product_gradient_is_autograds(rng, n, d, c):
    x, y, w, delta = (rng.standard_normal(shape) for shape in ((n, d), (n, c), (d, c), (d, c)))
    expected, _ = reference.product_derivatives(x, y, w, delta)
    assert_close(hessian.product_gradient(x, y, w, delta), expected)
    # Eq. (1) with the residual's transpose has another shape unless D = C, and other values then.
    if d == c and d > 1:
        printed = 2 * x.T @ x @ delta - 2 * (y - x @ w).T @ x
        assert_rejects(assert_close, printed, expected)


@pytest.mark.parametrize(("n", "d", "c"), [(6, 4, 3), (2, 5, 3), (3, 2, 1)])
def test_product_hessian_is_autograds_at_every_delta(rng, n, d, c):
    x, y, w = (rng.standard_normal(shape) for shape in ((n, d), (n, c), (d, c)))
    for delta in (np.zeros((d, c)), rng.standard_normal((d, c)), 100 * rng.standard_normal((d, c))):
        _, dense = reference.product_derivatives(x, y, w, delta)
        assert_close(hessian.product_hessian(x, c), dense)
        assert_close(hessian.product_spectrum(x, c), np.linalg.eigvalsh(dense))
        assert_rejects(assert_close, np.kron(np.eye(c), x.T @ x), dense)  # Eq. (2) as printed


@pytest.mark.parametrize(
    ("n", "d", "rank"), [(8, 5, 5), (8, 5, 2), (3, 7, 3), (3, 7, 1), (1, 4, 1), (4, 1, 1), (4, 3, 0)]
)
def test_product_spectrum(rng, n, d, rank):
    x = low_rank(rng, n, d, rank)
    values = hessian.product_spectrum(x, 2)
    assert_close(values, np.linalg.eigvalsh(np.kron(np.eye(2), 2 * x.T @ x)))
    assert np.all(np.diff(values) >= 0)
    assert values[0] >= 0
    assert np.sum(values > 1e-12 * max(values[-1], 1e-300)) == 2 * rank


def test_product_spectrum_keeps_small_eigenvalues():
    # 1e-10 beside 1: XᵀX holds 1e-20 below its rounding error, the singular values do not.
    assert hessian.product_spectrum(np.diag([1.0, 1e-10]), 1) == pytest.approx([2e-20, 2.0], rel=1e-12)


# Condition numbers


@pytest.mark.parametrize(("gamma", "kappa"), [(0.25, 9.0), (4.0, 9.0), (1 / 9, 4.0), (1.0, math.inf)])
def test_marchenko_pastur_condition(gamma, kappa):
    assert hessian.marchenko_pastur_condition(gamma) == pytest.approx(kappa, rel=1e-14)


def sampled_gap(rng, n, d, draws, limit):
    logs = hessian.sample_log_conditions(n, d, draws, rng)
    return logs.mean() - math.log(limit), logs.std(ddof=1) / math.sqrt(draws)


def assert_gap_shrinks(rng, n, d, limit):
    """|gap| falls by 1.4 or more at each doubling (N^(−2/3): by 1.6), up to five standard errors of that comparison."""
    gaps = [sampled_gap(rng, size * n, size * d, 2000 // size, limit) for size in (1, 2, 4)]
    for (before, se_before), (after, se_after) in itertools.pairwise(gaps):
        margin = abs(before) - 1.4 * abs(after)
        assert margin > -5 * math.hypot(se_before, 1.4 * se_after), (gaps, margin)
    # The power: the whole fall from first to last is far outside the noise, so a gap of 0 cannot pass for one.
    assert abs(gaps[0][0]) - abs(gaps[-1][0]) > 5 * math.hypot(gaps[0][1], gaps[-1][1]), gaps


@pytest.mark.statistical
@pytest.mark.parametrize(("n", "d"), [(32, 16), (16, 32)])
def test_gap_to_marchenko_pastur_shrinks(rng, n, d):
    limit = hessian.marchenko_pastur_condition(d / n)
    assert_gap_shrinks(rng, n, d, limit)
    assert_rejects(assert_gap_shrinks, rng, n, d, ((1 + 0.5) / (1 - 0.5)) ** 2)  # γ for √γ
    assert_rejects(assert_gap_shrinks, rng, n, d, 2 * limit)


@pytest.mark.statistical
def test_peak_is_edelmans(rng):
    n, draws = 48, 10_500
    logs = hessian.sample_log_conditions(n, n, draws, rng)
    stderr = logs.std(ddof=1) / math.sqrt(len(logs))
    mean, median = hessian.square_log_condition(n)
    # Finite N: the mean lies about 3/N below its limit, P(log κ < median) about 0.8/N above ½ (measured, N = 8 … 48).
    assert detectable(stderr) + 4 / n < 0.3
    assert abs(logs.mean() - mean) < 5 * stderr + 4 / n
    assert abs(np.mean(logs < median) - 0.5) < 5 * 0.5 / math.sqrt(draws) + 1 / n
    for wrong in (mean / 2, mean + 2 * math.log(1.2)):  # κ(X) for κ(S); a constant 20 % off
        assert abs(logs.mean() - wrong) > 5 * stderr + 4 / n


def test_edelmans_constants():
    from scipy.integrate import quad

    def integrand(s):  # E log x = −E s with e^s = 1/x, P(1/x > u) = exp(−2u − 2u²)
        u = math.exp(s)
        return -s * (2 * u + 4 * u * u) * math.exp(-2 * u - 2 * u * u)

    mean = quad(integrand, -40, 0)[0] + quad(integrand, 0, 3)[0]
    assert pytest.approx(mean, abs=1e-6) == product.SQUARE_LOG_MEAN
    t = product.SQUARE_MEDIAN
    assert math.exp(-2 / t - 2 / t**2) == pytest.approx(0.5, rel=1e-12)


@pytest.mark.statistical
def test_kappa_peaks_at_square(rng):
    means = [hessian.sample_log_conditions(n, 20, 300, rng) for n in (4, 10, 20, 40, 100)]
    middle = [logs.mean() for logs in means]
    noise = [logs.std(ddof=1) / math.sqrt(300) for logs in means]
    for low, high in ((0, 1), (1, 2), (3, 2), (4, 3)):
        assert middle[high] - middle[low] > 5 * math.hypot(noise[low], noise[high])


@pytest.mark.statistical
def test_a_common_mean_breaks_marchenko_pastur(rng):
    # Why the assumption says "centered": a mean of 1 adds an eigenvalue of order N·D.
    logs = [hessian.log_condition(1.0 + rng.standard_normal((80, 40))) for _ in range(50)]
    assert np.mean(logs) - math.log(hessian.marchenko_pastur_condition(0.5)) > 1.0


def test_log_condition(rng):
    q, _ = np.linalg.qr(rng.standard_normal((6, 3)))
    assert hessian.log_condition(q * [1.0, 10.0, 1e6]) == pytest.approx(2 * math.log(1e6), rel=1e-9)
    assert hessian.log_condition(low_rank(rng, 6, 4, 1)) == pytest.approx(0.0, abs=1e-12)


def test_rounding_is_no_rank_where_entries_are_many():
    """Of rank 1 with s₁ = 200 in units of the largest entry: what is not 0 beside it is rounding."""
    x = np.sign(np.outer(np.sin(np.arange(1.0, 201.0)), np.cos(np.arange(1.0, 201.0))))
    x = x * (1 + np.outer(np.arange(200.0), np.ones(200)) / 200)
    assert hessian.log_condition(x) == pytest.approx(0.0, abs=1e-12)


def test_draws_do_not_depend_on_the_chunk_which_none_exceeds(monkeypatch):
    drawn = []

    class Noting(np.random.Generator):
        def standard_normal(self, size):
            drawn.append(math.prod(size))
            return super().standard_normal(size)

    whole = hessian.sample_log_conditions(7, 5, 40, np.random.default_rng(1))
    monkeypatch.setattr(product, "CHUNK", 7 * 5 * 3)
    np.testing.assert_array_equal(hessian.sample_log_conditions(7, 5, 40, Noting(np.random.PCG64(1))), whole)
    assert (max(drawn), sum(drawn)) == (7 * 5 * 3, 7 * 5 * 40)


@pytest.mark.parametrize("n_samples", [3, 4, 9, 60])
def test_fixed_gram_changes_nothing(rng, n_samples):
    x = low_rank(rng, 12, 5, 3)
    other = hessian.fixed_gram_design(x, n_samples, rng)
    assert other.shape == (n_samples, 5)
    assert_close(other.T @ other, x.T @ x)
    assert_close(hessian.product_spectrum(other, 2), hessian.product_spectrum(x, 2))


def test_block_conditioning(rng):
    white, _ = np.linalg.qr(rng.standard_normal((30, 12)))
    a = rng.standard_normal((2, 12))
    same = hessian.block_conditioning(white, a)
    assert same.gram == pytest.approx(1.0, rel=1e-10)
    assert same.block == pytest.approx(same.adapter, rel=1e-10)
    assert same.block > same.gram
    spread = hessian.block_conditioning(white * np.geomspace(1, 1e4, 12), a)
    assert spread.block < 1e-2 * spread.gram
    # Fewer samples than features: S is singular, LoRA's B block with r ≤ N is not.
    few = hessian.block_conditioning(white[:5], a)
    assert few.gram == math.inf
    assert few.block < math.inf
    assert hessian.block_conditioning(white[:1], a).block == math.inf
    assert hessian.block_conditioning(white, np.zeros((2, 12))).adapter == math.inf
    one_less = hessian.block_conditioning(low_rank(rng, 30, 12, 11), low_rank(rng, 3, 12, 2))
    assert (one_less.gram, one_less.adapter, one_less.block) == (math.inf,) * 3


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(4, 8))
def test_block_condition_is_at_most_the_product(seed, rank, features):
    generator = np.random.default_rng(seed)
    x, a = generator.standard_normal((features + 3, features)), generator.standard_normal((rank, features))
    found = hessian.block_conditioning(x, a)
    dense = np.linalg.cond(a @ x.T @ x @ a.T)
    assert found.block == pytest.approx(dense, rel=1e-6)
    assert found.block <= found.gram * found.adapter * (1 + 1e-9)


@pytest.mark.statistical
def test_condition_samples_have_the_law_of_a_two_by_one_design(rng):
    # D = 1: one column, κ = 1 whatever N; N = 2 = D: P(κ ≤ t) = 1 − 2√t/(1 + t), so log κ has a known median.
    np.testing.assert_array_equal(hessian.sample_log_conditions(5, 1, 3, rng), 0.0)
    logs = hessian.sample_log_conditions(2, 2, 200_000, rng)
    below = np.mean(logs <= math.log((2 + math.sqrt(3)) ** 2))
    assert_close_to_stderr(below, 0.5, 0.5 / math.sqrt(200_000), smallest_error=0.02)


def test_a_design_that_one_call_may_not_hold_is_refused(monkeypatch, rng):
    monkeypatch.setattr(validation, "HELD", 1_000)
    with pytest.raises(validation.ArgumentError, match="n_samples, n_features: a design"):
        hessian.sample_log_conditions(50, 50, 1, rng)


@pytest.mark.parametrize(
    ("held", "call"),
    [
        (36, lambda rng: hessian.product_hessian(np.ones((4, 2)), 3)),
        (6, lambda rng: hessian.product_spectrum(np.ones((4, 2)), 3)),
        (8, lambda rng: hessian.fixed_gram_design(np.eye(2), 4, rng)),
        (15, lambda rng: hessian.sample_log_conditions(4, 3, 5, rng)),
    ],
)
def test_what_just_fits_is_not_refused(held, call, monkeypatch, rng):
    monkeypatch.setattr(validation, "HELD", held)
    call(rng)
    monkeypatch.setattr(validation, "HELD", held - 1)
    with pytest.raises(validation.ArgumentError, match="GiB"):
        call(rng)
