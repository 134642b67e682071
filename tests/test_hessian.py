"""§3.2's closed forms in (B, A): spectrum and inertia at B = 0; bad input to all of them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import hessian
from tests.brute_force import hessian as reference
from tests.hessian_problems import assert_close, low_rank
from tests.stat_assert import assert_rejects

ROOT = Path(__file__).parents[1]


# In LoRA's factors

SHAPES = [  # n1, n2, r, N, rank X, rank G
    (5, 7, 3, 20, 7, 5),
    (7, 5, 2, 20, 5, 5),
    (6, 6, 6, 10, 6, 6),
    (4, 6, 4, 9, 6, 4),
    (6, 4, 4, 9, 4, 4),
    (5, 7, 1, 20, 7, 5),
    (5, 7, 3, 20, 2, 5),
    (5, 7, 3, 2, 2, 5),
    (5, 7, 3, 20, 7, 2),
    (7, 5, 3, 20, 1, 1),
    (5, 7, 3, 20, 7, 0),
    (5, 7, 3, 20, 0, 3),
    (1, 1, 1, 1, 1, 1),
    (1, 6, 1, 4, 4, 1),
    (6, 1, 1, 4, 1, 1),
]


@pytest.mark.parametrize("zero_a", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_factor_spectrum_is_autograds(rng, shape, zero_a):
    n1, n2, r, n, rank_x, rank_g = shape
    x, g = low_rank(rng, n, n2, rank_x), low_rank(rng, n1, n2, rank_g)
    a = np.zeros((r, n2)) if zero_a else rng.standard_normal((r, n2))
    *_, dense = reference.factor_derivatives(x, g, a, np.zeros((n1, r)))
    values = hessian.factor_spectrum(x, g, a)
    assert_close(values, np.linalg.eigvalsh(dense))
    assert_close(hessian.dense_factor_hessian(x, g, a), dense)
    counts = hessian.factor_spectrum_multiplicities(x, g, a)
    assert counts.multiplicities.sum() == r * (n1 + n2)
    assert np.all(np.diff(counts.values) > 0)
    assert np.all(counts.multiplicities > 0)


def test_wrong_closed_forms_are_rejected(rng):
    x, g, a = (rng.standard_normal(shape) for shape in ((20, 7), (5, 7), (3, 7)))
    *_, dense = reference.factor_derivatives(x, g, a, np.zeros((5, 3)))
    expected = np.linalg.eigvalsh(dense)
    # Half the curvature (the factor that Eq. 2 lacks), half the gradient, A's Gram matrix without S.
    for wrong in (
        hessian.factor_spectrum(x / math.sqrt(2), g, a),
        hessian.factor_spectrum(x, g / 2, a),
        hessian.factor_spectrum(np.eye(7), g, a),
    ):
        assert_rejects(assert_close, wrong, expected)


@pytest.mark.parametrize(("eta", "mean"), [(1.0, False), (0.25, False), (2.0, True)])
def test_a_layers_own_loss_through_the_arguments(rng, eta, mean):
    # c·L and ηBA enter as √c·η·X and the loss's own G = c·η·(−2RᵀX): from the loss, not from the expansion.
    x, w, y, a = (rng.standard_normal(shape) for shape in ((9, 6), (4, 6), (9, 4), (2, 6)))
    g, dense = reference.layer_hessian(x, w, y, a, eta, mean)
    c = 1 / y.size if mean else 1.0
    assert_close(g, -2 * c * eta * (y - x @ w.T).T @ x)
    assert_close(hessian.factor_spectrum(math.sqrt(c) * eta * x, g, a), np.linalg.eigvalsh(dense))


@pytest.mark.parametrize("shape", SHAPES)
def test_inertia(rng, shape):
    n1, n2, r, n, rank_x, rank_g = shape
    x, g, a = low_rank(rng, n, n2, rank_x), low_rank(rng, n1, n2, rank_g), rng.standard_normal((r, n2))
    *_, dense = reference.factor_derivatives(x, g, a, np.zeros((n1, r)))
    values = np.linalg.eigvalsh(dense)
    limit = 1e-10 * max(np.abs(values).max(), 1e-300)
    found = hessian.inertia(x, g, a)
    assert (found.negative, found.positive) == (int((values < -limit).sum()), int((values > limit).sum()))
    assert found.negative == r * rank_g
    assert found.negative + found.zero + found.positive == r * (n1 + n2)


def test_inertia_counts_what_no_sign_can_show(rng):
    # q = 1e12, σ = 1e-6: the negative eigenvalue is −5e-25, far below the rounding error of the largest, 2e12.
    x, g = 1e6 * np.eye(3)[:, :3], 1e-6 * np.eye(2, 3)
    a = np.eye(1, 3)
    found = hessian.inertia(x, g, a)
    assert found.negative == 2
    assert hessian.factor_spectrum(x, g, a)[0] == pytest.approx(-5e-25, rel=1e-12)
    *_, dense = reference.factor_derivatives(x, g, a, np.zeros((2, 1)))
    assert int((np.linalg.eigvalsh(dense) < -1e-3).sum()) != 2  # signs above the rounding error see nothing


def test_g_tolerance_takes_cancellation_noise_for_zero(rng):
    x, y = rng.standard_normal((12, 5)), rng.standard_normal((12, 4))
    w = np.linalg.lstsq(x, y, rcond=None)[0]
    noise, a = -2 * (y - x @ w).T @ x, rng.standard_normal((2, 5))
    assert hessian.inertia(x, noise, a).negative > 0
    assert hessian.inertia(x, noise, a, g_tolerance=1e-10).negative == 0
    assert hessian.factor_spectrum(x, noise, a, g_tolerance=1e-10)[0] == 0


def test_both_zero_spectrum_is_plus_minus_sigma(rng):
    g = rng.standard_normal((4, 6))
    sigma = np.linalg.svd(g, compute_uv=False)
    found = hessian.factor_spectrum_multiplicities(rng.standard_normal((9, 6)), g, np.zeros((3, 6)))
    np.testing.assert_allclose(found.values, np.concatenate([-sigma, [0.0], sigma[::-1]]), rtol=1e-12, atol=0)
    np.testing.assert_array_equal(found.multiplicities, [3] * 4 + [3 * 2] + [3] * 4)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.floats(0.01, 100))
def test_factor_spectrum_properties(seed, n1, n2, n, scale):
    generator = np.random.default_rng(seed)
    r = int(generator.integers(1, min(n1, n2) + 1))
    x, g, a = (generator.standard_normal(shape) for shape in ((n, n2), (n1, n2), (r, n2)))
    values = hessian.factor_spectrum(x, g, a)
    # Trace: 2n₁ tr(ASAᵀ); squares: 4n₁‖ASAᵀ‖² + 2r‖G‖².
    m = a @ x.T @ x @ a.T
    assert values.sum() == pytest.approx(2 * n1 * np.trace(m), rel=1e-9, abs=1e-9)
    assert (values**2).sum() == pytest.approx(4 * n1 * (m**2).sum() + 2 * r * (g**2).sum(), rel=1e-9)
    # The loss times c: √c X and c G. G's sign and rotations of the outputs, of A's rows and of the samples do nothing.
    assert_close(hessian.factor_spectrum(math.sqrt(scale) * x, scale * g, a), scale * values)
    u, v, s = (np.linalg.qr(generator.standard_normal((k, k)))[0] for k in (n1, r, n))
    assert_close(hessian.factor_spectrum(s @ x, -u @ g, v @ a), values)


LARGE = """
import json
from pathlib import Path
import numpy as np
from allora_analysis.hessian import factor_spectrum, inertia

rng = np.random.default_rng(0)
x, g, a = (rng.standard_normal(shape) for shape in ((2048, 1024), (1024, 1024), (16, 1024)))
sides, svd = [], np.linalg.svd
np.linalg.svd = lambda matrix, **options: sides.append(max(matrix.shape)) or svd(matrix, **options)
values, counts = factor_spectrum(x, g, a), inertia(x, g, a)
status = Path('/proc/self/status').read_text(encoding="utf-8")
peak = int(status.partition('VmHWM:')[2].split()[0]) / 2**20  # ru_maxrss would be the test process's own, if larger
print(json.dumps([sides, peak, len(values), counts.negative, counts.zero, counts.positive]))
"""


def test_a_large_layer_takes_a_few_decompositions_of_its_own_size():
    # In a process of its own, so that the peak is this computation's: below 1 GiB, where the Hessian alone has 18.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    child = subprocess.run(
        [sys.executable, "-c", LARGE], capture_output=True, text=True, check=True, env=environment, cwd=ROOT
    )
    sides, gibibytes, *counts = json.loads(child.stdout)
    assert 1 <= len(sides) <= 8
    assert max(sides) <= 2048  # of 49,152 parameters
    assert gibibytes < 1
    assert counts == [16 * 2048, 16 * 1024, 0, 16 * 1024]


# Refusals


BAD = [
    (lambda: hessian.product_gradient(np.eye(3), np.ones((2, 1)), np.ones((3, 1)), np.ones((3, 1))), "y: shape"),
    (lambda: hessian.product_gradient(np.eye(3), np.ones((3, 1)), np.ones((2, 1)), np.ones((3, 1))), "w: shape"),
    (lambda: hessian.product_gradient(np.eye(3), np.ones((3, 1)), np.ones((3, 1)), np.ones((3, 2))), "delta: shape"),
    (lambda: hessian.product_spectrum(np.array([[np.nan]]), 1), "x: every entry must be finite"),
    (lambda: hessian.product_spectrum(np.eye(2), 0), "n_outputs must be"),
    (lambda: hessian.product_hessian(np.zeros((0, 3)), 1), "x: shape"),
    (lambda: hessian.marchenko_pastur_condition(0.0), "gamma must be"),
    (lambda: hessian.square_log_condition(0), "n must be"),
    (lambda: hessian.log_condition(np.zeros((2, 2))), "x: all entries are 0"),
    (lambda: hessian.fixed_gram_design(np.eye(3), 2, np.random.default_rng(0)), "n_samples must be at least the rank"),
    (lambda: hessian.block_conditioning(np.eye(3), np.ones((1, 2))), "a: shape"),
    (lambda: hessian.sample_log_conditions(0, 3, 2, np.random.default_rng(0)), "n_samples must be"),
    (lambda: hessian.sample_log_conditions(3, 3, 0, np.random.default_rng(0)), "draws must be"),
    (lambda: hessian.factor_spectrum(np.eye(3), np.ones((2, 4)), np.ones((1, 4))), "x: shape"),
    (lambda: hessian.factor_spectrum(np.eye(3), np.ones((2, 3)), np.ones((1, 4))), "a: shape"),
    (
        lambda: hessian.factor_spectrum(np.eye(3), np.ones((2, 3)), np.ones((3, 3))),
        r"rank must be at most min\(n1, n2\) = 2",
    ),
    (lambda: hessian.inertia(np.eye(3), np.full((2, 3), np.inf), np.ones((1, 3))), "g: every entry"),
    (lambda: hessian.inertia(np.eye(3), np.ones((2, 3)), np.ones((1, 3)), g_tolerance=-1.0), "g_tolerance must be"),
    (lambda: hessian.dense_factor_hessian(np.eye(2), np.ones((2, 3)), np.ones((1, 3))), "x: shape"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lists_are_arrays_and_inputs_stay_as_they_were():
    x, g, a = [[1, 0], [0, 2]], [[1, 2], [3, 4]], [[1, 1]]
    arrays = [np.array(value, dtype=float) for value in (x, g, a)]
    np.testing.assert_array_equal(hessian.factor_spectrum(x, g, a), hessian.factor_spectrum(*arrays))
    assert [array.tolist() for array in arrays] == [x, g, a]
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = hessian.nothing


def test_every_public_name_is_there():
    assert all(getattr(hessian, name) is not None for name in hessian.__all__)
