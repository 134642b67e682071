"""The ledger's rows on §4.1: what a wrong formula, another loss or another mask does to their verdicts."""

import numpy as np
import pytest
import torch

from allora_analysis import adaptive, ripple
from allora_analysis.claims import layer_training, s4_1_dropout_as_scaling, s4_1_framework, s4_1_three_limitations
from allora_analysis.claims import s4_1_dropout_in_a_step as in_a_step
from allora_analysis.claims import s4_1_without_loss as rewritten
from allora_analysis.claims.cases import Cases
from allora_analysis.lora import functional
from tests.ledger_rows import Rows, by_token, lora_instead, scaled_input_gradient

limits, dropped, framework = s4_1_three_limitations, s4_1_dropout_as_scaling, s4_1_framework
ROWS = Rows(limits, rewritten, dropped, in_a_step, framework)
ALLORA, LORA, PRODUCTS = functional.allora, layer_training.lora, layer_training.products
BATCH, SAME_LOSS = "-in-training", "4-without-loss-of-generality-same-loss"
PRODUCT = dropped.product_after_backward
LOSS, GRADIENTS, AHEAD = rewritten.loss_of, rewritten.factor_gradients, limits.ahead


def unscaled(case):
    return case.one.x @ (case.one.b @ case.one.a).T


def one_mask(case):
    return bool((case.mask == case.mask[0]).all())


def parallel_sums(case):
    """Without a look at tokens whose gradients cancel."""
    kept, gone = ((mask * case.one.upstream).T @ case.one.x for mask in (case.mask, 1 - case.mask))
    return bool((np.linalg.matrix_rank(np.stack([kept, gone], 1), 1e-9) < 2).all())


def of_f_alone(case, y, f):
    """Its gradients know neither y nor W*."""
    return f.sum() + (y**2).sum()


def of_the_value_itself(case):
    """L(y + s, f + s) = L(y, f), which a term in y alone breaks and no gradient sees."""
    f, s = case.one.x @ (case.one.b @ case.one.a).T, case.one.x @ case.frozen.T
    losses = [float(rewritten.loss_of(case, torch.tensor(case.y - t), torch.tensor(f + s - t))) for t in (0 * s, s)]
    return bool(abs(losses[1] - losses[0]) <= 1e-9 * abs(losses[0]))


def squared_always(case, y, f):
    return ((y - f) ** 2).sum() / 2


def without_the_frozen_weight(case, y, frozen):
    return GRADIENTS(case, y, 0 * frozen)


def cut_off_from_a(x, a, b):
    """No gradient reaches A: rows of BA share nothing."""
    return LORA(x, a.detach() + 0 * a, b)


def without_buffers(name, parameters, rate):
    return torch.optim.SGD(parameters, lr=rate)


def with_adam(name, parameters, rate):
    return torch.optim.Adam(parameters, lr=rate)


def unmasked(case):
    return PRODUCT(case._replace(mask=np.ones_like(case.mask)))


def at_right_angles(case):
    """The condition of plain SGD alone, at momentum and AdamW too."""
    g = np.delete(case.one.upstream.T @ case.one.x, case.i, axis=0)
    return bool(np.abs(case.one.b[case.i] @ np.delete(case.one.b, case.i, axis=0).T @ g).max() < 1e-9)


def of_plain_sgd(case):
    return case.optimizer == "sgd" and in_a_step.negligible(case.one.b[case.i] @ in_a_step.moves(case, False)[0], case)


def rows_at_an_angle(case):
    """To first order in l, and without a look at g_i."""
    return bool((np.abs(np.delete(case.one.b, case.i, axis=0) @ case.one.b[case.i]) > 1e-9).any())


def b_unscaled(a, b, g, factor):
    return b.T @ g, g @ a.T


def scaled_output(x, a, b, eta, adaptor="inverse_sqrt"):
    return eta * ALLORA(x, a, b, eta, adaptor)


def sgd_always(run, *args, **options):
    return PRODUCTS(run._replace(optimizer="sgd"), *args, **options)


def never_clipped(run, *args, **options):
    return PRODUCTS(run._replace(clip=None), *args, **options)


def unless_clipped(case):
    """η wherever nothing is clipped, LoRA's step elsewhere."""
    return case.run.eta if case.run.optimizer == "sgd" and case.run.clip is None else 1.0


def without_the_other_gradients(case):
    return AHEAD(case._replace(other=0.0))


def of_spectral_norms(right, case):
    """‖BA‖/‖W‖ for ‖BA‖_F/‖W‖_F at random, twice as large."""
    return right(case if case.aligned else case._replace(ratio=case.ratio / 0.46))


def masked_outputs_always(case, x, a, b):
    return LORA(x, a, b) * 0.5


def masked_inputs_always(case, x, a, b):
    return LORA(x * torch.linspace(0.5, 1.5, x.shape[-1], dtype=x.dtype), a, b)


def by_itself(case):
    """BA reads each masked input by itself or not at all."""
    if case.kind != "input":
        return FOLLOWS(case)
    product = case.one.b @ case.one.a
    shares = np.diag(np.linalg.pinv(product, 1e-8) @ product)[(case.mask == 0).any(axis=0)]
    return bool((np.minimum(np.abs(shares), np.abs(shares - 1)) < 1e-9).all())


def one_function_for_all(f, outputs):
    """One f_o a step, for every token's mask."""
    return UNEXPLAINED(np.tile(f, (len(outputs), 1)), np.concatenate(outputs)[None])


CURVATURE, FOLLOWS, UNEXPLAINED = framework.curvature, framework.follows_from_f, framework.unexplained


def without_the_factors_slope(right, a, b, g, s, eta):
    return right(a, b, g, s, eta) - right(a, b, g, 0 * s, eta)


def twice_the_kink(right, *args):
    return tuple(2 * part for part in right(*args))


def parallel(case):
    """Every G_i parallel to (BA)_i."""
    g, p = framework.product_slope(case), case.b @ case.task.a
    across = np.abs(g[:, :, None] * p[:, None, :] - p[:, :, None] * g[:, None, :]).max()
    return bool(across <= 1e-9 * np.abs(g).max() * np.abs(p).max())


def m_is_zero(case):
    """M = 0."""
    d, between = adaptive.row_factor(case.task.a, case.b, case.eta), CURVATURE(case)
    apart = np.abs((d[:, None] - d)[:, :, None, None] * between).max()
    return parallel(case) and bool(apart <= 1e-9 * d.max() * np.abs(between).max())


def symmetric_here(case):
    """KᵀMK = 0 at the case."""
    whole = np.linalg.norm(framework.product_derivative(case)) ** 2 * np.linalg.norm(CURVATURE(case))
    return bool(np.linalg.norm(framework.asymmetry(case)) <= 1e-9 * whole)


def uncoupled(case):
    return CURVATURE(case) * np.eye(len(case.b))[:, :, None, None]


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    ("4-without-loss-of-generality", rewritten, "factor_gradients", without_the_frozen_weight, "refuted"),
    (SAME_LOSS, rewritten, "loss_of", squared_always, "holds"),
    (SAME_LOSS, rewritten, "loss_of", of_f_alone, "holds"),
    (SAME_LOSS, rewritten, "factor_gradients", without_the_frozen_weight, "refuted"),
    (SAME_LOSS, rewritten, "shift_invariant", lambda case: case.loss != "Huber", "refuted"),
    (SAME_LOSS, rewritten, "shift_invariant", of_the_value_itself, "refuted"),
    ("4-dropout-forward", dropped, "row_scaled", unscaled, "refuted"),
    (f"4-dropout-forward{BATCH}", dropped, "one_factor_on_outputs", unscaled, "refuted"),
    (f"4-dropout-forward{BATCH}", dropped, "one_factor_on_outputs", dropped.row_scaled, "refuted"),
    (f"4-dropout-forward{BATCH}", dropped, "agree_on_outputs", one_mask, "refuted"),
    (f"4-dropout-gradient{BATCH}", dropped, "one_factor_on_gradients", dropped.masked_rows, "refuted"),
    (f"4-dropout-gradient{BATCH}", dropped, "agree_on_gradients", one_mask, "refuted"),
    (f"4-dropout-gradient{BATCH}", dropped, "agree_on_gradients", parallel_sums, "refuted"),
    ("4-dropout-rate", dropped, "product_after_backward", unmasked, "refuted"),
    ("4-dropout-rate", layer_training, "optimizer", with_adam, "refuted"),
    *(
        (name, dropped, "product_gradient", lambda case: case.one.upstream.T @ case.one.x, "refuted")
        for name in ("4-dropout-gradient", f"4-dropout-gradient{BATCH}")
    ),
    ("4-dropout-gradient", dropped, "input_derivative", lambda case: case.one.b @ case.one.a, "refuted"),  # unscaled
    # As if the formula were right as printed.
    ("4-dropout-gradient", dropped, "change_over", lambda right, case, below: right(case, dropped.STEP), "holds"),
    (f"4-dropout-rate{BATCH}", adaptive, "masked_field", b_unscaled, "refuted"),
    (f"4-dropout-rate{BATCH}", layer_training, "lora", cut_off_from_a, "refuted"),
    (f"4-dropout-rate{BATCH}", layer_training, "optimizer", without_buffers, "refuted"),
    (f"4-dropout-rate{BATCH}", in_a_step, "left_alone", at_right_angles, "refuted"),
    (
        f"4-dropout-rate{BATCH}",
        in_a_step,
        "left_alone",
        of_plain_sgd,
        "refuted",
    ),  # a row without a gradient has no buffer
    (f"4-dropout-rate{BATCH}", in_a_step, "buffered", lambda case, earlier, gradient: gradient, "refuted"),
    ("4-dropout-other-rows", layer_training, "lora", cut_off_from_a, "refuted"),
    ("4-dropout-other-rows", layer_training, "optimizer", without_buffers, "refuted"),
    ("4-dropout-other-rows", in_a_step, "coupled", rows_at_an_angle, "refuted"),
    ("4-both-adaptions", framework, "adapted", masked_inputs_always, "refuted"),
    ("4-both-adaptions", framework, "adapted", lambda case, x, a, b: LORA(x, a, b), "refuted"),  # LoRA's own gradient
    ("4-both-adaptions-in-lora", framework, "adapted", masked_outputs_always, "holds"),
    ("4-both-adaptions-in-lora", framework, "follows_from_f", lambda case: False, "refuted"),
    ("4-both-adaptions-in-lora", framework, "follows_from_f", lambda case: case.kind != "input", "refuted"),
    ("4-both-adaptions-in-lora", framework, "follows_from_f", by_itself, "refuted"),
    ("4-subsumes", framework, "adapted", masked_inputs_always, "refuted"),
    ("4-subsumes", framework, "unexplained", one_function_for_all, "refuted"),
    ("4-identity", functional, "allora", scaled_input_gradient, "refuted"),
    ("4-three-limitations", functional, "allora", lora_instead, "refuted"),
    ("4-three-limitations", functional, "allora", by_token, "refuted"),
    ("4-three-limitations", functional, "allora", scaled_output, "refuted"),
    ("4-three-limitations", layer_training, "products", sgd_always, "refuted"),
    ("4-three-limitations", layer_training, "products", never_clipped, "refuted"),
    ("4-three-limitations", limits, "ahead", unless_clipped, "refuted"),
    ("4-three-limitations", limits, "ahead", without_the_other_gradients, "refuted"),
    ("4-three-limitations", limits, "mask_spread", lambda case, arm, drop_rate: 1.0, "refuted"),
    ("4-three-limitations", limits, "growth", lambda case, arm, eta: 1.0, "refuted"),
    ("4-three-limitations", limits, "SMALLER", 1.0001, "refuted"),
    # As if BA's size did not matter to the ripple, or lengths added up at random as in aligned layers.
    ("4-three-limitations", limits, "rippled", lambda right, case: right(case._replace(ratio=1.0)), "refuted"),
    ("4-three-limitations", limits, "rippled", lambda right, case: right(case._replace(aligned=True)), "refuted"),
    ("4-three-limitations", limits, "rippled", of_spectral_norms, "refuted"),
    ("4-adapted-gradient", functional, "allora", lora_instead, "holds"),
    ("4-adapted-gradient", adaptive, "update_jacobian", without_the_factors_slope, "refuted"),
    ("4-adapted-gradient", adaptive, "layer_double_backward", adaptive.update_jacobian, "refuted"),
    ("4-adapted-gradient", adaptive, "directional_derivative", twice_the_kink, "refuted"),
    ("4-adapted-gradient", framework, "has_potential", lambda case: case.task.x.shape[1] == 1, "refuted"),
    ("4-adapted-gradient", framework, "has_potential", parallel, "refuted"),
    ("4-adapted-gradient", framework, "has_potential", m_is_zero, "refuted"),
    # As if symmetry at one point were enough, and as if every uncoupled loss had a potential.
    ("4-adapted-gradient", framework, "around", lambda case: [case], "refuted"),
    ("4-adapted-gradient", framework, "has_potential", symmetric_here, "refuted"),
    ("4-adapted-gradient", framework, "has_potential", lambda case: case.loss in framework.UNCOUPLED, "refuted"),
    (
        "4-adapted-gradient",
        framework,
        "has_potential",
        lambda case: parallel(case) and case.loss in ("squared", "Huber"),
        "refuted",
    ),
    ("4-adapted-gradient", framework, "curvature", uncoupled, "refuted"),
    ("4-adapted-gradient", layer_training, "nothing_to_learn", lambda task: not task.y.any(), "refuted"),
]


test_a_planted_wrong_formula_changes_the_verdict = ROWS.plants(PLANTED)


def test_one_mask_for_all_tokens_would_make_the_rows_hold(monkeypatch):
    right = dropped.masked_cases
    shared = lambda cases: [case for case in right(cases) if one_mask(case.inputs)]  # noqa: E731
    monkeypatch.setattr(dropped, "masked_cases", shared)
    assert ROWS.finding(f"4-dropout-forward{BATCH}").verdict == "holds"
    assert ROWS.finding(f"4-dropout-gradient{BATCH}").verdict == "holds"


def brute_force(case, kept):
    """The change of BA in the step after the batches of `before`, A and B trained throughout; AdamW and SGD by hand."""
    *_, a, b = case.one
    pair, batches = (a, b), (*case.before, (case.one.x, case.one.upstream))
    means, squares = ([np.zeros_like(part) for part in pair] for _ in range(2))
    for t, (x, upstream) in enumerate(batches, 1):
        keep = np.ones(upstream.shape[1])
        if t == len(batches):
            keep[case.i] = kept
        g, (a, b) = (upstream * keep).T @ x, pair
        gradients, pair = (b.T @ g, g @ a.T), []
        for k, (part, gradient) in enumerate(zip((a, b), gradients, strict=True)):
            means[k] = 0.9 * means[k] + 0.1 * gradient
            squares[k] = 0.999 * squares[k] + 0.001 * gradient**2
            adam = means[k] / (1 - 0.9**t) / (np.sqrt(squares[k] / (1 - 0.999**t)) + 1e-8)
            pair.append(part - case.rate * (adam if case.optimizer == "adamw" else gradient))
    return pair[1] @ pair[0] - b @ a


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_dropped_row_by_brute_force(index):
    """The paper's cases, whose earlier steps the row takes at a rate of 0, with A and B trained in them too."""
    case = in_a_step.dropped_cases(Cases(0, f"4-dropout-rate{BATCH}"))[index].inputs
    shares = [
        np.linalg.norm(step(case, False)[case.i]) / np.linalg.norm(step(case, True)[case.i])
        for step in (brute_force, in_a_step.stepped)
    ]
    assert shares[0] == pytest.approx(shares[1], rel=0.05)
    assert shares[0] > (0.7 if case.optimizer == "adamw" else 1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_the_changed_step_by_its_formula(optimizer):
    """l(B_j⁺·B_i)g_i, exactly."""
    one = layer_training.draw_pass(np.random.default_rng(0), n1=4, rank=3)
    case = in_a_step.Dropped(one, 0, 0.1, optimizer, ((one.x, one.upstream),) * 3)
    steps = [in_a_step.stepped(case, kept) for kept in (False, True)]
    g = one.upstream.T @ one.x
    factor = 1 + 0.9 + 0.81 + 0.729 if optimizer == "momentum" else 1.0
    after = one.b - 0.1 * factor * g @ one.a.T
    told = 0.1 * np.outer(after[1:] @ one.b[0], g[0])
    np.testing.assert_allclose((steps[0] - steps[1])[1:], told, rtol=1e-9, atol=1e-12)


def test_limits_of_each_kind_are_drawn():
    drawn = [limits.draw(np.random.default_rng(seed)) for seed in range(40)]
    assert {type(case) for case in drawn} == {limits.Dropout, limits.Zero, limits.Depth}
    assert {bool(limits.alleviated(case)) for case in drawn} == {True, False}


@pytest.mark.parametrize(
    ("clip", "head", "ratio"), [(0.4, 0.0, 1.0), (1.5, 0.0, 1.5), (3.0, 0.0, 2.0), (0.4, 1.0, 1.26)]
)
def test_the_first_step_of_clipped_sgd(clip, head, ratio):
    """ALLoRA's over LoRA's at η = 2 by the layers, on both sides of g < c < ηg, and √(8/5) beside a head of norm g."""
    task = layer_training.draw_problem(np.random.default_rng(0))
    g = layer_training.first_gradient(task)
    case = limits.Zero(layer_training.Run(task, "sgd", 2.0, 0.01, 1, clip * g), head * g)
    seen = 1 / limits.measures(case)["ALLoRA"]
    assert seen == pytest.approx(ratio, rel=0.01)
    assert limits.ahead(case) == pytest.approx(seen, rel=1e-9)


def test_growth_at_scaling_one_is_the_librarys():
    """The layers' forward passes against `ripple.log_output_growth`."""
    rng = np.random.default_rng(0)
    case = limits.at_random(rng, 2.0, 4, 1.0)
    case = case._replace(x=case.x[:1])
    found = limits.growth(case, "lora", 1.0)
    logs = [ripple.log_output_growth(network, case.x[0], 1.0)[0] for network in case.networks]
    assert found**2 == pytest.approx(np.exp(2 * np.array(logs)).mean())


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [1.0, 0.015])
def test_the_ripple_s_threshold_is_where_its_growth_is(aligned, ratio):
    """Also at 1.5 times the logarithm; near it LoRA's growth by the layers is what is foretold."""
    rng = np.random.default_rng(1)
    for times in (1.0, 1.5):
        eta = limits.threshold(ratio, aligned, times)
        case = limits.lined_up(rng, eta, ratio) if aligned else limits.at_random(rng, eta, 8, ratio)
        assert limits.alleviated(case) == pytest.approx(times)
        seen = -np.log(limits.measures(case)["ALLoRA"]) / -np.log(limits.SMALLER)
        assert seen == pytest.approx(times, rel=1e-6 if aligned else 0.15)


def test_adapters_at_random_have_the_frobenius_norm_asked_for():
    for w, b, a in limits.at_random(np.random.default_rng(0), 2.0, 8, 0.3).networks[1]:
        assert np.linalg.norm(b @ a) == pytest.approx(0.3 * np.linalg.norm(w))


def test_half_of_the_ripples_are_drawn_near_their_threshold():
    drawn = [limits.draw_depth(np.random.default_rng(seed), 2.0) for seed in range(60)]
    near = [0.5 <= limits.alleviated(case) <= 2 for case in drawn if case.networks]
    assert 0.4 < sum(near) / len(drawn) < 0.65


@pytest.mark.parametrize("seed", [0, 1])
def test_the_distance_of_masked_outputs_is_no_one_draw(seed):
    size = ROWS.finding("4-both-adaptions-in-lora", seed).size
    assert size.low < 0.1 < 0.15 < size.value < 0.25 < 0.35 < size.high
