"""The ledger's rows on §3.2 and the second flaw: a wrong formula planted behind a row changes its verdict."""

import dataclasses
import re

import numpy as np
import pytest

from allora_analysis import hessian
from allora_analysis.claims import (
    s3_2_escape,
    s3_2_first_steps,
    s3_2_in_a_and_b,
    s3_2_in_v,
    s3_2_real_networks,
    s3_2_starts,
)
from allora_analysis.claims.cases import Cases
from allora_analysis.hessian import network, network_inertia
from allora_analysis.lora.layers import ALLoRALinear
from tests.ledger_rows import Rows, as_is

ROWS = Rows(s3_2_in_v, s3_2_in_a_and_b, s3_2_escape, s3_2_first_steps, s3_2_real_networks, s3_2_starts)
verdict = ROWS.verdict
COUNT, SPECTRUM = network_inertia.negative_directions, network.network_spectrum
KNOWN = {}


def spectrum(model, loss, data, k):
    """The spectrum, which no plant changes, once for each model, its data and k."""
    key = (k, *(one.detach().numpy().tobytes() for one in (*model.parameters(), *data)))
    if key not in KNOWN:
        KNOWN[key] = SPECTRUM(model, loss, data, k)
    return KNOWN[key]


@pytest.fixture(autouse=True)
def spectra(monkeypatch):
    monkeypatch.setattr(network, "network_spectrum", spectrum)


def halved(right, *args):
    return right(*args) / 2


def off_by_one(right, x, g, a):
    counts = right(x, g, a)
    return dataclasses.replace(counts, negative=counts.negative - 1, zero=counts.zero + 1)


def block_without_s(right, x, a):
    found = right(x, a)
    return dataclasses.replace(found, block=found.adapter)


def steeper_away_from_zero(right, *args):
    """A gradient whose derivative does depend on V, and is worst conditioned at 0."""
    return right(*args) + 1e3 * max(np.linalg.norm(args[3]) - 1, 0) * args[3]


PLANTED = [  # row, function, wrong formula, the verdict that it must lead to
    ("3.2-gradient", "product_gradient", halved, "refuted"),
    ("3.2-hessian", "product_hessian", halved, "refuted"),
    ("3.2-hessian", "product_hessian", lambda x, c: np.kron(2 * x.T @ x, np.eye(c)), "refuted"),
    ("3.2-hessian", "product_hessian", lambda x, c: 2 * np.kron(np.eye(min(len(x), 9)), x.T @ x), "refuted"),
    ("3.2-convex-in-lora", "factor_spectrum", halved, "refuted"),
    ("3.2-semidefinite", "product_spectrum", lambda right, x, c: right(x, c) - 1, "refuted"),
    ("3.2-start-conditioning", "product_gradient", steeper_away_from_zero, "holds"),
    ("3.2-degenerate-rank", "product_spectrum", lambda right, x, c: right(x, c) + 1, "refuted"),
    ("3.2-degenerate-condition", "marchenko_pastur_condition", lambda gamma: (1 + gamma) ** 2, "refuted"),
    ("3.2-degenerate-condition", "fixed_gram_design", lambda x, n, rng: x[: n // 2], "refuted"),
    ("3.2-b-conditioning", "block_conditioning", block_without_s, "refuted"),
    ("3.2-b-degenerate", "block_conditioning", block_without_s, "refuted"),
    ("3.2-saddle-lora", "inertia", off_by_one, "undecided"),
    ("3.2-saddle-lora", "factor_spectrum", halved, "undecided"),
    ("3.2-saddle-lora", "is_stationary", lambda *args: True, "undecided"),
    ("3.2-saddle-starts", "is_stationary", lambda *args: True, "refuted"),
    ("3.2-saddle-starts", "is_stationary", lambda *args: False, "refuted"),
    ("3.2-escape", "escape_time", halved, "refuted"),
    ("3.2-slow-start", "initial_speed_ratio", lambda n2, rank, s: s**2 * (rank * n2) ** 0.5, "refuted"),
]


test_a_planted_wrong_formula_changes_the_verdict = ROWS.plants([(row, hessian, *rest) for row, *rest in PLANTED])


def steps_as_under_descent(right, one, rng):
    return right(one._replace(optimizer="gradient descent"), rng)


HELPERS = [
    # A turn at the number of inputs, whatever the rank of their covariance.
    (
        "3.2-degenerate-condition",
        s3_2_in_v,
        "above",
        lambda right, one: right(one._replace(d=one.d + one.more)),
        "refuted",
    ),
    ("3.2-gradient", s3_2_in_v, "loss", lambda right, *args: 2 * right(*args), "refuted"),
    ("3.2-vectorisation", s3_2_in_v, "loss", lambda right, *args: 2 * right(*args), "refuted"),
    ("3.2-vectorisation", s3_2_in_v, "columns", lambda matrices: matrices.reshape(*matrices.shape[:-2], -1), "refuted"),
    # A loss that is not quadratic; one that curves down.
    ("3.2-semidefinite", s3_2_in_a_and_b, "along", lambda right, one: right(one) ** 2, "refuted"),
    ("3.2-semidefinite", s3_2_in_a_and_b, "dense_hessian", lambda right, one: -right(one), "refuted"),
    # A start without slope would be a saddle as printed.
    ("3.2-saddle-lora", s3_2_in_a_and_b, "loss_gradient", lambda x, g, b, a: (0 * b, 0 * a), "holds"),
    ("3.2-escape", s3_2_escape, "escape_times", lambda case: [1.0, 1.0], "refuted"),
    # AdamW delayed as gradient flow is: measured so, and foretold so.
    ("3.2-escape", s3_2_escape, "adamw_time", lambda one: hessian.simulated_escape_time(*one, 0.01), "refuted"),
    ("3.2-escape", s3_2_escape, "delayed", lambda case: case.both, "refuted"),
    ("3.2-slow-start", s3_2_first_steps, "adam_speed_ratio", lambda n2, rank, s, m: s * rank, "refuted"),
    # As if G had no zeros.
    (
        "3.2-slow-start",
        s3_2_first_steps,
        "adam_speed_ratio",
        lambda right, n2, rank, s, m: right(n2, rank, s, n2),
        "refuted",
    ),
    ("3.2-slow-start", s3_2_first_steps, "first_steps", steps_as_under_descent, "refuted"),
    ("3.2-b-conditioning", s3_2_first_steps, "typical_condition", lambda squares, rank: np.inf, "refuted"),
    ("3.2-b-conditioning", s3_2_first_steps, "typical_condition", lambda squares, rank: 1.0, "refuted"),
    # A that does not see which inputs are small.
    (
        "3.2-b-conditioning",
        s3_2_first_steps,
        "_block_condition",
        lambda block: float(np.linalg.cond(block.a)) ** 2,
        "refuted",
    ),
    # The bound κ(S)κ(AAᵀ) in κ(ASAᵀ)'s place.
    (
        "3.2-b-conditioning",
        s3_2_first_steps,
        "_block_condition",
        lambda block: float(np.linalg.cond(block.x) * np.linalg.cond(block.a)) ** 2,
        "refuted",
    ),
    # Outputs that depend on A as they do at B of A's size.
    (
        "3.2-factor-conditioning",
        s3_2_first_steps,
        "curvatures_of_output",
        lambda right, one, share: right(one, 1.0),
        "refuted",
    ),
    # As many flat directions as with n ≥ n₂ inputs, whatever n.
    (
        "3.2-factor-conditioning",
        s3_2_first_steps,
        "flat_directions",
        lambda one: [one.a.size, len(one.a) ** 2],
        "refuted",
    ),
    # A spectrum as if BBᵀ were twice as large.
    (
        "3.2-factor-conditioning",
        s3_2_first_steps,
        "told_condition",
        lambda right, squares, a, b: right(squares, a, 2**0.5 * b),
        "refuted",
    ),
    # A condition number of the first power of 1/‖B‖.
    (
        "3.2-factor-conditioning",
        s3_2_first_steps,
        "curvatures_of_output",
        lambda right, one, share: right(one, share**0.5),
        "refuted",
    ),
    # Other outputs than A's, with the same flat directions.
    (
        "3.2-factor-conditioning",
        s3_2_first_steps,
        "curvatures_of_output",
        lambda right, one, share: right(one._replace(a=2 + one.a), share),
        "refuted",
    ),
    ("3.2-pretrained-mapping", s3_2_real_networks, "change_of_output", lambda one: 0.0, "refuted"),
    ("3.2-network-escape", network_inertia, "gradient_norms", lambda *args: (0.0, 0.0), "refuted"),
    ("3.2-inference-cost", ALLoRALinear, "merge", lambda layer: layer, "refuted"),
    ("3.2-inference-cost", ALLoRALinear, "merge", lambda layer: layer.base, "refuted"),
]


test_another_measurement_changes_the_verdict = ROWS.plants(HELPERS)


def test_adapters_that_do_not_descend_change_the_verdict(monkeypatch):
    """The pretraining that precedes it uses the same function, and has the right one."""
    right, descend = network_inertia.adapted_mlp, network_inertia.descend

    def adapted(*args):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(network_inertia, "descend", descend)
            return right(*args)

    monkeypatch.setattr(network_inertia, "adapted_mlp", adapted)
    assert ROWS.planted(monkeypatch, "3.2-network-escape", network_inertia, "descend", lambda *args: None) == "holds"


def test_a_problem_that_is_convex_in_the_factors_too_would_not_be_conditional(monkeypatch):
    """Planted: curvatures that are never negative and losses that are quadratic along every line."""
    right = s3_2_in_a_and_b.second_difference
    monkeypatch.setattr(s3_2_in_a_and_b, "second_difference", lambda *args: abs(right(*args)))
    monkeypatch.setattr(s3_2_in_a_and_b, "third_difference", lambda *args: 0.0)
    assert verdict("3.2-convex-in-lora") == "refuted"


def turn_at_half_of_the_inputs(monkeypatch):
    """The turn where 256 rows of 64 inputs have it, whatever the rows."""
    monkeypatch.setattr(s3_2_first_steps.Drawn, "foretold", property(lambda one: one.gram * one.many.shape[1] / 32))


def equal_variances_are_worse(monkeypatch):
    """Rows of one variance taken for XᵀX = cI."""
    right = s3_2_first_steps.typical_condition
    monkeypatch.setattr(
        s3_2_first_steps.Drawn,
        "foretold",
        property(lambda one: right(np.ones(one.x.shape[1]), one.many.shape[1]) * one.gram),
    )


@pytest.mark.parametrize("wrong", [turn_at_half_of_the_inputs, equal_variances_are_worse])
def test_a_turn_that_ignores_the_number_of_rows_is_wrong(wrong, monkeypatch):
    wrong(monkeypatch)
    cases = Cases(0, "3.2-b-conditioning")
    ROWS[cases.identifier].check(cases)
    assert cases.judged.condition != cases.judged.printed


def test_the_triangle_in_place_of_many_rows_has_the_law_of_their_gram_matrix():
    """Means and variances of XᵀX's entries, Wishart's: n on the diagonal ± 2n, 0 beside it ± n."""
    n, d, rng = 64, 4, np.random.default_rng(0)
    assert s3_2_in_v._rows(n, d, rng).shape == (d, d)
    grams = np.array([r.T @ r for r in (s3_2_in_v._rows(n, d, rng) for _ in range(20_000))])
    assert grams.mean(axis=0) == pytest.approx(n * np.eye(d), abs=0.5)
    assert grams.var(axis=0) == pytest.approx(n * (1 + np.eye(d)), rel=0.1)


def test_typical_condition():
    """Of the identity it tends to Marchenko and Pastur's; of sampled and of spread spectra it is the drawn A's."""
    typical, generator = s3_2_first_steps.typical_condition, np.random.default_rng(0)
    for gamma in (0.05, 0.3, 0.8):
        found = typical(np.ones(4000), round(4000 * gamma))
        assert found == pytest.approx(hessian.marchenko_pastur_condition(gamma), rel=0.05)
    for squares, rank in ((np.geomspace(1, 100, 900), 300), (np.arange(1, 61) ** -1.0, 20), (np.ones(60), 4)):
        logs = [
            2 * np.log(np.linalg.cond(generator.standard_normal((rank, len(squares))) * squares**0.5))
            for _ in range(8 if rank == 300 else 200)
        ]
        assert np.mean(logs) == pytest.approx(np.log(typical(squares, rank)), abs=0.05 if rank == 300 else 0.25)


def test_typical_condition_refuses_as_many_rows_as_inputs():
    with pytest.raises(ValueError, match="below the number of inputs, 8, received 8"):
        s3_2_first_steps.typical_condition(np.ones(8), 8)


def test_adam_speed_ratio_is_the_first_adam_steps():
    """Against torch's own optimizer: one step of B from 0, and one of V, at the same rate."""
    import torch

    n1, n2, rank, draws, generator = 3, 12, 3, 400, torch.Generator().manual_seed(0)
    g = torch.randn(n1, n2, generator=generator, dtype=torch.float64)
    g[:, :5] = 0.0

    def step(parameter, gradient):
        before = parameter.detach().clone()
        parameter.grad = gradient
        torch.optim.Adam([parameter], lr=0.1, eps=1e-12).step()
        return parameter.detach() - before

    full = step(torch.zeros(n1, n2, dtype=torch.float64, requires_grad=True), g).norm()
    squares = []
    for _ in range(draws):
        a = 0.3 * torch.randn(rank, n2, generator=generator, dtype=torch.float64)
        b = step(torch.zeros(n1, rank, dtype=torch.float64, requires_grad=True), g @ a.T)
        squares.append(float((b @ a).norm() / full) ** 2)
    error = np.std(squares, ddof=1) / draws**0.5
    told = s3_2_first_steps.adam_speed_ratio(n2, rank, 0.3, 7) ** 2
    assert np.mean(squares) == pytest.approx(told, abs=5 * error)
    assert 5 * error < 0.1 * told


def test_a_step_as_long_as_vs_once_away_from_zero_would_make_zero_the_cause(monkeypatch):
    assert ROWS.finding("3.2-slow-start").at_paper == "mixed"
    monkeypatch.setattr(s3_2_first_steps, "away_from_zero", lambda one, rng: 1.5)
    assert ROWS.finding("3.2-slow-start").at_paper is True


def test_fewer_samples_than_inputs_at_the_papers_setting_would_make_it_degenerate_there(monkeypatch):
    """All three rows on the section's last sentence halve the same training set."""
    rows = ("3.2-degenerate-rank", "3.2-degenerate-condition", "3.2-b-degenerate")
    assert [ROWS.finding(row).at_paper for row in rows] == ["mixed", True, False]
    assert all(s3_2_in_v.SETTING in ROWS[row].reading for row in rows)
    right = s3_2_in_v.papers_own
    few = [one._replace(few=one.few[:20]) for one in right(np.random.default_rng(0))]
    monkeypatch.setattr(s3_2_in_v, "papers_own", lambda rng: few)
    assert ROWS.finding(rows[0]).at_paper is True


def test_as_many_sentences_as_inputs_would_leave_no_flat_direction_at_the_papers_setting(monkeypatch):
    monkeypatch.setattr(s3_2_in_v, "WIDEST", s3_2_in_v.SENTENCES // 2)
    assert ROWS.finding("3.2-degenerate-rank").at_paper is False


def test_how_often_kappa_rises_by_more_than_a_little_stands_in_the_evidence():
    found = ROWS.finding("3.2-degenerate-condition")
    rises = found.evidence.measured["cases in which κ rises by more than"]
    assert [of["the paper's"] for of in rises.values()] == [1, 1, 0, 0]  # by 10, 20, 50 and 100 %
    assert "raises κ by only" in found.answer


def test_what_is_difficult_to_leave_is_what_the_cases_hold():
    """No case begins at A = B = 0, and none under AdamW is late."""
    assert ROWS.finding("3.2-escape").answer.startswith("Only by gradient flow with A and B both near zero:")


def test_two_adamw_steps_are_adamws():
    """Its first steps have the length of the rate: B = −2l sign(∇), which is not Gaussian."""
    rng = np.random.default_rng(0)
    x, a = rng.standard_normal((30, 12)), rng.standard_normal((3, 12))
    errors = s3_2_in_a_and_b.errors_of(s3_2_in_a_and_b.ERRORS[0], 5, x, rng)
    after, b = s3_2_in_a_and_b.two_adamw_steps(x, errors, a)
    assert b == pytest.approx(-2e-4 * np.sign(errors @ x @ a.T), rel=1e-3)
    assert np.abs(after - a).max() < 2.1e-4


def test_the_answer_says_when_and_over_which_widths():
    """Two steps of 1e-4 make B 1 % of PEFT's A; the answer's ends are the least and the greatest of what is named."""
    assert pytest.approx(s3_2_first_steps.TOLD[1], rel=0.05) == 2 * 1e-4 * (3 * 896) ** 0.5
    found = ROWS.as_is("3.2-factor-conditioning")
    low, high = (int(end.replace(",", "")) for end in re.search("in, ([0-9,]+)–([0-9,]+) times", found.answer).groups())
    starts = ("rank 8", "batch of eight", "n₁ = 128:", "n₁ = 4,864:")
    named = [re.search(f"{start} ([0-9][0-9, ]*)", found.size.of)[1] for start in starts]
    typical = [int(one.replace(",", "")) for of in named for one in of.strip(" ").split(", ")]
    assert len(typical) == 8
    assert (low, high) == (min(typical), max(typical))
    assert found.size.low < found.size.value < found.size.high
    assert len(found.answer.split()) <= 15  # in README


def test_what_is_called_the_papers_setting_has_loras_shapes():
    """A's rank from 8 to 32, at least 32 inputs."""
    for row in ("3.2-factor-conditioning", "3.2-most-negative", "3.2-b-degenerate"):
        cases, _ = as_is(ROWS[row])
        shapes = [one.inputs.a.shape for one in cases.judged.cases if one.paper]
        assert shapes
        assert all(8 <= rank <= 32 <= n2 for rank, n2 in shapes), row


@pytest.mark.parametrize("optimizer", s3_2_first_steps.OPTIMIZERS)
def test_a_b_as_large_as_a_makes_the_first_step_root_two_times_as_long(optimizer):
    """Of square matrices, r ≪ n: two independent parts of one size, whose cross term is of the order of r/n."""
    one, rng = s3_2_first_steps._Speed(512, 4, (3 * 512) ** -0.5, optimizer, 512), np.random.default_rng(0)
    assert s3_2_first_steps.away_from_zero(one, rng) / one.ratio == pytest.approx(2**0.5, rel=0.05)


@pytest.mark.parametrize("n1", [128, 1536])
def test_with_other_outputs_than_inputs_only_adams_first_step_is_root_two_times_as_long(n1):
    """A B as large as A: under gradient descent √(1 + (n₁ + 3r + 1)/(n₂ + r + 1)), as the row's reading says."""
    rng, n2, rank = np.random.default_rng(0), 512, 8
    found = []
    for _ in range(20):
        g, a, b = (rng.standard_normal(shape) for shape in ((n1, n2), (rank, n2), (n1, rank)))
        both = [[of(g @ a.T) @ a + b @ of(b.T @ g), of(g @ a.T) @ a] for of in (np.positive, np.sign)]
        found.append([[np.sum(part**2) for part in each] for each in both])
    descent, adam = (ratio**0.5 for ratio in np.divide(*np.mean(found, axis=0).T))
    told = (1 + (n1 + 3 * rank + 1) / (n2 + rank + 1)) ** 0.5
    assert descent == pytest.approx(told, rel=0.01)
    assert adam == pytest.approx(2**0.5, rel=0.05)
    assert abs(told - 2**0.5) > 0.2


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9])
def test_only_more_inputs_than_the_rank_make_zero_flatter(n):
    """With n ≤ r inputs B alone reaches all outputs: nothing is flatter at B = 0, nor worse conditioned near it."""
    normal = np.random.default_rng(n).standard_normal
    one = s3_2_first_steps.Point(normal((n, 7)), normal((3, 7)), normal((5, 3)))
    values = [s3_2_first_steps.curvatures_of_output(one, share) for share in (0.0, 1e-3, 1e-2, 1.0)]
    kept = [each[each > 1e-22 * each[0]] for each in values]
    flat = [one.a.size + one.b.size - len(each) for each in kept]
    assert [flat[0], flat[-1]] == s3_2_first_steps.flat_directions(one)
    assert (flat[0] > flat[-1]) == (kept[1][0] / kept[1][-1] > 20 * kept[2][0] / kept[2][-1]) == (n > 3)


@pytest.mark.parametrize("b", [1e-3, 0.0], ids=["another start", "a network that ignores its adapters"])
def test_another_start_is_not_the_pretrained_map(monkeypatch, b):
    right = s3_2_real_networks.network
    monkeypatch.setattr(s3_2_real_networks, "network", lambda one: right(one._replace(b=one.b + b if b else 0.0)))
    assert verdict("3.2-pretrained-mapping") == "refuted"


def test_the_counts_are_exact_where_the_bound_is_not():
    seen = s3_2_real_networks.at_start(s3_2_real_networks.Start(1, 2, 8))
    assert seen["signs as foretold"]
    assert seen["negative"] == seen["foretold"]["negative"] > seen["Σ r·rank G"]


def bound_alone(model, loss, data):
    counts = COUNT(model, loss, data)
    return dataclasses.replace(counts, negative=counts.bound)


def one_too_many(model, loss, data):
    counts = COUNT(model, loss, data)
    return dataclasses.replace(counts, positive=counts.positive + 1, zero=counts.zero - 1)


@pytest.mark.parametrize("wrong", [bound_alone, one_too_many])
def test_a_wrong_count_leaves_it_undecided(wrong, monkeypatch):
    monkeypatch.setattr(network_inertia, "negative_directions", wrong)
    assert verdict("3.2-pretrained-saddle") == "undecided"


def test_down_over_up_is_that_of_the_whole_spectrum():
    rng = np.random.default_rng(2)
    for rows, rank in ((12, 3), (2, 4)):  # 2 rows: ASAᵀ has rank 2
        x, a = rng.standard_normal((rows, 5)), rng.standard_normal((rank, 5))
        g = rng.standard_normal((4, rows)) @ x
        values = np.linalg.eigvalsh(hessian.dense_factor_hessian(x, g, a))
        assert s3_2_in_a_and_b.down_over_up(x, g, a) == pytest.approx(-values[0] / values[-1], rel=1e-9)
