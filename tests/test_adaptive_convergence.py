"""ALLoRA's convergence: Ψ along the flow, rest points and their spectra against autograd, stable rates, Hopf points."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from allora_analysis import adaptive
from allora_analysis.adaptive import convergence
from allora_analysis.validation import ArgumentError
from tests.brute_force import adaptive as brute
from tests.stat_assert import assert_rejects


def draw(seed, shape=(4, 3, 1), scale=1.0):
    rng, (n1, n2, rank) = np.random.default_rng(seed), shape
    target = scale * rng.standard_normal((n1, n2))
    return target, rng.standard_normal((rank, n2)), rng.standard_normal((n1, rank)), float(np.exp(rng.uniform(-1, 2)))


def psi_rate(target, a, b, eta):
    """Ψ's central difference along the field, in small steps of the flow by hand."""
    step = 1e-6
    d = brute.factor(a, b, eta)[:, None]
    g = d * (b @ a - target)
    ends = [
        adaptive.rank_one_lyapunov(target, a - sign * step * (b.T @ g), b - sign * step * (g @ a.T), eta).value
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) / (2 * step)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(-3.0, 3.0))
def test_psi_rate_is_the_difference_quotient_and_below_its_bound(seed, log_balance):
    target, a, b, eta = draw(seed, scale=2.0)
    b = np.exp(log_balance) * b
    found = adaptive.rank_one_lyapunov(target, a, b, eta)
    assert found.rate <= found.bound + 1e-9 * abs(found.bound)
    assert psi_rate(target, a, b, eta) == pytest.approx(found.rate, rel=1e-4, abs=1e-5 * (1 + abs(found.rate)))
    if np.sum(a**2) >= convergence.KAPPA * np.sum(b**2):
        assert found.rate <= 0


def test_the_bound_is_the_rate_at_b_zero_and_its_formula_elsewhere(rng):
    """Planted: the bound's last term with the other sign, which bounds too, and says nothing."""
    target, a, eta = rng.standard_normal((3, 4)), rng.standard_normal((1, 4)), 1.7
    at_zero = adaptive.rank_one_lyapunov(target, a, np.zeros((3, 1)), eta)
    assert at_zero.rate == pytest.approx(at_zero.bound, rel=1e-12)
    assert at_zero.bound < 0
    b = 0.3 * rng.standard_normal((3, 1))
    alpha, row = np.linalg.norm(a), b[:, 0]
    u, s = a[0] / alpha, alpha * row
    d = (np.abs(s) + eta**-2) ** -0.5
    pull = (s * d) @ target
    across = float(np.sum((pull - (pull @ u) * u) ** 2)) / alpha**2
    along = float(np.sum((1 - np.abs(s) * d**2 / 2) * (d * (s - target @ u)) ** 2))
    wanted = -across - (alpha**2 - convergence.KAPPA * float(row @ row)) * along
    assert adaptive.rank_one_lyapunov(target, a, b, eta).bound == pytest.approx(wanted, rel=1e-12)


def test_kappa_is_the_worst_that_unequal_factors_can_do():
    # Two rows of equal weight with ρ → ½ and ρ = 1 reach Kantorovich's bound.
    rho, w = np.array([0.5, 1.0]), np.array([2 / 3, 1 / 3])  # weights on which it is attained: ρ w equal
    p, q = np.sqrt(rho * w), np.sqrt(w / rho)
    half = 0.5 * (np.outer(p, q) + np.outer(q, p))
    assert -np.linalg.eigvalsh(half)[0] <= convergence.KAPPA + 1e-12
    shares = np.linspace(0, 1, 1001)
    worst = max(0.5 * (np.sqrt((0.5 * x + 1 - x) * (2 * x + 1 - x)) - 1) for x in shares)
    assert worst == pytest.approx(convergence.KAPPA, rel=1e-4)


def fall_along_flow(seed):
    """From B = 0 at rank one: Ψ falls at every time, by the integral of its rate, and the flow comes to rest."""
    target, a, b, eta = draw(seed, scale=2.0)
    times = 40.0 * np.linspace(0, 1, 801) ** 3
    path_a, path_b = adaptive.gradient_flow(target, np.eye(3), a, 0 * b, eta, times)
    found = [adaptive.rank_one_lyapunov(target, *state, eta) for state in zip(path_a, path_b, strict=True)]
    values, rates = np.array([one.value for one in found]), np.array([one.rate for one in found])
    assert np.all(np.diff(values) <= 1e-9 * np.ptp(values))
    drop = np.sum((rates[1:] + rates[:-1]) / 2 * np.diff(times))
    assert values[-1] - values[0] == pytest.approx(drop, rel=2e-2)
    balance = [np.sum(one**2) - np.sum(other**2) for one, other in zip(path_a, path_b, strict=True)]
    np.testing.assert_allclose(balance, np.sum(a**2), rtol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_psi_falls_along_the_flow_and_the_balance_stays(seed):
    fall_along_flow(seed)


@pytest.mark.parametrize("start", [1e-3, 1e-12, 1e-20, 1e-100, 1e-290])
def test_the_flow_from_however_small_a_start(start):
    """a = b, T = S = η = 1: ȧ = a(1 − a²)/√(a² + 1), so the time from a₀ to a is ∫ √(1 + s²)/(1 − s²) d log s."""
    moment = math.log(0.1 / start)
    (((a,),),), (((b,),),) = adaptive.gradient_flow([[1.0]], [[1.0]], [[start]], [[start]], 1.0, [moment])
    assert a == b
    # The integrand less 1 has no weight where s is small, and the 1 gives log(a/a₀).
    more, _ = quad(lambda s: (np.sqrt(1 + s * s) / (1 - s * s) - 1) / s, 0.0, a, epsabs=0, epsrel=1e-10)
    assert math.log(a) - math.log(start) + more == pytest.approx(moment, abs=2e-6)


def test_the_loss_in_its_place_is_found_out(monkeypatch):
    right = convergence.rank_one_lyapunov

    def planted(target, a, b, eta):
        one = right(target, a, b, eta)
        return convergence.Lyapunov(0.5 * float(np.sum((b @ a - target) ** 2)), one.rate, one.bound)

    monkeypatch.setattr(adaptive, "rank_one_lyapunov", planted)
    assert_rejects(fall_along_flow, 0)


def stability(a, b, g, s, eta):
    return convergence._stability(adaptive.update_jacobian(a, b, g, s, eta), len(a))


def family(seed, shape=(4, 4, 2), white=False):
    rng, (n1, n2, rank) = np.random.default_rng(seed), shape
    a, b = rng.standard_normal((rank, n2)), rng.standard_normal((n1, rank))
    x = rng.standard_normal((2 * n2, n2)) * np.exp(rng.uniform(-1, 1, n2))
    s, eta = np.eye(n2) if white else x.T @ x / n2, float(np.exp(rng.uniform(-1, 2)))
    return a, b, adaptive.rest_gradient(a, b, eta, rng.standard_normal((n1 - rank, n2 - rank))), s, eta


@pytest.mark.parametrize("shape", [(4, 4, 2), (3, 5, 1), (5, 3, 2)])
@pytest.mark.parametrize("white", [True, False])
def test_rest_points_rest_and_their_spectrum_is_autograds(shape, white):
    a, b, g, s, eta = family(1, shape, white)
    part_a, part_b = adaptive.update_field(a, b, g, eta)
    assert max(np.abs(part_a).max(), np.abs(part_b).max()) < 1e-12 * np.abs(g).max()
    found = stability(a, b, 0.01 * g, s, eta)
    x = np.linalg.cholesky(s).T
    target = b @ a - 0.01 * g @ np.linalg.inv(s)
    values = np.linalg.eigvals(brute.field_jacobian(x, (target @ x.T).T, a, b, eta))
    values = np.sort_complex(values[np.argsort(abs(values))[len(a) ** 2 :]])
    np.testing.assert_allclose(found.eigenvalues, values, atol=1e-9 * abs(values).max())
    assert found.stable
    assert len(found.eigenvalues) == a.size + b.size - len(a) ** 2


@pytest.mark.parametrize("seed", range(5))
def test_at_a_perfect_fit_the_largest_rate_is_loras_over_a_factor_between_the_rows(seed):
    """What the doctor says: J lies between d_min and d_max times LoRA's Hessian, whose largest rate is 2 over λ_max."""
    a, b, g, s, eta = family(seed, white=False)
    found = stability(a, b, 0 * g, s, eta).largest_rate
    lora = np.block([  # of ½ tr((P − T)S(P − T)ᵀ) at P = T
        [np.kron(np.eye(len(b)), a @ s @ a.T), np.einsum("iq,km->ikqm", b, a @ s).reshape(b.size, a.size)],
        [np.einsum("iq,km->ikqm", b, a @ s).reshape(b.size, a.size).T, np.kron(b.T @ b, s)],
    ])  # fmt: skip
    rate, d = 2 / np.linalg.eigvalsh(lora)[-1], brute.factor(a, b, eta)
    assert rate / d.max() * (1 - 1e-9) <= found <= rate / d.min() * (1 + 1e-9)
    assert d.max() > 1.05 * d.min()


def test_gradient_descent_is_stable_below_the_largest_rate_and_not_above():
    a, b, g, s, eta = family(2, white=True)
    target = b @ a - 0.05 * g
    limit = stability(a, b, 0.05 * g, s, eta).largest_rate
    far = []
    for rate in (0.98 * limit, 1.02 * limit):
        near_a, near_b, gaps = a + 1e-7, b.copy(), []
        for _ in range(1500):
            adapted = brute.factor(near_a, near_b, eta)[:, None] * (near_b @ near_a - target)
            near_a, near_b = near_a - rate * near_b.T @ adapted, near_b - rate * adapted @ near_a.T
            gaps.append(np.abs(near_b @ near_a - b @ a).max())
        far.append(max(gaps))
    assert far[0] < 1e-5
    assert far[1] > 1e-2  # from where it may settle at another A and B of the same product


def crosses_as_a_pair():
    found = adaptive.first_instability(*adaptive.HOPF)
    assert found.scale == pytest.approx(0.7169129, rel=1e-6)
    assert found.frequency == pytest.approx(1.1197748, rel=1e-6)


def test_a_hopf_bifurcation_that_lora_cannot_have(monkeypatch):
    family = adaptive.HOPF
    assert np.linalg.eigvalsh(family.a @ family.a.T - family.b.T @ family.b)[0] > 0  # as from B = 0
    crosses_as_a_pair()
    stable = [stability(family.a, family.b, mu * family.g, family.s, 1.0).stable for mu in (0.71, 0.72)]
    assert stable == [True, False]
    symmetric = adaptive.update_jacobian
    monkeypatch.setattr(convergence, "update_jacobian", lambda *given: (symmetric(*given) + symmetric(*given).T) / 2)
    assert_rejects(crosses_as_a_pair)


@pytest.mark.parametrize("mu", [0.70, 0.73])
def test_past_the_hopf_bifurcation_the_flow_rests_elsewhere(mu):
    one = adaptive.HOPF
    times = np.linspace(0, 600.0, 601)
    path_a, path_b = adaptive.gradient_flow(one.target(mu), one.s, 1.001 * one.a, one.b, 1.0, times)
    product = path_b @ path_a
    away = np.abs(product[-1] - one.b @ one.a).max() / np.abs(one.b @ one.a).max()
    assert np.ptp(product[-50:], axis=0).max() < 1e-6 * np.abs(product).max()
    assert away < 1e-6 if mu < 0.7169 else away > 0.1


@pytest.mark.parametrize("seed", range(10))
def test_no_hopf_on_white_inputs(seed):
    found = adaptive.first_instability(*family(seed, white=True))
    assert found.scale is not None
    assert found.frequency == 0


def test_a_perfect_fit_is_stable_at_every_scale():
    a, b, g, s, eta = family(3)
    assert adaptive.first_instability(a, b, 0 * g, s, eta) == convergence.Instability(None, 0.0)
    assert stability(0 * a, 0 * b, 0 * g, s, eta).largest_rate == 0.0  # nor does anything move at 0


@pytest.mark.parametrize("unit", [1e-6, 1e6])
def test_a_rest_point_is_one_in_any_unit(unit):
    a, b, g, s, eta = family(3)
    found = stability(a, b, unit * g, unit * s, eta).largest_rate
    assert unit * found == pytest.approx(stability(a, b, g, s, eta).largest_rate, rel=1e-6)


@pytest.mark.bad_input
def test_mistakes_are_one_line():
    a, b, _, s, eta = family(3)
    with pytest.raises(ArgumentError, match="rank 1"):
        adaptive.rank_one_lyapunov(np.ones((4, 4)), a, b, eta)
    with pytest.raises(ArgumentError, match="mixing"):
        adaptive.rest_gradient(a, b, eta, np.ones((1, 1)))
    with pytest.raises(ArgumentError, match="target"):
        adaptive.gradient_flow(np.ones((3, 4)), s, a, b, eta, [1.0])
    for times in (1.0, [], [2.0, 1.0], [1.0, 1.0], [-1.0, 1.0]):
        with pytest.raises(ArgumentError, match="times"):
            adaptive.gradient_flow(b @ a, s, a, b, eta, times)


@pytest.mark.parametrize("rate", [1.0, 3.0])
def test_a_run_that_diverges_is_refused(rate):
    """Planted: squares beyond float64 made the step 0, and a matrix of 1e160 the place where it rests."""
    generator = np.random.default_rng(0)
    target, a = generator.standard_normal((3, 4)), 0.3 * generator.standard_normal((1, 4))
    with pytest.raises(ArgumentError, match="leaves double precision's range"):
        adaptive.run_to_rest(target, a, 2.0, rate, 3000)
