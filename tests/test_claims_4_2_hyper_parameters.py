"""The ledger's rows on hyper-parameters: what a wrong exponent or count does to their verdicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import softmax

from allora_analysis import adaptive
from allora_analysis.claims import layer_training
from allora_analysis.claims import s4_2_hyper_parameters as section
from tests.ledger_rows import Rows

ROWS = Rows(section)


def off_by_one(name):
    def wrong(right, setting, a, b, optimizer):
        other = right(setting, a, b, optimizer)
        return replace(other, **{name: a * getattr(other, name)})

    return wrong


def cubed_always(right, setting, optimizer):
    return right(setting, "sgd")


def frozen_factor(right, x, y, a_draw, setting, steps, **options):
    """ALLoRA's factor at its first value, before the optimizer and after: training at rate η·l."""
    if setting.eta is None:
        return right(x, y, a_draw, setting, steps, **options)
    rates = {name: setting.eta * getattr(setting, name) for name in ("rate_a", "rate_b")}
    return right(x, y, a_draw, replace(setting, eta=None, **rates), steps, **options)


def one_knob(*args, **options):
    return 1


def eta_is_no_knob(x, y, a, setting, knobs, *args, **options):
    return len([name for name in knobs if name != "eta"])


def lora_has_one(x, y, a, setting, knobs, *args, **options):
    return 1 if "scaling" in knobs else 2


def both_redundant(one):
    return {"init_a", "rate_a"} - {*one.tuned} != set() and "rate_b" not in one.tuned


def unclipped_always(one):
    return MATTERS(one._replace(clip=None))


def whenever_clipped(one):
    """Clipping brings α back, but not where A's start and both rates are tuned."""
    return one.clip is not None or MATTERS(one)


def old_answer(one):
    """Only with weight decay, or if A and B share one rate."""
    return one.setting.decay_a + one.setting.decay_b > 0 or not {"rate_a", "rate_b"} & {*one.tuned}


def any_decay(one):
    """Decay of A alone brings α back beside B's own rate."""
    both = max(one.setting.decay_a, one.setting.decay_b)
    return MATTERS(one._replace(setting=replace(one.setting, decay_a=both, decay_b=both)))


def classifier_or_none(one):
    """As if a classifier's gradients scaled with A's and B's."""
    return MATTERS(one._replace(head=None))


def never_clipped(*args, max_norm=None, **options):
    return WITH_CLASSIFIER(*args, **options)


MATTERS, WITH_CLASSIFIER = section.matters, layer_training.with_classifier

PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    *(
        ("4-alpha", adaptive, "rescaled", off_by_one(name), "refuted")
        for name in ("scaling", "init_a", "rate_a", "decay_b")
    ),
    ("4-alpha", adaptive, "degrees_of_freedom", one_knob, "refuted"),
    *(
        ("4-alpha", section, "matters", wrong, "refuted")
        for wrong in (both_redundant, unclipped_always, whenever_clipped, old_answer, any_decay, classifier_or_none)
    ),
    ("4-alpha", layer_training, "with_classifier", never_clipped, "refuted"),
    ("4-no-new-hyper-parameter", adaptive, "eta_as_scaling", cubed_always, "refuted"),
    ("4-no-new-hyper-parameter", adaptive, "degrees_of_freedom", lora_has_one, "refuted"),
    ("4-split-learning-rate", adaptive, "train", frozen_factor, "holds"),
    ("4-two-fewer-to-choose", adaptive, "degrees_of_freedom", eta_is_no_knob, "holds"),
    ("4-fewer-hyper-parameters", adaptive, "degrees_of_freedom", lora_has_one, "refuted"),
]


test_a_planted_wrong_formula_changes_the_verdict = ROWS.plants(PLANTED)


def test_a_row_s_step_under_sgd_hangs_on_how_eta_and_the_rate_are_split():
    """Rows of 0.015: l·d at (2, l/2) over that at (1, l); the paper's η² ends at 4."""
    first, second = ((0.015 + eta**-2) ** -0.5 for eta in (1, 2))
    shorter = 100 * (1 - second / (2 * first))
    assert (
        f"doubling η from 1 and halving l_b halves AdamW's step, and shortens SGD's by {shorter:.0f} % "
        in ROWS.as_is("4-split-learning-rate").answer
    )
    assert ROWS["4-split-learning-rate"].statement.endswith("and the effective learning rate is η·l_b.")


def first_adam_step(one, eps):
    """Whether torch's first Adam step from B = 0 is finite: A's first gradient is 0, and 0/0 at ε = 0."""
    x, y, draw = one.data
    a, b = torch.tensor(draw, requires_grad=True), torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    ((torch.tensor(x) @ a.T @ b.T - torch.tensor(y)) ** 2).sum().backward()
    torch.optim.Adam([a, b], lr=0.01, eps=eps).step()
    return bool(a.isfinite().all())


def test_adam_at_zero_epsilon():
    one = section.drawn(np.random.default_rng(0), section.PAPER, "adam")
    assert first_adam_step(one, 1e-8)
    assert not first_adam_step(one, 0.0)


def test_the_rows_on_the_count_agree():
    """η stands where LoRA's scaling factor stood; the drop rate is what goes."""
    new, removed = (
        next(iter(ROWS.as_is(name).evidence.measured.values()))
        for name in ("4-no-new-hyper-parameter", "4-two-fewer-to-choose")
    )
    assert new["of (η, l_b)"] == removed["ALLoRA-0"] == 2
    assert new["of LoRA's (s, l)"] == removed["LoRA"] - 1


@pytest.mark.parametrize("max_norm", [None, 0.05, 100.0])
@pytest.mark.parametrize("eta", [None, 2.0])
def test_the_first_step_with_a_classifier(max_norm, eta):
    """From B = 0, where A's gradient is 0, by hand: −s·l_B·k·(GAᵀ)A, η times that in ALLoRA, k = min(1, c/norm)."""
    rng = np.random.default_rng(0)
    one = section.headed(section.drawn(rng, replace(section.knobs(rng), eta=eta), "sgd"), rng)
    (x, y, draw), (weight, c), knobs = one.data, one.head, one.setting
    features, a = np.tanh(x @ weight.T), knobs.init_a * draw
    error = (softmax(features @ c.T, axis=1) - np.eye(3)[y.argmax(axis=1)]) / len(x)
    of_b = (eta or 1.0) * knobs.scaling * ((error @ c) * (1 - features**2)).T @ x @ a.T
    norm = np.sqrt(np.sum(of_b**2) + np.sum((error.T @ features) ** 2))
    expected = -knobs.scaling * knobs.rate_b * min(1.0, (max_norm or np.inf) / norm) * of_b @ a
    assert norm > 0.1
    np.testing.assert_allclose(section.path(one, knobs, max_norm, 1)[1], expected, rtol=1e-9)


def test_with_a_classifier_clipped_alpha_adds_a_degree_of_freedom_where_it_does_not_without():
    rng = np.random.default_rng(0)
    plain = section.clipped(section.drawn(rng, section.knobs(rng), "adam", ("init_a", "rate")))
    headed = section.clipped(section.headed(plain, rng))
    found = [section.compared(one) for one in (plain, headed)]
    assert [one["degrees with α"] - one["without"] for one in found] == [0, 1]


def test_eta_is_exchanged_for_the_scaling_factor_but_where_a_classifier_is_clipped_too():
    found = ROWS.as_is("4-no-new-hyper-parameter").evidence.measured
    ends = {name: seen["distance of BA unclipped, clipped"] for name, seen in found.items()}
    together = [clipped for name, (_, clipped) in ends.items() if "classifier" in name]
    assert min(together) > 1e-3
    assert max(value for name, both in ends.items() for value in both if value not in together) < 1e-12
    corrected = ROWS.as_is("4-two-fewer-to-choose").corrected
    assert all(word in corrected for word in ("ε/η²", "λ/η³", "alone are clipped"))
