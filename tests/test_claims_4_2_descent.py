"""The ledger's rows on what kind of step ALLoRA takes, and on ALLoRAAdamW: what a wrong formula does to them."""

import dataclasses
import re
from fractions import Fraction

import numpy as np
import pytest
import torch

from allora_analysis import adaptive
from allora_analysis.adaptive.convergence import truncated
from allora_analysis.claims import layer_training
from allora_analysis.claims import s4_2_at_rest as at_rest
from allora_analysis.claims import s4_2_descent as section
from allora_analysis.lora import functional, optim
from tests.ledger_rows import Rows, lora_instead

ROWS = Rows(section, at_rest)
SURELY = section.surely


def lora_after_step(right, example, factor):
    return right(example, [Fraction(1), Fraction(1)])


def climbing_b(right, a, b, g, eta):
    change = right(a, b, g, eta)
    return dataclasses.replace(change, b_part=-change.b_part)


def descending_a(right, a, b, g, eta):
    change = right(a, b, g, eta)
    return dataclasses.replace(change, a_part=-abs(change.a_part))


def a_alone(one):
    """As if B's part made up for nothing: surely only where A's part descends."""
    return SURELY(one) is True or min(SURELY(one), 0.5)


class AscendingAdamW(optim.ALLoRAAdamW):
    """Turns A's update round."""

    def step(self, closure=None):
        before = [p.detach().clone() for p in self.param_groups[0]["params"]]
        super().step(closure)
        a = self.param_groups[0]["params"][0]
        with torch.no_grad():
            a.copy_(2 * before[0] - a)


class PlainAdamW(torch.optim.AdamW):
    """No factor at all."""

    def __init__(self, groups, lr, eta, betas, weight_decay):
        super().__init__(groups[0]["params"], lr, betas, weight_decay=weight_decay)


class FirstStepAlone(optim.ALLoRAAdamW):
    """After its first step the signs are turned: no first step shows it."""

    def step(self, closure=None):
        before = [p.detach().clone() for p in self.param_groups[0]["params"]]
        first = not self.state
        super().step(closure)
        with torch.no_grad():
            for old, part in zip(before, self.param_groups[0]["params"], strict=True):
                part.copy_(part if first else 2 * old - part)


PLANTED = [  # row, module, function, wrong formula, the verdict that it must lead to
    ("4-descent", functional, "allora", lora_instead, "holds"),
    ("4-descent", adaptive, "first_order_change", climbing_b, "refuted"),
    ("4-descent", adaptive, "first_order_change", descending_a, "refuted"),
    ("4-descent", adaptive, "loss_after_step", lora_after_step, "refuted"),
    ("4-descent", adaptive, "row_factor", lambda a, b, eta: np.full(len(b), eta), "refuted"),
    ("4-descent", section, "surely", a_alone, "refuted"),
    ("4-descent", section, "surely", lambda one: len(one.task.a) == one.task.a.shape[1] or SURELY(one), "refuted"),
    ("4-descent", section, "climbing", lambda one: one, "refuted"),  # of its own loss no state shows what others do
    ("4-optimal-direction", adaptive, "run_to_rest", lambda t, a, *args: 0.9 * truncated(t, len(a)), "refuted"),
    ("4-optimal-direction", adaptive, "run_to_rest", lambda t, a, *args: t @ np.linalg.pinv(a) @ a, "refuted"),
    ("4-optimal-direction-exactly", adaptive, "run_to_rest", lambda t, a, *args: truncated(t, len(a)), "holds"),
    ("4-optimal-direction", adaptive, "run_to_rest", lambda t, a, *args: truncated(t, len(a)), "holds"),
    ("4-optimal-direction", at_rest, "foretold", lambda one: 0.0 if one.tied is None else one.tied / 2, "refuted"),
    (
        "4-optimal-direction-exactly",
        adaptive,
        "rest_point",
        lambda right, t, rank, eta: right(t, rank, 0.3 * eta),
        "refuted",
    ),
    ("4-allora-adamw", optim, "ALLoRAAdamW", AscendingAdamW, "refuted"),
    ("4-allora-adamw", optim, "ALLoRAAdamW", PlainAdamW, "refuted"),
    ("4-allora-adamw", optim, "ALLoRAAdamW", FirstStepAlone, "refuted"),
    ("4-allora-adamw", adaptive, "row_factor", lambda a, b, eta: np.full(len(b), eta), "refuted"),
]


test_a_planted_wrong_formula_changes_the_verdict = ROWS.plants(PLANTED)


def test_without_unequal_factors_the_example_descends(monkeypatch):
    """The planted alternative at the example itself: equal factors, and the polynomial falls, so it is no example."""
    example = dataclasses.replace(adaptive.EXAMPLE, b=(Fraction(8), Fraction(8)), y=(Fraction(10), Fraction(7)))
    monkeypatch.setattr(adaptive, "EXAMPLE", example)
    assert section.small_step(section.example(), "allora", 1e-7) < 0
    assert ROWS.finding("4-descent").verdict == "refuted"


def test_the_answer_rounds_the_size_outwards():
    found = ROWS.as_is("4-optimal-direction")
    (told,) = re.findall(r"within ([\d.]+) %", found.answer)
    assert 100 * found.size.high <= float(told) < 100 * found.size.high + 0.1


def test_the_answer_has_a_long_row_s_loss_at_recorded_rows_too():
    """The most over the short rows' joint norm; at recorded rows it is within the row's hundredth."""
    most = at_rest._of_one_long_row()
    assert most[0.015] < at_rest.CENT < most[0.5]
    told = f"256 short: {100 * most[0.015]:.1f} % at 0.015, {100 * most[0.5]:.0f} % at 0.5."
    assert ROWS.as_is("4-optimal-direction").answer.endswith(told)


def test_both_readings_of_the_rest_have_one_size():
    assert ROWS.as_is("4-optimal-direction").size == ROWS.as_is("4-optimal-direction-exactly").size


@pytest.mark.parametrize("tolerance", [0.005, 0.02])
def test_the_condition_decides_at_half_and_twice_of_the_hundredth(monkeypatch, tolerance):
    monkeypatch.setattr(at_rest, "CENT", tolerance)
    assert ROWS.verdict("4-optimal-direction") == "conditional"


@pytest.mark.parametrize(
    ("s", "m", "f", "eta", "above"), [(1, 8, 0.8, 2, 0.0837), (0.5, 8, 0.8, 2, 0.0233), (3, 16, 0.7, 2, 0.151)]
)
def test_a_long_row_against_short_ones_rests_above_the_least_by(s, m, f, eta, above):
    """The closed form against the steps; and nothing where the short ones cannot outweigh it."""
    rng = np.random.default_rng(0)
    for joint, left in ((f, above), (0.3, 0.0)):
        one = at_rest.competing(rng, s, m, joint, eta)
        rested = adaptive.run_to_rest(one.target, one.a, eta, one.rate, one.steps)
        assert one.tied == pytest.approx(left, rel=5e-3)
        assert at_rest.excess(one, rested) == pytest.approx(one.tied, abs=1e-8)


def test_rows_at_random_can_rest_above_a_hundredth():
    """Gaussian targets k×4, k from 4 to 12, rows of 0.5 on average, r = 1, η² = 4: some do, most do not."""
    rng, above = np.random.default_rng(0), []
    for _ in range(60):
        target = rng.standard_normal((rng.integers(4, 13), 4))
        target *= 0.5 / np.linalg.norm(target, axis=1).mean()
        one = at_rest._Target(target, 1, 2.0, 0.3 * rng.standard_normal((1, 4)))
        above.append(at_rest.excess(one, adaptive.run_to_rest(target, one.a, 2.0, 0.3, 1000)) > at_rest.CENT)
    assert 0 < sum(above) < 12


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_rows_of_one_length_descend(optimizer):
    """D_d = d·I: states at LoRA's shapes, their rows of BA made equally long."""
    one = section.mid_training(np.random.default_rng(0), 2.0, optimizer)
    alike = one._replace(b=one.b / np.linalg.norm(one.b @ one.task.a, axis=1, keepdims=True))
    assert section.surely(alike) is True
    assert not section.surely(one) > 0
    assert section.changes(one)["worst loss"] > section.NOTHING >= section.changes(alike)["worst loss"]
    assert max(section.changes(each)["own loss"] for each in (one, alike)) < 0


@pytest.mark.parametrize(("rank", "most"), [(1, 0), (2, 15)])
def test_only_below_the_number_of_outputs_does_a_rank_need_rows_of_one_length(rank, most):
    """Why r < n₁, here 2: a column g of G adds −⟨Bᵀg, u⟩ to A's part, u = BᵀD_dg or its signs; at every angle of g."""
    angles, still = np.linspace(0, 2 * np.pi, 20_001), {"sgd": 0, "adamw": 0}
    g = np.array([np.cos(angles), np.sin(angles)])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        task, b = layer_training.draw_problem(rng, n1=2, n2=64, rank=rank), rng.standard_normal((2, rank))
        b *= np.array([[0.05], [0.2]]) / np.linalg.norm(b @ task.a, axis=1, keepdims=True)
        adapted = (b.T * adaptive.row_factor(task.a, b, 2.0)) @ g
        for optimizer, update in (("sgd", adapted), ("adamw", np.sign(adapted))):
            part, surely = np.sum((b.T @ g) * update, axis=0), section.surely(section.State(task, b, 2.0, optimizer))
            descends = part.min() >= -1e-9 * part.max()
            still[optimizer] += descends
            assert (surely is True) == (descends and optimizer == "sgd")
    assert min(still.values()) >= most
    assert most or not any(still.values())


def test_no_loss_climbs_below_the_edge_and_one_does_above():
    """Against many random G at r = n₂: of both sides, none climbs more than the worst loss."""
    rng, above = np.random.default_rng(0), []
    for _ in range(20):
        one = section.near_the_edge(rng)
        d, (a, b) = adaptive.row_factor(one.task.a, one.b, one.eta), (one.task.a, one.b)
        g = rng.standard_normal((10_000, len(b), a.shape[1]))
        steps = -np.sum((b.T @ g) * (b.T @ (d[:, None] * g)), axis=(1, 2)) - np.sum(d[:, None] * (g @ a.T) ** 2, (1, 2))
        worst = sum(section._parts_of_change(section.climbing(one)))
        assert (steps / np.sum(g**2, axis=(1, 2))).max() <= worst
        assert (worst < 0) == (section.surely(one) > 1)
        above.append(worst > 0)
    assert 0 < sum(above) < len(above)


def test_the_small_step_is_the_losss_change():
    """Against the loss before and after, at a step whose change rounding does not hide."""
    one = section.mid_training(np.random.default_rng(0), 2.0, "sgd")
    x, y, a = one.task
    step_a, step_b = adaptive.update_field(a, one.b, section.gradient(one), one.eta)
    moved = x @ ((one.b - 1e-6 * step_b) @ (a - 1e-6 * step_a)).T
    before = x @ (one.b @ a).T
    change = np.sum((moved - y) ** 2 - (before - y) ** 2) / 2 / 1e-6
    assert section.small_step(one, "allora", 1e-6) == pytest.approx(change, rel=1e-5)


def test_the_text_quotes_the_exact_derivative_and_how_the_draws_were_made(monkeypatch):
    """Shares without B's size and the number of tokens say nothing: both stand beside them, one setting with B as A."""
    monkeypatch.setattr(section, "DRAWS", 2000)
    found = ROWS.finding("4-descent")
    assert "½" in found.corrected
    assert [value for name, value in found.evidence.measured.items() if "'s" in name] == ["41/15", "-69"]
    measured = found.evidence.measured["share of draws that ascend, its standard error"]
    shares = {case: share for case, (share, _) in measured.items()}
    assert 0.05 < shares["r = 1, 16×16, B 30 times A, 1 token"] < 0.08
    assert shares["r = 1, 16×16, B 1 times A, 1 token"] < 0.005
    assert shares["r = 4, 16×16, B 30 times A, 32 tokens"] < 0.01
    assert found.size.value == shares["r = 1, 16×16, B 30 times A, 1 token"]
    assert shares["r = 8, 48×64, B 1 times A, 1 token"] == 0
    assert found.answer.endswith("chosen ones at LoRA's shape.")
    assert "Not the most" in found.size.of
    assert f"else {100 * found.size.value:.0f} % of random losses climb at rank 1" in found.answer


def test_every_shape_has_as_many_draws_as_the_evidence_says(monkeypatch):
    asked, right = [], adaptive.ascent_frequency

    def few(*args, draws, **options):
        asked.append(draws)
        return right(*args, draws=10, **options)

    monkeypatch.setattr(adaptive, "ascent_frequency", few)
    section.shares(np.random.default_rng(0))
    assert asked == [section.DRAWS] * len(section.SHAPES)


def test_steps_of_a_squared_loss_ascend_less_often():
    """At rank 1 and one token by the two parts' own formulas: −⟨BᵀG, BᵀD_dG⟩ − ‖D_d^{1/2}GAᵀ‖², G = (f − y)xᵀ."""
    rng, one, climbs = np.random.default_rng(0), section.OFTEN, 0
    for _ in range(4000):
        a, x, b, y = rng.standard_normal((4, 16)) * [[1 / 4], [1], [one.ratio / 4], [1]]
        off = b * (a @ x) - y
        d = 1 / np.sqrt(np.abs(b) * np.linalg.norm(a) + 1 / one.eta**2)
        climbs += (b @ off) * (b @ (d * off)) * (x @ x) + np.sum(d * off**2) * (x @ a) ** 2 < 0
    share = section.share_of_squared_loss(one, np.random.default_rng(1))
    assert climbs / 4000 == pytest.approx(share, abs=0.004)
    assert 0 < share < 0.01


def test_a_step_of_allora_adamw_that_is_not_small_can_raise_the_loss():
    rng = np.random.default_rng(0)
    x, y = (torch.tensor(rng.standard_normal((12, n))) for n in (5, 6))
    a, b = (torch.tensor(part, requires_grad=True) for part in (rng.standard_normal((2, 5)) / 4, np.zeros((6, 2))))
    rule = optim.ALLoRAAdamW([{"params": [a, b], "pair": True}], 0.1, 2.0, (0.0, 0.999), weight_decay=0.0)
    losses = []
    for _ in range(200):
        rule.zero_grad()
        loss = ((x @ (b @ a).T - y) ** 2).sum() / 24
        loss.backward()
        losses.append(loss.item())
        rule.step()
    assert 50 < (np.diff(losses) > 0).sum() < 150
