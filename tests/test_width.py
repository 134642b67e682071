"""Powers of width and rank against training, the trainer against autograd; ALLoRA's factor at width."""

import dataclasses
import functools

import numpy as np
import pytest
import scipy.integrate
import scipy.special

from allora_analysis import cli, width
from allora_analysis.validation import ArgumentError
from allora_analysis.width import METHODS, Method, exponents
from allora_analysis.width.exponents import flow_eta_to_taper
from allora_analysis.width.study import STUDY, Config, run
from allora_analysis.width.training import QUANTITIES
from tests.brute_force import width as twin

CASES = [(name, how) for name in METHODS for how in ("sgd", "adam") if (name, how) != ("allora_adamw", "sgd")]
RESOLUTION = 1 / 8  # half of the gap between two powers, which are multiples of ¼


@pytest.mark.parametrize("network", [False, True], ids=["teacher", "network"])
@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_training_is_autograds(rng, name, optimizer, network):
    method, steps = METHODS[name], 4
    of = width.layer(6, 2, 2, rng, network, inputs=3)
    rates = np.array([0.05, 0.1])
    found = width.train(of, method, optimizer, rates, steps)
    for seed, rate in enumerate(rates):
        losses, norms = twin.train(
            of.z[seed],
            of.base[seed],
            of.readout[seed],
            of.a[seed],
            network=network,
            scale=2.0**method.scale,
            ratio=6.0**method.ratio,
            optimizer=optimizer,
            rate=rate,
            steps=steps,
            factor=method.factor,
        )
        np.testing.assert_allclose(found.losses[:, seed], losses, rtol=1e-9)
        np.testing.assert_allclose(found.norms[seed], norms, rtol=1e-7)
    if not network:  # towards the targets
        left = 0.5 * ((of.base - found.moved) ** 2).sum(axis=(1, 2))
        np.testing.assert_allclose(found.losses[-1], left, rtol=1e-9)


def test_a_layer_is_as_stated(rng):
    of = width.layer(400, 3, 2, rng, inputs=2)
    np.testing.assert_allclose((of.z**2).sum(axis=1), 400)
    assert [of.base.std(), 20 * of.a.std()] == pytest.approx([1, 1], rel=0.1)
    assert set(of.readout.flat) == {-1.0, 1.0}


SIZES = {"width": ((64, 256, 1024, 4096), lambda n: (n, 4)), "rank": ((8, 16, 32, 64), lambda r: (512, r))}


@functools.cache
def fitted(name, optimizer, axis, network, seed):
    sizes, shape = SIZES[axis]
    seeds = 16 if (name, optimizer, axis) == ("loraplus", "adam", "rank") else 4  # its rate varies most
    rng = np.random.default_rng([seed, len(axis)])
    seen = [width.measure(METHODS[name], optimizer, *shape(size), seeds, rng, network) for size in sizes]
    return {quantity: width.fit_power(sizes, [one[quantity] for one in seen]) for quantity in QUANTITIES}


def assert_power(fit, told):
    """Within the resolution, of which three standard errors must be at most a half."""
    assert 3 * fit.stderr <= 1.5 * RESOLUTION, "no power: raise the seeds"
    assert abs(fit.power - told) <= RESOLUTION + 3 * fit.stderr


def told_of(name, optimizer, axis, network, quantity):
    """The predicted power; of the teacher's rows under SGD, two parts of like size, that at these sizes."""
    if (optimizer, network, quantity) == ("sgd", False, "row_norm"):
        sizes, shape = SIZES[axis]
        return width.fit_power(sizes, [[width.flow_row_norm(name, *shape(size))] for size in sizes]).power
    return getattr(getattr(exponents(name, optimizer, network=network), quantity), axis)


@pytest.mark.fits
@pytest.mark.statistical
@pytest.mark.parametrize("network", [False, True], ids=["teacher", "network"])
@pytest.mark.parametrize("axis", SIZES)
@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_measured_powers_are_the_predicted_ones(request, name, optimizer, axis, network):
    for quantity, fit in fitted(name, optimizer, axis, network, request.config.option.seed).items():
        assert_power(fit, told_of(name, optimizer, axis, network, quantity))


@pytest.mark.fits
@pytest.mark.statistical
@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_powers_of_rank_where_the_gradient_has_many_directions(rng, name, optimizer):
    """128 unlike inputs. One direction's power of Adam's largest rate is off by ½, or, with LoRA+'s rates, by 1."""
    told, ranks = exponents(name, optimizer, many=True), (2, 4, 8, 16)
    seen = [width.measure(METHODS[name], optimizer, 512, rank, 2, rng, inputs=128) for rank in ranks]
    for quantity in QUANTITIES:
        if (name, optimizer, quantity) == ("loraplus", "sgd", "row_norm"):  # two parts of like size
            continue
        fit = width.fit_power(ranks, [one[quantity] for one in seen])
        assert_power(fit, getattr(told, quantity).rank)
        if (optimizer, quantity) == ("adam", "largest_rate"):
            with pytest.raises(AssertionError, match="power"):
                assert_power(fit, exponents(name, optimizer).largest_rate.rank)


PLANTED = [  # what one might have thought
    ("lora", "adam", "width", "largest_rate", 0.0),  # that LoRA's rate transfers over width
    ("lora", "adam", "width", "largest_rate", -1.0),  # that it falls as full fine-tuning's
    ("lora", "sgd", "width", "row_norm", 0.0),  # that rows keep their length, so that the factor tapers
    ("rslora", "adam", "rank", "largest_rate", 0.0),  # that rsLoRA's rate transfers over rank under Adam
    ("rslora", "sgd", "rank", "first_step", 0.5),  # that its first step is no more stable than LoRA's
    ("loraplus", "adam", "width", "row_norm", -0.5),  # that LoRA+'s rows shrink as LoRA's
    ("loraplus", "sgd", "width", "largest_rate", -1.0),
    ("allora", "adam", "rank", "largest_rate", -0.25),
    ("allora_adamw", "adam", "width", "largest_rate", -0.25),
]


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "optimizer", "axis", "quantity", "wrong"), PLANTED)
def test_a_planted_wrong_power_is_rejected(request, name, optimizer, axis, quantity, wrong):
    fit = fitted(name, optimizer, axis, False, request.config.option.seed)[quantity]
    with pytest.raises(AssertionError, match="power"):
        assert_power(fit, wrong)
    assert_power(fit, told_of(name, optimizer, axis, False, quantity))


@pytest.mark.statistical
@pytest.mark.parametrize(("inputs", "ranks", "seeds"), [(1, (16, 64), 64), (128, (2, 8), 16)], ids=["one", "many"])
@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_the_first_step_has_its_power_of_rank(rng, name, optimizer, inputs, ranks, seeds):
    """At a fixed rate, of one input and of many unlike ones."""
    moved = []
    for rank in ranks:
        of = width.layer(256, rank, seeds, rng, inputs=inputs)
        trained = width.train(of, METHODS[name], optimizer, np.full(seeds, 1e-3), 1)
        moved.append(np.sqrt((trained.moved**2).mean(axis=(1, 2))))
    assert_power(width.fit_power(ranks, moved), exponents(name, optimizer, many=inputs > 1).first_step.rank)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "allora_adamw"])
def test_the_flows_row_norm_has_the_predicted_powers_in_the_limit(name):
    told = exponents(name, "sgd").row_norm
    norms = {n: width.flow_row_norm(name, n, 8) for n in (10**14, 10**15)}
    assert np.log10(norms[10**15] / norms[10**14]) == pytest.approx(told.width, abs=1e-3)
    if name == "loraplus":
        ranks = [width.flow_row_norm(name, 10**16, r) for r in (10, 100)]
        assert np.log10(ranks[1] / ranks[0]) == pytest.approx(told.rank, abs=1e-3)


@pytest.mark.parametrize(("name", "n", "rank"), [("lora", 256, 4), ("rslora", 256, 8), ("loraplus", 512, 4)])
def test_the_flows_row_norm_is_that_of_small_steps(rng, name, n, rank):
    """Trained at a twentieth of the largest rate. The norm is that at ‖h₀‖² = r, about which it varies little."""
    of = width.layer(n, rank, 16, rng)
    rates = width.largest_rate(of, METHODS[name], "sgd") / 20
    trained = width.train(of, METHODS[name], "sgd", rates, 800)
    assert (trained.losses[-1] < 1e-6 * trained.losses[0]).all()
    rows = np.sqrt((trained.norms**2).mean(axis=1))
    assert 4 * rows.std() / 4 < 0.05 * rows.mean()
    assert rows.mean() == pytest.approx(width.flow_row_norm(name, n, rank), rel=0.05)


@pytest.mark.parametrize("name", ["lora", "rslora", "loraplus", "allora"])
def test_the_flows_row_norm_at_any_scaling_and_ratio(name):
    of = METHODS[name]
    assert width.flow_row_norm((4**of.scale, 64**of.ratio), 64, 4) == width.flow_row_norm(name, 64, 4)
    # s·BA from (A, B) at rates l_A, l_B is B̃A from (A, sB) at rates l_A, s²·l_B.
    for s, ratio in ((2.0, 16.0), (0.25, 1.0), (8.0, 0.5)):
        norm = width.flow_row_norm((s, ratio), 64, 4)
        assert norm == pytest.approx(width.flow_row_norm((1.0, s**2 * ratio), 64, 4), rel=1e-12)
        assert norm != pytest.approx(width.flow_row_norm("allora", 64, 4), rel=1e-3)


@pytest.mark.parametrize("many", [False, True])
def test_under_adam_the_scaling_is_a_rate_of_b(many):
    """sB as B learns at sl, A at l. A's part of order 1, s·l² of it, has sl as s^{1/2}; B's part has sl as it was."""
    for ratio, rate, rows in ((0, -0.5, 0), (0.5, -0.5, 0.5), (1, -1, 0)):
        plain = exponents(Method(0, ratio), "adam", many=many)
        for scale in (-1, -0.5):
            found = exponents(Method(scale, ratio), "adam", many=many)
            assert found.largest_rate.rank - plain.largest_rate.rank == rate * scale
            assert found.row_norm.rank - plain.row_norm.rank == rows * scale
            assert found.first_step.rank - plain.first_step.rank == scale
            assert found.first_step.width == 0
            if ratio:  # B's part is the row's longer one: s·l·√r
                assert found.row_norm.rank == scale + found.largest_rate.rank + 0.5
                assert found.row_norm.width == found.largest_rate.width


@pytest.mark.parametrize(("name", "optimizer"), CASES)
def test_a_network_divides_sgds_gradients_by_the_width(name, optimizer):
    """n times the rate, 1/n of a step at a fixed rate; Adam does not see it."""
    plain, deep = (exponents(name, optimizer, network=network) for network in (False, True))
    power = optimizer == "sgd"
    assert deep.largest_rate == dataclasses.replace(plain.largest_rate, width=plain.largest_rate.width + power)
    assert deep.first_step == dataclasses.replace(plain.first_step, width=plain.first_step.width - power)
    assert deep.row_norm == plain.row_norm


def test_alloras_largest_rate_is_loras_over_eta(rng):
    of = width.layer(1024, 4, 2, rng)
    plain, ruled = (width.largest_rate(of, method, "sgd") for method in (Method(0, 0), METHODS["allora"]))
    np.testing.assert_allclose(plain / ruled, 2, rtol=0.35)


@pytest.mark.parametrize("name", ["lora", "rslora", "loraplus"])
def test_no_minimum_is_stable_above_the_closed_form(rng, name):
    """At 0.95 times n^{ρ/2}/(s‖y‖‖z‖) training settles, at 1.05 times it never does."""
    of, method = width.layer(256, 4, 3, rng), METHODS[name]
    exact = 256 ** (method.ratio / 2) / 4**method.scale / 16 / np.linalg.norm(of.base, axis=(1, 2))
    below, above = (width.train(of, method, "sgd", share * exact, 400).losses for share in (0.95, 1.05))
    assert (below[-1] < 1e-6 * below[0]).all()
    assert (above[-40:].max(axis=0) > 1e-3 * above[0]).all()


def test_alloras_factor_is_the_constant_at_width(rng):
    """1 − d/η halves where n grows four times; the closed form is what training ends at."""
    told = [1 - width.flow_factor("allora", n, 4, 2.0) for n in (4096, 4 * 4096, 16 * 4096)]
    assert told[0] / told[1] == pytest.approx(2, rel=0.05)
    assert told[1] / told[2] == pytest.approx(2, rel=0.03)
    for n in (64, 1024):
        kept = width.measure(METHODS["allora"], "sgd", n, 4, 16, rng)["kept"]
        error = 5 * kept.std(ddof=1) / 4
        assert kept.mean() == pytest.approx(width.flow_factor("allora", n, 4, 2.0), abs=error + 0.002)
        assert error < 0.02
    assert not exponents("allora", "sgd").tapers
    assert exponents("loraplus", "adam").tapers
    assert not exponents(Method(0, 0.9, "gradient"), "adam").tapers


@pytest.mark.parametrize(("eta", "rel"), [(1e-6, 1e-12), (2.0, 1e-12), (1e3, 1e-9), (1e6, 1e-9), (1e20, 1e-12)])
def test_the_flows_factor_at_any_eta(eta, rel):
    """Against SciPy's quadrature in t, |g| = t²; for η → ∞ E|g|^{−½}/(η√m) = 2^{−¼}Γ(¼)/(√π·η√m)."""
    found, m = width.flow_factor("lora", 4096, 8, eta), width.flow_row_norm("lora", 4096, 8)
    if eta == 1e20:
        expected = scipy.special.gamma(0.25) / 2**0.25 / np.pi**0.5 / m**0.5 / eta
    else:
        breaks, settings = (1e-4, 1e-3, 1e-2, 0.1, 0.5), {"epsabs": 0, "epsrel": 1e-13, "limit": 500}
        expected = (
            scipy.integrate.quad(
                lambda t: 2 * t * np.exp(-(t**4) / 2) / np.hypot(1, eta * m**0.5 * t), 0, 3, points=breaks, **settings
            )[0]
            * (2 / np.pi) ** 0.5
        )
    assert found == pytest.approx(expected, rel=rel)


def test_transfer():
    assert exponents("loraplus", "adam").transfers == {"width": True, "rank": True}
    assert exponents("lora", "adam").transfers == {"width": False, "rank": True}
    assert exponents("allora", "sgd").transfers == {"width": False, "rank": True}
    assert exponents("lora", "sgd", network=True).transfers == {"width": True, "rank": False}


def test_taper_at_the_eta_that_it_names(rng):
    norms = rng.uniform(0, 0.1, 50)
    for share in (0.05, 0.1, 0.5):
        found = width.taper(norms, 2.0, share)
        assert found.kept == pytest.approx(np.mean((1 + 4 * norms) ** -0.5))
        assert found.least == pytest.approx((1 + 4 * norms.max()) ** -0.5)
        assert not width.taper(norms, 0.999 * found.eta_to_taper, share).tapers
        assert width.taper(norms, 1.001 * found.eta_to_taper, share).tapers
    assert width.taper(np.zeros(3), 2.0) == width.Taper(1.0, 1.0, False, np.inf)
    for norm in (5e-324, 1e-200, 1e200, 1e308):  # 1/√(1 + η²m) = ½ at η = √3/√m
        assert width.taper([norm, norm], 1.0, 0.5).eta_to_taper == pytest.approx(3**0.5 / norm**0.5, rel=1e-9)


def test_the_flow_tapers_at_the_eta_that_it_names():
    named = [flow_eta_to_taper("allora", n, 8) for n in (64, 4096, 64 * 4096)]
    for n, eta in zip((64, 4096), named, strict=False):
        assert width.flow_factor("allora", n, 8, eta) == pytest.approx(0.9, abs=1e-9)
    assert named[2] / named[1] == pytest.approx(64**0.25, rel=0.01)  # η must grow as n^¼
    assert named[1] > 2.0  # the paper's η² = 4 is not enough at n = 4,096


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exponents("dora", "adam"), "method must be one of lora, rslora"),
        (lambda: exponents("lora", "lion"), "optimizer must be one of sgd, adam"),
        (lambda: exponents("allora_adamw", "sgd"), "optimizer must be adam"),
        (lambda: Method(1), r"scale must be in \[-1, 0\]"),
        (lambda: Method(0, 2), r"ratio must be in \[0, 1\]"),
        (lambda: Method(0, factor="gradients"), "factor must be one of gradient, update"),
        (
            lambda: width.train(
                width.layer(4, 1, 1, np.random.default_rng(0)), METHODS["lora"], "adamw", np.ones(1), 3
            ),
            "optimizer must be one of sgd, adam",
        ),
        (lambda: width.fit_power([4], [[1.0, 2.0]]), "of two different sizes"),
        (lambda: width.fit_power([4, 4], [[1.0], [2.0]]), "of two different sizes"),
        (lambda: width.fit_power([4, 8], [[1.0], [0.0]]), "must be above 0"),
        (lambda: width.fit_power([4, 8], [1.0, 2.0]), "values: shape"),
        (lambda: width.fit_power([4, 8], [[1.0, 2.0]]), "values: shape .* to match the sizes"),
        (lambda: width.taper([-1.0], 2.0), "norms must be 0 or above"),
        (lambda: width.taper([1.0], 2.0, 1.0), r"share must be in \(0, 1\)"),
        (lambda: width.flow_row_norm("lora", 4, 5), "rank must be at most"),
        (lambda: run(Config(widths=(64, 64))), "widths must hold two different sizes"),
        (lambda: run(Config(rank=128)), "rank must be at most"),
        (lambda: run(Config(width=0)), "width must be a whole number, 1 or above, received 0"),
        (lambda: run(Config(inputs=8)), "inputs must be 1, or of a teacher 128 or more"),
        (lambda: run(Config(methods=("allora_adamw",), optimizers=("sgd",))), "optimizers must include adam"),
        (lambda: run(Config(widths=(64, 10**9))), "training would need"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


def test_the_study_prints_what_it_predicts(capsys):
    small = Config(methods=("lora", "loraplus"), widths=(32, 128), ranks=(2, 4), width=64, rank=4, seeds=2)
    result = run(small)
    assert result.predicted["lora, adam"]["largest_rate"] == dataclasses.asdict(exponents("lora", "adam").largest_rate)
    assert run(small).measured == result.measured
    flags = "--methods lora allora --optimizers sgd --widths 32 64 --ranks 2 4 --width 32 --rank 4 --seeds 2"
    assert cli.main(STUDY, flags.split()) == 0
    assert "at width it is the constant η" in capsys.readouterr().out


def test_the_study_fits_each_axis_with_the_other_held():
    small = Config(methods=("loraplus",), optimizers=("sgd",), widths=(16, 64), ranks=(2, 4), width=32, rank=3, seeds=2)
    found = run(small).measured["loraplus, sgd"]
    for index, (axis, shapes) in enumerate({"width": [(16, 3), (64, 3)], "rank": [(32, 2), (32, 4)]}.items()):
        rng = np.random.default_rng([small.seed, index])
        seen = [width.measure(METHODS["loraplus"], "sgd", *shape, 2, rng) for shape in shapes]
        for name in QUANTITIES:
            fit = width.fit_power([shape[index] for shape in shapes], [one[name] for one in seen])
            assert (found[name][axis], found[name][f"{axis}_stderr"]) == (fit.power, fit.stderr)
        if axis == "width":
            assert found["rate"] == [one["rate"].mean() for one in seen]
            assert found["kept"] == [one["kept"].mean() for one in seen]


@pytest.mark.parametrize(("optimizer", "steps"), [("sgd", 60), ("adam", 10)])
def test_what_is_measured_is_of_as_many_steps_as_the_page_says(optimizer, steps):
    """At the rate no loss of these steps is above the start's; the rows are those at half of it, after them."""
    method, of = METHODS["lora"], width.layer(24, 3, 8, np.random.default_rng(5))
    found = width.measure(method, optimizer, 24, 3, 8, np.random.default_rng(5))
    losses = width.train(of, method, optimizer, found["rate"], steps).losses
    assert (losses <= losses[0] * (1 + 1e-9)).all()
    norms = width.train(of, method, optimizer, found["rate"] / 2, steps).norms
    np.testing.assert_allclose(found["row_norm"], np.sqrt((norms**2).mean(axis=1)), rtol=1e-12)
