"""Public functions of the theory given numbers and arrays at the ends of their range: an answer or a refusal in a line.

Never another exception, a warning, NaN, an ∞ that is not documented, or a hang. HOSTILE_EXAMPLES sets how many are
drawn for each package.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import warnings

import jaxtyping
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allora_analysis import adaptive, escape, gradient_std, hessian, width
from allora_analysis.escape import optimizers, study
from allora_analysis.escape import study as escape_study
from allora_analysis.gradient_std import summary
from allora_analysis.study import as_json
from allora_analysis.validation import ArgumentError

SIZES = [0.0, 5e-324, 1e-310, 1e-300, 1e-150, 1e-30, 0.3, 1.0, 2.5, 1e20, 1e150, 1e300, 1.7e308]
NUMBERS = [
    *SIZES,
    -1.0,
    -1e300,
    math.nan,
    math.inf,
    -math.inf,
    3,
    10**400,
    np.float32(0.5),
    np.int64(2),
    True,
    None,
    "1",
    1j,
]
COUNTS = [1, 2, 3, np.int64(2), 0, -1, 10**12, 10**18, 10**400, 2.5, True, None]
STEPS = [1, 2, 5, 0, -1, 2.5, True, None]  # of a loop, whose time is the caller's
FORMS = [
    np.asarray,
    np.ndarray.tolist,
    np.asfortranarray,
    lambda array: np.repeat(array, 2, axis=0)[::2],
    lambda array: array[::-1],
    lambda array: array.astype(np.float32),
    lambda array: array.astype(np.longdouble) * np.longdouble(10) ** 300,
    lambda array: array.astype(complex),
    lambda array: array.astype(object),
    lambda array: array.astype(int),
    lambda array: array > 0,
    lambda array: array[:0],
    lambda array: array.ravel(),
    lambda array: array[None],
    lambda array: [[10**400]],
    lambda array: None,
]


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@st.composite
def arrays(draw, shape: tuple[int, ...]):
    """Entries of one size or of all sizes, any of them NaN now and then, in a form that NumPy knows."""
    signs = st.sampled_from([1.0, -1.0])
    some = draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3))
    entries = [draw(st.sampled_from(some)) * draw(signs) for _ in range(math.prod(shape))]
    if draw(st.integers(0, 9)) == 0:
        entries[0] = draw(st.sampled_from([math.nan, math.inf]))
    form = draw(st.sampled_from([read_only] * 10 + FORMS))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return form(np.array(entries).reshape(shape))


def argument(kind: str, sizes: dict[str, int]):
    """A word is a number's kind; several are the shape of an array."""
    if kind in ("number", "count", "steps"):
        return st.sampled_from({"number": NUMBERS, "count": COUNTS, "steps": STEPS}[kind])
    if kind == "method":
        return st.sampled_from([*width.METHODS])
    if kind == "rng":
        return st.builds(lambda: np.random.default_rng(0))
    return arrays(tuple(sizes[word] for word in kind.split()))


FACTORS = {"x": "N n2", "g": "n1 n2", "a": "r n2"}
PAIR = {"a": "r n2", "b": "n1 r"}
FIELD = PAIR | {"g": "n1 n2", "eta": "number"}
TEACHER = dict.fromkeys(("seeds", "n_outputs", "n_inputs", "samples", "rank", "teacher_rank"), "steps")
PUBLIC = {
    "hessian": {
        hessian.product_gradient: {"x": "N n2", "y": "N n1", "w": "n2 n1", "delta": "n2 n1"},
        hessian.product_hessian: {"x": "N n2", "n_outputs": "count"},
        hessian.product_spectrum: {"x": "N n2", "n_outputs": "count"},
        hessian.marchenko_pastur_condition: {"gamma": "number"},
        hessian.square_log_condition: {"n": "count"},
        hessian.log_condition: {"x": "N n2"},
        hessian.fixed_gram_design: {"x": "N n2", "n_samples": "count", "generator": "rng"},
        hessian.block_conditioning: {"x": "N n2", "a": "r n2"},
        hessian.sample_log_conditions: {
            "n_samples": "count",
            "n_features": "count",
            "draws": "count",
            "generator": "rng",
        },
        hessian.factor_spectrum: FACTORS,
        hessian.factor_spectrum_multiplicities: FACTORS | {"g_tolerance": "number"},
        hessian.inertia: FACTORS,
        hessian.dense_factor_hessian: FACTORS,
        hessian.factor_gradient: {"g": "n1 n2"} | PAIR,
        hessian.is_stationary: {"g": "n1 n2"} | PAIR,
        hessian.escape_rate: {"g": "n1 n2"},
        hessian.escape_time: {"g": "n1 n2", "epsilon": "number"},
        hessian.linearised_flow: {"g": "n1 n2", **PAIR, "time": "number"},
        hessian.initial_speed_ratio: {"n2": "count", "rank": "count", "a_std": "number"},
        hessian.simulated_escape_time: FACTORS | {"b": "n1 r", "size": "number"},
        hessian.dense_hessian: FACTORS | {"b": "n1 r"},
        hessian.rescalings: PAIR,
        hessian.restricted_spectrum: FACTORS | {"b": "n1 r"},
    },
    "width": {
        width.flow_row_norm: {"method": "method", "width": "count", "rank": "count"},
        width.flow_factor: {"method": "method", "width": "count", "rank": "count", "eta": "number"},
        width.taper: {"norms": "N", "eta": "number", "share": "number"},
    },
    "escape": {
        escape.trajectory: {"t": "N", "gradient": "number", "eta": "number"},
        escape.time_to_reach: {"level": "N", "gradient": "number", "eta": "number"},
        escape.lora_trajectory: {"t": "N", "gradient": "number", "rate": "number"},
        escape.lora_pair: {"t": "N", "gradient": "number", "start": "number", "rate": "number"},
        escape.pair_time: {"level": "N", "gradient": "number", "eta": "number", "start": "number"},
        escape.tradeoff: {"level": "number", "gradient": "number", "eta": "number"},
        optimizers.clip_factor: {"norm": "number", "max_grad_norm": "number"},
        optimizers.clipped_step: dict.fromkeys(("gradient_norm", "eta", "max_grad_norm", "other_norm"), "number"),
        optimizers.adamw_step: {"gradient": "N", "eps": "number"},
        escape.linear_teacher: TEACHER | {"noise": "number", "seed": "count"},
        escape.data_teacher: {"x": "N n2", "y": "N n1", "a": "r n2"},
        escape.constant_gradient: {"cross": "n1 n2", "a": "r n2"},
    },
    "adaptive": {
        adaptive.row_factor: PAIR | {"eta": "number"},
        adaptive.update_field: FIELD,
        adaptive.masked_field: PAIR | {"g": "n1 n2", "factor": "n1"},
        adaptive.update_jacobian: FIELD | {"s": "n2 n2"},
        adaptive.layer_double_backward: FIELD | {"s": "n2 n2"},
        adaptive.relative_asymmetry: {"jacobian": "n1 n1"},
        adaptive.first_order_change: FIELD,
        adaptive.smallest_eigenvalue: {"b": "n1 r", "d": "n1"},
        adaptive.rest_point: {"target": "n1 n2", "rank": "count", "eta": "number"},
        adaptive.run_to_rest: {
            "target": "n1 n2",
            "a": "r n2",
            "eta": "number",
            "learning_rate": "number",
            "steps": "steps",
        },
        adaptive.asf: {"f": "N", "eta": "number"},
        adaptive.asf_derivative: {"f": "N", "eta": "number"},
        adaptive.unmergeable_pair: PAIR | {"eta": "number"},
        adaptive.output_factor: {"sigma": "number", "eta": "number"},
    },
    "gradient_std": {
        gradient_std.components: {"means": "many n2", "within": "many", "masks": "count"},
        gradient_std.seed_component: {"totals": "many", "stderrs": "many"},
        summary.changes: {"series": "many many", "first": "steps"},
    },
}
INFINITE = {hessian.marchenko_pastur_condition, hessian.block_conditioning, hessian.escape_time}
INFINITE |= {escape.tradeoff, escape.constant_gradient, width.taper}


def finite(value, infinite: bool) -> bool:
    if dataclasses.is_dataclass(value):
        value = list(vars(value).values())
    if isinstance(value, tuple | list):
        return all(finite(part, infinite) for part in value)
    if value is None or isinstance(value, bool | int):
        return True
    return not np.isnan(value).any() if infinite else bool(np.isfinite(value).all())


@pytest.mark.bad_input
@pytest.mark.parametrize("package", PUBLIC)
@settings(
    max_examples=int(os.environ.get("HOSTILE_EXAMPLES", "60")),
    deadline=datetime.timedelta(seconds=20),
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(st.data())
def test_answers_or_refuses_in_a_line(package, data):
    function = data.draw(st.sampled_from(list(PUBLIC[package])), "function")
    sizes = {name: data.draw(st.integers(1, 3), name) for name in ("N", "n1", "n2")} | {"many": 3}
    sizes["r"] = data.draw(st.integers(1, min(sizes["n1"], sizes["n2"])), "r")
    given_ = {name: data.draw(argument(kind, sizes), name) for name, kind in PUBLIC[package][function].items()}
    words, result = "", None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result = function(**given_)
        except jaxtyping.TypeCheckError:  # the hook of the tests, which looks before the function does
            words = "refused"
        except ValueError as error:
            words = str(error) or "\n"
    assert "\n" not in words
    assert finite(result, function in INFINITE), result


def test_a_size_never_reached_ends_at_once():
    """From A = 1, B = 0 the flow comes to rest at BA = −1/2."""
    assert hessian.simulated_escape_time([[1.0]], [[1.0]], [[1.0]], [[0.0]], 1.0) is None
    assert hessian.simulated_escape_time([[1.0]], [[1.0]], [[1.0]], [[0.0]], 0.4) > 0
    assert hessian.simulated_escape_time([[1.0]], [[1.0]], [[1.0]], [[2.0]], 0.4) == 0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_scales_whose_squares_leave_the_range_change_no_answer(scale):
    x, g, a, b = np.array([[3.0, 1.0]]), np.array([[3.0, 4.0], [6.0, 8.0]]), np.array([[0.6, 0.8]]), np.ones((2, 1))
    assert hessian.inertia(scale * x, g / scale, scale * a) == hessian.inertia(x, g, a)
    assert hessian.is_stationary(scale * g, [[0.8, -0.6]])
    assert not hessian.is_stationary(scale * g, a)
    assert hessian.log_condition(scale * np.diag([1.0, 10.0])) == pytest.approx(math.log(100))
    np.testing.assert_allclose(hessian.factor_spectrum(scale * x, g, a / scale), hessian.factor_spectrum(x, g, a))
    assert hessian.escape_rate(scale * g) == pytest.approx(scale * hessian.escape_rate(g))
    assert hessian.block_conditioning(scale * x, a) == hessian.block_conditioning(x, a)
    np.testing.assert_allclose(adaptive.row_factor(scale * a, b, 2.0), (scale + 0.25) ** -0.5)


REFUSED = [
    (lambda: hessian.product_spectrum([[1.0]], 10**18), "n_outputs: the spectrum would need .* GiB, more than 1"),
    (
        lambda: hessian.product_spectrum([[1e200]], 1),
        r"x of up to 1e\+200, .*: the result leaves double precision's range",
    ),
    (lambda: hessian.product_hessian([[1.0]], 10**12), "n_outputs: the Hessian would need .* GiB, more than 1"),
    (
        lambda: hessian.sample_log_conditions(1, 1, 10**15, np.random.default_rng(0)),
        "draws: their singular values would need .* GiB, more than 1",
    ),
    (lambda: hessian.initial_speed_ratio(10**400, 1, 1.0), "n2 must be at most 9.2e"),
    (lambda: hessian.dense_factor_hessian(np.ones((1, 10**5)), np.ones((1, 10**5)), np.ones((1, 10**5))), "g, a: "),
    (lambda: hessian.simulated_escape_time([[1e200]], [[1.0]], [[1e200]], [[0.0]], 1.0), "the flow is too fast"),
    (lambda: adaptive.run_to_rest([[1.0]], [[1.0]], 1e-200, 1.0, 1), "eta 1e-200, .*: the result leaves"),
    (lambda: adaptive.run_to_rest([[1.0]], [[1e300]], 1.0, 1.0, 9), r"a of up to 1e\+300, .*: the result leaves"),
    (lambda: adaptive.rescaled(adaptive.Setting(), 1e300, 1.0, "sgd"), r"a 1e\+300, .*: the result leaves"),
    (lambda: adaptive.update_field([[1e300]], [[1e300]], [[1.0]], 1.0), "a, b: BA leaves float64's range"),
    (lambda: escape.trajectory([1e300], 1e300, 1.0), r"t of up to 1e\+300, gradient 1e\+300, .*: the result leaves"),
    (lambda: escape.drift("sgd", 2.0, 1e200, 9), r"learning_rate 1e\+200, .*: the result leaves"),
    (lambda: gradient_std.seed_component([5e-324] * 3, [0.0, 0.0, 1e-150]), "totals of up to .*: the result leaves"),
]


@pytest.mark.bad_input
@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_leaves_the_range_is_refused_by_its_argument(call, message):
    with pytest.raises(ArgumentError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_a_level_below_the_smallest_number_is_reached_at_once():
    assert study.crossing(np.array([[0.0, 1.0]]), np.array([0.0])) == [0.0]
    sizes = {"n_outputs": 3, "n_inputs": 3, "rank": 1, "teacher_rank": 1, "samples": 4, "steps": 6, "seeds": 2}
    config = escape_study.Config(levels=(5e-324,), learning_rate=1e-310, **sizes)
    as_json(escape_study.STUDY, config, escape_study.run(config))
