"""The linear teacher: its loss and gradient against sums over the data and autograd; the limits of small steps."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from allora_analysis import escape
from allora_analysis.escape import teacher as teachers
from allora_analysis.validation import ArgumentError
from tests.brute_force import escape as brute_force


def data(rng, samples=5, n1=3, n2=4, rank=2):
    shapes = (samples, n2), (samples, n1), (rank, n2)
    return [rng.standard_normal(shape) for shape in shapes]


def test_loss_and_gradient(rng):
    x, y, a = data(rng)
    b = rng.standard_normal((3, 2))
    gradient, loss, norms = teachers.product_gradient(escape.data_teacher(x, y, a), a[None], b[None])
    assert loss[0] == pytest.approx(brute_force.loss(x, y, a, b), rel=1e-12)
    product = torch.from_numpy(b @ a).requires_grad_()
    (((torch.from_numpy(y) - torch.from_numpy(x) @ product.T) ** 2).sum() / (2 * len(x))).backward()
    np.testing.assert_allclose(gradient[0], product.grad.numpy(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(norms[0], [np.sqrt((row**2).sum()) for row in b @ a], rtol=1e-13)
    # The twin's gradients too are autograd's: what judges the optimizers is itself judged.
    twin_a, twin_b = brute_force.lora_gradients(x, y, a, b, [1.0] * 3)
    np.testing.assert_allclose(twin_a, b.T @ product.grad.numpy(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(twin_b, product.grad.numpy() @ a.T, rtol=1e-10, atol=1e-13)


def test_the_start_is_zero_and_the_offset_its_loss(rng):
    x, y, a = data(rng)
    teacher = escape.data_teacher(x, y, a)
    first = next(iter(escape.iterate(teacher, "lora", 1.0, escape.Recipe("sgd", 0.1))))
    assert first.loss[0] == teacher.offset[0] == pytest.approx((y**2).sum() / 10)
    assert not first.b.any()
    np.testing.assert_array_equal(first.a[0], a)


def test_teachers_of_a_seed_do_not_depend_on_how_many_there_are():
    few, many = escape.linear_teacher(seeds=2, seed=3, noise=0.1), escape.linear_teacher(seeds=5, seed=3, noise=0.1)
    for name in ("gram", "cross", "offset", "a", "target"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name)[:2])
    other = escape.linear_teacher(seeds=2, seed=4, noise=0.1)
    assert not np.array_equal(few.cross, other.cross)


def test_a_noiseless_teacher_can_be_learnt_exactly():
    teacher = escape.linear_teacher(
        seeds=3, orthonormal=True, samples=20, n_inputs=6, n_outputs=5, teacher_rank=2, rank=2
    )
    np.testing.assert_allclose(teacher.gram, np.broadcast_to(np.eye(6), (3, 6, 6)), atol=1e-12)
    # S = I: C is the teacher itself, of the stated rank, and the loss there is 0.
    assert [np.linalg.matrix_rank(cross, tol=1e-9) for cross in teacher.cross] == [2, 2, 2]
    np.testing.assert_allclose(np.linalg.norm(teacher.cross, axis=2), teacher.target, rtol=1e-10)
    np.testing.assert_allclose(0.5 * (teacher.cross**2).sum((1, 2)), teacher.offset, rtol=1e-10)
    *_, last = escape.iterate(teacher, "lora", 1.0, escape.Recipe("adamw", 0.02, steps=2000))
    assert np.all(last.loss < 1e-6 * teacher.offset)
    np.testing.assert_allclose(last.norms, teacher.target, rtol=1e-3)


def test_target_of_data(rng):
    x, t, a = rng.standard_normal((9, 4)), rng.standard_normal((3, 4)), rng.standard_normal((2, 4))
    np.testing.assert_allclose(escape.data_teacher(x, x @ t.T, a).target[0], np.linalg.norm(t, axis=1), rtol=1e-10)
    noisy, clean = escape.linear_teacher(noise=1.0), escape.linear_teacher()
    assert np.all(noisy.offset > clean.offset)
    # εᵀX/N of 64 samples has entries of variance S_jj/64.
    assert np.mean((noisy.cross - clean.cross) ** 2) == pytest.approx(1 / 64, rel=0.2)


# --- the limit of small steps: where the scalar model and its extension are exact


def last_norms(teacher, arm, optimizer, eta, rate, time, adaptor="inverse_sqrt", train_a=False, betas=(0.9, 0.999)):
    recipe = escape.Recipe(optimizer, rate, steps=round(time / rate), momentum=0.5, betas=betas)
    *_, last = escape.iterate(teacher, arm, eta, recipe, adaptor, train_a)
    return last.norms[0]


def assert_limit(values, expected, ratio=0.5):
    """Errors at rates l, l/2, l/4 fall in proportion to l, and extrapolation meets the limit."""
    errors = [np.abs(value - expected) for value in values]
    assert np.all(errors[0] < 0.05 * expected)
    for coarse, fine in itertools.pairwise(errors):
        np.testing.assert_allclose(fine, ratio * coarse, rtol=0.2, atol=1e-12)
    np.testing.assert_allclose(2 * values[2] - values[1], expected, rtol=1e-4)


def scalar_setting():
    # One direction a, any constant C: row i grows with g_i = |C_i·a|·‖a‖.
    a, cross = np.array([[0.3, -0.2, 0.5, 0.4]]), np.array([[1, 0.2, 1, 0], [-1, 2, 0, -1], [2, -1, 1.5, 1]])
    return escape.constant_gradient(cross, a), np.abs(cross @ a[0]) * np.linalg.norm(a)


def test_allora_under_adamw_tends_to_lora_at_l():
    """What the memory of earlier factors leaves of ALLoRA under AdamW vanishes with the learning rate, A fixed."""
    teacher = scalar_setting()[0]
    expected = float(escape.lora_trajectory(2.0, float(np.linalg.norm(teacher.a))))
    gaps = []
    for rate in (8e-3, 4e-3, 2e-3):
        values = last_norms(teacher, "allora", "adamw", 1.5, rate, 2.0, betas=(0.9, 0.95))
        gaps.append((expected - values) / expected)
    assert np.all(gaps[0] > 0.01)
    for coarse, fine in itertools.pairwise(gaps):
        np.testing.assert_allclose(fine, coarse / 2, rtol=0.2)


@pytest.mark.parametrize("adaptor", brute_force.ADAPTORS)
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_sgd_tends_to_the_scalar_model(optimizer, adaptor):
    teacher, g = scalar_setting()
    time = 2.0 if optimizer == "sgd" else 1.0  # momentum ½ moves twice as far in the end
    expected = np.array([escape.trajectory(2.0, float(size), 1.5, adaptor) for size in g])
    rates = [1e-2, 5e-3, 2.5e-3]
    values = [last_norms(teacher, "allora", optimizer, 1.5, rate, time, adaptor) for rate in rates]
    if adaptor == "constant" and optimizer == "sgd":  # affine: exact at any rate
        np.testing.assert_allclose(values, np.broadcast_to(expected, (3, 3)), rtol=1e-12)
    else:
        assert_limit(values, expected)


def test_a_wrong_scalar_model_is_told():
    teacher, g = scalar_setting()
    wrong = np.array([escape.trajectory(2.0, float(size), 1.5, "inverse") for size in g])
    values = [last_norms(teacher, "allora", "sgd", 1.5, rate, 2.0) for rate in (1e-2, 5e-3, 2.5e-3)]
    with pytest.raises(AssertionError):
        assert_limit(values, wrong)


def test_allora_adamw_tends_to_the_scalar_model_and_allora_under_adamw_does_not():
    """Adam makes every entry's gradient 1: g = ‖a‖ for all rows. The factor on the update then is the scalar model."""
    teacher, _ = scalar_setting()
    size = float(np.linalg.norm(teacher.a))
    for adaptor in ("inverse_sqrt", "inverse", "exponential"):
        expected = np.full(3, escape.trajectory(2.0, size, 1.5, adaptor))
        rates = (1e-2, 5e-3, 2.5e-3)
        assert_limit(
            [last_norms(teacher, "allora", "allora_adamw", 1.5, rate, 2.0, adaptor) for rate in rates], expected
        )
    lora = last_norms(teacher, "lora", "adamw", 1.5, 1e-2, 2.0)
    np.testing.assert_allclose(lora, escape.lora_trajectory(2.0, size), rtol=1e-5)
    allora = last_norms(teacher, "allora", "adamw", 1.5, 1e-2, 2.0)
    # The memory of earlier, larger d slows it below LoRA at l itself.
    assert np.all((allora < lora) & (allora > 0.7 * lora))


@pytest.mark.parametrize("adaptor", brute_force.ADAPTORS)
def test_sgd_on_both_factors_tends_to_the_pair(adaptor):
    a = np.array([[0.3, 0.4]])
    teacher = escape.constant_gradient([[1.2, 1.6]], a)  # along a: γ = 2, s = 1/4, g = 1/2
    time = brute_force.pair_time(0.8, 2.0, 1.5, 0.25, adaptor)
    rates = [time / steps for steps in (200, 400, 800)]
    values = [last_norms(teacher, "allora", "sgd", 1.5, rate, time, adaptor, train_a=True) for rate in rates]
    errors = [abs(value[0] - 0.8) for value in values]
    assert errors[0] < 0.02
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.2)
    assert 2 * values[2][0] - values[1][0] == pytest.approx(0.8, rel=1e-4)


def test_lora_on_both_factors_tends_to_the_sinh():
    teacher = escape.constant_gradient([[1.2, 1.6]], [[0.3, 0.4]])
    value = last_norms(teacher, "lora_eta", "sgd", 1.5, 5e-4, 0.5, train_a=True)
    assert value[0] == pytest.approx(0.25 / 2 * np.sinh(2 * 1.5 * 2.0 * 0.5), rel=3e-3)  # (s/2)·sinh(2ηγt)


@pytest.mark.bad_input
def test_bad_input(rng):
    x, y, a = data(rng)
    with pytest.raises(ArgumentError, match="the rows of x"):
        escape.data_teacher(x, y[:-1], a)
    with pytest.raises(ArgumentError, match="the columns of x"):
        escape.data_teacher(x, y, a[:, :-1])
    with pytest.raises(ArgumentError, match="the columns of cross"):
        escape.constant_gradient(np.ones((2, 3)), np.ones((1, 2)))
    with pytest.raises(ArgumentError, match="rank must be at most"):
        escape.linear_teacher(rank=17)
    with pytest.raises(ArgumentError, match="teacher_rank"):
        escape.linear_teacher(teacher_rank=0)
    with pytest.raises(ArgumentError, match="samples must be at least n_inputs"):
        escape.linear_teacher(samples=8, orthonormal=True)
    for name in ("seeds", "n_outputs", "n_inputs", "samples"):
        with pytest.raises(ArgumentError, match=name):
            escape.linear_teacher(**{name: 0})
    with pytest.raises(ArgumentError, match="seed"):
        escape.linear_teacher(seed=-1)
    with pytest.raises(ArgumentError, match="noise"):
        escape.linear_teacher(noise=-1.0)


RATES = {"sgd": 0.02, "momentum": 0.002, "adamw": 0.005, "allora_adamw": 0.005}


@pytest.mark.parametrize("optimizer", escape.OPTIMIZERS)
def test_distances_are_those_of_the_twins(rng, optimizer):
    x, y, a = rng.standard_normal((6, 4)), rng.standard_normal((6, 3)), rng.standard_normal((2, 4))
    teacher = escape.data_teacher(x, y, a)
    result = escape.drift(optimizer, 1.6, 0.05, 5, teacher=teacher, max_grad_norm=0.8)
    options = {"optimizer": optimizer, "eta": 1.6, "learning_rate": 0.05, "steps": 5, "max_grad_norm": 0.8}
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


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "allora_adamw"])
def test_the_first_step_is_loras_at_eta_l(optimizer):
    result = escape.drift(optimizer, 2.0, RATES[optimizer], 2)
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
def test_bad_input_of_drift():
    for arguments, word in (
        (("sgd", 0.0, 0.1, 3), "eta"),
        (("adam", 1.0, 0.1, 3), "optimizer"),
        (("sgd", 1.0, -0.1, 3), "learning_rate"),
        (("sgd", 1.0, 0.1, 0), "steps"),
    ):
        with pytest.raises(ArgumentError, match=word):
            escape.drift(*arguments)
    with pytest.raises(ArgumentError, match="adaptor"):
        escape.drift("sgd", 1.0, 0.1, 3, adaptor="none")
    with pytest.raises(TypeError, match="nesterov"):
        escape.drift("sgd", 1.0, 0.1, 3, nesterov=True)
