"""The ledger's rows on §3.3 in a transformer: a wrong formula or other data behind a row changes its verdict."""

import dataclasses
import math

import numpy as np
import pytest

from allora_analysis.claims import s3_3_in_a_transformer as section
from allora_analysis.claims import s3_3_power_series, s3_3_pretrained
from allora_analysis.ripple import mean_field, series, transformer
from tests.ledger_rows import Rows

ROWS = Rows(section, s3_3_power_series, s3_3_pretrained)
ADDED = section.added


def without_normalisation(one, rng, gradient=False):
    """Planted: every block as if nothing were normalized."""
    return ADDED(one._replace(norm="none", scale=1.0, gated=False), rng, gradient) | {"off": 0.0}


DOUBLED = section.Blocks.doubled.fget


def at_random(one, by):
    """Planted: the condition at random off by a factor, aligned as it is."""
    return DOUBLED(one) * (1.0 if one.aligned else by)


PLANTED = [
    ("3.3-transformer", section, "added", lambda one, rng: {"L": 1.0, "2L": 2.0, "off": 0.0}, "holds"),
    # As if no normalization were enough, however few the blocks and small the adapters.
    ("3.3-transformer", section.Blocks, "doubled", property(lambda one: 1.9), "refuted"),
    ("3.3-transformer", section.Blocks, "doubled", property(lambda one: at_random(one, 2.0)), "refuted"),
    ("3.3-transformer", section.Blocks, "doubled", property(lambda one: at_random(one, 0.5)), "refuted"),
    # A criterion that linear growth meets where branches are short beside the stream.
    ("3.3-transformer", section, "exponential", section.explodes, "refuted"),
    ("3.3-transformer", section, "added", lambda one, rng: {"L": 1.0, "2L": 1.0, "off": 0.0}, "refuted"),
    (
        "3.3-transformer",
        transformer,
        "stream_bound",  # √n for every branch, as if lengths added up as squares do
        lambda right, model, eta: 0.5 * right(model, eta),
        "refuted",
    ),
    (
        "3.3-transformer",
        transformer,
        "stream_bound",  # a gate that multiplies nothing
        lambda right, model, eta: right(
            dataclasses.replace(model, design=dataclasses.replace(model.design, gated=False)), eta
        ),
        "refuted",
    ),
    (
        "3.3-transformer",
        mean_field,
        "moments",  # the stream's square multiplied, not added to
        lambda right, model, eta: right(model, eta)._replace(log_stream=[len(model.blocks) * 3.0]),
        "refuted",
    ),
    ("3.3-transformer-gradient-at-random", section, "added", without_normalisation, "refuted"),
    *(
        (name, section, "derivatives", lambda model, x, v, eta: [(1 + eta) * v] * 25, "refuted")
        for name in ("3.3-transformer-gradient", "3.3-transformer-gradient-at-random")
    ),
    # The output's worst case, whose stream grows: no block multiplies a direction across it as the first does.
    ("3.3-transformer-gradient", section, "steepest", section._networks, "refuted"),
    (
        "3.3-transformer-gradient",
        section,
        "steepest_gain",
        lambda right, one: right(one._replace(scale=1.0)),
        "refuted",
    ),
    (
        "3.3-transformer-series",
        s3_3_power_series,
        "_nothing_divides",  # without a look at the activation
        lambda one: one.model.design.norm == "none" and not (one.model.design.softmax and len(one.x) > 1),
        "refuted",
    ),
    (
        "3.3-transformer-series",
        s3_3_power_series,
        "_something_has_a_zero",  # as if SiLU divided by nothing
        lambda right, one: one.model.design.activation != "silu" and right(one),
        "refuted",
    ),
    ("3.3-transformer-series", transformer, "degree", lambda depth, design: 2 * depth, "refuted"),
    ("3.3-transformer-series", series, "radius_by_coefficients", lambda right, terms: 2 * right(terms), "refuted"),
]


test_a_planted_formula_changes_the_verdict = ROWS.plants(PLANTED)


def test_the_gradient_at_recorded_sizes_has_eta_once(monkeypatch):
    """By hand, ηm̄ twice in a block; at both sizes exponential, and so true, however little comes of it."""
    found = ROWS.as_is("3.3-transformer-gradient")
    blocks = {size: (1 + (1 + size) ** 2) / 2 for size in (0.08, 0.014)}
    assert (found.verdict, found.at_paper) == ("holds", True)
    assert f"{(1 + 3**2) / 2:.0f}-fold a block at ‖BA‖ = ‖W‖" in found.answer
    assert f"recorded norms: {blocks[0.014]:.2f} to {blocks[0.08]:.2f}." in found.answer
    assert f"{(1 + 0.1 * 3**2) / 1.1:.1f}, never more than 9" in found.size.of
    assert f"{blocks[0.08] ** 24:.0f} times in all in 24 blocks" in found.size.of
    assert f"{blocks[0.014] ** 24:.1f} at SmolLM2's" in found.size.of
    added = section.added
    flat = lambda one, *rest, **more: dict.fromkeys(("L", "2L"), 0.1) if one.eta < 0.02 else added(one, *rest, **more)  # noqa: E731
    monkeypatch.setattr(section, "added", flat)
    planted = ROWS.finding("3.3-transformer-gradient")
    assert (planted.verdict, planted.at_paper) == ("refuted", "mixed")


@pytest.mark.parametrize("gradient", [False, True])
def test_the_papers_setting_in_a_transformer_has_recorded_sizes_and_norms(gradient):
    own = [case.inputs for case in section.known(gradient) if case.paper]
    assert {one.eta for one in own} == {0.08, 0.014}
    assert "none" not in {one.norm for one in own}


@pytest.mark.parametrize(
    ("depth", "size", "worst"),
    [(24, 0.014, True), (25, 0.014, True), (4, 0.08, True), (5, 0.08, True), (12, 0.08, False), (12, 2.0, False)],
)
def test_without_normalization_the_output_shows_it_from_the_depth_at_which_eta_doubles(depth, size, worst):
    """By hand, (1 + (1 + η)²)/2 a branch at worst, two of them a block."""
    one = section.Blocks("none", depth, size, 1, worst, replicas=section.PLAIN)
    seen = section.added(one, np.random.default_rng(0))
    by_hand = 2 * depth * math.log((1 + (1 + size) ** 2) / 2) > math.log(2) if worst else size == 2.0
    assert (one.doubled > 1) == section.exponential(one, seen) == by_hand
    if not worst:  # log √E‖h‖²/n of one token, without a draw of the tokens
        drawn = transformer.draw(
            section.Design(heads=2, norm="none", activation="relu"), depth, 24, 8, 1.0, np.random.default_rng(0)
        )
        moments = [mean_field.moments(drawn, eta).log_stream[-1] for eta in (0.0, size)]
        assert one.doubled * math.log(2) == pytest.approx(np.diff(moments)[0] / 2, rel=0.1)


def test_blocks_without_normalization_are_drawn_on_both_sides_of_the_condition():
    rng = np.random.default_rng(0)
    plain = [one for one in (section.drawn(rng, False) for _ in range(200)) if one.norm == "none"]
    assert 0.2 < np.mean([one.doubled > 1 for one in plain]) < 0.8
    assert all(0.5 < one.doubled < 2 for one in plain if one.aligned)


def test_the_output_s_size_is_of_the_worst_case_alone():
    """By hand, two branches of √n(1 + η)² a block beside a first stream of √n; networks at random scatter about 1."""
    size = ROWS.as_is("3.3-transformer").size
    by_hand = [
        math.log((1 + 32 * s) / 33) / math.log((1 + 16 * s) / 17) for s in ((1 + eta) ** 2 for eta in (1.0, 2.0))
    ]
    assert (size.high, size.low) == pytest.approx(by_hand)
    assert size.of.endswith("at random 1.0")


def test_the_aligned_network_attains_the_bound():
    rng = np.random.default_rng(0)
    ones = [section.Blocks(norm, 3, 5.0, 1, True) for norm in transformer.NORMS]
    for one in [*ones, section.Blocks("pre", 3, 5.0, 1, True, gated=True)]:
        model, x = section.aligned(one, rng)
        run = transformer.forward(model, x, one.eta)
        length = math.log(np.linalg.norm(run.streams[-1]) / math.sqrt(x.shape[1]))
        assert length == pytest.approx(transformer.stream_bound(model, one.eta), abs=1e-9)


def test_gelu_alone_is_no_polynomial_and_converges_everywhere():
    one = s3_3_power_series._series_of(
        transformer.Design(heads=2, norm="none", softmax=False, activation="gelu"), np.random.default_rng(0)
    )
    assert series.radius(one.model, one.x, 0.25) == math.inf
    assert not s3_3_power_series._nothing_divides(one)
    weights = np.linalg.norm(series.coefficients(one.model, one.x, 0.1, 60, 128).reshape(60, -1), axis=1)
    sizes = weights * 0.1 ** np.arange(60)
    assert sizes[transformer.degree(2, one.model.design) + 1 :].sum() > 1e-3 * sizes.sum()


def sweep(layers, power, size=0.03):
    """A sweep in which η multiplies the last stream by (1 + ηm̄)^power."""
    etas = [0.0, *(2.0**k for k in range(-4, 11))]
    one = {
        "entropy": [[0.0] * layers] * len(etas),
        "log_output_gradient": [0.0] * len(etas),
        "radius": {"winding": 9.0},
    }
    one |= {"log_stream": [[0.0, power * math.log1p(eta * size)] for eta in etas]}
    sizes = {"row_norm": {"random": size, "trained": size}, "weight_row_norm": 1.0}
    return sizes | {"eta": etas, "random": one, "trained": one}


@pytest.mark.parametrize(
    ("power", "expected"), [(0, "refuted"), (3, "refuted"), (14, "refuted"), (16, "holds"), (30, "holds")]
)
def test_the_measured_row_follows_from_the_sweeps(power, expected, monkeypatch):
    monkeypatch.setattr(s3_3_pretrained.pretrained_ripple, "read", lambda name: sweep(30, power))
    found = ROWS.finding("3.3-transformer-measured")
    assert found.verdict == expected
    assert found.at_paper is None
    assert found.size.value == pytest.approx(power / 30)  # over the same step, so exactly


def test_the_measured_row_needs_every_sweep(monkeypatch):
    """One sweep of two that rises fast is told in the answer, and does not carry the sentence."""
    monkeypatch.setattr(s3_3_pretrained.pretrained_ripple, "read", lambda name: sweep(30, 16 if "Smol" in name else 3))
    found = ROWS.finding("3.3-transformer-measured")
    assert found.verdict == "refuted"
    assert (found.size.value, found.size.low) == (pytest.approx(16 / 30), pytest.approx(0.1))
    assert found.answer.endswith("; SmolLM2: 0.53 with trained adapters, 0.53 random.")
    monkeypatch.undo()
    assert (
        "SmolLM2: 0.53 of that rate with trained adapters, 0.09 random."
        in ROWS.finding("3.3-transformer-measured").answer
    )


def test_a_stream_that_doubles_late_is_enough(monkeypatch):
    """Doubled at η = 64 and no earlier, in every sweep, at 16/30 of the product's rate."""
    planted = sweep(30, 16, size=0.0007)
    etas, values = planted["eta"], [of[-1] for of in planted["random"]["log_stream"]]
    assert min(eta for eta, value in zip(etas, values, strict=True) if value >= math.log(2)) == 64
    monkeypatch.setattr(s3_3_pretrained.pretrained_ripple, "read", lambda name: planted)
    assert ROWS.finding("3.3-transformer-measured").verdict == "holds"


def test_the_measured_rows_reading_on_other_thresholds():
    """A quarter of the rate, or half of the doubling, answers alike; by the rate at a step's end none passed."""
    shares, by_half, at_the_end = [], [], []
    for name in s3_3_pretrained.MODELS:
        swept = s3_3_pretrained.pretrained_ripple.read(name)
        for case in s3_3_pretrained._swept_cases({name: swept}):
            seen = s3_3_pretrained.risen(swept, case.inputs)
            shares.append(s3_3_pretrained.largest_share(seen)[0])
            by_half.append(s3_3_pretrained.largest_share(seen, s3_3_pretrained.DOUBLED / 2)[0])
            ends = [case.inputs.layers * eta * case.inputs.size / (1 + eta * case.inputs.size) for eta in seen["η"]]
            at_the_end.append(s3_3_pretrained.largest_share(seen | {"product's": ends})[0])
    assert min(shares) < 0.25
    assert min(by_half) < 0.5 < max(shares)
    assert max(at_the_end) < 0.5


def test_the_measured_row_needs_a_sweep(monkeypatch):
    monkeypatch.setattr(s3_3_pretrained.pretrained_ripple, "read", lambda name: None)
    found = ROWS.finding("3.3-transformer-measured")
    assert found.verdict == "not_run"
    assert "pretrained_ripple" in ROWS["3.3-transformer-measured"].command
