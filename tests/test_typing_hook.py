"""The hook that checks every array's shape: what was checked once is remembered, and nothing else; what it refuses."""

import pkgutil
from collections.abc import Mapping

import numpy as np
import pytest
import torch
from jaxtyping import Float, TypeCheckError
from torch import nn

from allora_analysis.deviation import methods
from allora_analysis.dropout_sgd import moments, placements, stability
from allora_analysis.escape import data_teacher
from allora_analysis.gradient_std.estimator import initialise
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.ripple.bounds import Scales
from tests import typing_hook

Rows = Float[np.ndarray, "n d"]
Row = Float[np.ndarray, " d"]
RIGHT = np.zeros((3, 2)), np.zeros(2)


def hooked(function):
    return typing_hook.jaxtyped(function, typechecker=typing_hook.checked)


@hooked
def taken(x: Rows, y: Row, *others: int, result: object = None) -> Row:
    return y if result is None else result


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((np.zeros((3, 2)), np.zeros(3)), {}),  # the axis that they share
        ((np.zeros((3, 2, 1)), np.zeros(2)), {}),
        ((np.zeros((3, 2), dtype=int), np.zeros(2)), {}),
        (([[0.0, 0.0]], np.zeros(2)), {}),
        ((*RIGHT, 1.5), {}),
        (RIGHT, {"result": np.zeros(3)}),
        (RIGHT, {"result": np.zeros((2, 1))}),
        (RIGHT, {"result": [0.0, 0.0]}),
        (RIGHT, {"result": {}}),
    ],
)
def test_a_wrong_call_is_found_after_right_ones(arguments, options):
    for _ in range(3):
        taken(*RIGHT)
        taken(*RIGHT, 1, 2, result=np.ones(2))
    for _ in range(2):  # what was wrong once is not remembered as right
        with pytest.raises(TypeCheckError):
            taken(*arguments, **options)


def test_a_result_of_another_kind_than_before_is_checked():
    results = [np.zeros(2), np.zeros(2), np.zeros(3), {}]

    @hooked
    def changing(x: Rows) -> Row:
        return results.pop(0)

    changing(RIGHT[0]), changing(RIGHT[0])
    for _ in range(2):
        with pytest.raises(TypeCheckError, match="the return value of"):
            changing(RIGHT[0])


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (tuple[Row, Row], RIGHT[1:] * 2, (RIGHT[1], np.zeros(3))),
        (list[Row], [*RIGHT[1:]], [np.zeros(2, dtype=int)]),
        (Mapping[str, Row], {"a": RIGHT[1]}, {"a": np.zeros((2, 2))}),
        (list[Row], [*RIGHT[1:]] * 20, [np.zeros((2, 2))] * 20),
        (Mapping[int, Row], dict.fromkeys(range(20), RIGHT[1]), dict.fromkeys(range(20), np.zeros((2, 2)))),
    ],
)
def test_what_a_container_holds_is_checked(kind, right, wrong):
    def held(x, y):
        return y

    held.__annotations__ = {"x": Rows, "y": kind, "return": kind}
    function = hooked(held)
    assert function(RIGHT[0], right) is function(RIGHT[0], right) is right
    with pytest.raises(TypeCheckError):
        function(RIGHT[0], wrong)


def test_what_was_checked_once_is_not_checked_again(monkeypatch):
    @hooked
    def last(rows: Mapping[str, Row]) -> Row:
        return rows["b"]

    taken(*RIGHT), last({"a": np.zeros(2), "b": RIGHT[1]})
    monkeypatch.setattr(typing_hook, "both", None)
    monkeypatch.setattr(type(Row), "__instancecheck__", lambda *_: pytest.fail("checked again"))
    assert taken(*(array.copy() for array in RIGHT)).shape == (2,)
    assert last({"a": np.ones(2), "b": RIGHT[1]}).shape == (2,)


def test_off_checks_nothing_and_remembers_nothing():
    with typing_hook.off():
        assert taken(RIGHT[0], np.zeros(3)).shape == (3,)
    with pytest.raises(TypeCheckError):
        taken(RIGHT[0], np.zeros(3))


def test_a_function_without_shapes_is_beartype_s():
    @hooked
    def plain(x: float) -> float:
        return x

    assert plain(1) == 1
    with pytest.raises(TypeCheckError):
        plain("1")


def test_functions_of_one_code_share_their_check_and_nothing_else():
    def adding(n):
        @hooked
        def added(x: float) -> float:
            return x + n

        return added

    assert [adding(n)(1.0) for n in (1, 2, 2.5)] == [2.0, 3.0, 3.5]
    assert len({one for one in typing_hook.ONCE if (one[0].co_name, one[0].co_filename) == ("added", __file__)}) == 1
    for wrong, x in ((1, "1"), (1j, 1.0)):
        with pytest.raises(TypeCheckError):
            adding(wrong)(x)


def process(*options) -> placements.Process:
    return placements.build(placements.checked(np.eye(3), np.ones((3, 1)), 0.5, *options))


ones, tensor, generator = np.ones, torch.zeros, np.random.default_rng(0)
OUTPUT, INPUT, SHARED = process("output", None, False), process("input", None, False), process("input", None, True)
OPERATOR = stability.covariance_operator(OUTPUT)
NETWORK, FEATURES = initialise((6, 5, 4, 3), generator, torch.float64), tensor(7, 6, dtype=torch.float64)
TEACHER = data_teacher(ones((5, 4)), ones((5, 3)), ones((2, 4)))
LABELS = tensor(7, dtype=torch.int64)

# A function of the package and arguments that it must refuse, most for an axis that they do not share.
WRONG = [
    ("adaptors.inverse_sqrt", 1.0, ones((2, 2))),
    ("claims.tables.contrasts.Gaps", ones((2, 2)), (), ()),
    ("deviation.law.deviation_of", ones((2, 2)), 0.5, 1),
    ("deviation.law.deviations", ones((2, 2)), 0.5, 1, 1, generator),
    ("deviation.law.gradient_spread", ones((2, 2)), ones((3, 2)), 0.5),
    ("deviation.law.jumps", ones((2, 2)), ones((2, 3)), 0.5),
    ("deviation.methods.binomial_probabilities", ones(2), ones(3), 0.5),
    ("deviation.methods.expectation", methods.group(ones(2), 1, 0.5), ones((1, 1)), ones(1), 0.1),
    ("deviation.methods.group", ones((2, 2)), 1, 0.5),
    ("dropout_sgd.moments.advance", OUTPUT, moments.start(OUTPUT).mean, 0.1),
    ("dropout_sgd.monte_carlo._gradient", ones((2, 5, 1)), ones((2, 3, 4)), ones((2, 3, 1)), ones((2, 3, 4))),
    ("dropout_sgd.placements.InputMasks.drift", INPUT, ones(3)),
    ("dropout_sgd.placements.InputMasks.noise", INPUT, ones(3), ones(3), ones((3, 4))),
    ("dropout_sgd.placements.OutputMasks.drift", OUTPUT, ones(3)),
    ("dropout_sgd.placements.OutputMasks.noise", OUTPUT, ones(3), ones(3), ones((3, 4))),
    ("dropout_sgd.placements.SharedInputMask.drift", SHARED, ones(3)),
    ("dropout_sgd.placements.SharedInputMask.noise", SHARED, ones(3), ones(3), ones((3, 4))),
    ("dropout_sgd.stability.CovarianceOperator.__call__", OPERATOR, ones((3, 2))),
    ("dropout_sgd.stability._solve", OPERATOR, ones(3), 0.1),
    ("dropout_sgd.stability.learning_rates", None, 0.1, 3),
    ("escape.Drift", *[ones((2, 3))] * 4, *[ones((3, 2, 3, 1))] * 3),
    ("escape.Iterate", ones((1, 2, 3)), ones((1, 4, 2)), ones(2), ones((1, 4))),
    ("escape.optimizers._clipped", ones((2, 3)), ones((2, 3, 1)), 1.0),
    ("escape.optimizers.clipped_step", 1.0, ones(3)),
    ("escape.scalar.levels", ones(3, dtype=complex), 1.0, "inverse"),
    ("escape.study.crossing", ones(3), ones(3)),
    ("escape.study.row_gradients", ones(3), "sgd"),
    ("escape.teacher.product_gradient", TEACHER, ones((2, 4)), ones((3, 2))),
    ("gradient_std.estimator.LinearGradient", *[FEATURES] * 3, 0.5),
    ("gradient_std.estimator.MLPGradient", NETWORK, FEATURES[0], LABELS, 0.5),
    ("gradient_std.run.Data", tensor(7, 6), LABELS[1:], tensor(7, 6), LABELS),
    ("gradient_std.run.evaluate", NETWORK, FEATURES, LABELS[1:]),
    ("gradient_std.summary.signal_to_noise", ones(3), ones(3)),
    ("gradient_std.summary.worst_held_out", ones((2, 3)), ones((3, 2))),
    ("lora.functional.allora_linear", tensor(4, 7), tensor(5), None, tensor(2, 7), tensor(5, 2), 2.0),
    ("lora.functional.row_norms", tensor(2, 7, 1), tensor(5, 2)),
    ("lora.layers.ALLoRALinear.forward", ALLoRALinear(nn.Linear(7, 5), 2, 2.0), tensor(4, 7, dtype=torch.int64)),
    ("ripple.AlignedNetwork", (), ones((2, 2))),
    ("ripple.Simulation", ones((2, 3)), ones((2, 4))),
    ("ripple.bounds.adapter_norm", ones((3, 2)), ones((3, 4))),
    ("ripple.growth.log1p_chi_square", "two", 0.0),
    ("ripple.monte_carlo._matrices", ones((3, 4)), 5, 2, Scales(0.3, 0.4, 0.5), generator),
    (
        "ripple.monte_carlo.advance",
        *(ones((3, 2)), ones((1, 2)), (ones((4, 2)), ones((3, 2))), ones(2), ones(2, bool), "relu"),
    ),
    ("statistics.directional.sides", ones((2, 2)), None),
    ("statistics.families._holm", ones((2, 2)), 4),
    ("statistics.families._scaled_chi", 3.5, []),
    ("statistics.paired.student", ones((2, 2)), 0.95),
    ("tikhonov.bottleneck.equalising_rotation", ones((2, 2)), 3),
    ("tikhonov.loss.input_weights", ones((3, 2)), ones((4, 1)), 0.5),
    ("tikhonov.loss.mean_loss", ones((3, 2)), ones((3, 1)), ones((4, 1)), 0.5, "output"),
    ("tikhonov.loss.ridge_weights", ones((3, 2)), ones((4, 1)), 1.0),
    ("tikhonov.masks.input_losses", ones((3, 2)), ones((4, 1)), ones((4, 1)), 0.5, 1, generator),
    ("tikhonov.masks.masked_losses", ones(3), iter([ones((2, 3, 1))]), lambda mask: mask),
    ("tikhonov.ridge.nearest_to_fit", ones((3, 2)), ones((3, 1)), ones((4, 1))),
    ("tikhonov.study.bottleneck_shrinkage", ones((3, 2)), ones((4, 1)), 0.5, 1),
    ("tikhonov.study.dropout_fit", ones((3, 2)), ones((4, 1)), 0.5, "output", 1),
    ("validation.count", 3, 3),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong[0])
def test_a_wrong_shape_is_refused(wrong, request):
    name, *arguments = wrong
    function = pkgutil.resolve_name(f"allora_analysis.{name}")
    if not request.config.option.untyped:
        with pytest.raises(TypeCheckError, match=name.rpartition(".")[2]):
            function(*arguments)
