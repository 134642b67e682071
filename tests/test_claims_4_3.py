"""The ledger's rows on §4.3 and §5.2, ALLoRA-OD and ASF-LoRA: what a wrong formula does to their verdicts."""

from dataclasses import replace

import numpy as np
import pytest

from allora_analysis import adaptive
from allora_analysis.claims import layer_training, s4_3_allora_od, s4_3_asf_lora, s4_3_in_framework
from allora_analysis.lora import functional, layers
from tests.ledger_rows import Rows

od, asf = s4_3_allora_od, s4_3_asf_lora
ROWS = Rows(s4_3_in_framework, od, asf)
ALLORA, ASF, PAIRS, PRODUCTS = functional.allora, functional.asf_lora, layer_training.pairs, layer_training.products


def by_row(x, a, b, eta, adaptor="inverse_sqrt"):
    return ALLORA(x, a, b, eta)


def frozen_factor(x, a, b, eta, adaptor="inverse_sqrt"):
    return ALLORA(x, a, b, eta, "constant")


def scaled(x, a, b, eta, adaptor="inverse_sqrt"):
    return eta * (x @ a.mT @ b.mT)


def turned_round(x, a, b, eta, adaptor="inverse_sqrt"):
    """The output as it is, its gradient with the other sign."""
    return 2 * ASF(x, a, b, eta).detach() - ASF(x, a, b, eta)


def with_a(x, a, b, eta, adaptor="inverse_sqrt"):
    return x @ a.mT @ b.mT * a.norm()


def doubled_variance(right, sigma, eta):
    law = right(sigma, eta)
    return replace(law, variance=2 * law.variance)


def isotropic(right, sigma, eta):
    law = right(sigma, eta)
    return replace(law, along=law.mean)


def of_all_tokens(one):
    """The fitted ones too."""
    return bool(np.ptp(np.abs(one.x @ one.row)) <= 1e-9 or np.linalg.matrix_rank(one.x, 1e-9) == 1)


class Merging(layers.ALLoRALinear):
    def merge(self):
        return self.base


def allora_for_asf(run, arm, *args, **options):
    return PAIRS(run, "allora", *args, **options)


def long_for_asf(run, arm, *args, **options):
    """BA thirty times as long as LoRA's foretells, so that its outputs are damped."""
    return [(a, 30 * b if arm == "asf" else b) for a, b in PAIRS(run, arm, *args, **options)]


def lora_for_asf(run, arm, *args, **options):
    return PAIRS(run, "lora" if arm == "asf" else arm, *args, **options)


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    *(
        (name, functional, arm, wrong, "refuted")
        for name in ("4-family-in-framework", "4-family-in-framework-of-g-alone")
        for arm, wrong in (("allora_od", by_row), ("asf_lora", with_a))
    ),
    ("4-family-in-framework-of-g-alone", functional, "allora", frozen_factor, "refuted"),
    ("4-define-each-other", layer_training, "lora", lambda x, a, b: x @ a.mT @ b.mT + 1e-3, "refuted"),
    ("4-define-each-other-in-training", np.linalg, "matrix_rank", lambda x, *args: x.shape[1], "refuted"),
    ("4-od-noise", functional, "allora_od", by_row, "refuted"),
    ("4-od-noise", adaptive, "output_factor", doubled_variance, "refuted"),
    ("4-od-update-in-training", adaptive, "output_factor", isotropic, "refuted"),
    ("4-od-update-in-training", functional, "allora_od", by_row, "holds"),
    ("4-od-update-in-training", od, "keeps_direction", of_all_tokens, "refuted"),
    ("4-od-update-in-training", od, "inverse_sqrt", lambda m, eta: eta, "refuted"),
    ("4-asf-similar", layer_training, "pairs", lora_for_asf, "refuted"),
    ("4-asf-similar", functional, "asf_lora", with_a, "refuted"),
    ("4-asf-similar", asf, "QUARTER", 0.01, "refuted"),
    ("4-asf-similar", asf, "OF_OURS", (0.3, 0.6), "refuted"),  # long rows
    ("4-asf-similar-output", layer_training, "pairs", long_for_asf, "refuted"),
    ("4-asf-similar-output", adaptive, "asf", lambda f, eta: eta * f, "refuted"),
    ("4-asf-similar-output", functional, "asf_lora", by_row, "holds"),
    ("4-asf-similar-output", asf, "within", lambda case: 1.25 / case.run.eta, "refuted"),  # as far as outputs are short
    ("4-output-scales-gradient", functional, "asf_lora", scaled, "refuted"),
    ("4-output-scales-gradient", functional, "asf_lora", by_row, "refuted"),
    ("4-output-scales-gradient", functional, "asf_lora", turned_round, "refuted"),
    ("4-asf-ripple", functional, "asf_lora", scaled, "refuted"),
    ("4-asf-ripple", functional, "asf_lora", lambda x, a, b, eta, adaptor="": x @ a.mT @ b.mT, "refuted"),
    ("4-asf-ripple", asf, "SIZES", np.array([0.1, 1.0, 10.0]), "refuted"),  # too large where η is near 1
    ("4-asf-ripple", adaptive, "asf", lambda f, eta: eta * f, "refuted"),
    ("4-asf-merge", functional, "asf_lora", scaled, "refuted"),
    ("4-asf-merge", layers, "ALLoRALinear", Merging, "refuted"),
]


test_a_planted_wrong_formula_changes_the_verdict = ROWS.plants(PLANTED)


def test_the_output_is_not_of_bas_size_even_where_training_is_allora_s(monkeypatch):
    """The same BA at every step, and the output that ASF-LoRA makes of it: the two readings part."""
    monkeypatch.setattr(layer_training, "pairs", allora_for_asf)
    found = ROWS.finding("4-asf-similar")
    assert (found.size.high, found.verdict) == (0, "holds")
    assert ROWS.finding("4-asf-similar-output").verdict == "conditional"


@pytest.mark.parametrize(("f", "grows"), [(0.74, True), (0.76, False)])
def test_the_ripple_ends_at_one_minus_one_over_eta_squared(f, grows):
    """η² = 4: one layer with an output on either side of 3/4, against ALLoRA's 1 + m."""
    one = asf._Stack(0.01, (f / 0.01,), asf.frame(np.random.default_rng(0), 4, 2), 1, 2.0)
    assert bool(asf._asf_growth(one)[0, 0] > np.log1p(0.01)) == grows


def test_at_eta_of_one_no_output_ripples():
    """One of the paper's three: growth is below scaling 1's in every layer, so the sentence is not true of all."""
    assert ROWS.as_is("4-asf-ripple").at_paper == "mixed"
    u = asf.frame(np.random.default_rng(0), 4, 2)
    for eta, grows in ((1.0, False), (1.01, True)):
        growth = asf._asf_growth(asf._Stack(0.1, (1e-4, 1e-2, 1.0, 100.0), u, 4, eta))
        assert (growth.max() > np.log1p(0.1)) == grows


def test_the_damping_is_at_most_the_square_root():
    f = np.geomspace(1e-8, 1e8, 200)
    for eta in (0.5, 1.0, 4.0):
        assert (np.abs(adaptive.asf(f, eta)) <= np.minimum(eta * f, np.sqrt(f)) * (1 + 1e-12)).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_the_angle_over_a_batch_is_no_one_draw(seed):
    size = ROWS.finding("4-od-update-in-training", seed).size
    assert size.low < 0.08 < 0.1 < size.value < 0.2 < 0.25 < size.high
