"""The explorables' JavaScript against the package, in Chromium: 200 random points each, to 1e-12 relative."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest

from allora_analysis import dropout_sgd, escape, hessian, ripple, tikhonov
from allora_analysis.claims.masked_descent import Sgd
from allora_analysis.claims.s3_1_in_the_long_run import pays_in_the_limit

pytestmark = pytest.mark.browser

STATIC = Path(__file__).parents[1] / "docs/site/static"
POINTS, TOLERANCE = 200, 1e-12


@pytest.fixture(scope="module")
def javascript(browser) -> Callable[[str, list], list]:
    """Calls a function of formulas.js at many points."""
    page = browser.new_page()
    page.route(
        "http://site.test/**", lambda route: route.fulfill(path=STATIC / route.request.url.partition(".test/")[2])
    )
    page.goto("http://site.test/style.css")
    script = "async ([name, points]) => { const m = await import('/explore/formulas.js'); "
    script += "return points.map((a) => m[name](...a)); }"
    return lambda name, points: page.evaluate(script, [name, [[plain(a) for a in point] for point in points]])


def plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def agree(found, expected) -> bool:
    return bool(np.allclose(np.asarray(found, float), np.asarray(expected, float), rtol=TOLERANCE, atol=0))


def spectra(rng, count: int = 8) -> np.ndarray:
    return np.geomspace(1, 1 / 10 ** rng.uniform(0.1, 2), count)


def test_the_spectrum_is_even_on_a_logarithmic_scale(javascript, rng):
    conditions = 10 ** rng.uniform(0, 3, POINTS)
    assert agree(javascript("spectrum", [(6, c) for c in conditions]), [np.geomspace(1, 1 / c, 6) for c in conditions])


def test_ridges_factor_and_the_nearest_ridge(javascript, rng):
    points = [(spectra(rng), float(rng.uniform(0.05, 0.98))) for _ in range(POINTS)]
    found = javascript("nearestRidge", points)
    told = [tikhonov.nearest_ridge(np.diag(s), np.ones((len(s), 1)), p, "output") for s, p in points]
    assert agree([one["distance"] for one in found], [one.distance for one in told])
    assert agree([one["penalty"] for one in found], [one.penalty for one in told])
    factors = [(float(s[-1]), one.penalty) for (s, _), one in zip(points, told, strict=True)]
    fits = [tikhonov.ridge_solution([[s]], [[1.0]], penalty)[0, 0] * s for s, penalty in factors]
    assert agree(javascript("ridgeFactor", factors), fits)


def cosines(rows: int, singular: np.ndarray) -> np.ndarray:
    angles = np.pi * (np.arange(rows)[:, None] + 0.5) * (np.arange(len(singular)) + 1) / rows
    return singular * np.sqrt(2 / rows) * np.cos(angles)


def settings(rng) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """X, w, keep probability and rate, the rate below dropout's mean-square limit."""
    found = []
    for _ in range(POINTS):
        x, keep_prob = cosines(8, spectra(rng, 4)), float(rng.uniform(0.3, 0.99))
        rate = float(rng.uniform(0.05, 0.5)) * dropout_sgd.stability_limits(x, keep_prob, "output").mean_square
        found.append((x, rng.standard_normal(4), keep_prob, rate))
    return found


def test_the_design_has_its_singular_values(javascript, rng):
    points = [(8, spectra(rng, 4)) for _ in range(POINTS)]
    made = np.array(javascript("design", points))
    assert agree(np.linalg.svd(made, compute_uv=False), [s for _, s in points])


def test_the_race_is_the_exact_moments(javascript, rng):
    points = [(x, w, float(rng.uniform(0.05, 3)), p, rate, 12) for x, w, p, rate in settings(rng)]
    for (x, w, noise, p, rate, steps), seen in zip(points, javascript("race", points), strict=True):
        one = Sgd(x, w, noise, p, rate, steps, "output")
        told = dropout_sgd.trajectory(x, one.labels, p, rate, steps, "output", w_true=one.truth)
        for name, series in (("dropout", told.risk), ("mean", told.risk_marginal), ("plain", told.risk_plain)):
            assert agree(seen[name], series), name


def test_the_noise_above_which_dropout_pays(javascript, rng):
    points = [(x, np.linalg.svd(x, compute_uv=False), w, p, rate) for x, w, p, rate in settings(rng)]
    told = [pays_in_the_limit(Sgd(x, w, 1.0, p, rate, 1, "output")) for x, _, w, p, rate in points]
    assert agree(javascript("paysAbove", points), told)


def test_one_weight_and_one_mask(javascript, rng):
    points = [(*rng.uniform(0.2, 2, 3).tolist(), float(rng.uniform(0.05, 1))) for _ in range(POINTS)]
    told = [tikhonov.expected_loss([[x]], [[y]], [[w]], p, "output") for x, y, w, p in points]
    assert agree(javascript("expectedLoss", points), told)
    both = [[one for v in (0, 1 / p) for one in javascript("maskedLoss", [(x, y, w, v)])] for x, y, w, p in points[:20]]
    assert agree([(1 - p) * a + p * b for (a, b), (*_, p) in zip(both, points, strict=False)], told[:20])


def test_one_step_in_the_mean_is_the_mean_over_all_masks(javascript, rng):
    for x, w, p, rate in settings(rng)[:10]:
        x, y = x[:4], rng.standard_normal(4)
        masks = np.array(np.meshgrid(*[(0, 1)] * 4)).reshape(4, -1).T
        chances = p ** masks.sum(axis=1) * (1 - p) ** (4 - masks.sum(axis=1))
        steps = np.array(javascript("maskedStep", [(x, y, w, rate, mask / p) for mask in masks]))
        (mean,) = javascript("meanStep", [(x, y, w, rate, p)])
        loss = 2 * x.T @ (x @ w - y) + 2 * (1 - p) / p * x.T @ (x @ w)
        for told in (mean, w - rate * loss):
            assert np.linalg.norm(chances @ steps - told) < TOLERANCE * np.linalg.norm(told)


def test_the_dots_are_uniform_and_the_same_at_every_visit(javascript):
    (draws,), (again,) = (javascript("draws", [(7, 4000)]) for _ in range(2))
    assert draws == again
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert np.sum((counts - 200) ** 2 / 200) < 80  # χ² with 19 degrees of freedom is above 80 with chance 2e-9


def test_loras_spectrum_at_its_start(javascript, rng):
    points = []
    for _ in range(POINTS):
        r, n1, n2 = int(rng.integers(1, 5)), int(rng.integers(5, 9)), int(rng.integers(5, 9))
        q, sigma = 10 ** rng.uniform(-2, 1, r), 10 ** rng.uniform(-2, 1, int(rng.integers(1, 5)))
        points.append((q, sigma, n1, n2))
    for (q, sigma, n1, n2), seen in zip(points, javascript("factorSpectrum", points), strict=True):
        g, a = np.zeros((n1, n2)), np.zeros((len(q), n2))
        np.fill_diagonal(g, [*sigma, *np.zeros(min(n1, n2) - len(sigma))])
        a[:, : len(q)] = np.diag(np.sqrt(q))
        told = hessian.factor_spectrum(np.eye(n2), g, a)
        assert agree(seen, told)
        assert sum(value < 0 for value in seen) == len(q) * len(sigma)


def test_leaving_zero(javascript, rng):
    points = [tuple(map(float, 10 ** rng.uniform((-1, -4, -1), (1, 0, 1)))) for _ in range(POINTS)]
    steps = rng.integers(1, 1000, POINTS).tolist()
    for optimizer in ("sgd", "adamw", "allora_adamw"):
        asked = [(optimizer, eta, rate, g, n) for (eta, rate, g), n in zip(points, steps, strict=True)]
        for (_, eta, rate, g, n), seen in zip(asked, javascript("leaving", asked), strict=True):
            allora = (
                escape.lora_trajectory(rate * n, g) if optimizer == "adamw" else escape.trajectory(rate * n, g, eta)
            )
            told = [escape.lora_trajectory(rate * n, g), escape.lora_trajectory(rate * n, g, eta), allora]
            assert agree([seen["lora"], seen["loraEta"], seen["allora"]], told)
    told = [escape.tradeoff(level, 1.0, eta).advantage for eta, _, level in points]
    assert agree(javascript("advantage", [(level, eta) for eta, _, level in points]), told)


def test_the_ripple_at_random_and_at_worst(javascript, rng):
    points = []
    for _ in range(POINTS):
        width = int(rng.integers(8, 4096))
        points.append((width, int(rng.integers(1, min(width, 64))), *(10 ** rng.uniform(-2, 1, 2)).tolist()))
    for (width, rank, eta, ratio), seen in zip(points, javascript("typicalGrowth", points), strict=True):
        scales = ripple.fair_scales(width, rank)
        scales = scales._replace(b_std=scales.b_std * ratio)
        layer, gain = ripple.growth_exponent(width, rank, eta, *scales), ripple.adapter_gain(rank, eta, *scales)
        assert agree(seen["gain"], gain)
        assert agree(seen["variance"], layer.variance)
        with mpmath.workdps(30):
            without = float(mpmath.digamma(width / 2) - mpmath.log(width / 2)) / 2
        assert abs(seen["mean"] - gain - without) < TOLERANCE * (gain + abs(without))  # of the two, which may cancel
        assert abs(seen["mean"] - layer.mean) < 1e-14  # the package subtracts logarithms of a few units
    told = [ripple.worst_case(np.ones(24), np.full(24, ratio), eta).log_amgm_bound for *_, eta, ratio in points]
    assert agree(javascript("worstGrowth", [(24, eta, ratio) for *_, eta, ratio in points]), told)


def test_a_wrong_formula_is_seen(javascript, rng):
    points = [(float(rng.uniform(0.1, 2)), float(rng.uniform(0.1, 2))) for _ in range(POINTS)]
    told = [escape.trajectory(1.0, s, eta) for s, eta in points]
    assert agree(javascript("alloraNorm", points), told)
    assert not agree(javascript("alloraNorm", [(s * (1 + 1e-11), eta) for s, eta in points]), told)
