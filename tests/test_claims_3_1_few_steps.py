"""§3.1's rows about training steps: planted wrong formulas change their verdicts, and the theorems they rest on."""

import dataclasses

import numpy as np
import pytest
import torch

from allora_analysis import dropout_sgd
from allora_analysis.claims import (
    masked_descent,
    s3_1_convergence,
    s3_1_few_steps,
    s3_1_in_the_long_run,
    s3_1_in_the_mean,
    s3_1_training_fit,
    s3_1_without_dropout,
)
from allora_analysis.dropout_sgd.placements import InputMasks, OutputMasks
from tests.ledger_rows import Rows
from tests.test_masked_descent import limit_moments, one_setting

ROWS = Rows(
    s3_1_in_the_mean,
    s3_1_convergence,
    s3_1_few_steps,
    s3_1_in_the_long_run,
    s3_1_training_fit,
    s3_1_without_dropout,
)
verdict = ROWS.verdict


def to_output(one):
    """The setting with its masks on the output."""
    return one._replace(placement="output")


def louder(right):
    """Wrong: of true weights three times as large."""
    return lambda one: right(one._replace(w=3 * one.w))


def by_sgd(one):
    """The same under plain SGD, whatever the optimizer."""
    return one._replace(optimizer="SGD")


def by_ascent(one, state, gradient, step):
    """Wrong: a hundred times the rate uphill, along the gradient's cube, in Adam's place."""
    found = masked_descent.slopes(one, state, gradient)
    moved = [part + 100 * one.rate * slope**3 for part, slope in zip(state[: len(found)], found, strict=True)]
    return (*moved, *(0 * part for part in moved * 2 * (one.optimizer != "SGD")))


def whatever_turns(one):
    """Wrong: under Adam whether masks turn signs of a gradient or not."""
    return one.keep_prob < 1 and (one.optimizer == "Adam" or (one.a is not None and one.steps >= 2))


def after_the_first_step(one):
    """Wrong: of A and B under any optimizer, from step 2 on."""
    return one.a is not None and one.steps >= 2 and one.keep_prob < 1


def by_residual_or_width(one):
    """Wrong: Y ≠ XX⁺Y for masks on the output, D > 1 for masks on the input."""
    residual = one.y - one.x @ np.linalg.lstsq(one.x, one.y, rcond=None)[0]
    return one.x.shape[1] > 1 if one.placement == "input" else bool(np.linalg.norm(residual) > 1e-9)


def by_the_first_step(one):
    """Wrong at rates that are not small: √(Σ Y_n²‖X_n‖²)/(9√10·l√k‖PXᵀY‖), the first step's noise at all ten."""
    (x, *_), y, k = one.of, one.y, (1 - one.of.keep_prob) / one.of.keep_prob
    bias = 9 * np.sqrt(10 * k) * one.of.rate * np.linalg.norm(masked_descent.pulls(one.of)[1] @ x.T @ y)
    return float(np.sqrt(np.sum(y**2 * np.sum(x**2, axis=1, keepdims=True))) / bias)


def by_the_signal(right):
    """Wrong where noise in Y reaches X⁺Y: the bias of the true weights in its place."""

    def planted(one):
        fit = np.linalg.lstsq(one.of.x, one.y, rcond=None)[0]
        return right(one) * float(np.linalg.norm(one.of.w) / np.linalg.norm(fit))

    return planted


def altered(right, change):
    """A function whose result, a dataclass, is changed."""

    def planted(*args, **kwargs):
        run = right(*args, **kwargs)
        return dataclasses.replace(run, **change(run))

    return planted


@pytest.mark.parametrize(
    ("name", "change", "instead"),
    [
        ("3.1-sgd-expectation", lambda run: {"mean": 0.99 * run.mean}, "refuted"),
        ("3.1-sgd-variance", lambda run: {"covariance_trace": 1.5 * run.covariance_trace}, "refuted"),
        ("3.1-sgd-variance", lambda run: {"risk": run.risk_marginal}, "refuted"),
        ("3.1-sgd-benefits-vanish", lambda run: {"risk": 0.9 * run.risk}, "refuted"),
        ("3.1-sgd-benefits-vanish", lambda run: {"risk": run.risk_marginal}, "refuted"),
        ("3.1-sgd-convergence", lambda run: {"covariance_trace": 1.01 * run.covariance_trace}, "refuted"),
        ("3.1-sgd-convergence", lambda run: {"average_covariance_trace": run.covariance_trace}, "refuted"),
        ("3.1-sgd-first-step", lambda run: {"risk": run.risk_plain}, "refuted"),
        ("3.1-sgd-training-fit", lambda run: {"training_loss": 0.9 * run.training_loss_plain}, "refuted"),
        ("3.1-sgd-reliable", lambda run: {"covariance_trace": 1e-30 + 0 * run.covariance_trace}, "refuted"),  # at once
        ("3.1-sgd-reliable", lambda run: {"mean": 0 * run.mean}, "refuted"),  # no bias early
        ("3.1-sgd-reliable", lambda run: {"covariance_trace": 4 * run.covariance_trace}, "refuted"),
        ("3.1-benefit-not-early", lambda run: {"risk": 0.9 * run.risk}, "refuted"),  # ahead before
        ("3.1-benefit-not-early", lambda run: {"risk": 1.1 * run.risk_plain}, "holds"),  # and never
        ("3.1-not-a-must-have", lambda run: {"risk": 0.93 * run.risk}, "refuted"),
        ("3.1-not-a-must-have-always", lambda run: {"risk_plain": 0.7 * run.risk_plain}, "holds"),
    ],
)
def test_a_wrong_trajectory_changes_the_verdict(name, change, instead, monkeypatch):
    monkeypatch.setattr(dropout_sgd, "trajectory", altered(dropout_sgd.trajectory, change))
    assert verdict(name) == instead


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("3.1-benefit-not-early", lambda rest: {"covariance_trace": 1e9}),  # not ahead in the long run either
        ("3.1-sgd-crossover", lambda rest: {"covariance_trace": 1e9}),  # never ahead
        ("3.1-sgd-crossover", lambda rest: {"mean": 0.8 * rest.mean}),
        ("3.1-sgd-reliable", lambda rest: {"covariance_trace": 1e9}),  # never outgrown
        ("3.1-sgd-reliable", lambda rest: {"covariance_trace": 0.1 * rest.covariance_trace}),
        ("3.1-sgd-convergence", lambda rest: {"covariance_trace": 1.001 * rest.covariance_trace}),
        ("3.1-sgd-convergence", lambda rest: {"average_covariance_rate": 1.001 * rest.average_covariance_rate}),
    ],
)
def test_a_wrong_limit_changes_the_verdict(name, change, monkeypatch):
    monkeypatch.setattr(dropout_sgd, "stationary_moments", altered(dropout_sgd.stationary_moments, change))
    assert verdict(name) == "refuted"


@pytest.mark.parametrize(
    ("name", "kind", "formula"),
    [
        ("3.1-sgd-variance", InputMasks, "noise"),
        ("3.1-sgd-variance", OutputMasks, "noise"),
        ("3.1-sgd-benefits-vanish", OutputMasks, "noise"),
        ("3.1-sgd-first-step", OutputMasks, "noise"),
        ("3.1-sgd-training-fit", OutputMasks, "noise"),
    ],
)
def test_a_wrong_formula_changes_the_verdict(name, kind, formula, monkeypatch):
    right = getattr(kind, formula)

    def planted(self, *args):
        return right(self, *args) * (1.5 if name.endswith("variance") else 0.0)

    monkeypatch.setattr(kind, formula, planted)
    assert verdict(name) == "refuted"


@pytest.mark.parametrize(
    ("name", "module", "condition", "wrong"),
    [
        ("3.1-sgd-crossover", s3_1_in_the_long_run, "pays_in_the_limit", lambda right: lambda one: 1.5 * right(one)),
        (
            "3.1-sgd-crossover",
            s3_1_in_the_long_run,
            "pays_in_the_limit",
            lambda right: lambda one: right(to_output(one)),
        ),
        ("3.1-sgd-crossover", s3_1_in_the_long_run, "left_by_masks", lambda right: lambda *of: (right(*of)[0], 0.0)),
        ("3.1-benefit-not-early", s3_1_in_the_long_run, "not_yet", lambda right: louder(right)),
        ("3.1-benefit-not-early", s3_1_in_the_long_run, "cost_over_saving", lambda right: lambda one: 2 * right(one)),
        ("3.1-sgd-training-fit", s3_1_training_fit, "told_gaps", lambda right: lambda one: 1.01 * right(one)),
        ("3.1-sgd-benefits-vanish", s3_1_few_steps, "cost_over_saving", lambda right: lambda one: 4 * right(one)),
        ("3.1-sgd-first-step", s3_1_few_steps, "cost_over_saving", lambda right: lambda one: 4 * right(one)),
        ("3.1-not-a-must-have", s3_1_without_dropout, "AS_GOOD", lambda right: 0.98),  # ahead, and not as good
        ("3.1-not-a-must-have", s3_1_without_dropout, "measured_gap", lambda right: lambda *of: 6 + right(*of)),
        ("3.1-sgd-reliable", s3_1_convergence, "noise_over_bias_early", lambda right: lambda one: 2 * right(one)),
        ("3.1-sgd-reliable", s3_1_convergence, "bias_over_noise_late", lambda right: lambda one: 2 * right(one)),
        ("3.1-sgd-reliable", s3_1_convergence, "noise_over_bias_early", lambda right: lambda one: 0.5 * right(one)),
        ("3.1-sgd-reliable", s3_1_convergence, "bias_over_noise_late", lambda right: lambda one: 0.5 * right(one)),
        ("3.1-sgd-reliable", s3_1_convergence, "noise_over_bias_early", lambda right: by_the_first_step),
        ("3.1-sgd-reliable", s3_1_convergence, "bias_over_noise_late", by_the_signal),
        ("3.1-sgd-variance", s3_1_few_steps, "enumerated_variance", lambda right: lambda one: 0.0),
        ("3.1-sgd-variance", s3_1_few_steps, "beyond_the_mean", lambda right: lambda *of: -right(*of)),
        ("3.1-sgd-variance", masked_descent, "moved", lambda right: by_ascent),
        ("3.1-sgd-convergence", s3_1_convergence, "noisy_at_the_optimum", lambda right: lambda one: True),
        ("3.1-sgd-convergence", s3_1_convergence, "noisy_at_the_optimum", lambda right: by_residual_or_width),
        (
            "3.1-expectation-of-steps",
            s3_1_in_the_mean,
            "one_masks_deviation",
            lambda right: lambda one: 1.2 * right(one),
        ),
        ("3.1-expectation-of-steps", s3_1_in_the_mean, "off_expectation", lambda right: lambda *of: [0.0] * 4),
        ("3.1-expectation-of-steps", s3_1_in_the_mean, "off_expectation", lambda right: lambda *of: right(*of)[:1] * 4),
        ("3.1-sgd-expectation", s3_1_in_the_mean, "enumerated_mean", lambda right: lambda one: 1.01 * right(one)),
        ("3.1-sgd-expectation", s3_1_in_the_mean, "off_regularised", lambda right: lambda one: right(by_sgd(one))),
        ("3.1-sgd-expectation", s3_1_in_the_mean, "leaves_the_path", lambda right: lambda one: right(by_sgd(one))),
        ("3.1-sgd-expectation", s3_1_in_the_mean, "leaves_the_path", lambda right: after_the_first_step),
        ("3.1-sgd-expectation", s3_1_in_the_mean, "leaves_the_path", lambda right: whatever_turns),
    ],
)
def test_a_condition_that_is_wrong_is_refuted(name, module, condition, wrong, monkeypatch):
    monkeypatch.setattr(module, condition, wrong(getattr(module, condition)))
    assert verdict(name) == "refuted"


def test_where_dropout_leads_after_few_steps_noise_outweighs_the_signal():
    found = ROWS.as_is("3.1-benefit-not-early")
    (told,) = (value for key, value in found.evidence.measured.items() if key.startswith("noise over the signal"))
    early = [told[name] for name in told if name.startswith("below the boundary")]
    assert len(early) == 6
    assert min(min(both) for both in early) > 1.6
    hits, noises = s3_1_in_the_long_run.ahead_by_step(np.random.default_rng(0), 100, "output")
    assert hits[noises <= 1, 10].mean() < 0.15 < hits[noises > 1, 10].mean()


@pytest.mark.parametrize(
    ("name", "module"),
    [("3.1-sgd-benefits-vanish", s3_1_few_steps), ("3.1-benefit-not-early", s3_1_in_the_long_run)],
)
def test_a_turn_told_too_early_has_no_noise_that_pays_before_it(name, module, monkeypatch):
    right = module.cost_over_saving
    monkeypatch.setattr(module, "cost_over_saving", lambda one: 0.25 * right(one))
    assert verdict(name) == "holds"


def paid_for_noise(singular, keep_prob, rate):
    """What dropout adds to the risk by unit of σ² after ten steps on X diagonal, each input by itself."""
    added = 0.0
    for value in singular:
        one = masked_descent.Sgd(np.array([[value]]), np.ones(1), 1.0, keep_prob, rate, 10, "output")
        added += masked_descent.risks(one, keep_prob)[1, -1] - masked_descent.risks(one, 1.0)[1, -1]
    whole = one._replace(x=np.diag(singular))
    assert rate > masked_descent.highest_small(whole)
    return masked_descent.cost_over_saving(whole), added


def test_the_turn_is_another_at_rates_that_are_not_small():
    told, added = paid_for_noise([1.0], 0.1, 0.004)
    assert told > 1.3
    assert added < 0
    told, added = paid_for_noise([1.0] + 400 * [0.1], 0.95, 0.044 * 0.95**2)
    assert told < 1 / 1.3
    assert added > 0


@pytest.mark.parametrize("seed", range(4))
def test_dropout_is_ahead_from_where_it_is_told_as_rates_fall(seed):
    """Risks with dropout and without meet where `not_yet` is 1, the more closely the more steps make up lt²."""
    off = []
    for steps in (200, 800):
        one = masked_descent.setting(np.random.default_rng(seed), 0.8, steps, 0.1, "output")
        one = one._replace(rate=2 * one.rate * s3_1_in_the_long_run.cost_over_saving(one))  # it is then 1/2
        one = one._replace(noise=np.sqrt(2 * s3_1_in_the_long_run.not_yet(one) - 1))
        assert s3_1_in_the_long_run.not_yet(one) == pytest.approx(1)
        off.append(abs(masked_descent.behind(one) - 1))
    assert off[1] < 0.4 * off[0] < 0.1


def test_what_is_off_by_masks_that_are_drawn_is_above_their_scatter():
    """Of 512 rows W by plain SGD is on the path; Adam is off by more than twice what is asked."""
    rng = np.random.default_rng(2)
    one = masked_descent.many_rows(rng)
    on_it = s3_1_in_the_mean.distance(one._replace(a=None, optimizer="SGD"), rng)
    off_it = s3_1_in_the_mean.distance(one, rng)
    assert on_it < s3_1_in_the_mean.SAMPLED / 2 < 2 * s3_1_in_the_mean.SAMPLED < off_it


def test_adams_first_step_is_as_much_shorter_as_masks_turn_signs():
    """Of W, of A and B, masks at A's input and on the output; with positive X and Y none turns: it is on its path."""
    rng = np.random.default_rng(4)
    one = masked_descent.many_rows(rng)._replace(steps=1)
    for case in (one, one._replace(a=None), one._replace(placement="output", keep_prob=0.7)):
        told = s3_1_in_the_mean.shortened(case)
        assert told > 2 * s3_1_in_the_mean.SAMPLED
        assert masked_descent.sampled_distance(case, rng, 600) == pytest.approx(told, rel=0.1)
    positive = one._replace(x=abs(one.x), y=abs(one.y), a=None)
    assert s3_1_in_the_mean.shortened(positive) < 1e-9
    assert masked_descent.sampled_distance(positive, rng) < 1e-9
    assert not s3_1_in_the_mean.leaves_the_path(positive)


def test_the_sampled_distance_is_that_of_all_masks_and_0_on_the_path():
    one = s3_1_in_the_mean.rank_8(np.random.default_rng(1), 2, 2)._replace(keep_prob=0.5)
    mean, path = masked_descent.enumerated_mean(one), masked_descent.regularised_descent(one)
    told = np.linalg.norm(mean - path) / np.linalg.norm(path)
    assert masked_descent.sampled_distance(one, np.random.default_rng(0), 20_000) == pytest.approx(told, rel=0.05)
    plain = one._replace(a=None, optimizer="SGD")
    assert masked_descent.sampled_distance(plain, np.random.default_rng(0), 20_000) < 0.02


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("3.1-sgd-benefits-vanish", "ten at higher rates pay in {} (noise 0.1) to {} % (3)"),
        ("3.1-sgd-first-step", "at higher learning rates after ten in {}–{} %"),
    ],
)
def test_the_share_after_ten_steps_is_of_ten_steps_at_half_the_signal_and_the_answer_s_of_every_noise(name, told):
    found = ROWS.as_is(name)
    (by_noise,) = (value for key, value in found.evidence.measured.items() if key.endswith("by noise and step"))
    costs = 0 if "vanish" in name else 100  # the % that gain after one step, or in which the highest rate is last
    assert all(by_step[1] == costs for by_step in by_noise.values())
    assert found.size.value == by_noise[0.5][10]
    assert abs(by_noise[0.1][10] - costs) <= abs(by_noise[0.5][10] - costs) < abs(by_noise[3.0][10] - costs)
    of_answer = sorted(by_step[10] for by_step in by_noise.values())
    ends = told.format(*(f"{of_answer[end]:.0f}" for end in (0, -1)))
    assert ends in found.answer
    assert "noise 0.5 of the signal" in found.size.of
    assert f"{by_noise[3.0][10]:.0f} % at 3; of 40 settings of 512 rows" in found.size.of


def test_the_variance_of_many_rows_is_that_of_their_masks(monkeypatch):
    """None without masks, more at a higher drop rate; at 0.05 as torch's Adam has it, to the scatter of six draws."""
    found, right = {}, s3_1_few_steps.many_rows
    for keep_prob in (1.0, 0.95, 0.5):
        monkeypatch.setattr(s3_1_few_steps, "many_rows", lambda rng, p=keep_prob: right(rng)._replace(keep_prob=p))
        found[keep_prob] = s3_1_few_steps.by_many_masks(np.random.default_rng(0), 60, 6)
    assert found[1.0] < 1e-20
    one, products = right(np.random.default_rng(0)), []
    x, y = torch.tensor(one.x), torch.tensor(one.y)
    for seed in range(6):
        draw = torch.Generator().manual_seed(seed)
        a, b = torch.tensor(one.a).requires_grad_(), torch.zeros(16, 8, dtype=torch.float64).requires_grad_()
        rule = torch.optim.Adam([a, b], lr=1e-4)
        for _ in range(60):
            rule.zero_grad()
            kept = (torch.rand(x.shape, generator=draw) < 0.95) / 0.95
            ((x * kept @ (b @ a).T - y) ** 2).sum().backward()
            rule.step()
        products.append((b @ a).detach().numpy().T)
    spread = float(np.var(products, axis=0, ddof=1).sum())
    risk = float(np.sum((np.mean(products, axis=0) - np.linalg.pinv(one.x) @ one.y) ** 2))
    assert 0.4 < found[0.95] / (100 * spread / risk) < 2.5
    assert found[0.5] > 2 * found[0.95]


def test_the_first_step_from_zero_costs_at_any_rate_and_noise():
    """Means are equal after it, bit for bit, and masks only add variance; after the second means differ."""
    for seed in range(20):
        one = s3_1_few_steps.ten_steps(np.random.default_rng(seed))
        (signal, labels), (mean, plain) = (
            masked_descent.risks(one, one.keep_prob) - masked_descent.risks(one, 1.0),
            (masked_descent.moments(one, one.labels, keep_prob).mean for keep_prob in (one.keep_prob, 1.0)),
        )
        assert min(signal[1], labels[1]) > 0
        assert np.array_equal(mean[1], plain[1])
        assert not np.allclose(mean[2], plain[2])


@pytest.mark.parametrize("placement", masked_descent.PLACEMENTS)
def test_bias_over_noise_with_less_rank_than_inputs(placement):
    """H has no inverse: its pseudoinverse, as descent from 0 stays in the span of the rows."""
    rng = np.random.default_rng(0)
    x, w = np.tile(masked_descent.turned(6, np.array([1.0, 0.7, 0.5]), rng).T, (2, 1)), rng.standard_normal(6)
    of = masked_descent.Sgd(x, w, 0.0, 0.95, 1e-3, 10, placement)
    one = s3_1_convergence.Labelled(of, x @ w[:, None] + rng.standard_normal((6, 1)))
    assert s3_1_convergence.bias_over_noise_late(one) == pytest.approx(
        s3_1_convergence.measured_signal(one)["limit"], rel=0.02
    )


def test_rates_that_overshoot_can_fit_better():
    """One feature, l = 0.815/λ_max(H): dropout's residual is 1 − p + pz³ = 0 at step 3, plain descent's is not."""
    ones = np.ones((300, 1))
    one = s3_1_training_fit.Fit(ones, ones, 0.8, 0.815, "output")
    assert s3_1_training_fit.told_gaps(one).min() < -masked_descent.TOLERANCE
    assert s3_1_training_fit.told_gaps(one._replace(share=0.5)).min() > -masked_descent.TOLERANCE


def test_where_dropout_pays_in_the_limit():
    """(1 − p)‖w‖²/((1 + p) tr S⁻¹) with masks on the output; to first order in l the covariance adds lΣ h(1 − h)."""
    one = one_setting("output", 1)
    gram, p = one.x.T @ one.x, one.keep_prob
    trace, length = np.trace(np.linalg.inv(gram)), one.w @ one.w
    slow = s3_1_in_the_long_run.pays_in_the_limit(one._replace(rate=1e-12))
    assert slow == pytest.approx((1 - p) * length / ((1 + p) * trace))
    h = np.diag(one.x @ np.linalg.solve(gram, one.x.T))
    at_rate = (1 - p) * length / ((1 + p) * trace - one.rate * np.sum(h * (1 - h)))
    assert s3_1_in_the_long_run.pays_in_the_limit(one) == pytest.approx(at_rate)
    errors = []
    for rate in (one.rate / 10, one.rate / 20):
        of = limit_moments(one._replace(rate=rate), np.eye(len(one.x)))
        ahead = trace - np.sum(of.mean**2) - of.spread[0] ** 2  # less than least squares, by unit of σ²
        told = (1 - p) * ((1 + p) * trace - rate * np.sum(h * (1 - h)))
        errors.append(abs(ahead - told))
    assert errors[1] < 0.3 * errors[0] < 1e-3  # what is left is of second order


def test_in_one_direction_dropout_overtakes_only_past_the_best_step():
    """Risks (1 − f)²w² + f²σ²/s² with f = a (dropout) or b > a (without) meet where (a + b)/2 is the best f."""
    rng = np.random.default_rng(2)
    for p, u, best in zip(
        rng.uniform(0.1, 0.99, 50), rng.uniform(0.01, 5, 50), rng.uniform(0.05, 0.99, 50), strict=True
    ):
        a, b = p * (1 - np.exp(-u / p)), 1 - np.exp(-u)
        assert a < b
        risk = [(1 - f) ** 2 * best + f**2 * (1 - best) for f in (a, b)]
        assert (risk[0] < risk[1]) == ((a + b) / 2 > best)


def test_bias_outgrows_noise_to_leading_order():
    """‖E W_t − W_t without‖/√tr Cov W_t → l√k(t − 1)√t‖PXᵀY‖/√(Σ Y_n²‖X_n‖²) as l → 0."""
    for placement in masked_descent.PLACEMENTS:
        one = one_setting(placement, 3, steps=10)._replace(rate=1e-5)
        y = one.x @ one.w[:, None] + np.random.default_rng(3).standard_normal((7, 1))
        labelled = s3_1_convergence.Labelled(one, y)
        told = by_the_first_step(labelled)
        assert s3_1_convergence.added_over_spread(labelled)[-1] == pytest.approx(1 / told, rel=1e-3)
        assert s3_1_convergence.noise_over_bias_early(labelled) == pytest.approx(told, rel=1e-3)


def test_the_leading_order_tells_the_early_half_on_nearly_all_draws():
    rng = np.random.default_rng(0)
    drawn = [of(rng) for of in (s3_1_convergence.noise_outside, s3_1_convergence.noise_in_the_fit) for _ in range(50)]
    right = [(by_the_first_step(one) > 1) == (s3_1_convergence.noise_over_bias_early(one) > 1) for one in drawn]
    assert 0.85 < np.mean(right) < 1


@pytest.mark.parametrize("placement", masked_descent.PLACEMENTS)
def test_at_a_share_of_the_largest_rate_the_step_falls_as_the_third_root_of_the_rows(placement):
    """√(Σ Y_n²‖X_n‖²)/(l√k‖PXᵀY‖), which t√t is to reach, at 8 and at 512 rows: as 1/√64, so that t is a quarter."""
    rng, reach = np.random.default_rng(0), {}
    for rows in (8, 512):
        drawn = [masked_descent.falling_spectra(rng, 10, rows=rows) for _ in range(60)]
        those = [case.inputs for pair in drawn for case in pair if case.inputs.placement == placement]
        of = [by_the_first_step(s3_1_convergence.labelled(one, rng)) for one in those]
        reach[rows] = np.median(of) ** (2 / 3)
    assert reach[8] / reach[512] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("placement", masked_descent.PLACEMENTS)
def test_bias_over_noise_in_the_limit_to_leading_order(placement):
    one = one_setting(placement, 3)._replace(rate=1e-5)
    y = one.x @ one.w[:, None] + np.random.default_rng(3).standard_normal((7, 1))
    rest, least = limit_moments(one, y), np.linalg.lstsq(one.x, y, rcond=None)[0]
    told = s3_1_convergence.bias_over_noise_late(s3_1_convergence.Labelled(one, y))
    assert told == pytest.approx(np.linalg.norm(rest.mean[0] - least) / rest.spread[0], rel=1e-3)
    if placement == "output":
        leverages = np.diag(one.x @ np.linalg.pinv(one.x))[:, None]
        noise = one.rate * np.sum(leverages * (y - one.x @ least) ** 2)
        assert told**2 == pytest.approx(0.2 * np.sum(least**2) / noise, rel=1e-3)


def test_less_noise_shows_later_than_the_reading_looks():
    rng = np.random.default_rng(3)
    for noise, kept in ((1e-3, True), (1e-7, False)):
        one = s3_1_convergence.spread_run(rng, s3_1_convergence.KINDS[0], "output", 0.95, noise)
        seen = s3_1_convergence.traces(one)
        assert s3_1_convergence.noisy_at_the_optimum(one)
        assert seen["limit"] > 0
        assert (seen["late"] > s3_1_convergence.KEPT * seen["early"]) == kept


@pytest.mark.parametrize("placement", masked_descent.PLACEMENTS)
def test_a_rate_that_falls_linearly_to_0_leaves_half_the_covariance_in_four_times_the_steps(placement):
    one = s3_1_convergence.spread_run(np.random.default_rng(0), s3_1_convergence.KINDS[0], placement, 0.95, 0.5)
    traces = []
    for steps in (200, 800):
        rates = one.rate * (1 - np.arange(steps) / steps)
        run = dropout_sgd.trajectory(one.x, one.y, 0.95, rates, steps, placement)
        traces.append(run.covariance_trace[-1])
    assert traces[1] / traces[0] == pytest.approx(0.5, rel=0.03)


def test_more_steps_are_needed_at_lower_rates_and_for_masks_on_the_input():
    found = ROWS.as_is("3.1-sgd-reliable")
    (by_place,) = (value for key, value in found.evidence.measured.items() if key.startswith("step at which"))
    medians = {place: [middle for _, middle, _ in rates.values()] for place, rates in by_place.items()}
    assert medians["output"][0] > medians["output"][1] > medians["output"][2]
    assert medians["input"][0] > medians["input"][1] == found.size.value > 10
    assert medians["input"][2] == np.inf
    assert np.all(np.greater(medians["input"], medians["output"]))
    assert f"input masks {medians['input'][0]:.0f}, " in found.size.of


@pytest.mark.parametrize("placement", masked_descent.PLACEMENTS)
def test_noise_in_the_labels_alone_decides_nothing_in_the_long_run(placement):
    """It adds to X⁺Y, too: of pure noise bias leads at low rates; of residuals alone it never would."""
    rng, late = np.random.default_rng(0), []
    for _ in range(20):
        of = next(case.inputs for case in masked_descent.falling_spectra(rng, 10) if case.inputs.placement == placement)
        noise = rng.standard_normal((len(of.x), 1))
        residual = noise - of.x @ np.linalg.lstsq(of.x, noise, rcond=None)[0]
        labels = [of.x @ of.w[:, None] + 1e4 * part for part in (noise, residual)]
        late.append(
            [
                s3_1_convergence.bias_over_noise_late(s3_1_convergence.at(s3_1_convergence.Labelled(of, y), share, 10))
                for y in labels
                for share in (0.02, 0.2)
            ]
        )
    leads = np.mean(np.greater(late, 1), axis=0)
    assert leads[0] > 0.9
    assert 0.3 < leads[1] < 0.9
    assert np.all(leads[2:] == 0)


def test_how_often_bias_never_leads_rises_with_the_rate_and_with_noise():
    found = ROWS.as_is("3.1-sgd-reliable")
    shares = [value for key, value in found.evidence.measured.items() if key.startswith("% in which it never does")]
    assert len(shares) == 2
    for by_noise in shares:
        assert all(low <= 5 and low <= high for low, high in (of.values() for of in by_noise.values()))
        assert by_noise[10.0][0.2] > by_noise[0.5][0.2]
    assert "perhaps never if noisy" in found.answer


def test_the_highest_drop_rate_is_last_just_where_it_costs():
    found = ROWS.as_is("3.1-sgd-first-step")
    assert (
        found.evidence.measured["cases in which the highest rate is last just where it costs"] == found.evidence.cases
    )
    assert s3_1_few_steps.is_last([[2.0, 2.0], [1.0, 1.0]])
    assert not s3_1_few_steps.last_where_it_costs({"parts": [[2.0, 2.0], [3.0, 1.0], [1.0, 1.0]]})


def test_of_many_rows_dropout_is_seldom_ahead_after_ten_steps_and_only_where_noise_drowns_the_signal():
    hits, noises = s3_1_in_the_long_run.ahead_by_step(np.random.default_rng(3), 60, "output", 10, many=True)
    assert hits[:, 10].mean() < 0.2
    assert noises[hits[:, 10]].min() > 5
