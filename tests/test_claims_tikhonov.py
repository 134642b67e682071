"""The ledger's rows on dropout's expectation: their verdicts, and that planted wrong formulas change them."""

import dataclasses

import numpy as np
import pytest

from allora_analysis import tikhonov
from allora_analysis.claims import section_3_1_placement, section_3_1_tikhonov
from allora_analysis.tikhonov import masks
from allora_analysis.tikhonov.masks import all_masks
from tests.ledger_rows import Rows

VERDICTS = {
    "3.1-expectation": "holds",
    "3.1-minimiser": "holds_corrected",
    "3.1-tikhonov-solution": "holds_corrected",
    "3.1-equal-spectrum": "holds_corrected",
    "3.1-unit-eigenvalue": "conditional",
    "3.1-general-spectrum": "conditional",
    "3.1-placement-latent": "conditional",
    "3.1-normalised-inputs": "holds",
    "3.1-mask-mean": "holds",
    "3.1-placement-input": "conditional",
}
ROWS = Rows(VERDICTS, section_3_1_tikhonov, section_3_1_placement)


def test_every_row_is_here():
    ROWS.check_all_are_here()


@pytest.mark.parametrize("claim_id", VERDICTS)
def test_verdict_and_evidence(claim_id):
    ROWS.check(claim_id)


def scaled(function, factor=1.01):
    return lambda *arguments, **options: factor * function(*arguments, **options)


def moved(function, **factors):
    """A dataclass's fields multiplied by factors."""

    def wrong(*arguments):
        value = function(*arguments)
        return dataclasses.replace(value, **{name: factor * getattr(value, name) for name, factor in factors.items()})

    return wrong


def masks_without_rescaling(rows, columns, keep_prob):
    drawn, probability = all_masks(rows, columns, keep_prob)
    return drawn * keep_prob, probability


PLANTED = [
    ("3.1-expectation", "expected_loss", scaled(tikhonov.expected_loss)),
    ("3.1-minimiser", "dropout_solution", lambda x, y, p, place: tikhonov.ridge_solution(x, y, (1 - p) / p)),
    ("3.1-minimiser", "dropout_solution", scaled(tikhonov.dropout_solution, 1 + 1e-6)),
    ("3.1-tikhonov-solution", "ridge_solution", scaled(tikhonov.ridge_solution)),
    ("3.1-equal-spectrum", "dropout_solution", scaled(tikhonov.dropout_solution)),
    ("3.1-equal-spectrum", "ridge_solution", scaled(tikhonov.ridge_solution)),
    ("3.1-unit-eigenvalue", "nearest_ridge", moved(tikhonov.nearest_ridge, penalty=1.001)),
    ("3.1-general-spectrum", "nearest_ridge", moved(tikhonov.nearest_ridge, distance=1.001)),
    ("3.1-general-spectrum", "is_exact_ridge", lambda x, placement: True),
    ("3.1-placement-latent", "bottleneck_factors", moved(tikhonov.bottleneck_factors, a=1.05)),
    ("3.1-placement-latent", "bottleneck_minimum", scaled(tikhonov.bottleneck_minimum)),
    ("3.1-placement-latent", "bottleneck_solution", lambda fitted, p, rank: p * fitted),
    ("3.1-normalised-inputs", "dropout_solution", scaled(tikhonov.dropout_solution)),
    ("3.1-placement-input", "dropout_solution", scaled(tikhonov.dropout_solution)),
    ("3.1-placement-input", "dropout_solution", lambda x, y, p, place: p * np.linalg.pinv(x) @ y),
]


@pytest.mark.parametrize(("claim_id", "name", "wrong"), PLANTED)
def test_a_planted_wrong_formula_is_refuted(claim_id, name, wrong, monkeypatch):
    monkeypatch.setattr(section_3_1_placement, "STARTS", 1)
    monkeypatch.setattr(tikhonov, name, wrong)
    assert ROWS.verdict(claim_id) == "refuted"


def test_masks_without_rescaling_are_refuted(monkeypatch):
    monkeypatch.setattr(masks, "all_masks", masks_without_rescaling)
    assert ROWS.verdict("3.1-mask-mean") == "refuted"
    assert ROWS.verdict("3.1-expectation") == "refuted"


def test_the_corrected_formula_in_print_would_hold(monkeypatch):
    """The verdict follows the printed formula's value: were that right, the rows would hold."""
    monkeypatch.setattr(section_3_1_tikhonov, "_error", lambda value, reference: 0.0)
    assert ROWS.verdict("3.1-minimiser") == "holds"
    assert ROWS.verdict("3.1-tikhonov-solution") == "holds"
    assert ROWS.verdict("3.1-equal-spectrum") == "holds"


def test_an_equal_spectrum_in_print_is_right_for_symmetric_products(monkeypatch):
    """With XᵀY symmetric (here Y = X) the printed transpose changes nothing, and some cases pass as printed."""
    right = section_3_1_tikhonov._problem
    monkeypatch.setattr(
        section_3_1_tikhonov,
        "_problem",
        lambda n, d, c: (right(n, d, c)[0], np.linalg.qr(right(n, d, 1)[0])[0] if c == d else right(n, d, c)[1]),
    )
    assert ROWS.verdict("3.1-equal-spectrum") == "conditional"


def test_printed_minimiser_is_right_for_symmetric_products():
    """What the correction says of C = D: with XᵀY symmetric the printed expression is the minimiser."""
    x = np.random.default_rng(0).standard_normal((4, 2))
    gram = x.T @ x
    y = x @ np.linalg.inv(gram) @ np.array([[2.0, 0.5], [0.5, 1.0]])
    printed = 0.6 * np.linalg.inv(gram) @ y.T @ x
    np.testing.assert_allclose(printed, tikhonov.enumerated_solution(x, y, 0.6, "output"), atol=1e-10)
