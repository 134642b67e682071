"""§3.2's closed forms in (B, A): spectrum and inertia at B = 0; bad input to all of them; the study's command."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import cli, hessian
from allora_analysis.hessian import study
from allora_analysis.hessian.study import STUDY, Config
from allora_analysis.study import plain
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


SMALL = Config(features=12, outputs=5, rank=2, ratios=(0.5, 1.0, 3.0), draws=20, samples=9, seed=3)
FLAGS = [
    "--features",
    "12",
    "--outputs",
    "5",
    "--rank",
    "2",
    "--ratios",
    "0.5",
    "1",
    "3",
    "--draws",
    "20",
    "--samples",
    "9",
    "--seed",
    "3",
]


@pytest.fixture(scope="module")
def result():
    return study.run(SMALL)


def test_predictions_stand_beside_measurements(result):
    p, m = result.predicted, result.measured
    assert p["n_samples"] == [6, 12, 36]
    assert p["rank"] == m["rank"] == [6, 12, 12]
    assert p["log_condition"] == [
        pytest.approx(math.log(hessian.marchenko_pastur_condition(12 / n))) for n in (6, 12, 36)
    ]
    assert [value is None for value in p["log_condition_square"]] == [True, False, True]
    assert m["log_condition_fixed_gram"][1:] == pytest.approx(p["log_condition_fixed_gram"][1:], rel=1e-10)
    for start, slope in (("lora", True), ("both_zero", False)):
        for name in ("negative", "zero", "positive"):
            assert p[start][name] == m[start][name]
        np.testing.assert_allclose(
            p[start]["eigenvalues"], m[start]["eigenvalues"], atol=1e-10 * p[start]["eigenvalues"][-1]
        )
        assert p[start]["negative"] == 2 * 5
        assert (p[start]["gradient_norm"] > 0) == slope
    assert p["lora"]["log_condition_b_block"] == pytest.approx(m["lora"]["log_condition_b_block"], rel=1e-9)
    assert p["lora"]["log_condition_gram"] == math.inf  # N = 9 < D = 12: S is singular


def test_rows_do_not_depend_on_the_others(result):
    alone = study.run(Config(features=12, outputs=5, rank=2, ratios=(3.0,), draws=20, samples=9, seed=3))
    assert alone.measured["log_condition"] == result.measured["log_condition"][2:]


def test_another_seed_other_numbers_and_no_infinity_in_json(result):
    assert study.run(replace(SMALL, seed=4)).measured["log_condition"] != result.measured["log_condition"]
    assert plain(result.predicted)["log_condition"][1] is None  # ∞


def test_table_and_figure(capsys, tmp_path):
    assert cli.main(STUDY, [*FLAGS, "--figure", str(tmp_path / "spectra.png")]) == 0
    printed = capsys.readouterr().out
    for words in ("6 of 12", "12 of 12", "∞, at finite N", "negative 10 (10)", "A = B = 0", "κ(ASAᵀ)"):
        assert words in printed
    assert (tmp_path / "spectra.png").stat().st_size > 10_000


def test_figure_shows_the_result(result):
    left, right = STUDY.plot(SMALL, result).axes
    assert left.get_xscale() == left.get_yscale() == "log"
    lines = {line.get_label(): line for line in left.get_lines()}
    medians = np.exp(result.measured["log_condition_median"])
    np.testing.assert_allclose(lines["median κ"].get_ydata(), medians)
    np.testing.assert_allclose(lines["median κ"].get_xdata(), [0.5, 1.0, 3.0])
    grid, curve = lines["Marchenko–Pastur limit"].get_data()
    np.testing.assert_allclose(curve[[0, -1]], [hessian.marchenko_pastur_condition(1 / grid[i]) for i in (0, -1)])
    steps = [line for line in right.get_lines() if "closed form" in str(line.get_label())]
    for line, start in zip(steps, ("lora", "both_zero"), strict=True):
        np.testing.assert_allclose(line.get_ydata(), result.predicted[start]["eigenvalues"])


def test_a_large_layer_is_predicted_and_not_measured():
    config = Config(features=600, outputs=400, rank=2, ratios=(0.01,), draws=2, samples=20)
    result = study.run(config)
    assert result.measured["lora"]["negative"] is None
    assert result.predicted["lora"]["negative"] == 2 * 20
    assert "not measured at this size" in "".join(study.table(config, result).notes)
    assert STUDY.plot(config, result).axes[1].get_lines()


def test_b_block_singular_below_rank_samples():
    config = Config(features=8, outputs=4, rank=4, ratios=(1.0,), draws=2, samples=2)
    result = study.run(config)
    assert result.predicted["lora"]["log_condition_b_block"] == math.inf
    assert result.measured["lora"]["log_condition_b_block"] == math.inf
    assert "κ(ASAᵀ) = ∞" in "".join(study.table(config, result).notes)
    plain(result)


def test_interrupted_keeps_the_finished_rows(monkeypatch):
    right, calls = study._ratio, []

    def once(config, ratio):
        calls.append(ratio)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return right(config, ratio)

    monkeypatch.setattr(study, "_ratio", once)
    result = study.run(SMALL)
    assert result.interrupted
    assert result.predicted["n_samples"] == [6]
    assert study.table(SMALL, result).rows


BAD_LINES = [
    (["--rank", "6"], "--rank must be at most min(n1, n2) = 5, received 6"),
    (["--rank", "0"], "--rank must be"),
    (["--rank", "3", "--starts", "orthogonal"], "--rank must be even for the start orthogonal, received 3"),
    (["--features", "0"], "--features must be"),
    (["--outputs", "-1"], "--outputs must be"),
    (["--ratios", "0.001"], "--ratios must give N of 1 or more, above 0.04167 here, received 0.001"),
    (["--ratios", "-1"], "--ratios must be a finite number above 0, received -1.0"),
    (["--ratios", "nan"], "--ratios must be"),
    (["--ratios"], "--ratios must have at least one value"),
    (["--draws", "1"], "--draws must be"),
    (["--samples", "0"], "--samples must be"),
    (["--seed", "-1"], "--seed must be"),
    (
        ["--network", "--seed", "99999999999999999999"],
        "seed must be a whole number in [0, 18446744073709551615]",
    ),
    (["--ratios", "1e16"], "--ratios: the design of N/D = 1e+16 would need"),
    (["--ratios", "1e30"], "--ratios: the design of N/D = 1e+30 would need"),
    (["--ratios", "1e308"], "--ratios: the design of N/D = 1e+308 would need"),
    (["--samples", "1000000000000000000"], "--samples: a design would need"),
    (["--features", "10000000000"], "features, outputs: a design would need 2.98e+12 GiB"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("flags", "message"), BAD_LINES)
def test_bad_flags_are_one_line_and_status_2(capsys, flags, message):
    assert cli.main(STUDY, [*FLAGS, *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_network_part(capsys):
    assert cli.main(STUDY, [*FLAGS, "--network", "--rank", "1", "--ratios", "1", "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    predicted, measured = document["predicted"]["network"], document["measured"]["network"]
    assert predicted["negative"] >= predicted["negative_at_least"] == sum(predicted["layer_gradient_ranks"].values())
    assert measured["gradient_a_norm"] == pytest.approx(0, abs=1e-12)
    assert measured["gradient_b_norm"] > 0.1
    assert measured["start"]["smallest"][0] < -0.1
    assert measured["trained"]["loss"] < measured["start"]["loss"]
    notes = study._digits_notes(predicted, measured)
    assert f"{predicted['negative']} negative directions of {measured['start']['parameters']}" in notes[0]
    assert "after training" in notes[1]
