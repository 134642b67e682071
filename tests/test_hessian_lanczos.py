"""Both ends by Lanczos: multiplicities, ± symmetric and low-rank spectra, residuals, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.hessian import network
from allora_analysis.hessian.network import lanczos_ends, ritz_ends
from allora_analysis.validation import ArgumentError
from tests.stat_assert import assert_rejects

P = 120
SIGMA = np.repeat([3.0, 2.0, 1.0], 8)
SPECTRA = {
    "spread": np.linspace(-2, 5, P) ** 3,
    "symmetric, each 8 times": np.concatenate([SIGMA, -SIGMA, np.zeros(P - 48)]),
    "positive, with a kernel": np.concatenate([np.linspace(1, 2, 30), np.zeros(P - 30)]),
    "one spike": np.concatenate([[7.0], np.zeros(P - 1)]),
    "a multiple of the identity": np.full(P, -4.0),
    "zero": np.zeros(P),
    "geometric": np.geomspace(1e-6, 1.0, P),
    "of size 1e-8": 1e-8 * np.linspace(-2, 5, P),
    "of size 1e30": 1e30 * np.linspace(-2, 5, P),
}


def symmetric(values, rng):
    basis = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (basis * values) @ basis.T


def ends(matrix, k, **kwargs):
    return lanczos_ends(lambda v: matrix @ v, len(matrix), k, np.random.default_rng(5), **kwargs)


def assert_ends(found, values, k):
    values = np.sort(values)
    scale = np.max(np.abs(values)) or 1.0
    np.testing.assert_allclose(found.smallest, values[:k], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(found.largest, values[-k:], rtol=0, atol=1e-9 * scale)
    assert max(found.smallest_residuals.max(), found.largest_residuals.max()) <= 1e-9 * scale


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("k", [1, 9])
def test_known_spectra(name, k, rng):
    assert_ends(ends(symmetric(SPECTRA[name], rng), k), SPECTRA[name], k)


def test_one_krylov_space_misses_copies(rng):
    """The negative control: one run's values are eigenvalues to their residual, and still not the extreme ones."""
    matrix = symmetric(SPECTRA["symmetric, each 8 times"], rng)
    krylov = [np.eye(P)[0]]
    for _ in range(6):  # seven distinct eigenvalues
        image = matrix @ krylov[-1]
        for vector in krylov * 2:
            image = image - (vector @ image) * vector
        krylov.append(image / np.linalg.norm(image))
    single = ritz_ends(lambda v: matrix @ v, np.stack(krylov, axis=1), 3)[0]
    assert single.largest_residuals.max() < 1e-9
    assert_rejects(assert_ends, single, SPECTRA["symmetric, each 8 times"], 3)


def test_power_iteration_does_not_settle_on_a_symmetric_spectrum(rng):
    """Why Lanczos: v stays a mixture of ±σ, and its Rayleigh quotient is no eigenvalue however small its change."""
    matrix = symmetric(np.concatenate([[2.0, -2.0], np.zeros(P - 2)]), rng)
    v = rng.standard_normal(P)
    quotients = []
    for _ in range(50):
        v = matrix @ v
        v /= np.linalg.norm(v)
        quotients.append(v @ matrix @ v)
    assert abs(quotients[-1] - quotients[-2]) < 1e-12
    assert 2.0 - abs(quotients[-1]) > 1e-3
    assert ends(matrix, 1).largest[0] == pytest.approx(2.0, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(1, 4), k=st.integers(1, 6))
def test_random_spectra_with_copies(seed, copies, k):
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.standard_normal(60 // copies + 1), copies)
    matrix = symmetric(values, rng)
    assert_ends(ends(matrix, k), values, k)
    negated = ends(-matrix, k)
    np.testing.assert_allclose(negated.smallest, -ends(matrix, k).largest[::-1], atol=1e-8)


def test_same_seed_same_bytes(rng):
    matrix = symmetric(SPECTRA["spread"], rng)
    first, second = ends(matrix, 4), ends(matrix, 4)
    assert first.smallest.tobytes() == second.smallest.tobytes()


@pytest.mark.bad_input
def test_too_small_a_dimension(rng):
    with pytest.raises(ArgumentError, match="dimension must be at least 2k"):
        ends(symmetric(np.arange(7.0), rng), 3)


@pytest.mark.bad_input
def test_an_unreachable_tolerance_is_refused(rng, monkeypatch):
    import scipy.sparse.linalg

    original = scipy.sparse.linalg.eigsh
    monkeypatch.setattr(
        scipy.sparse.linalg, "eigsh", lambda *args, **kwargs: original(*args, **kwargs | {"maxiter": 1})
    )
    monkeypatch.setattr(network, "WHOLE", 399)
    with pytest.raises(ArgumentError, match="tolerance: 1e-10 was not reached"):
        ends(symmetric(rng.standard_normal(400), rng), 9)


def test_an_end_that_lanczos_cannot_separate_costs_a_few_p_products(rng):
    matrix, spent = symmetric(SPECTRA["geometric"], rng), []

    def product(v):
        spent.append(1)
        return matrix @ v

    found = lanczos_ends(product, P, 3, np.random.default_rng(5))
    assert_ends(found, SPECTRA["geometric"], 3)
    np.testing.assert_allclose(found.smallest, np.geomspace(1e-6, 1.0, P)[:3], rtol=1e-8)
    assert P < len(spent) < 8 * P


def rough(matrix, size):
    """In ARPACK's place: the right vectors, all perturbed."""

    def arpack(product, start, n_values, shift, tolerance):
        vectors = np.linalg.eigh(matrix)[1]
        extreme = vectors[:, np.r_[: n_values // 2, -(n_values // 2) : 0]]
        return extreme + size * np.random.default_rng(0).standard_normal(extreme.shape)

    return arpack


@pytest.mark.parametrize("name", ["symmetric, each 8 times", "positive, with a kernel"])
def test_rough_vectors_are_polished(name, rng, monkeypatch):
    matrix = symmetric(SPECTRA[name], rng)
    monkeypatch.setattr(network, "_arpack", rough(matrix, 1e-6))
    assert_ends(ends(matrix, 2), SPECTRA[name], 2)


@pytest.mark.bad_input
def test_residuals_beyond_polishing_are_refused(rng, monkeypatch):
    matrix = symmetric(SPECTRA["spread"], rng)
    monkeypatch.setattr(network, "_arpack", rough(matrix, 1e-6))
    monkeypatch.setattr(network, "POLISHING", 0)
    with pytest.raises(ArgumentError, match=r"tolerance: residuals of .* wanted"):
        ends(matrix, 2, tolerance=1e-12)


def test_what_one_run_missed_is_found_by_the_next(rng, monkeypatch):
    """A first run that returns one copy of ±3 and one of ±1: the deflated runs bring the other copies."""
    matrix = symmetric(SPECTRA["symmetric, each 8 times"], rng)
    original, calls = network._arpack, []

    def first_run_misses(*args):
        calls.append(args[2])
        if len(calls) > 1:
            return original(*args)
        values, vectors = np.linalg.eigh(matrix)
        return vectors[:, [np.argmin(np.abs(values - value)) for value in (-3, -1, 1, 3)]]

    monkeypatch.setattr(network, "_arpack", first_run_misses)
    assert_ends(ends(matrix, 2), SPECTRA["symmetric, each 8 times"], 2)
    assert calls[:3] == [4, 2, 4]


def test_a_space_too_small_to_look_again_is_taken_whole(rng):
    """P = 2k + 2 leaves no room for a second run, and 2k + 2 < P ≤ 4k + 2 not for a third, which may be needed."""
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 3.0])
    assert_ends(ends(symmetric(values, rng), 2), values, 2)
    values = np.repeat([-1.0, -0.88, -0.58, 0.92, 1.18], [8, 5, 19, 14, 20])
    for seed in range(6):
        matrix = symmetric(values, np.random.default_rng(seed))
        assert_ends(lanczos_ends(lambda v: matrix @ v, 66, 31, np.random.default_rng(seed)), values, 31)  # noqa: B023
