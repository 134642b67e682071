"""The rows on dropout's expectation and on where the mask acts: planted wrong formulas change their verdicts."""

import dataclasses
import sys

import numpy as np
import pytest

from allora_analysis import tikhonov
from allora_analysis.claims import peft_masks, s3_1_implicit_regularizer, s3_1_placement, s3_1_tikhonov
from allora_analysis.tikhonov import masks as enumeration
from tests.ledger_rows import Rows

ROWS = Rows(s3_1_tikhonov, s3_1_implicit_regularizer, s3_1_placement)
verdict = ROWS.verdict


def scaled(function, factor=1.01):
    return lambda *arguments, **options: factor * function(*arguments, **options)


def moved(function, **factors):
    """A dataclass's fields multiplied by factors."""

    def wrong(*arguments):
        value = function(*arguments)
        return dataclasses.replace(value, **{name: factor * getattr(value, name) for name, factor in factors.items()})

    return wrong


def masks_without_rescaling(rows, columns, keep_prob):
    masks, probability = true_masks(rows, columns, keep_prob)
    return masks * keep_prob, probability


true_masks = enumeration.all_masks

PLANTED = [
    ("3.1-expectation", "expected_loss", scaled(tikhonov.expected_loss)),
    ("3.1-minimiser", "dropout_solution", lambda x, y, p, place: tikhonov.ridge_solution(x, y, (1 - p) / p)),
    ("3.1-minimiser", "dropout_solution", scaled(tikhonov.dropout_solution, 1 + 1e-6)),
    ("3.1-tikhonov-solution", "ridge_solution", scaled(tikhonov.ridge_solution)),
    ("3.1-equal-spectrum", "dropout_solution", scaled(tikhonov.dropout_solution)),
    ("3.1-equal-spectrum", "ridge_solution", scaled(tikhonov.ridge_solution)),
    ("3.1-unit-eigenvalue", "nearest_ridge", moved(tikhonov.nearest_ridge, penalty=1.001)),
    ("3.1-implicit-penalty", "enumerated_solution", scaled(tikhonov.enumerated_solution)),
    ("3.1-implicit-penalty", "enumerated_loss", lambda x, y, w, p, place: float(np.sum((y - x @ w) ** 2))),
    ("3.1-implicit-penalty", "enumerated_loss", scaled(tikhonov.enumerated_loss)),
    (
        "3.1-implicit-penalty",
        "enumerated_loss",
        lambda x, y, w, p, place: float(np.sum((y - x @ w) ** 2 + (x @ w) ** 2)),
    ),
    ("3.1-implicit-regularizer", "enumerated_solution", scaled(tikhonov.enumerated_solution)),
    ("3.1-implicit-regularizer", "dropout_solution", scaled(tikhonov.dropout_solution)),
    ("3.1-general-spectrum", "nearest_ridge", moved(tikhonov.nearest_ridge, distance=1.001)),
    ("3.1-placement-latent", "bottleneck_factors", moved(tikhonov.bottleneck_factors, a=1.05)),
    ("3.1-placement-latent", "bottleneck_minimum", scaled(tikhonov.bottleneck_minimum)),
    ("3.1-placement-latent", "bottleneck_solution", lambda fitted, p, rank: p * fitted),
    ("3.1-normalised-inputs", "dropout_solution", scaled(tikhonov.dropout_solution)),
    ("3.1-placement-input", "dropout_solution", scaled(tikhonov.dropout_solution)),
    ("3.1-placement-input", "dropout_solution", lambda x, y, p, place: p * np.linalg.pinv(x) @ y),
]


test_a_planted_wrong_formula_is_refuted = ROWS.plants([(row, tikhonov, *rest, "refuted") for row, *rest in PLANTED])


def test_the_distance_to_the_nearest_ridge_can_be_made_again_from_what_the_row_says():
    found = ROWS.as_is("3.1-general-spectrum")
    assert "drop rate 0.05, eight draws: 40 rows, 6 inputs, 3 outputs" in found.size.of
    rng, distances = np.random.default_rng(5), []
    for _ in range(40):
        left, right = (np.linalg.qr(rng.standard_normal((n, 6)))[0] for n in (40, 6))
        s = 10 ** np.linspace(0, -1, 6)
        s *= np.sqrt(40 * 6 / np.sum(s**2))  # entries of mean square 1
        y = (left * s) @ right.T @ rng.standard_normal((6, 3)) + rng.standard_normal((40, 3))
        parts = left.T @ y
        gaps = [(0.95 - s**2 / (s**2 + penalty))[:, None] * parts for penalty in np.geomspace(1e-3, 1e3, 2001)]
        distances.append(100 * min(map(np.linalg.norm, gaps)) / np.linalg.norm(0.95 * parts))
    assert found.size.value == pytest.approx(np.median(distances), abs=0.2)
    assert found.size.low >= min(distances) - 0.2
    assert found.size.high <= max(distances) + 0.2


def test_how_far_masks_of_outputs_and_inputs_are_apart_can_be_made_again_from_what_the_row_says():
    found = ROWS.as_is("3.1-implicit-regularizer")
    assert "singular values even in their logarithm, condition number 4, true weights standard normal" in found.size.of
    rng, apart = np.random.default_rng(6), []
    for _ in range(20):
        left, right = (np.linalg.qr(rng.standard_normal((n, 64)))[0] for n in (256, 64))
        x = (left * 4 ** np.linspace(0, -1, 64)) @ right.T
        signal = x @ rng.standard_normal((64, 4))
        y = signal + signal.std() / 2 * rng.standard_normal(signal.shape)
        gram = x.T @ x
        of_inputs = x @ np.linalg.solve(gram + 0.05 / 0.95 * np.diag(np.diag(gram)), x.T @ y)
        of_outputs = 0.95 * left @ left.T @ y
        apart.append(100 * np.abs(of_outputs - of_inputs).max() / np.abs(of_inputs).max())
    assert found.size.value == pytest.approx(np.median(apart), abs=0.5)


def equal_spectrum(x):
    sizes = np.linalg.svd(x, compute_uv=False)
    return bool(np.ptp(sizes[sizes > 1e-9]) < 1e-9)


@pytest.mark.parametrize(
    ("claim_id", "module", "name", "of_x_alone"),
    [
        ("3.1-general-spectrum", s3_1_tikhonov, "one_singular_value", equal_spectrum),
        ("3.1-implicit-regularizer", s3_1_implicit_regularizer, "orthogonal", equal_spectrum),
        ("3.1-placement-latent", s3_1_placement, "keeps_the_shape", lambda x: False),
        ("3.1-placement-input", s3_1_placement, "correlations_cancel", lambda x: np.allclose(x.T @ x, diagonal(x))),
    ],
)
def test_a_condition_that_is_always_true_or_looks_at_x_alone_is_refuted(
    claim_id, module, name, of_x_alone, monkeypatch
):
    monkeypatch.setattr(module, name, lambda one: True)
    assert verdict(claim_id) == "refuted"
    monkeypatch.setattr(module, name, lambda one: one[-1] == 1.0 or of_x_alone(one[0]))
    assert verdict(claim_id) == "refuted"


def test_masks_that_differ_on_white_inputs_would_be_seen(monkeypatch):
    """The kind reading can fail: were input masks twice as strong, no white X would pass."""
    right = tikhonov.enumerated_solution

    def stronger(x, y, p, place):
        return right(x, y, p**2 if place == "input" else p, place)

    monkeypatch.setattr(tikhonov, "enumerated_solution", stronger)
    found = ROWS.finding("3.1-implicit-regularizer")
    assert found.verdict == "refuted"


@pytest.mark.parametrize("seed", range(3))
def test_masks_on_outputs_on_inputs_and_ridge_have_one_minimizer_for_white_inputs(seed):
    one = s3_1_implicit_regularizer.white(np.random.default_rng(seed))
    c, k = float((one.x.T @ one.x)[0, 0]), (1 - one.keep_prob) / one.keep_prob
    ridge = tikhonov.ridge_solution(one.x, one.y, k * c)
    for place in ("output", "input"):
        np.testing.assert_allclose(tikhonov.enumerated_solution(*one, place), ridge, atol=1e-10)


def diagonal(x):
    return np.diag(np.diag(x.T @ x))


def test_a_fit_of_least_norm_is_not_the_only_minimizer_of_few_samples(monkeypatch):
    """Wrong where X has no full column rank: (S − diag S)X⁺Y = 0."""

    def of_least_norm(one):
        between = (one.x.T @ one.x - diagonal(one.x)) @ np.linalg.pinv(one.x) @ one.y
        return one.keep_prob == 1.0 or bool(np.abs(between).max() < 1e-9)

    assert ROWS.planted(monkeypatch, "3.1-placement-input", s3_1_placement, "correlations_cancel", of_least_norm)


def test_masks_without_rescaling_are_refuted(monkeypatch):
    monkeypatch.setattr(enumeration, "all_masks", masks_without_rescaling)
    assert verdict("3.1-mask-mean") == "refuted"
    assert verdict("3.1-expectation") == "refuted"


def test_a_unit_of_x_that_moved_the_fit_would_be_seen(monkeypatch):
    right = tikhonov.dropout_solution
    monkeypatch.setattr(tikhonov, "dropout_solution", lambda x, *rest: right(x, *rest) * (1 + np.abs(x).max() / 100))
    assert verdict("3.1-unit-eigenvalue") == "refuted"


def test_the_corrected_formula_in_print_would_hold(monkeypatch):
    """The verdict follows the printed formula's value: were that right, the rows would hold."""
    monkeypatch.setattr(s3_1_tikhonov, "_error", lambda value, reference: 0.0)
    assert {verdict(name) for name in ("3.1-minimiser", "3.1-tikhonov-solution", "3.1-equal-spectrum")} == {"holds"}


def test_printed_minimiser_is_right_for_symmetric_products():
    """With XᵀY symmetric the printed expression is the minimizer."""
    x = np.random.default_rng(0).standard_normal((4, 2))
    gram = x.T @ x
    y = x @ np.linalg.inv(gram) @ np.array([[2.0, 0.5], [0.5, 1.0]])
    printed = 0.6 * np.linalg.inv(gram) @ y.T @ x
    np.testing.assert_allclose(printed, tikhonov.enumerated_solution(x, y, 0.6, "output"), atol=1e-10)


@pytest.fixture
def measured_into(tmp_path, monkeypatch):
    """Measures PEFT's layer into a new file, which the row then reads."""
    out = tmp_path / "masks.json"

    def measure():
        assert peft_masks.main(["--out", str(out)]) == 0
        monkeypatch.setattr(peft_masks, "FILE", out)
        return peft_masks.read()

    return measure


def test_a_layer_that_masks_its_latent_space_would_hold(monkeypatch, measured_into):
    def masked_inside(one):
        rng, output = np.random.default_rng(one.seed), np.ones((one.n2, one.n1))
        output[:, : one.rank] *= rng.random((one.n2, one.rank)) >= one.drop_rate
        return output

    monkeypatch.setattr(peft_masks, "adapter_output", masked_inside)
    measured_into()
    assert verdict("3.1-placement-in-code") == "holds"
    assert verdict("3.1-dropout-in-code") == "holds"


@pytest.mark.parametrize("times", [0.0, 3.0])
def test_a_layer_without_dropout_or_at_another_drop_rate_would_be_seen(monkeypatch, measured_into, times):
    def at_another(one):
        kept = np.random.default_rng(one.seed).random((one.n2, 1)) >= times * one.drop_rate
        return kept * np.ones((one.n2, one.n1))

    assert verdict("3.1-dropout-in-code") == "holds"
    monkeypatch.setattr(peft_masks, "adapter_output", at_another)
    measured_into()
    assert verdict("3.1-dropout-in-code") == "refuted"


def test_the_committed_masks_are_what_pefts_layer_shows(measured_into):
    """That no input is struck in part, exactly; how many as a whole, within five deviations (masks are torch's)."""
    committed, again = peft_masks.read(), measured_into()
    assert list(committed) == list(again) == peft_masks.layers()
    for one, seen in again.items():
        assert seen.in_part == committed[one].in_part == 0
        for whole in (seen.whole, committed[one].whole):
            deviation = np.sqrt(one.n2 * one.drop_rate * (1 - one.drop_rate))
            assert 0 < whole < one.n2
            assert abs(whole - one.n2 * one.drop_rate) < 5 * deviation


@pytest.mark.bad_input
def test_without_peft_its_masks_are_read_and_cannot_be_measured(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "peft", None)
    found = ROWS.finding("3.1-placement-in-code")
    assert (found.verdict, found.at_paper) == ("refuted", False)
    assert peft_masks.main(["--out", str(tmp_path / "masks.json")]) == 2
    assert "peft is not installed: pip install 'allora-analysis[llm]'" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_pefts_a_is_of_its_seed_alone_and_has_no_zero():
    """From torch's own state after a seed of 255 PEFT's start has an A with an exact 0, which looks like a mask."""
    import torch

    one, outputs = peft_masks.Layer(512, 512, 32, 0.05, 255), []
    for state in (0, 255):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            outputs.append(peft_masks.adapter_output(one))
    np.testing.assert_array_equal(*outputs)
    assert peft_masks.struck(outputs[0], one.rank).in_part == 0


def test_pefts_own_layer_masks_what_ours_does():
    """The row's fact about PEFT: what reaches A is the layer's input with entries dropped, and A's output is whole."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(48, 32))
    layer = get_peft_model(model, LoraConfig(r=8, lora_dropout=0.5, target_modules=["0"])).base_model.model[0]
    seen = {}
    layer.lora_A["default"].register_forward_hook(lambda module, given, out: seen.update(into_a=given[0], out_of_a=out))
    layer.lora_B["default"].register_forward_hook(lambda module, given, out: seen.update(into_b=given[0]))
    x = torch.rand(64, 48) + 1
    layer.train()(x)
    dropped = seen["into_a"] == 0
    assert 0.4 < dropped.float().mean() < 0.6
    torch.testing.assert_close(seen["into_a"][~dropped], 2 * x[~dropped])
    torch.testing.assert_close(seen["into_b"], seen["out_of_a"])
