"""The ledger's rows on §3.3 and the third flaw: a wrong formula planted behind a row changes its verdict."""

import dataclasses
import re

import numpy as np
import pytest

from allora_analysis import adaptive, ripple
from allora_analysis.claims import (
    ledger,
    s3_3_at_random,
    s3_3_growth,
    s3_3_interactions,
    s3_3_residual,
    s3_3_scaling_factor,
    s3_3_worst_case,
    s3_3_zero_start,
)
from allora_analysis.claims.cases import (
    ETA_M,
    ETA_M_SMOLLM2,
    ETA_M_WHOLE,
    FALSE_FAIL,
    POOLER,
    source_of_errors,
    standard_errors,
)
from allora_analysis.grid.presets import LISTS
from allora_analysis.render.view import recorded
from allora_analysis.ripple import study
from tests import ledger_rows
from tests.ledger_rows import Rows
from tests.planted_finetune import plant

ROWS = Rows(
    s3_3_scaling_factor, s3_3_zero_start, s3_3_interactions, s3_3_worst_case, s3_3_growth, s3_3_at_random, s3_3_residual
)
verdict = ROWS.verdict


def bounds(**changes):
    """`worst_case` with some of its bounds replaced by functions of the true ones and the arguments."""

    def wrong(right, weights, adapters, eta):
        worst = right(weights, adapters, eta)
        ratios = np.asarray(adapters, float) / np.asarray(weights, float)
        return dataclasses.replace(worst, **{name: change(worst, ratios, eta) for name, change in changes.items()})

    return wrong


def amgm(mean):
    return bounds(
        log_amgm_bound=lambda worst, ratios, eta: worst.log_c + len(ratios) * float(np.log1p(eta * mean(ratios)))
    )


def width_once(right, depth, width, *rest):
    square = right(depth, width, *rest)
    return square._replace(mean=width + (square.mean - width) / width)


def without_depth(right, one, rng):
    """Planted: growth that η adds once, however many layers follow."""
    once = right(one, rng)["L"]
    return {"L": once, "2L": once}


def wider_is_worse(right, one, deeper, wider, rng):
    return right(one, deeper, wider, rng) + 0.01 * np.log(wider)


def at_the_ends(right, count):
    return right(count._replace(each_size=False))


def size_by_size(right, count):
    return right(count._replace(each_size=True))


PLANTED = [
    ("3.3-norm", ripple, "log_output_growth", lambda right, *a, **k: right(*a, **k) + 3),
    ("3.3-norm", s3_3_worst_case, "product", lambda network: np.eye(len(network.layers[-1].w), len(network.x))),
    ("3.3-product", ripple, "worst_case", bounds(log_bound=lambda worst, *_: worst.log_c)),
    ("3.3-product", ripple, "worst_case", bounds(log_bound=lambda worst, *_: worst.log_bound + 0.1)),
    # As if C had one layer's norm more, or an adapter stood over another layer's norm.
    ("3.3-constant", ripple, "worst_case", bounds(log_c=lambda worst, ratios, eta: worst.log_c + 0.1)),
    ("3.3-constant", ripple, "spectral_norms", lambda right, layers: (right(layers)[0][::-1], right(layers)[1])),
    ("3.3-mean", ripple, "worst_case", amgm(lambda ratios: np.exp(np.log(np.maximum(ratios, 1e-9)).mean()))),
    ("3.3-mean-ratio", ripple, "worst_case", amgm(lambda ratios: ratios[-1])),
    ("3.3-tight", ripple, "worst_case", bounds(log_amgm_bound=lambda worst, *_: worst.log_amgm_bound + 0.1)),
    ("3.3-tight", s3_3_worst_case, "log_growth", lambda right, network: right(network) - 0.1),
    (
        "3.3-tight-in-practice",
        ripple,
        "worst_case",
        bounds(log_amgm_bound=lambda worst, *_: worst.log_amgm_bound + 0.1),
    ),
    ("3.3-tight-in-practice", s3_3_at_random, "lines_up", lambda network: True),
    ("3.3-tight-in-practice", s3_3_at_random, "_all_equal", lambda network: True),
    # As if adapters were in every second layer alone, or scaled by η².
    ("3.3-theta", s3_3_growth, "attained", lambda w, m, eta, depth, seed: 0.5 * depth * np.log1p(eta * m)),
    ("3.3-theta", ripple, "log_output_growth", lambda right, layers, x, eta, **k: right(layers, x, eta**2, **k)),
    ("3.3-theta-in-depth", ripple, "worst_case", bounds(log_amgm_bound=lambda worst, *_: worst.log_amgm_bound + 0.1)),
    # As if every network that attains the bound grew.
    ("3.3-theta-in-depth", s3_3_growth, "_rate", lambda right, *a: max(right(*a), 0.01)),
    # As if the base were 1 + ηm̄, without ‖W_l‖.
    ("3.3-theta-in-depth", s3_3_growth, "_rate", lambda one, seed: float(np.log1p(one.eta * one.ratio))),
    ("3.3-worst-case", study, "aligned_growth", lambda right, *a: 0.99 * right(*a)),
    ("3.3-interactions", s3_3_interactions, "interaction", lambda network: 0 * network.x),
    ("3.3-interactions", s3_3_interactions, "orders", lambda right, network: [right(network)[0], *right(network)]),
    (
        "3.3-interactions",
        s3_3_interactions,
        "product",
        lambda right, network: right(network._replace(eta=network.eta**0.5)),
    ),
    ("3.3-typical", ripple, "adapter_gain", lambda right, *a: 1.6 * right(*a)),
    ("3.3-typical", s3_3_at_random, "added_at_random", without_depth),
    ("3.3-small-eta", ripple, "adapter_gain", lambda right, *a: 1.3 * right(*a)),
    # As if all that is not aligned from layer to layer were of either sign: the part along W is not seen.
    ("3.3-small-eta", s3_3_at_random.Small, "parts", property(lambda one: (one.eta * one.ratio * one.aligned, 1.0))),
    ("3.3-small-eta", s3_3_at_random, "_layer_gains", lambda right, one, rng: right(one._replace(along=0.0), rng)),
    ("3.3-small-eta", study, "aligned_growth", lambda right, *a: right(*a) ** 2),
    # As if η acted once, or more in wider layers.
    ("3.3-limiting-in-depth", s3_3_residual, "enlarged", lambda right, one, deeper, *rest: right(one, 1, *rest)),
    ("3.3-limiting-in-depth", s3_3_residual, "enlarged", wider_is_worse),
    ("3.3-limiting-in-depth", s3_3_residual.Worst, "told", property(lambda one: float(np.log1p(one.ratios).sum()))),
    ("3.3-residual", ripple, "residual_square", width_once),
    ("3.3-residual", s3_3_residual, "plain_worst_case", lambda *a: 1.0),
    ("3.3-residual", s3_3_residual, "added_as_told", lambda right, one, depth: 1.1 * right(one, depth)),
    ("3.3-residual", s3_3_residual, "plain_random", lambda one, rng: 1 + 0.01 * rng.standard_normal((9, 2))),
    # As if no normalization were enough, however few the blocks.
    ("3.3-residual", s3_3_residual._Residual, "doubled", property(lambda one: 1.9)),
    ("3.3-residual", s3_3_residual, "_mean_log", lambda right, *a: 1.5 * right(*a)),
]


test_a_planted_formula_is_refuted = ROWS.plants([(*row, "refuted") for row in PLANTED])


def test_the_published_start_without_a_zero_stands_beside_and_decides_nothing(monkeypatch):
    found = ROWS.finding("3.3-either-zero-any-start")
    told = "published later (arXiv 2505.23194, abstract)"
    assert "arXiv 2505.23194" in ROWS["3.3-either-zero-any-start"].reading
    assert "non-zero values improves LoRA's robustness" in found.evidence.measured[told]
    monkeypatch.setattr(s3_3_zero_start, "NON_ZERO", "the opposite")
    assert ROWS.finding("3.3-either-zero-any-start").verdict == found.verdict


def test_the_worst_cases_of_the_answers_are_the_rows_own():
    """Three-fold a layer where weight and adapter are 1; what is said of normalized blocks is 3.3-residual's."""
    worst = ROWS.as_is("3.3-worst-case")
    assert worst.size.value == pytest.approx(1 + 2.0)
    assert (
        f"{worst.size.value:.2g}-fold a layer (‖ηBA‖ = 2‖W‖), {1.014:.2f}- to {1.08:.2f}-fold at recorded norms"
        in worst.answer
    )
    assert len(worst.answer.split()) <= 15  # in README
    row, minilm = ROWS["3.3-comparable-level-induced"], "all-MiniLM-L6-v2"
    induced = ROWS.as_is(row.id).evidence.measured
    assert round(np.mean(induced["SmolLM2-135M"]["by seed"]), 3) == ETA_M_SMOLLM2
    pooler = induced[minilm]["mean of the others"], induced[minilm]["largest map"]["bert.pooler.dense"]
    assert (round(pooler[0], 2), round(pooler[1], 1)) == (ETA_M, POOLER)
    assert round(np.mean(induced[minilm]["by seed"]), 2) == ETA_M_WHOLE
    assert (induced["the verdict at 0.05"], induced["the verdict at 0.2"]) == ("refuted", "refuted")
    assert f"({induced[minilm]['largest map']['bert.pooler.dense']:.1f} times)" in row.reading
    assert f"it is {100 * induced[minilm]['mean of the others']:.0f} %, looked at afterwards" in row.reading
    assert ROWS.as_is("3.3-limiting-in-depth").answer.endswith("not in normalized blocks (3.3-residual).")
    told = recorded()["3.3-residual"]
    assert (told["verdict"], told["at_paper"]) == ("conditional", False)
    assert told["answer"].startswith("Only without normalization")


def own_cases(identifier):
    """The inputs of a row's cases at the paper's setting."""
    return [case.inputs for case in ledger_rows.as_is(ROWS[identifier])[0].judged.cases if case.paper]


@pytest.mark.parametrize("identifier", ["3.3-worst-case", "3.3-limiting-in-depth", "3.3-typical"])
def test_the_papers_setting_has_lora_s_shapes_and_recorded_sizes_with_eta_once(identifier):
    own = own_cases(identifier)
    assert all(one.rank >= 8 and one.width >= 48 for one in own)
    sizes = {round(one.eta * float(np.mean(one.ratios if hasattr(one, "ratios") else one.ratio)), 6) for one in own}
    assert sizes <= {ETA_M, ETA_M_SMOLLM2}
    assert ROWS.as_is(identifier).at_paper is True


def test_the_worst_case_at_the_papers_setting_may_fail(monkeypatch):
    """Planted: adapters of recorded size add up, and do not multiply."""
    right = study.aligned_growth

    def planted(norms, *rest):
        grown = right(norms, *rest)
        return grown if norms[1][0] == 1 else np.log1p(len(norms[1]) * np.expm1(grown / len(norms[1])))

    monkeypatch.setattr(study, "aligned_growth", planted)
    found = ROWS.finding("3.3-worst-case")
    assert (found.verdict, found.at_paper) == ("refuted", False)


def test_networks_as_fine_tuned_have_eta_in_what_is_recorded():
    for eta in (1.0, 2.0):
        layer = s3_3_worst_case.as_fine_tuned(1, eta, np.random.default_rng(0)).layers[0]
        rows = [np.linalg.norm(matrix, axis=1).mean() for matrix in (eta * layer.b @ layer.a, layer.w)]
        assert rows[0] / rows[1] == pytest.approx(s3_3_worst_case.ETA_M_ROWS)


def test_the_ratio_drawn_at_rank_8_is_below_the_limit_s():
    rng = np.random.default_rng(0)
    w, a, b = ripple.fair_scales(64, 8)
    pairs = [(rng.standard_normal((64, 8)), rng.standard_normal((8, 64))) for _ in range(200)]
    norm = np.mean([np.linalg.norm(a * b * left @ right, 2) for left, right in pairs])
    weight = np.mean([np.linalg.norm(w * rng.standard_normal((64, 64)), 2) for _ in range(200)])
    assert s3_3_at_random.drawn_ratio(64, 8, rng) == pytest.approx(norm / weight, rel=0.03)
    assert norm / weight < 0.97


def test_the_size_of_the_residual_row_is_no_draw():
    sizes = [ROWS.as_is("3.3-residual").size, ROWS.finding("3.3-residual", 1).size]
    assert sizes[0] == sizes[1]
    assert 1 < sizes[0].low < sizes[0].high < 1.1


def test_lines_up_knows_aligned_from_random_and_from_a_flipped_sign():
    network = s3_3_worst_case.aligned((5, 4, 6), 2, 1.0, 1.0, 1.0, np.random.default_rng(1))
    first, second = network.layers
    assert s3_3_worst_case.lines_up(network)
    assert not s3_3_worst_case.lines_up(network._replace(x=network.x + 0.1))
    assert not s3_3_worst_case.lines_up(network._replace(layers=[first._replace(b=-first.b), second]))


def test_without_eta_layers_interact_but_not_nonlinearly_in_it(monkeypatch):
    """Planted: what adapters do only together is η times what it is at η = 1; and draws at η = 1, without a factor."""
    right, gaussian = s3_3_interactions.interaction, s3_3_interactions.gaussian
    monkeypatch.setattr(s3_3_interactions, "orders", lambda one: [0, 0, right(one._replace(eta=1.0)) / one.eta])
    monkeypatch.setattr(s3_3_interactions, "interaction", lambda one: one.eta * right(one._replace(eta=1.0)))
    assert verdict("3.3-interactions") == "refuted"
    monkeypatch.undo()
    monkeypatch.setattr(s3_3_interactions, "gaussian", lambda widths, rank, eta, rng: gaussian(widths, rank, 1.0, rng))
    assert verdict("3.3-interactions") == "refuted"


def test_rows_that_quote_say_what_their_code_looks_for():
    """A sentence added to the quotation changes nothing, since the code knows two strings."""
    assert not s3_3_scaling_factor.advises_tuning(s3_3_scaling_factor.HU_4_1 + " One should tune α carefully.")
    for name in ("3.3-tune-carefully", "3.3-either-zero"):
        assert "once a reader puts it in the" in ROWS.as_is(name).flips_if


def test_an_inequality_has_an_excess_of_0():
    assert ROWS.as_is("3.3-norm").evidence.error == 0


def test_the_expansion_is_the_forward_pass():
    network = s3_3_worst_case.gaussian((3, 4, 2, 3), 2, 1.0, np.random.default_rng(2))
    terms = s3_3_interactions.orders(network)
    for eta in (0.5, 3.0):
        total = sum(eta**k * term for k, term in enumerate(terms))
        growth = float(np.log(np.linalg.norm(total) / np.linalg.norm(network.x)))
        assert ripple.log_output_growth(network.layers, network.x, eta)[0] == pytest.approx(growth, rel=1e-12)


def test_a_mean_at_random_that_is_linear_in_eta_would_hold(monkeypatch):
    monkeypatch.setattr(s3_3_at_random, "doubling", lambda gains: 1.0)
    assert verdict("3.3-small-eta") == "holds"


def test_exponential_growth_in_every_stack_would_hold(monkeypatch):
    monkeypatch.setattr(s3_3_residual, "residual_growth", lambda one, rng: {"L": 1.0, "2L": 2.0, "off": 0.0})
    assert verdict("3.3-residual") == "holds"


@pytest.mark.parametrize(
    ("depth", "size", "worst", "shows"),
    [(24, 0.014, True, False), (12, 0.08, True, False), (24, 0.08, True, True), (24, 0.08, False, False)],
)
def test_without_normalization_recorded_sizes_show_from_the_depth_at_which_eta_doubles(depth, size, worst, shows):
    """By hand, 1 + η/2 a block at worst: 24 blocks make 1.18 of 1.4 %, and 2.56 of 8 %, of which 12 make 1.60."""
    one = s3_3_residual._Residual(depth, 32, 8, size, False, worst)
    seen = s3_3_residual.residual_growth(one, np.random.default_rng(0))
    assert (one.doubled > 1) == (seen["2L"] - seen["L"] > np.log(2)) == shows
    assert seen["off"] <= 1
    if worst:
        assert np.exp(seen["L"]) == pytest.approx((1 + size / 2) ** depth)


def test_depths_are_drawn_on_both_sides_of_the_condition():
    drawn = [s3_3_residual._any_stack(np.random.default_rng(seed)) for seed in range(60)]
    plain = [one.doubled for one in drawn if not one.normalised]
    assert np.mean([0.5 < of < 2 for of in plain]) > 0.4
    assert 0.2 < np.mean([of > 1 for of in plain]) < 0.8


def test_the_factor_of_one_network_with_layernorm_more_than_doubles_but_not_that_of_the_largest():
    """Blocks ∓0.1uuᵀ/8 whose adapters are ±0.1uuᵀ/8 lose, or keep, what the stream has without η."""
    u = np.array([1.0, -1.0] * 4)

    def norm(w, ba, depth, eta):
        h = u
        for _ in range(depth):
            z = h - h.mean()
            h = h + (w + eta * ba) * np.outer(u, u) / 8 @ z / np.sqrt(np.mean(z**2))
        return np.linalg.norm(h)

    def factor(depth, networks):
        return np.divide(*(max(norm(*one, depth, eta) for one in networks) for eta in (1.0, 0.0)))

    one, signs = [(-0.1, 0.1)], [(w, ba) for w in (-0.1, 0.1) for ba in (-0.1, 0.1)]
    assert factor(8, one) > 2.9 * factor(4, one)
    assert factor(8, signs) < 2 * factor(4, signs)
    assert factor(8, signs) == pytest.approx((1 + 8 * 0.2) / (1 + 8 * 0.1))


@pytest.mark.parametrize("n", [48, 200, 4000])
def test_standard_errors(n):
    """SciPy's own law; five standard errors are too few at n = 48."""
    from scipy import stats

    assert 2 * stats.t.sf(standard_errors(n), n - 1) == pytest.approx(FALSE_FAIL, rel=1e-6)
    assert (standard_errors(n) > 5) == (n <= 200)
    assert f"n − 1 = {n - 1}, false-fail rate 1e-6 a comparison" in source_of_errors(n)


def test_the_largest_stable_rate_may_rise_with_eta():
    """Where the adapters of the layer after oppose its weights, W = I and BA = −I."""
    normal = np.random.default_rng(0).standard_normal
    x, a, y = normal((20, 3)), normal((2, 3)), normal((20, 3))
    low, high = (s3_3_interactions.Deep(x, (1 - eta) * np.eye(3), a, y, eta, 1.0, "descent") for eta in (0.5, 0.9))
    assert high.sharpness < low.sharpness / 7
    rate = (low.sharpness * high.sharpness) ** -0.5
    losses = [s3_3_interactions.trained_loss(one._replace(rate=rate)) for one in (low, high)]
    assert losses[0] > 1 > losses[1]


def with_init_left(right, setting, a, b):
    return dataclasses.replace(right(setting, a, b), init_a=setting.init_a)


SCALING = [
    (
        "3.3-unstable",
        s3_3_interactions.Deep,
        "sharpness",
        property(lambda one: float(one.eta * np.linalg.norm(one.x @ one.a.T, 2)) ** 2),  # without the layers after
        "refuted",
    ),
    # Layers after that are always as at η = 1: no ripple in them.
    (
        "3.3-unstable",
        s3_3_interactions,
        "limits_apart",
        lambda right, rng: tuple(one._replace(after=np.eye(len(one.after))) for one in right(rng)),
        "refuted",
    ),
    ("3.3-unstable", s3_3_interactions, "trained_loss", lambda one: 2.0, "refuted"),
    ("3.3-unstable", s3_3_interactions, "trained_loss", lambda one: 0.5, "refuted"),
    ("3.3-unstable", s3_3_interactions, "trained_loss", lambda one: float(one.eta > 2), "refuted"),
    (
        "3.3-comparable-level",
        s3_3_scaling_factor,
        "weight_norms",
        lambda model: {"one": {"mean": 1e-3}},
        "holds",
    ),
    ("3.3-comparable-level", s3_3_scaling_factor, "average_norm", lambda result, step: 10.0, "holds"),
    ("3.3-tune-carefully", s3_3_scaling_factor, "HU_4_1", "we recommend to tune α carefully", "holds"),
    ("3.3-tune-carefully", adaptive, "rescaled", with_init_left, "undecided"),
    (
        "3.3-tune-carefully",
        s3_3_scaling_factor,
        "apart",
        lambda one: dict.fromkeys(("α and rate exchanged", "α alone"), 0.0),
        "undecided",
    ),
    *(
        ("3.3-either-zero-any-start", s3_3_zero_start, name, wrong, "refuted")
        for name, wrong in (
            ("fall", lambda one: one.eta * float(np.square(one.b).sum())),
            ("first_step", lambda one: {"moved": 0.0, "fall": 1.0}),
        )
    ),
    ("3.3-either-zero", s3_3_zero_start, "HAYOU", "initialize B to zero and A to random, or vice-versa", "refuted"),
    (
        "3.3-either-zero",
        s3_3_zero_start,
        "HAYOU",
        s3_3_zero_start.HAYOU + ", and than one with neither at zero",
        "holds",
    ),
    # As if BA = 0 needed a zero factor at every rank: no start of PEFT's orthogonal kind.
    (
        "3.3-either-zero-any-start",
        s3_3_zero_start,
        "pairs_with_product_0",
        lambda n1, n2, rank, rng: [(rng.standard_normal((rank, n2)), rng.standard_normal((n1, rank)))],
        "refuted",
    ),
    ("3.3-depth", s3_3_growth, "growth", lambda one: dict.fromkeys(one.families, ((2.0, 2.0),)), "refuted"),
    ("3.3-depth", s3_3_growth, "growth", at_the_ends, "refuted"),
    ("3.3-depth", s3_3_growth, "deeper", lambda right, steps: not right(steps), "refuted"),
    ("3.3-depth-at-the-ends", s3_3_growth, "growth", size_by_size, "holds"),
]


def losses_of(found, words):
    return next(value for name, value in found.evidence.measured.items() if words in name)


def test_under_adam_at_the_papers_rate_eta_decides_only_in_layers_that_enlarge_their_inputs():
    """With one layer's B trained, and with all; the first line and the size are of all."""
    found = ROWS.as_is("3.3-unstable")
    assert found.at_paper is None
    assert max(losses_of(found, "one B trained, 23 layers that multiply by 1 each")) <= 1
    assert np.max(losses_of(found, "all 24 B trained, layers that keep")) <= 1
    low, high = losses_of(found, "one B trained: gains for which")
    assert 1.5 < low < high < 1.8
    for_all = losses_of(found, "all 24 B trained: gains for which")
    assert found.size.low <= for_all[0] < for_all[1] < low
    assert found.size.high < low
    assert "under Adam at 1e-4 only in layers that enlarge inputs far beyond the change sought" in found.answer
    assert "output 10^4 times the input" in found.size.of


def test_what_counts_is_the_enlarged_input_over_the_target():
    """Both twice as large: the same loss under Adam, its ε aside."""
    one = s3_3_interactions.at_gain(1.65, 2.0, 0)
    twice = s3_3_interactions.trained_loss(one._replace(after=2 * one.after, y=2 * one.y))
    assert twice == pytest.approx(s3_3_interactions.trained_loss(one), rel=1e-6)
    assert s3_3_interactions.trained_loss(one._replace(after=2 * one.after)) > 1.2 * twice


def test_all_layers_train_as_torch_trains_them(monkeypatch):
    import torch

    monkeypatch.setattr(s3_3_interactions, "STEPS", 4)
    rng, gain, eta = np.random.default_rng([3, 5]), 1.4, 2.0
    w = torch.tensor(gain * rng.standard_normal((24, 32, 32)) / 32**0.5)
    a = torch.tensor(rng.standard_normal((24, 8, 32)) / 8**0.5)
    x, y = torch.tensor(s3_3_interactions.power_law(32, 32, rng)), torch.tensor(rng.standard_normal((32, 32)))
    b = torch.zeros(24, 32, 8, dtype=torch.float64, requires_grad=True)

    def loss():
        h = plain = x
        for at in range(24):
            h, plain = h @ (w[at] + eta * b[at] @ a[at]).mT, plain @ w[at].mT
        return (h - plain - y).square().sum()

    adam, start = torch.optim.Adam([b], lr=1e-4), loss().item()
    for _ in range(4):
        adam.zero_grad()
        loss().backward()
        adam.step()
    assert s3_3_interactions.together(gain, eta, 3) == pytest.approx(loss().item() / start, rel=1e-9)


def test_in_one_layer_doubling_eta_multiplies_curvature_by_four_and_adds_no_ripple(monkeypatch):
    right = s3_3_interactions.deep
    monkeypatch.setattr(
        s3_3_interactions, "deep", lambda rng, width, rank, depth, *rest: right(rng, width, rank, 1, *rest)
    )
    assert s3_3_interactions.ripple_when_doubled(3, 0.1) == pytest.approx(0, abs=1e-9)


test_other_data_or_formulas_change_the_verdict = ROWS.plants(SCALING)


def test_the_induced_norm_is_by_map_in_the_order_of_their_names(monkeypatch):
    """Planted: the committed maps in another order, and a record of too few."""
    monkeypatch.setattr(s3_3_scaling_factor, "weight_norms", lambda model: {"b": {"induced": 8.0}, "a": {"induced": 2}})
    assert s3_3_scaling_factor.in_the_induced_norm("", [1.0, 2.0]) == {"a": 1 / 2, "b": 2 / 8}
    with pytest.raises(ValueError, match="longer"):
        s3_3_scaling_factor.in_the_induced_norm("", [1.0])


def induced(folder, *shares, **options):
    """The row where ‖ηBA‖₂ is about such shares of each map's ‖W*‖₂, by model, seeds 1 % apart."""
    share = dict(zip(("all-MiniLM-L6-v2", "SmolLM2-135M"), shares, strict=True))

    def norms(run):
        maps = sorted(s3_3_scaling_factor.weight_norms(run.model).items())
        return [share[run.model] * (1 + 0.01 * (run.seed - 4)) * of["induced"] for _, of in maps]

    plant(folder, LISTS["induced_norms"]["desk"], induced=norms, **options)
    return ledger_rows.finding(ROWS["3.3-comparable-level-induced"])


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.105, 0.2), "holds"), ((0.2, 0.095), "refuted"), ((0.095, 0.101), "refuted"), ((0.2, 0.101), "undecided")],
)
def test_a_tenth_of_the_induced_norm_decides(runs_folder, shares, expected):
    found = induced(runs_folder, *shares)
    assert found.verdict == expected
    told = [float(number) / 100 for number in re.findall(r"([\d.]+)%", found.answer)]
    assert told == pytest.approx(shares, abs=6e-4)
    assert (found.size.low, found.size.high) == pytest.approx((0.99 * min(shares), 1.01 * min(shares)))
    assert found.evidence.measured["all-MiniLM-L6-v2"]["median map"] == pytest.approx(shares[0])


def test_the_induced_norm_is_judged_by_all_its_runs(runs_folder):
    """Nor where a run diverged."""
    last = LISTS["induced_norms"]["desk"][-1]
    assert induced(runs_folder, 0.2, 0.2, skip=lambda run: run == last).verdict == "not_run"
    plant(runs_folder, [last], accuracies=lambda run: [0.8, None])
    assert ledger_rows.finding(ROWS["3.3-comparable-level-induced"]).verdict == "undecided"


@pytest.mark.parametrize("row", ["3.3-comparable-level", "3.3-comparable-level-induced"])
def test_comparable_level_needs_records(row, tmp_path):
    assert ledger.examine(ROWS[row], tmp_path).finding.verdict == "not_run"


def test_norms_of_a_pretrained_model(tmp_path):
    import torch
    from torch import nn

    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[3.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    found = s3_3_scaling_factor.norms_of(nn.Sequential(layer, nn.Tanh()))
    assert found == {"0": pytest.approx({"mean": 2.0, "induced": 3.0}, rel=1e-5)}
    for model in ("all-MiniLM-L6-v2", "SmolLM2-135M"):
        assert all(0 < layer["mean"] <= layer["induced"] for layer in s3_3_scaling_factor.weight_norms(model).values())


@pytest.mark.parametrize(("first", "expected"), [(6, "holds"), (5, "refuted")])
def test_depth_leads_where_it_does_in_more_than_half_of_eleven_families(monkeypatch, first, expected):
    """The paper's own six come first: in more than half of them depth leads either way."""
    led = {*list(s3_3_growth.FAMILIES)[:first], "LLaMA", "Llama 2"}
    monkeypatch.setattr(
        s3_3_growth,
        "growth",
        lambda one: {name: [(4.0, 2.0)] if name in led else [(2.0, 4.0)] for name in one.families},
    )
    assert verdict("3.3-depth") == expected


def test_from_smallest_to_largest_llama_and_llama_2_apart_are_four_of_the_papers_seven():
    found = ROWS.as_is("3.3-depth-at-the-ends")
    assert (found.verdict, found.at_paper, found.size.value) == ("refuted", "mixed", 4)
    assert "3 of 6, or 4 of 7" in found.size.of


def test_theta_is_a_limit_in_eta_and_has_no_case_at_the_papers():
    """24 nats times log(1.02/1.01), where (1 + η)^24 has log(3/2); the constants are 1 and 0.01^24 times ‖W‖^24."""
    found = ROWS.finding("3.3-theta")
    assert (found.verdict, found.at_paper) == ("holds", None)
    assert found.size.value == pytest.approx(24 * np.log(1.02 / 1.01))
    assert found.size.of.endswith("10^48 apart")


def test_that_llms_grow_in_depth_is_read_of_all_of_them():
    """The sentence's clause has no comma before it, which leaves out the LLMs that do not."""
    for name in ("3.3-depth", "3.3-depth-at-the-ends"):
        assert "3.3-limiting-in-depth judges the sentence" in ROWS[name].reading


def test_depth_s_share_is_that_of_the_parameters():
    """12·L·width² parameters in the blocks: twice the depth alone is all of the growth, twice the width none."""
    assert [s3_3_growth.share_of_depth(steps) for steps in ([(2.0, 1.0)], [(1.0, 2.0)])] == [1.0, 0.0]
    assert s3_3_growth.share_of_depth([(2.0, 1.0), (2.0, 2.0)]) == pytest.approx(0.5)


def test_depth_leads_a_family_in_more_steps_than_width():
    assert s3_3_growth.deeper([(2.0, 1.5), (1.0, 1.5), (1.2, 1.1)])
    assert not s3_3_growth.deeper([(2.0, 1.5), (1.0, 1.5), (1.25, 1.25)])


def test_sizes_compared_with_the_next_or_at_the_ends():
    families = {"one": s3_3_growth.Family([(2, 8), (4, 8), (4, 24)], "")}
    assert s3_3_growth.growth(s3_3_growth.Count(families, True)) == {"one": [(2.0, 1.0), (1.0, 3.0)]}
    assert s3_3_growth.growth(s3_3_growth.Count(families, False)) == {"one": [(2.0, 3.0)]}
    for family in s3_3_growth.FAMILIES.values():
        parameters = [layers * width**2 for layers, width in family.sizes]
        assert all(np.diff(parameters) > 0)
