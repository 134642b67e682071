"""The ledger's rows on Eq. (6) and the definition of ALLoRA: what a wrong formula does to their verdicts."""

import numpy as np
import pytest

from allora_analysis import adaptive, adaptors
from allora_analysis.claims import layer_training
from allora_analysis.claims import s4_2_definition as section
from allora_analysis.claims import s4_2_scaled_gradient as scaled
from allora_analysis.claims.ledger import all_claims
from allora_analysis.lora import functional, layers
from allora_analysis.render.view import LESS_KIND
from tests.ledger_rows import Rows, by_token, lora_instead, scaled_input_gradient

ROWS = Rows(scaled, section)
INVERSE, FACTOR, PRODUCTS, GRADIENT = (
    adaptors.inverse,
    functional.row_factor,
    layer_training.products,
    scaled.scaled_gradient_of,
)


def norms_of_b(a, b, eta, adaptor="inverse_sqrt"):
    return (b.norm(dim=1) + eta**-2 + 1).rsqrt()


def inverse_factor(a, b, eta, adaptor="inverse_sqrt"):
    return FACTOR(a, b, eta, "inverse")


def twice_for_a(right, a, b, g, eta):
    return right(a, b, g, eta)[0] * 2, right(a, b, g, eta)[1]


def never_scaled(run, arm, *args, **options):
    return PRODUCTS(run, "lora", *args, **options)


def by_itself(case):
    """The clipping as if no other gradient were clipped with A's and B's."""
    return FOLLOWS(case._replace(other=0.0))


def with_any_decay(case):
    return FOLLOWS(case._replace(run=case.run._replace(decay=0.0)))


def never_clipped(run, *args, **options):
    return PRODUCTS(run._replace(clip=None), *args, **options)


def at_the_unscaled_output(case):
    return [GRADIENT(case)[0], scaled.eta_times_g(case, 1.0)]


def scaled_twice(case):
    return [GRADIENT(case)[0], case.eta * GRADIENT(case)[1]]


def with_the_row_norm(case):
    """‖(BA)_i‖ in place of σ, which it is at r = n."""
    d = (case.row + case.eta**-2) ** -0.5
    return ((1 + case.row) / (1 + d * case.row)) ** case.depth


def all_rows_alike(case):
    """Of all rows, not of those in which a column of B is not 0."""
    d = adaptive.row_factor(case.one.a, case.one.b, case.eta)
    return case.which == "B" or bool(np.ptp(d) < 1e-9)


def scaled_output(x, weight, bias, a, b, eta, adaptor, per_token):
    return x @ weight.mT + eta * (x @ a.mT @ b.mT)


def masked_always(x, weight, bias, a, b, eta, adaptor, per_token):
    """Dropout at the rate as run, whatever the layer's own is."""
    return LINEAR(DROPOUT(x, 0.05, True), weight, bias, a, b, eta, adaptor, per_token)


def by_row(x, a, b, eta, adaptor="inverse_sqrt"):
    """ALLoRA in ALLoRA-OD's place."""
    return functional.allora(x, a, b, eta)


FOLLOWS, LINEAR, DROPOUT = scaled.follows_the_gradient, layers.allora_linear, layers.nn.functional.dropout

PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    ("4-scaled-gradient", scaled, "scaled_gradient_of", at_the_unscaled_output, "holds"),
    ("4-scaled-gradient", scaled, "scaled_gradient_of", scaled_twice, "refuted"),
    ("4-scaling-as-rate", layer_training, "products", never_scaled, "refuted"),
    ("4-scaling-as-rate", layer_training, "products", never_clipped, "refuted"),
    ("4-scaling-as-rate", scaled, "follows_the_gradient", lambda case: case.run.optimizer != "adamw", "refuted"),
    ("4-scaling-as-rate", scaled, "follows_the_gradient", by_itself, "refuted"),
    ("4-scaling-as-rate", scaled, "follows_the_gradient", with_any_decay, "refuted"),
    ("4-scaling-as-rate", scaled, "divides_out", lambda case: True, "refuted"),  # clipped in one of both
    ("4-per-parameter", functional, "allora", lora_instead, "holds"),
    ("4-per-parameter", adaptive, "row_factor", lambda a, b, eta: np.full(len(b), eta), "refuted"),
    ("4-per-parameter", scaled, "keeps_signs", all_rows_alike, "refuted"),
    ("4-per-parameter", scaled, "keeps_signs", lambda case: case.which == "B" or not case.one.b.any(), "refuted"),
    ("4-adaptor", adaptors, "inverse_sqrt", INVERSE, "refuted"),
    ("4-adaptor", functional, "row_factor", norms_of_b, "refuted"),
    ("4-inversely-proportional", section, "layer_factor", lambda case: 1 / case.sizes, "holds"),
    ("4-inversely-proportional", functional, "row_factor", inverse_factor, "refuted"),
    ("4-per-sample", functional, "allora", by_token, "refuted"),
    ("4-per-sample", adaptive, "row_factor", lambda a, b, eta: np.full(len(b), eta), "refuted"),
    ("4-definition", functional, "allora", lora_instead, "refuted"),
    ("4-definition", adaptive, "update_field", twice_for_a, "refuted"),
    ("4-definition", functional, "allora_od", by_row, "refuted"),
    ("4-definition", adaptors, "inverse_sqrt", INVERSE, "refuted"),
    ("4-definition", functional, "asf_lora", lora_instead, "refuted"),
    ("4-definition", adaptive, "asf_derivative", lambda f, eta: (abs(f) + eta**-2) ** -0.5, "refuted"),
    ("4-not-back-propagated", functional, "allora", scaled_input_gradient, "refuted"),
    ("4-two-hyper-parameters", layers, "allora_linear", scaled_output, "refuted"),
    ("4-two-hyper-parameters", layers, "allora_linear", masked_always, "refuted"),
    ("4-backward-ripple", functional, "allora", scaled_input_gradient, "refuted"),
    ("4-backward-ripple", functional, "row_factor", norms_of_b, "refuted"),
    ("4-backward-ripple", section, "growth_ratio", with_the_row_norm, "refuted"),
]


test_a_planted_wrong_formula_changes_the_verdict = ROWS.plants(PLANTED)


@pytest.mark.parametrize(("clip", "least", "most"), [(None, 0, 1e-4), (0.5, 0, 1e-4), (1.5, 1e-3, 0.1)])
def test_adamw_is_lora_at_its_own_rate_unless_one_of_both_is_clipped(clip, least, most):
    """η = 2: at c = 1.5 g the layer's gradient is clipped to a length, LoRA's is not, and v̂ remembers which."""
    task = layer_training.paper_problem(np.random.default_rng(0))
    run = layer_training.Run(task, "adamw", 2.0, 1e-4, 20, clip and clip * layer_training.first_gradient(task))
    scaled, lora = (layer_training.products(run, arm)[-1] for arm in ("constant", "lora"))
    apart = np.abs(scaled - lora).max() / np.abs(lora).max()
    assert least <= apart <= most


def test_that_a_scaled_gradient_is_a_larger_rate_is_one_row_under_any_optimizer():
    """That l(ηg) = (ηl)g along the gradient itself is its condition, no row of its own that cannot fail."""
    own = [claim.id for claim in all_claims() if claim.statement == ROWS["4-scaling-as-rate"].statement]
    assert own == ["4-scaling-as-rate"]
    assert "plain SGD's, meet the condition" in ROWS["4-scaling-as-rate"].reading
    assert not ROWS["4-scaling-as-rate"].reading.startswith(LESS_KIND)
    assert ROWS.as_is("4-scaling-as-rate").at_paper == "no, if AdamW"


def test_at_eta_1_the_ripple_grows_by_next_to_nothing():
    """24 layers, σ = 0.015√8, d = (1.015)^(−1/2)."""
    sigma = 0.015 * 8**0.5
    grown = ((1 + sigma) / (1 + sigma * 1.015**-0.5)) ** 24 - 1
    assert ROWS.as_is("4-backward-ripple").answer.endswith(f"at η² = 1 ripple grows by {100 * grown:.1f} %.")


def test_the_text_names_the_misprint_of_equation_6():
    assert "κ∘f = ηg" in ROWS["4-scaled-gradient"].statement
    assert ROWS.as_is("4-scaled-gradient").corrected.startswith("g̃ = κ∘g")


@pytest.mark.parametrize(("rank", "ratio"), [(64, 0.232), (8, 0.0334), (1, 0.00163)])
def test_the_input_gradient_by_singular_values(rank, ratio):
    """Rows of 0.1 at η² = 4, n = 64, L = 24, by the products' eigenvalues in NumPy."""
    u = section.frame(np.random.default_rng(0), 64, rank)
    case = section.Ripple(2.0, 0.1 * (64 / rank) ** 0.5, 24, u)
    product = case.sigma * u @ u.T
    np.testing.assert_allclose(np.linalg.norm(product, axis=1), 0.1)
    d = (0.1 + 0.25) ** -0.5
    plain, adapted = (np.linalg.eigvalsh(np.eye(64) + factor * product)[-1] ** 24 for factor in (1.0, d))
    assert section.growth_ratio(case) == pytest.approx(plain / adapted) == pytest.approx(ratio, rel=5e-3)


def test_the_size_at_another_width_has_its_own_row_norm():
    """σ = ‖(BA)_i‖√(n/r) is longer at n = 384, the rows, and so d, are not."""
    sigma, d = 0.015 * 48**0.5, (0.015 + 0.25) ** -0.5
    told = ((1 + sigma) / (1 + d * sigma)) ** 24
    assert f"{told:.2g} at rows of 0.015 and n = 384" in ROWS.as_is("4-backward-ripple").size.of


@pytest.mark.parametrize("drop_rate", [0.05, 0.3])
def test_what_dropout_moves_in_root_mean_square(drop_rate):
    """E‖BA(m/(1 − p) − 1)x‖² = p/(1 − p)·E‖BAx‖² for white x, whatever BA and η."""
    one = section.Adapted(64, 64, 8, "allora", 2.0, drop_rate, 0)
    moved = np.array([section.off_the_product(one._replace(seed=seed)) for seed in range(200)])
    assert np.sqrt(np.mean(moved**2)) == pytest.approx((drop_rate / (1 - drop_rate)) ** 0.5, rel=0.05)
    assert section.off_the_product(one) == section.off_the_product(one._replace(eta=1.0))


def test_lora_times_eta_keeps_its_factor():
    one = section.Adapted(64, 64, 8, "lora_x_eta", 2.0, 0.0, 0)
    assert section.off_the_product(one) == pytest.approx(1.0)
    assert section.off_the_product(one._replace(eta=1.0)) < section.TOLERANCE


def test_the_size_of_dropout_is_no_one_draw():
    size = ROWS.as_is("4-two-hyper-parameters").size
    assert 0.12 < size.low < 0.19 < size.value < 0.27 < size.high < 0.4


@pytest.mark.parametrize("seed", [0, 1])
def test_the_share_of_signs_that_change_is_no_one_draw(seed):
    """One draw in a hundred has none or as many as 0.006; the mean of many is 0.0025."""
    size = ROWS.finding("4-per-parameter", seed).size
    assert size.low < 0.001 < size.value < 0.004 < size.high


def test_a_loss_turns_signs_where_rows_differ_in_length():
    one = layer_training.paper_pass(np.random.default_rng(0))
    case = scaled.Entries(one, 2.0, "A")
    assert scaled.ratios(scaled.turning(case)).min() < 0
    alike = one._replace(b=one.b / np.linalg.norm(one.b @ one.a, axis=1, keepdims=True))
    np.testing.assert_allclose(scaled.ratios(case._replace(one=alike)), (1 + 2.0**-2) ** -0.5, rtol=1e-6)
    assert scaled.keeps_signs(case._replace(one=alike))
    assert not scaled.keeps_signs(case)
