"""How far ALLoRA's training is from each of LoRA's, by step and optimiser."""

import dataclasses

import jaxtyping
import numpy as np
import pytest

from allora_analysis import escape
from allora_analysis.validation import ArgumentError
from tests.brute_force import escape as brute_force

RATES = {"sgd": 0.02, "momentum": 0.002, "adamw": 0.005, "allora_adamw": 0.005}


@pytest.mark.parametrize("optimiser", escape.OPTIMISERS)
def test_distances_are_those_of_the_twins(rng, optimiser):
    x, y, a = rng.standard_normal((6, 4)), rng.standard_normal((6, 3)), rng.standard_normal((2, 4))
    teacher = escape.data_teacher(x, y, a)
    result = escape.drift(optimiser, 1.6, 0.05, 5, teacher=teacher, max_grad_norm=0.8)
    options = {"optimiser": optimiser, "eta": 1.6, "learning_rate": 0.05, "steps": 5, "max_grad_norm": 0.8}
    lora, lora_eta, allora = (brute_force.train(x, y, a, arm=arm, **options) for arm in escape.ARMS)
    for step in range(1, 6):
        for other, products, ways in (
            (lora, result.to_lora, result.parameters_to_lora),
            (lora_eta, result.to_lora_eta, result.parameters_to_lora_eta),
        ):
            (a1, b1), (a2, b2) = allora[step], other[step]
            expected = np.linalg.norm(b1 @ a1 - b2 @ a2) / np.linalg.norm(b2 @ a2)
            assert products[0, step] == pytest.approx(expected, rel=1e-7, abs=1e-12)
            gap = np.sqrt(((a1 - a2) ** 2).sum() + ((b1 - b2) ** 2).sum())
            size = np.sqrt(((a2 - a) ** 2).sum() + (b2**2).sum())
            assert ways[0, step] == pytest.approx(gap / size, rel=1e-7, abs=1e-12)
        for index, path in enumerate((lora, lora_eta, allora)):
            rows = np.linalg.norm(path[step][1] @ path[step][0], axis=1)
            assert result.norms[index, 0, step] == pytest.approx(rows.mean())
            assert result.max_norms[index, 0, step] == pytest.approx(rows.max())
            assert result.losses[index, 0, step] == pytest.approx(brute_force.loss(x, y, *path[step]))


def test_at_the_start_nothing_is_apart():
    result = escape.drift("sgd", 2.0, 0.02, 1)
    for field in dataclasses.fields(result):
        values = getattr(result, field.name)
        assert values.shape[-1] == 2
        if field.name != "losses":
            assert not values[..., 0].any()
    np.testing.assert_array_equal(result.losses[..., 0], np.broadcast_to(result.losses[0, :, 0], (3, 8)))


@pytest.mark.parametrize("optimiser", ["sgd", "momentum", "allora_adamw"])
def test_the_first_step_is_loras_at_eta_l(optimiser):
    result = escape.drift(optimiser, 2.0, RATES[optimiser], 2)
    np.testing.assert_allclose(result.to_lora_eta[:, 1], 0, atol=1e-14)
    np.testing.assert_allclose(result.to_lora[:, 1], 1, rtol=1e-12)
    assert np.all(result.to_lora_eta[:, 2] > 1e-4)


def test_under_adamw_it_is_loras_at_l():
    result = escape.drift("adamw", 2.0, 0.005, 20)
    assert np.all(result.to_lora[:, 1] < 1e-5)
    np.testing.assert_allclose(result.to_lora_eta[:, 1], 0.5, rtol=1e-4)
    # And it stays an order nearer to LoRA at l than to LoRA at η·l.
    assert np.all(result.to_lora[:, 1:] < 0.2 * result.to_lora_eta[:, 1:])


def test_clipping_turns_sgd_into_lora_at_l():
    free, clipped = (escape.drift("sgd", 2.0, 0.02, 3, max_grad_norm=norm) for norm in (None, 0.1))
    assert np.all(free.to_lora[:, 1:] > 0.6)
    assert np.all(clipped.to_lora[:, 1] < 1e-5)
    assert np.all(clipped.to_lora[:, 1:] < 0.02)


def test_the_early_drift_is_a_quarter_of_eta_squared_m():
    """Rows fall behind LoRA at η·l by η²m/4, in the limit of small steps and small times, A fixed and then trained."""
    cross = np.array([[0.5, -0.1, 0.7, 0.5]])
    teacher = escape.constant_gradient(cross, cross / np.linalg.norm(cross))
    for train_a in (False, True):
        result = escape.drift("sgd", 2.0, 1e-6, 400, teacher=teacher, train_a=train_a)
        expected = 2.0**2 * result.norms[1, 0, -1] / 4
        assert result.to_lora_eta[0, -1] == pytest.approx(expected, rel=0.01)
        assert result.to_lora_eta[0, -1] != pytest.approx(expected / 2, rel=0.1)


def test_at_eta_one_half_of_the_rate_the_constant_adaptor_is_lora():
    result = escape.drift("sgd", 0.5, 0.02, 30, adaptor="constant")
    np.testing.assert_allclose(result.to_lora_eta, 0, atol=1e-13)
    same = escape.drift("adamw", 1.0, 0.005, 30, adaptor="constant")
    np.testing.assert_allclose(same.to_lora, 0, atol=1e-13)


@pytest.mark.bad_input
def test_bad_input():
    for arguments, word in (
        (("sgd", 0.0, 0.1, 3), "eta"),
        (("adam", 1.0, 0.1, 3), "optimiser"),
        (("sgd", 1.0, -0.1, 3), "learning_rate"),
        (("sgd", 1.0, 0.1, 0), "steps"),
    ):
        with pytest.raises(ArgumentError, match=word):
            escape.drift(*arguments)
    with pytest.raises(ArgumentError, match="adaptor"):
        escape.drift("sgd", 1.0, 0.1, 3, adaptor="none")
    with pytest.raises(TypeError, match="nesterov"):
        escape.drift("sgd", 1.0, 0.1, 3, nesterov=True)


def test_shapes_are_checked(request):
    if not request.config.option.untyped:
        with pytest.raises(jaxtyping.TypeCheckError):
            escape.Drift(*[np.zeros((2, 3))] * 4, *[np.zeros((3, 2, 3, 1))] * 3)
