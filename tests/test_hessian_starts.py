"""Where LoRA starts: H without the rescalings, the path, the first step, against autograd on tiny problems."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allora_analysis import hessian, validation
from allora_analysis.hessian import starts
from allora_analysis.hessian.product import Within, within
from allora_analysis.validation import ArgumentError
from tests.brute_force.hessian import loss_hessian
from tests.brute_force.optim import trajectory as adamw_path
from tests.hessian_problems import assert_close, low_rank

N1, N2, RANK = 4, 5, 2


def problem(rng, n1=N1, n2=N2, rank_t=None):
    """X of singular values in [½, 2], a target, a pretrained weight."""
    return low_rank(rng, n2 + 2, n2, n2), low_rank(rng, n1, n2, rank_t or min(n1, n2)), rng.standard_normal((n1, n2))


def gradient(x, fit, a, b):
    return 2 * ((b @ a - fit) @ x.T) @ x


def pair(name, rng, x, target, weight, rank=RANK):
    return starts.start_pair(name, -2 * target @ x.T @ x, rank, rng, weight)


def without_rescalings(dense, a, b):
    """H in a basis of what is orthogonal to every (−BΞ, ΞA): another route than projecting and dropping zeros."""
    units = np.eye(len(a) ** 2).reshape(-1, len(a), len(a))
    tangents = np.array([np.concatenate([-(b @ e).ravel(), (e @ a).ravel()]) for e in units])
    _, s, vt = np.linalg.svd(tangents)
    basis = vt[int((s > 1e-9 * max(s[0], 1e-300)).sum()) :].T
    return np.linalg.eigvalsh(basis.T @ dense @ basis)


@pytest.mark.parametrize("rank_t", [1, 4])
@pytest.mark.parametrize("name", hessian.STARTS)
def test_restricted_spectrum_is_autograds(rng, name, rank_t):
    x, target, weight = problem(rng, rank_t=rank_t)
    a, b = pair(name, rng, x, target, weight)
    fit = target + b @ a
    slope, dense = loss_hessian(x, fit, a, b)
    g = gradient(x, fit, a, b)
    assert_close(hessian.dense_hessian(x, g, a, b), dense)
    assert_close(hessian.restricted_spectrum(x, g, a, b), without_rescalings(dense, a, b))
    tangents = hessian.rescalings(a, b)
    assert tangents.shape[1] == RANK**2 - (RANK - np.linalg.matrix_rank(a)) * (RANK - np.linalg.matrix_rank(b))
    assert np.abs(slope @ tangents).max(initial=0) < 1e-12  # the loss does not change along them


@pytest.mark.parametrize("size", [1.0, 1e-10, 1e-200])
@pytest.mark.parametrize(("rank_a", "rank_b"), [(1, 2), (2, 1), (1, 1), (0, 1), (2, 0), (0, 0), (2, 2)])
def test_as_many_rescalings_as_the_ranks_say_however_small_one_factor(rng, size, rank_a, rank_b):
    a = rng.standard_normal((RANK, rank_a)) @ rng.standard_normal((rank_a, N2))
    b = size * rng.standard_normal((N1, rank_b)) @ rng.standard_normal((rank_b, RANK))
    tangents = hessian.rescalings(a, b)
    count = RANK**2 - (RANK - rank_a) * (RANK - rank_b)
    assert tangents.shape == (a.size + b.size, count)
    np.testing.assert_allclose(tangents.T @ tangents, np.eye(count), atol=1e-12)
    for column in tangents.T:
        beta, alpha = column[: b.size].reshape(b.shape), column[b.size :].reshape(a.shape)
        assert np.abs(beta @ a + b @ alpha).max() < 1e-13  # BA stays
    x, target, _ = problem(rng)
    assert len(hessian.restricted_spectrum(x, gradient(x, target, a, b), a, b)) == a.size + b.size - count


def test_more_nodes_than_inputs_and_outputs_have_all_their_rescalings(rng):
    tangents = hessian.rescalings(rng.standard_normal((3, 1)), rng.standard_normal((2, 3)))
    assert tangents.shape == (9, 9 - 2 * 1)


def test_pairs_are_what_their_names_say(rng):
    x, target, weight = problem(rng, 8, 9)
    pairs = {name: pair(name, rng, x, target, weight) for name in hessian.STARTS}
    a, b = pairs["pissa"]
    u, s, vt = np.linalg.svd(weight)
    assert_close(b @ a, u[:, :RANK] * s[:RANK] @ vt[:RANK])
    assert_close(b.T @ b, a @ a.T)
    a, b = pairs["gradient_aligned"]
    u, _, vt = np.linalg.svd(target @ x.T @ x)
    assert_close(np.abs(vt @ a.T), np.eye(9, RANK) / 3**0.5)
    assert_close(np.abs(u.T @ b), np.eye(8, 2 * RANK)[:, RANK:] / 3**0.5)
    a, b = pairs["orthogonal"]
    assert np.abs(b @ a).max() < 1e-15 < min(np.abs(a).max(), np.abs(b).max())
    zero = {name: tuple(bool(part.any()) for part in pairs[name]) for name in hessian.STARTS[:4]}
    assert zero == {
        "b_zero": (True, False),
        "a_zero": (False, True),
        "both_zero": (False,) * 2,
        "both_random": (True,) * 2,
    }
    a, b = starts.start_pair("both_random", np.ones((300, 400)), 200, rng)
    assert (a.var(), b.var()) == (pytest.approx(1 / 1200, rel=0.05), pytest.approx(1 / 900, rel=0.05))


def test_a_hessian_without_the_rescalings_projected_out_is_rejected(rng):
    """Planted: `factor_spectrum` as it is, with G in place of GP."""
    x, target, weight = problem(rng)
    a, b = pair("b_zero", rng, x, target, weight)
    g = gradient(x, target, a, b)
    wrong = starts._without(hessian.factor_spectrum(x, g, a), RANK**2)
    with pytest.raises(AssertionError):
        assert_close(wrong, without_rescalings(loss_hessian(x, target, a, b)[1], a, b))


@pytest.mark.parametrize(("n1", "n2"), [(4, 6), (6, 4), (5, 5)])
def test_solution_spectrum_is_autograds(rng, n1, n2):
    fit = low_rank(rng, n1, n2, min(n1, n2))
    u, s, vt = np.linalg.svd(fit)
    a, b = np.sqrt(s[:2, None]) * vt[:2], u[:, :2] * np.sqrt(s[:2])
    slope, dense = loss_hessian(np.eye(n2), fit, a, b)
    assert np.abs(slope).max() < 1e-13
    kept, rest = s[:2, None], s[None, 2:]  # as the module's text has it
    parts = [2 * (kept + kept.T), 2 * (kept + rest), 2 * (kept - rest), np.repeat(2 * kept, abs(n1 - n2), axis=1)]
    told = np.sort(np.concatenate([part.ravel() for part in parts]))
    assert_close(told, without_rescalings(dense, a, b))
    assert told[-1] / told[0] == pytest.approx(2 * s[0] / (s[1] - s[2]))


@pytest.mark.parametrize("name", hessian.STARTS)
def test_the_path_ends_at_the_best_fit_without_negative_directions(rng, name):
    x, target, weight = problem(rng)
    report = hessian.start_report(x, target, pair(name, rng, x, target, weight), RANK)
    start = report.stages["start"]
    assert start.excess == 1
    if name == "both_zero":
        assert list(report.stages) == ["start"]
        assert (start.inertia.negative, start.inertia.zero) == (RANK * N1, RANK * (N2 - N1))
        assert report.cosine == {"sgd": 0, "adam": 0}
        assert set(report.steps.values()) == {None}
        return
    end = report.stages["solution"]
    assert end.excess == pytest.approx(0, abs=1e-9)
    assert (end.inertia.negative, end.inertia.zero) == (0, 0)
    assert end.inertia.positive == RANK * (N1 + N2 - RANK)
    assert [*report.stages] == ["start", "half-way", "nine tenths", "solution"]
    assert report.cosine["sgd"] <= report.best_cosine + 1e-12
    if name == "b_zero":
        assert start.inertia.negative == RANK * min(N1, N2 - RANK)
    if name == "gradient_aligned":
        assert report.cosine["sgd"] == pytest.approx(report.best_cosine)


def test_a_start_that_is_the_best_of_its_rank_stays():
    """B₀A₀ fits the first of two singular directions, T is the second: a critical point, and nothing to leave for."""
    report = hessian.start_report(np.eye(3), np.diag([0.0, 1.0, 0.0]), ([[1.0, 0, 0]], [[2.0], [0], [0]]), 1)
    assert [*report.stages] == ["start"]
    assert report.stages["start"].inertia == hessian.Inertia(0, 0, 5)
    assert {*report.steps.values()} == {None}


@given(st.integers(1, 5), st.integers(1, 5), st.data())
def test_no_point_has_more_negative_directions_than_b_zero(n1, n2, data):
    rank = data.draw(st.integers(1, min(n1, n2)))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1))).standard_normal
    x, g, a, b = draw((n2 + 1, n2)), draw((n1, n2)), draw((rank, n2)), draw((n1, rank))
    values = np.linalg.eigvalsh(hessian.dense_hessian(x, g, a, data.draw(st.floats(-3, 3)) * b))
    assert (values < -1e-9 * np.abs(values).max()).sum() <= rank * min(n1, n2)
    assert hessian.inertia(x, g, a).negative == rank * min(n1, n2)


@pytest.mark.statistical
def test_the_cosine_at_b_zero_is_wisharts(rng):
    """Of ratio E⟨G, GAᵀA⟩/√(‖G‖²·E‖GAᵀA‖²), both expectations over A, against √(r/(n₂ + r + 1))."""
    n2, draws = 24, 4000
    g, a = rng.standard_normal((3, n2)), rng.standard_normal((draws, RANK, n2))
    change = g @ a.transpose(0, 2, 1) @ a
    inner, square = (change * g).sum((1, 2)) / (g**2).sum(), (change**2).sum((1, 2)) / (g**2).sum()
    told = starts.expected_cosine(RANK, n2) ** 2
    # Delta method on mean(inner)²/mean(square).
    found = inner.mean() ** 2 / square.mean()
    terms = 2 * (inner / inner.mean() - 1) - (square / square.mean() - 1)
    error = found * terms.std(ddof=1) / draws**0.5
    assert abs(found - told) < 5 * error
    assert 5 * error < 0.1 * told


@pytest.mark.parametrize("size", [0.01, 10.0])
def test_steps_against_a_hand_written_run(rng, size):
    """SGD, momentum and ALLoRA under SGD, written out: half of the possible decrease at the same step."""
    x, target, weight = problem(rng)
    target = 10 * target  # far enough from the small start for a tenth of the rate, or of η, to tell
    a0, b0 = (size * part for part in pair("both_random", rng, x, target, weight))
    fit = target + b0 @ a0
    report = hessian.start_report(x, target, (a0, b0), RANK)
    least = (np.linalg.svd(x @ fit.T, compute_uv=False)[RANK:] ** 2).sum()
    for name, eta, slow, kept in (("sgd", None, 1, 0), ("momentum", None, 10, 0.9), ("allora", 2.0, 2, 0)):
        a, b, by_a, by_b, rate = a0, b0, 0, 0, 1 / (slow * report.stages["start"].largest)
        first = ((x @ target.T) ** 2).sum()
        count = 0
        while ((x @ (b @ a - fit).T) ** 2).sum() - least > (first - least) / 2:
            count += 1
            g = gradient(x, fit, a, b)
            d = 1 if eta is None else 1 / np.sqrt(np.linalg.norm(b @ a, axis=1) + eta**-2)[:, None]
            by_a, by_b = kept * by_a + b.T @ (d * g), kept * by_b + (d * g) @ a.T
            a, b = a - rate * by_a, b - rate * by_b
        assert report.steps[name] == count


def test_a_run_that_diverges_is_no_refusal():
    """x = target = 1 at the default start: momentum's run by hand leaves float64's range, the others arrive."""
    report = hessian.start_report([[1.0]], [[1.0]], "b_zero", 1)
    (a,), (b,) = starts.start_pair("b_zero", [[-2.0]], 1, np.random.default_rng(0))
    by_a, by_b, rate, count = 0.0, 0.0, 0.1 / report.stages["start"].largest, 0
    with np.errstate(over="ignore", invalid="ignore"):
        while np.isfinite(a * b):
            assert (a * b - 1) ** 2 > 0.5
            g = 2 * (a * b - 1)
            by_a, by_b, count = 0.9 * by_a + b * g, 0.9 * by_b + g * a, count + 1
            a, b = a - rate * by_a, b - rate * by_b
    assert count < starts.PATIENCE
    assert report.steps["momentum"] is None
    assert all(report.steps[name] for name in ("sgd", "adamw", "allora", "allora_adamw"))


def test_steps_of_adamw_against_a_hand_written_run(rng):
    """At rate 0.1/√(3n₂), without decay; ALLoRA's factor on the update."""
    x, target, weight = problem(rng)
    a0, b0 = pair("b_zero", rng, x, target, weight)
    steps = hessian.start_report(x, target, (a0, b0), RANK).steps
    least = (np.linalg.svd(x @ target.T, compute_uv=False)[RANK:] ** 2).sum()

    def gradients(a, b, _):
        return b.T @ gradient(x, target, a, b), gradient(x, target, a, b) @ a.T

    gradients.steps = 60
    for name, adaptor, eta in (("adamw", "constant", 1.0), ("allora_adamw", "inverse_sqrt", 2.0)):
        path = adamw_path(a0, b0, gradients, 0.1 / np.sqrt(3 * N2), eta, decay=0.0, adaptor=adaptor)
        above = np.array([((x @ (b @ a - target).T) ** 2).sum() - least for a, b in path])
        assert steps[name] == np.argmax(above <= above[0] / 2) > 2


@pytest.mark.parametrize("unit", [1e-3, 1e4])
def test_the_unit_of_x_is_the_losss_alone(rng, unit):
    x, target, _ = problem(rng)
    one, other = (hessian.start_report(size * x, target, "both_random", RANK) for size in (1.0, unit))
    assert [*other.stages] == [*one.stages]
    assert {name: other.steps[name] for name in ("sgd", "momentum", "allora")}.items() <= one.steps.items()
    assert other.cosine == pytest.approx(one.cosine)
    for stage in ("start", "solution"):  # the others lie where the integrator's steps do
        assert other.stages[stage].inertia == one.stages[stage].inertia
        assert other.stages[stage].largest == pytest.approx(unit**2 * one.stages[stage].largest, rel=1e-5)
        assert other.stages[stage].log_condition == pytest.approx(one.stages[stage].log_condition, abs=1e-5)


def test_the_unit_of_the_adapter_is_the_losss_alone(rng, monkeypatch):
    """c times A and B and c² times the target are c⁴ times the loss, c² times its Hessian."""
    monkeypatch.setattr(starts, "PATIENCE", 1)  # the steps, which the entries' size decides, are not asked for
    x, target, weight = problem(rng, 2, 3)
    a, b = pair("both_random", rng, x, target, weight, 1)
    one, other = (hessian.start_report(x, c * c * target, (c * a, c * b), 1) for c in (1.0, 2.0**-20))
    assert [*other.stages] == [*one.stages]
    for stage in ("start", "solution"):  # the others lie where the integrator's steps do
        assert other.stages[stage].excess == pytest.approx(one.stages[stage].excess, abs=1e-9)
        assert other.stages[stage].inertia == one.stages[stage].inertia
        assert other.stages[stage].log_condition == pytest.approx(one.stages[stage].log_condition, abs=1e-5)
        assert other.stages[stage].largest == pytest.approx(2.0**-40 * one.stages[stage].largest, rel=1e-5)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "lora"}, "start must be one of"),
        ({"start": "pissa"}, "weight must be"),
        ({"start": "orthogonal", "rank": 1}, "rank must be even"),
        ({"start": (np.ones((2, N2)), np.ones((N1, 2))), "rank": 1}, "rank must be 2"),
        ({"target": np.zeros((N1, N2))}, "nothing to learn"),
        ({"target": np.ones((N1, N2 + 1))}, "x: shape"),
        ({"rank": 9}, "rank must be at most"),
    ],
)
def test_bad_input(change, message):
    arguments = {"x": np.eye(N2), "target": np.ones((N1, N2)), "start": "b_zero", "rank": 2} | change
    with pytest.raises(ArgumentError, match=message):
        hessian.start_report(**arguments)


def whole(x, t, a, b):
    """In `within`'s place: nothing falls apart."""
    return Within(x, t + b @ a, a, b, 0, np.zeros(0))


SMALL = {"white": np.eye(7), "two levels": np.diag([1.0] * 4 + [2.0] * 3), "few rows": np.eye(7)[:3] + 0.1}


@pytest.mark.parametrize("name", ["b_zero", "a_zero", "both_zero", "both_random", "gradient_aligned"])
@pytest.mark.parametrize("inputs", SMALL)
def test_what_falls_apart_is_counted_as_in_the_whole(rng, monkeypatch, inputs, name):
    """Inertia, κ, path, first step and time to leave, with the target of rank 1: V and U are a part of the spaces."""
    x, target = SMALL[inputs], low_rank(rng, 6, 7, 1)
    pair_ = pair(name, rng, x, target, None)
    small = within(x, target, *pair_)
    assert small.a.size + small.b.size < RANK * (6 + 7)
    found = hessian.start_report(x, target, pair_, RANK)
    monkeypatch.setattr(starts, "within", whole)
    told = hessian.start_report(x, target, pair_, RANK)
    assert (found.steps, found.rescalings) == (told.steps, told.rescalings)
    assert found.best_cosine == pytest.approx(told.best_cosine)
    assert found.cosine == told.cosine
    assert [*found.stages] == [*told.stages]
    for stage in {"start", "solution"} & {*told.stages}:  # the others lie where the integrator's steps do
        one, other = found.stages[stage], told.stages[stage]
        assert one.inertia == other.inertia
        assert one.log_condition == pytest.approx(other.log_condition, abs=1e-5)
        assert one.largest == pytest.approx(other.largest, rel=1e-5)


@given(st.integers(2, 5), st.integers(2, 7), st.data())
def test_the_spectrum_falls_apart(n1, n2, data):
    """At any point: what is within U and V, 2q_k and 2b_i s_j are the spectrum of the whole."""
    rank = data.draw(st.integers(1, min(n1, n2)))
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    levels = data.draw(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=n2, max_size=n2).filter(any))
    x = np.array(levels)[:, None] * np.linalg.qr(draw.standard_normal((n2, n2)))[0]
    t = low_rank(draw, n1, n2, data.draw(st.integers(1, min(n1, n2))))
    a, b = draw.standard_normal((rank, n2)), draw.standard_normal((n1, rank)) @ low_rank(draw, rank, rank, 1)
    one = within(x, t, a, b)
    values = starts._values(one, one.a, one.b)
    whole_values = hessian.restricted_spectrum(x, gradient(x, t + b @ a, a, b), a, b)
    assert_close(np.sort(values), whole_values)


@pytest.mark.parametrize("size", [1.0, 1e-13])
def test_what_a_has_in_the_kernel_of_x_counts_however_small(rng, size):
    """Beside 1 where X sees: 1e-13 leaves three digits of its direction, which must not reach into what X sees."""
    x, t, b = np.linalg.qr(rng.standard_normal((8, 4)))[0].T, low_rank(rng, 6, 8, 1), rng.standard_normal((6, 1))
    a = rng.standard_normal((1, 8)) @ (x.T @ x * (1 - size) + size * np.eye(8))
    one = within(x, t, a, b)
    values = np.sort(starts._values(one, one.a, one.b))
    assert_close(values, hessian.restricted_spectrum(x, gradient(x, t + b @ a, a, b), a, b))


def test_without_what_is_outside_the_spectrum_is_wrong(rng):
    """Planted: V^⊥ forgotten."""
    x, t = np.eye(7), low_rank(rng, 6, 7, 1)
    a, b = pair("both_random", rng, x, t, None)
    one = within(x, t, a, b)
    values = starts._values(one._replace(curved=np.zeros(len(one.curved))), one.a, one.b)
    with pytest.raises(AssertionError):
        assert_close(np.sort(values), hessian.restricted_spectrum(x, gradient(x, t + b @ a, a, b), a, b))


def test_a_wide_layer_costs_what_its_target_costs(rng):
    n, rank = 300, 4  # 2,400 parameters
    target = low_rank(rng, n, n, 3)
    stages = hessian.start_report(np.eye(n), target, "b_zero", rank).stages
    assert stages["start"].inertia == hessian.Inertia(3 * rank, rank * (n - 3 - rank), rank * n)
    assert stages["solution"].excess == pytest.approx(0, abs=1e-9)
    assert stages["solution"].inertia.negative == 0


@pytest.mark.bad_input
def test_a_report_of_too_many_parameters_names_what_is_left():
    x, target = np.diag(np.linspace(1, 2, 500)), np.eye(10, 500) + 1
    with pytest.raises(ArgumentError, match=r"= 2040 parameters.*at most 2000.*restricted_spectrum.*network_spectrum"):
        hessian.start_report(x, target, "b_zero", rank=4)


def test_the_studys_option(capsys):
    from allora_analysis import cli
    from allora_analysis.hessian.study import STUDY

    flags = ["--features", "8", "--outputs", "5", "--rank", "2", "--ratios", "1", "--draws", "2", "--samples", "20"]
    assert cli.main(STUDY, [*flags, "--starts", "b_zero", "both_zero"]) == 0
    printed = capsys.readouterr().out
    assert "no point has more than 10 negative directions" in printed
    assert "b_zero: negative at start 10 (κ = " in printed
    assert cli.main(STUDY, [*flags, "--starts", "zero"]) == 2
    assert "starts must be one of b_zero" in capsys.readouterr().err


@pytest.mark.parametrize("target", [[[0.0, 0.0], [0.0, 1.0]], [[0.9, 0.0], [0.0, 0.0]]])
def test_a_target_that_the_rank_reaches_ends_at_rest(target, monkeypatch):
    """Planted: at an exact fit the integrator's steps do not become longer, and it went on for minutes."""
    monkeypatch.setattr(starts, "EVALUATIONS", 10_000)
    x = np.array([[1.0, 0.5], [-0.3, 2.0], [0.7, -1.1]])
    solution = hessian.start_report(x, target, "b_zero", 1).stages["solution"]
    assert abs(solution.excess) < 1e-12
    assert solution.inertia == hessian.Inertia(0, 0, 3)  # r(n₁ + n₂ − r) directions, all of them up


@pytest.mark.bad_input
def test_a_flow_that_cannot_be_followed_is_refused(monkeypatch):
    monkeypatch.setattr(starts, "EVALUATIONS", 10_000)
    with pytest.raises(ArgumentError, match="too fast or too slow to follow; give numbers of like size"):
        hessian.start_report(np.eye(2), [[9e-301, -4e299], [0.0, 0.0]], "b_zero", 1)


@pytest.mark.parametrize("call", [hessian.dense_hessian, hessian.restricted_spectrum])
def test_what_just_fits_is_not_refused(call, monkeypatch):
    """Three matrices of 5² numbers: of r(n₁ + n₂) = 5 parameters, or of n₁ + n₂ = 5 where A is 0."""
    x, g, a, b = np.eye(2), np.ones((3, 2)), np.zeros((1, 2)), np.ones((3, 1))
    monkeypatch.setattr(validation, "HELD", 75)
    assert len(call(x, g, a, b)) == 5 - (call is hessian.restricted_spectrum)
    monkeypatch.setattr(validation, "HELD", 74)
    with pytest.raises(ArgumentError, match="GiB"):
        call(x, g, a, b)


@pytest.mark.parametrize("start", ["b", "a"])
def test_rescalings_and_the_spectrum_beside_them_have_one_rank(rng, start):
    """A singular value of 1e-10 beside 1 counts in neither."""
    x, g, thin = rng.standard_normal((6, 3)), rng.standard_normal((3, 3)), np.diag([1.0, 1e-10, 0.0])[:2]
    a, b = (thin, np.zeros((3, 2))) if start == "b" else (np.zeros((2, 3)), thin.T)
    assert len(hessian.restricted_spectrum(x, g, a, b)) == 12 - hessian.rescalings(a, b).shape[1]
