"""A transformer of adapted maps and its power series in η, against loops, theorems and draws."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis.ripple import series, transformer
from allora_analysis.ripple.transformer import Design
from allora_analysis.validation import ArgumentError
from tests.brute_force import transformer as brute_force
from tests.stat_assert import assert_mean, assert_rejects

LINEAR = Design(heads=2, norm="none", softmax=False, activation="identity")
BERT = Design(heads=2, norm="post", centred=True)
LLAMA = Design(heads=2, norm="pre", causal=True, activation="silu", gated=True)
ANALYTIC = {
    "BERT": BERT,
    "Llama": LLAMA,
    "softmax alone": Design(heads=2, norm="none", activation="identity"),
    "RMS": Design(heads=2),
}


def tokens(count, width, rng):
    x = rng.standard_normal((count, width))
    return x * math.sqrt(width) / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("norm", transformer.NORMS)
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize(
    ("activation", "gated"), [("relu", False), ("gelu", False), ("silu", True), ("identity", True)]
)
def test_a_pass_is_the_loops(norm, softmax, activation, gated, rng):
    design = Design(2, norm, norm == "post", 0.0, softmax, gated, activation, gated)
    model, x = transformer.draw(design, 2, 6, 2, 0.7, rng), rng.standard_normal((3, 6))
    told = brute_force.output(model.blocks, x, 1.3, 2, norm, norm == "post", softmax, gated, activation, gated)
    np.testing.assert_allclose(transformer.forward(model, x, 1.3).output, told, rtol=1e-10, atol=1e-12)


def test_a_pass_as_it_is_unasked(rng):
    """One head, an RMSNorm before each branch, softmax, no mask, an ungated GELU."""
    model, x = transformer.draw(Design(), 2, 5, 2, 0.7, rng), rng.standard_normal((3, 5))
    told = brute_force.output(model.blocks, x, 1.3, 1, "pre", False, True, False, "gelu", False)
    np.testing.assert_allclose(transformer.forward(model, x, 1.3).output, told, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("design", ANALYTIC.values(), ids=ANALYTIC)
def test_a_stack_is_so_many_networks_each_of_its_own(design, rng):
    model, x = transformer.draw(design, 2, 8, 2, 0.7, rng, count=3), rng.standard_normal((3, 4, 8))
    together = transformer.forward(model, x, 1.3).output
    for place, own in enumerate(x):
        blocks = tuple(
            {name: transformer.AdaptedMap(one.w[place], one.b[place], one.a[place]) for name, one in block.items()}
            for block in model.blocks
        )
        alone = transformer.forward(replace(model, blocks=blocks), own, 1.3).output
        np.testing.assert_allclose(together[place], alone, rtol=1e-10)
    ones = [one for block in model.blocks for one in block.values()]
    assert len({one.w[place].tobytes() for one in ones for place in range(3)}) == 3 * len(ones)


@pytest.mark.bad_input
@pytest.mark.parametrize("count", [0, -1])
def test_a_stack_of_none_is_refused(count, rng):
    with pytest.raises(ArgumentError, match=f"count must be .*received {count}"):
        transformer.draw(Design(), 2, 8, 2, 0.7, rng, count=count)


@pytest.mark.parametrize("centred", [True, False])
def test_a_norm_is_torchs(centred, rng):
    z, gain, shift = rng.standard_normal((3, 6)), rng.standard_normal(6), rng.standard_normal(6) * centred
    design, done = Design(centred=centred, epsilon=0.1), transformer.Pass()
    found = transformer._normalised(design, transformer.Normalisation(gain, shift), z, done)
    z, gain, shift = (torch.tensor(part) for part in (z, gain, shift))
    told = torch.layer_norm(z, [6], gain, shift, 0.1) if centred else torch.rms_norm(z, [6], gain, 0.1)
    np.testing.assert_allclose(found, told, rtol=1e-12)
    square = z.var(dim=1, correction=0) if centred else z.square().mean(dim=1)
    np.testing.assert_allclose(done.squares[0][:, 0], square + 0.1, rtol=1e-12)


def test_a_shared_key_head_is_that_head_repeated(rng):
    shared = transformer.draw(Design(heads=4, key_heads=2, norm="pre"), 1, 8, 2, 0.5, rng)
    rows = np.repeat(np.arange(4).reshape(2, 1, 2), 2, axis=1).ravel()
    wide = {
        name: one._replace(w=one.w[rows], b=one.b[rows]) if name in "kv" else one
        for name, one in shared.blocks[0].items()
    }
    whole = replace(shared, design=Design(heads=4, norm="pre"), blocks=(wide,))
    x = rng.standard_normal((5, 8))
    one, other = (transformer.forward(model, x, 2.0).output for model in (shared, whole))
    np.testing.assert_allclose(one, other, rtol=1e-12)


def test_logits_are_a_quadratic_in_eta(rng):
    model, u = transformer.draw(replace(LLAMA, rope=100.0), 1, 8, 2, 0.5, rng), rng.standard_normal((5, 8))
    at = [transformer.attention_logits(model.design, model.blocks[0], u, float(eta)) for eta in range(5)]
    assert np.abs(np.diff(at, n=3, axis=0)).max() < 1e-10 < np.abs(np.diff(at, n=2, axis=0)).max()


@pytest.mark.parametrize("design", ANALYTIC.values(), ids=ANALYTIC)
def test_a_derivative_in_one_pass_is_a_central_difference(design, rng):
    model, x, v = transformer.draw(design, 2, 8, 2, 0.5, rng), tokens(3, 8, rng), rng.standard_normal((3, 8))
    run, along, last = transformer.derivative(model, x, v, 1.5)
    up, down = (transformer.forward(model, x + sign * 1e-5 * v, 1.5) for sign in (1, -1))
    np.testing.assert_allclose(last, (up.output - down.output) / 2e-5, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(along[-1], (up.streams[-1] - down.streams[-1]) / 2e-5, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(run.output, transformer.forward(model, x, 1.5).output, rtol=1e-12)


def test_a_derivative_that_grows_beyond_all_bounds_is_exact():
    """Along v a block multiplies it by (1 + (1 + η)²)/4, which the stream along u knows nothing of: 4e89 in the end."""
    u, v = np.eye(2, 6)
    one = transformer.AdaptedMap(np.outer(u, u) + np.outer(v, v), v[:, None], v[None, :])
    drawn = transformer.draw(Design(norm="post", activation="relu"), 60, 6, 1, 1.0, np.random.default_rng(0))
    model = replace(drawn, blocks=(dict.fromkeys(drawn.design.maps, one),) * 60)
    last = transformer.derivative(model, math.sqrt(6) * u[None, :], v[None, :], 10.0)[1][-1]
    np.testing.assert_allclose(np.log(np.linalg.norm(last)), 60 * math.log(122 / 4), rtol=1e-12)


@pytest.mark.parametrize("design", ANALYTIC.values(), ids=ANALYTIC)
def test_several_eta_at_once_are_a_pass_each(design, rng):
    model, x, etas = transformer.draw(design, 2, 8, 2, 0.5, rng), tokens(3, 8, rng), np.array([0.0, 0.5, 0.3 + 1j])
    together = transformer.forward(model, np.broadcast_to(x, (3, 3, 8)), etas.reshape(3, 1, 1))
    for place, eta in enumerate(etas):
        alone = transformer.forward(model, x, complex(eta))
        np.testing.assert_allclose(together.output[place], alone.output, rtol=1e-12)
        for all_parts, part in zip(together.squares, alone.squares, strict=True):
            np.testing.assert_allclose(all_parts[place], part, rtol=1e-12)


@pytest.mark.parametrize(("depth", "gated", "told"), [(1, False, 6), (2, False, 24), (1, True, 11), (2, True, 77)])
def test_the_degree_of_the_polynomial(depth, gated, told, rng):
    """The coefficient of the degree is there, and none beyond."""
    design = replace(LINEAR, gated=gated)
    assert transformer.degree(depth, design) == told == (11 * (6**depth - 1) / 5 if gated else 3 * (3**depth - 1))
    model, x = transformer.draw(design, depth, 6, 2, 1.0, rng), tokens(2, 6, rng)
    terms = series.coefficients(model, x, 3.0, told + 8, 2 * told + 20)
    size = np.abs(terms).max(axis=(1, 2)) * 3.0 ** np.arange(told + 8)
    assert size[told + 1 :].max() < 1e-12 * size.max()
    assert size[told] > 1e-9 * size.max()


def test_coefficients_of_a_linear_block_are_sums_over_choices(rng):
    model, x = transformer.draw(LINEAR, 1, 6, 2, 0.8, rng), rng.standard_normal((3, 6))
    told = brute_force.linear_block_coefficients(model.blocks[0], x, 2)
    for points in ((16,), (17,), ()):
        np.testing.assert_allclose(series.coefficients(model, x, 1.0, 7, *points), told, rtol=1e-9, atol=1e-11)
    planted = np.concatenate([told[:1], told[2:], told[1:2]])
    assert np.abs(series.coefficients(model, x, 1.0, 7, 16) - planted).max() > 1e-3


def test_one_linear_branch_and_a_norm_have_the_radius_of_the_closed_form(rng):
    """v alone adapted, one token: the first norm is of h + b + ηd, its zeros at ‖h + b‖/‖d‖."""
    model, x = transformer.draw(Design(norm="post", activation="identity"), 1, 8, 2, 0.05, rng), tokens(1, 8, rng)
    still = {name: one if name == "v" else one._replace(b=0 * one.b) for name, one in model.blocks[0].items()}
    model = replace(model, blocks=(still,))
    maps = model.blocks[0]
    h, d = x[0] + maps["o"].w @ maps["v"].w @ x[0], maps["o"].w @ maps["v"].b @ maps["v"].a @ x[0]
    told = np.linalg.norm(h) / np.linalg.norm(d)
    once, twice = h @ (np.eye(8) + maps["down"].w @ maps["up"].w).T, d @ (np.eye(8) + maps["down"].w @ maps["up"].w).T
    told = min(told, np.linalg.norm(once) / np.linalg.norm(twice))
    assert series.radius_by_quadratics(model, x) == pytest.approx(told, rel=1e-6)
    assert series.radius(model, x, told) == pytest.approx(told, rel=0.03)
    assert series.radius(model, x, told / 10, 0.3) == pytest.approx(told, rel=0.3)
    assert series._zeros_within(model, x, 100 * told, 4, 4) == 1  # half a turn from point to point


@pytest.mark.parametrize("design", [Design(norm="post"), Design(norm="none"), BERT], ids=["post", "none", "bert"])
def test_where_eta_divides_by_nothing_the_radius_is_infinite(design, rng):
    """LoRA's start, B = 0; and v alone adapted in one block without norms, where softmax does not see it."""
    model, x = transformer.draw(design, 1, 8, 2, 0.0, rng), tokens(3, 8, rng)
    assert series.radius(model, x, 1.0) == math.inf
    if design.norm != "none":
        assert series.radius_by_quadratics(model, x) == math.inf
        return
    maps = transformer.draw(design, 1, 8, 2, 0.5, rng).blocks[0]
    adapted = {name: one if name == "v" else one._replace(b=0 * one.b) for name, one in maps.items()}
    assert series.radius(replace(model, blocks=(adapted,)), x, 1.0) == math.inf


@pytest.mark.parametrize("design", ANALYTIC.values(), ids=ANALYTIC)
def test_the_radius_is_where_coefficients_stop_falling(design, rng):
    """A series at 0.6 of it converges as it should; at 1.5 of it, terms grow."""
    model, x = transformer.draw(design, 2, 8, 2, 0.5, np.random.default_rng(5)), tokens(3, 8, np.random.default_rng(6))
    found = series.radius(model, x, 1.0)
    terms = series.coefficients(model, x, 0.7 * found, 60, 256)
    assert series.radius_by_coefficients(terms) == pytest.approx(found, rel=0.15)
    exact = transformer.forward(model, x, 0.5 * found).output
    assert (
        np.abs(np.tensordot((0.5 * found) ** np.arange(41), terms[:41], axes=1) - exact).max()
        < 1e-6 * np.abs(exact).max()
    )
    sizes = np.abs(terms).max(axis=(1, 2)) * (1.5 * found) ** np.arange(60)
    assert sizes[40:].max() > 10 * sizes[20:30].max()


def test_the_radius_times_the_adapters_size_is_constant(rng):
    model, x = transformer.draw(LLAMA, 2, 8, 2, 0.5, rng), tokens(3, 8, rng)
    tenth = tuple({n: one._replace(b=0.1 * one.b) for n, one in block.items()} for block in model.blocks)
    one = series.radius(model, x, 1.0)
    assert series.radius(replace(model, blocks=tenth), x, 10 * one) == pytest.approx(10 * one, rel=0.04)


@pytest.mark.parametrize("design", ANALYTIC.values(), ids=ANALYTIC)
def test_neither_output_nor_radius_sees_a_bias_of_the_keys(design, rng):
    """It adds one number to all logits of a query."""
    model, x = transformer.draw(design, 1, 8, 2, 0.5, rng), tokens(3, 8, rng)
    key = model.blocks[0]["k"]
    biased = {**model.blocks[0], "k": key._replace(bias=100 * rng.standard_normal(len(key.w)))}
    both = model, replace(model, blocks=(biased,))
    np.testing.assert_allclose(*(transformer.forward(one, x, 1.5).output for one in both), rtol=1e-9, atol=1e-11)
    one, other = (series.radius(each, x, 1.0) for each in both)
    assert one == pytest.approx(other, rel=0.04)


def test_silus_denominator_has_a_radius_with_one_token_too(rng):
    """One map: 1 + e^(−z) is 0 at z = ±iπ, z the sum of what W and ηBA make of the stream."""
    design = Design(norm="none", activation="silu", softmax=False)
    model, x = transformer.draw(design, 1, 6, 2, 1.0, rng), tokens(1, 6, rng)
    still = {name: one._replace(b=0 * one.b) if name != "up" else one for name, one in model.blocks[0].items()}
    model = replace(model, blocks=(still,))
    cut = still | {"down": still["down"]._replace(w=0 * still["down"].w)}
    middle = transformer.forward(replace(model, blocks=(cut,)), x, 0.0).output
    plain, added = middle @ still["up"].w.T, middle @ still["up"].a.T @ still["up"].b.T
    told = np.abs((np.pi * 1j - plain) / added).min()
    assert series.radius(model, x, told) == pytest.approx(told, rel=0.03)


def test_a_polynomial_has_no_radius(rng):
    assert series.radius(transformer.draw(LINEAR, 1, 6, 2, 1.0, rng), tokens(2, 6, rng), 1.0) == np.inf
    softmax = replace(LINEAR, softmax=True)
    assert series.radius(transformer.draw(softmax, 1, 6, 2, 1.0, rng), tokens(1, 6, rng), 1.0) == np.inf


@given(st.sampled_from(["pre", "post", "none"]), st.floats(0, 300), st.integers(1, 4), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_no_stream_exceeds_the_bound(norm, eta, depth, seed):
    rng = np.random.default_rng(seed)
    model, x = transformer.draw(Design(heads=2, norm=norm, activation="relu"), depth, 8, 2, 0.5, rng), tokens(3, 8, rng)
    found = np.linalg.norm(transformer.forward(model, x, eta).streams[-1], axis=1).max() / math.sqrt(8)
    assert math.log(found) <= transformer.stream_bound(model, eta) + 1e-9


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("design", "change", "named"),
    [
        (Design(norm="none", gated=True), {}, "norms, as it is gated"),
        (Design(softmax=False), {}, "softmax attention"),
        (Design(), {"norms": ((transformer.Normalisation(2.0), transformer.Normalisation()),) * 2}, "norms of gain 1"),
        (Design(), {"bias": np.ones(8)}, "no biases"),
    ],
    ids=["gated", "linear", "gain", "bias"],
)
def test_where_it_is_no_bound_it_is_refused(design, change, named, rng):
    model = transformer.draw(design, 2, 8, 2, 0.5, rng)
    if "bias" in change:
        blocks = tuple({n: one._replace(**change) for n, one in block.items()} for block in model.blocks)
        change = {"blocks": blocks}
    model = replace(model, **change)
    with pytest.raises(ArgumentError, match=named):
        transformer.stream_bound(model, 1.0)


def test_a_gated_branch_reaches_what_the_bound_allows(rng):
    """Every map's first column to its first row, and a token along it: ‖act(gate) ⊙ up‖ is √n·ρ(gate)·√n·ρ(up)."""
    model = transformer.draw(Design(gated=True, activation="identity"), 1, 8, 2, 0.0, rng)
    first = np.zeros((8, 8))
    first[0, 0] = 1.0
    block = {name: one._replace(w=(1e-99 if name == "v" else 3) * first) for name, one in model.blocks[0].items()}
    x = np.zeros((1, 8))
    x[0, 0] = math.sqrt(8)
    found = np.linalg.norm(transformer.forward(replace(model, blocks=(block,)), x, 0.0).streams[-1]) / math.sqrt(8)
    bound = math.exp(transformer.stream_bound(replace(model, blocks=(block,)), 0.0))
    assert found == pytest.approx(bound, rel=1e-9)


@pytest.mark.statistical
def test_adapters_turned_at_random_keep_rank_and_mean_square(rng):
    model = transformer.draw(Design(heads=2), 2, 24, 6, 3.0, rng)
    pairs = [one for block in model.blocks for one in block.values()]
    found = []
    for _ in range(100):
        turned = [one for block in transformer.turned_at_random(model, rng).blocks for one in block.values()]
        assert all(new.w is old.w and new.b.shape == old.b.shape for new, old in zip(turned, pairs, strict=True))
        sizes = [[np.linalg.norm(one.b @ one.a) ** 2 for one in those] for those in (turned, pairs)]
        found.append(np.mean(np.divide(*sizes)))
    assert_mean(found, 1.0, smallest_error=0.15)
    assert_rejects(assert_mean, np.sqrt(found), 0.8, smallest_error=0.15)


@pytest.mark.parametrize(
    ("design", "power"), [(Design(activation="relu"), 2), (replace(LLAMA, causal=False), 3), (BERT, 0)]
)
@pytest.mark.parametrize("depth", [2, 8])
def test_the_power_of_eta_does_not_depend_on_depth(design, power, depth, rng):
    model, x = transformer.draw(design, depth, 12, 2, 1.0, rng), tokens(3, 12, rng)
    size = [np.linalg.norm(transformer.forward(model, x, eta).streams[-1]) for eta in (1e4, 1e6)]
    assert math.log(size[1] / size[0]) / math.log(100) == pytest.approx(power, abs=0.02)


@pytest.mark.bad_input
@pytest.mark.parametrize("eta", [-1.0, -0.5, float("nan")])
def test_a_bound_of_a_negative_eta_is_refused(eta, rng):
    with pytest.raises(ArgumentError, match="eta must be"):
        transformer.stream_bound(transformer.draw(Design(), 1, 8, 2, 0.1, rng), eta)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"design": Design(norm="middle")}, "norm must be"),
        ({"design": Design(activation="tanh")}, "activation must be"),
        ({"depth": 0}, "depth must be"),
        ({"rank": 9}, "rank must be"),
        ({"size": -1.0}, "size must be"),
        ({"design": Design(heads=3)}, "heads must divide"),
        ({"design": Design(heads=0)}, "heads must be"),
        ({"design": Design(heads=8, rope=1e4)}, "an even width of a head wanted, received 1"),
        ({"hidden": -3}, "hidden must be"),
    ],
)
def test_a_design_that_is_none(options, words):
    given = {"design": BERT, "depth": 1, "width": 8, "rank": 2, "size": 0.1} | options
    with pytest.raises(ArgumentError, match=words):
        transformer.draw(**given, generator=np.random.default_rng(0))


@pytest.mark.bad_input
def test_a_radius_of_no_guess_or_of_no_norms():
    given = 1, 8, 2, 0.1, np.random.default_rng(0)
    for guess in (-1.0, 0.0, math.inf, math.nan):
        with pytest.raises(ArgumentError, match="guess must be a finite number above 0"):
            series.radius(transformer.draw(BERT, *given), np.eye(8)[:2], guess)
    with pytest.raises(ArgumentError, match="model: its design has norm 'none'"):
        series.radius_by_quadratics(transformer.draw(Design(norm="none"), *given), np.eye(8)[:2])


@pytest.mark.bad_input
def test_more_coefficients_than_points():
    model = transformer.draw(BERT, 1, 8, 2, 0.1, np.random.default_rng(0))
    for points in (4, 5):  # half of them are the others' conjugates
        with pytest.raises(ArgumentError, match="count must be at most the 4 points"):
            series.coefficients(model, np.eye(8)[:2], 0.1, 5, points)
