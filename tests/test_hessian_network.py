"""`network_spectrum` against a dense Hessian by double backward, what it leaves untouched; both ends by Lanczos."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from allora_analysis.hessian import LowRankLinear, add_adapters, factor_spectrum, network
from allora_analysis.hessian.empirical_risk import EmpiricalRisk, empirical_risk
from allora_analysis.hessian.network import HessianProducts, lanczos_ends, network_spectrum, ritz_ends
from allora_analysis.validation import ArgumentError
from tests.brute_force import hessian as brute
from tests.stat_assert import assert_rejects

DATA = tuple(torch.randn(9, n, generator=torch.Generator().manual_seed(n)).double() for n in (6, 5))
LOSSES = {"squares": nn.MSELoss, "entropy": nn.CrossEntropyLoss}


def problem(sizes, rank, kind, seed, n=11, eta=0.7, b_scale=0.0, dtype=torch.float64):
    """A tanh MLP with adapters, data, the summed loss, and the same loss by hand with its parameters."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for n2, n1 in itertools.pairwise(sizes):
        layers += [nn.Linear(n2, n1, dtype=dtype), nn.Tanh()]
    model = add_adapters(nn.Sequential(*layers[:-1]), rank, eta, generator)
    adapted = [layer for layer in model if isinstance(layer, LowRankLinear)]
    with torch.no_grad():
        for layer in adapted:
            for value in (layer.base.weight, layer.base.bias):
                value.copy_(torch.randn(value.shape, generator=generator, dtype=dtype))
            layer.b.copy_(b_scale * torch.randn(layer.b.shape, generator=generator, dtype=dtype))
    x = torch.randn(n, sizes[0], generator=generator, dtype=dtype)
    targets = torch.randn(n, sizes[-1], generator=generator, dtype=dtype)
    targets = targets.argmax(1) if kind == "entropy" else targets
    weights, biases = ([getattr(layer.base, name).detach() for layer in adapted] for name in ("weight", "bias"))
    theta = torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])
    return (
        model,
        LOSSES[kind](reduction="sum"),
        (x, targets),
        theta,
        lambda t: brute.adapted_loss(t, weights, biases, rank, eta, kind, x, targets),
    )


def assert_spectrum(spectrum, dense, k, tolerance=1e-10):
    values = np.linalg.eigvalsh(dense)
    scale = np.max(np.abs(values))
    np.testing.assert_allclose(spectrum.smallest, values[:k], rtol=0, atol=tolerance * scale)
    np.testing.assert_allclose(spectrum.largest, values[-k:], rtol=0, atol=tolerance * scale)
    assert max(spectrum.smallest_residuals.max(), spectrum.largest_residuals.max()) <= 10 * tolerance * scale


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("b_scale", [0.0, 0.4])
@pytest.mark.parametrize(
    ("sizes", "rank", "k", "method"),
    [
        ((4, 3, 2), 1, 3, "dense"),
        ((5, 4, 3), 2, 32, "dense"),
        ((8, 8, 8), 2, 4, "dense"),  # 64 parameters: the last that are
        ((9, 8, 6), 3, 4, "lanczos"),
        ((9, 8, 6), 3, 46, "dense"),
    ],
)
def test_both_ends_against_double_backward(sizes, rank, k, method, kind, b_scale):
    model, loss, data, theta, by_hand = problem(sizes, rank, kind, seed=1, b_scale=b_scale)
    spectrum = network_spectrum(model, loss, data, k)
    assert (spectrum.method, spectrum.dimension) == (method, len(theta))
    assert spectrum.loss == pytest.approx(by_hand(theta).item(), rel=1e-12)
    assert_spectrum(spectrum, brute.dense_hessian(by_hand, theta), k)
    assert max(vars(spectrum.certificate).values()) <= 1e-5


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_a_product_that_is_a_tenth_off_is_refused_however_large_the_parameters(size):
    model, loss, data, *_ = problem((4, 3), 1, "squares", seed=1, b_scale=1.0)
    with torch.no_grad():
        for value in (model[0].a, model[0].b):
            value.mul_(size)
    risk, generator = empirical_risk(model, loss, data), np.random.default_rng(0)
    right = HessianProducts(risk).vector
    network._certify(risk, right, generator)
    with pytest.raises(ArgumentError, match="Hv differs from the gradient's differences"):
        network._certify(risk, lambda v: 1.1 * right(v), generator)


def test_the_same_assertion_rejects_a_wrong_hessian():
    """Negative controls: C halved, and the Gauss–Newton part alone, which is what a linearized network has."""
    model, loss, data, theta, by_hand = problem((9, 8, 6), 3, "squares", seed=1)
    dense = brute.dense_hessian(by_hand, theta)
    is_a = np.concatenate(
        [np.full(p.numel(), name.endswith("a")) for name, p in model.named_parameters() if p.requires_grad]
    )
    halved = np.where(is_a[:, None] == is_a[None, :], 1.0, 0.5) * dense
    spectrum = network_spectrum(model, loss, data, 4)
    assert_spectrum(spectrum, dense, 4)
    assert_rejects(assert_spectrum, spectrum, halved, 4)
    assert_rejects(assert_spectrum, spectrum, np.where(is_a[:, None] | is_a[None, :], 0.0, dense), 4)


def test_one_linear_layer_is_the_closed_form():
    """q ± √(q² + σ²) of `factor_spectrum`, here of an 11 × 8 layer, r = 4: P = 76, by Lanczos."""
    generator = torch.Generator().manual_seed(3)
    layer = LowRankLinear(nn.Linear(8, 11, bias=False).double(), 4, 1.0, generator)
    x, y = torch.randn(20, 8, generator=generator).double(), torch.randn(20, 11, generator=generator).double()
    g = 2 * (layer(x) - y).detach().T @ x
    expected = factor_spectrum(x.numpy(), g.numpy(), layer.a.detach().numpy())
    spectrum = network_spectrum(layer, nn.MSELoss(reduction="sum"), (x, y), 6)
    assert spectrum.method == "lanczos"
    np.testing.assert_allclose(spectrum.smallest, expected[:6], rtol=1e-10)
    np.testing.assert_allclose(spectrum.largest, expected[-6:], rtol=1e-10)


def test_at_a_and_b_zero_every_singular_value_comes_r_times_with_both_signs():
    model, loss, data, theta, by_hand = problem((9, 8, 6), 3, "entropy", seed=2)
    with torch.no_grad():
        model[0].a.zero_(), model[2].a.zero_()
    spectrum = network_spectrum(model, loss, data, 7)
    assert_spectrum(spectrum, brute.dense_hessian(by_hand, torch.zeros_like(theta)), 7)
    np.testing.assert_allclose(spectrum.smallest, -spectrum.largest[::-1], rtol=1e-10)
    np.testing.assert_allclose(spectrum.largest[-3:], spectrum.largest[-1], rtol=1e-10)
    assert spectrum.gradient_norm == 0


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), rank=st.integers(1, 3))
def test_batches_order_and_reduction_do_not_matter(seed, rank):
    model, loss, (x, targets), *_ = problem((6, 5, 4), rank, "entropy", seed, b_scale=0.3)
    whole = network_spectrum(model, loss, (x, targets), 3)
    batches = network_spectrum(model, loss, [(x[:4], targets[:4]), (x[4:], targets[4:])], 3)
    mean = network_spectrum(model, nn.CrossEntropyLoss(), ((x[i], targets[i]) for i in (slice(9, 11), slice(0, 9))), 3)
    scale = np.abs(whole.largest).max() + np.abs(whole.smallest).max()
    for other, factor in ((batches, 1), (mean, len(x))):
        np.testing.assert_allclose(factor * other.smallest, whole.smallest, rtol=0, atol=1e-10 * scale)
        np.testing.assert_allclose(factor * other.largest, whole.largest, rtol=0, atol=1e-10 * scale)
        assert factor * other.loss == pytest.approx(whole.loss)


def test_float32_agrees_with_float64_to_its_own_precision():
    model, loss, (x, targets), theta, by_hand = problem((9, 8, 6), 3, "entropy", seed=4, b_scale=0.2)
    dense = brute.dense_hessian(by_hand, theta)
    spectrum = network_spectrum(model.float(), loss, (x.float(), targets), 4)
    assert_spectrum(spectrum, dense, 4, tolerance=1e-5)
    assert_rejects(assert_spectrum, spectrum, 1.0001 * dense, 4, tolerance=1e-5)


def test_the_model_is_left_as_it_was():
    model, loss, data, *_ = problem((6, 5, 4), 2, "squares", seed=5)
    model.append(nn.Dropout(0.5))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = {name: value.requires_grad for name, value in model.named_parameters()}
    spectrum = network_spectrum(model, loss, data, 2)
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert flags == {name: value.requires_grad for name, value in model.named_parameters()}
    assert all(value.grad is None for value in model.parameters())
    again = network_spectrum(model[:-1], loss, data, 2)
    assert again.smallest.tobytes() == spectrum.smallest.tobytes()


def test_the_mode_is_restored_after_an_error():
    model, loss, (x, targets), *_ = problem((6, 5, 4), 2, "squares", seed=5)
    with pytest.raises(ArgumentError):
        network_spectrum(model.train(), loss, (x[:, :2], targets), 2)
    assert model.training


def test_all_p_eigenvalues_of_least_squares():
    """(2/NC) I ⊗ S of a linear layer: k = P returns every eigenvalue at both ends."""
    model, (x, y) = nn.Linear(6, 5, bias=False).double(), DATA
    spectrum = network_spectrum(model, nn.MSELoss(), (x, y), 30)
    expected = np.sort(np.repeat(2 * np.linalg.eigvalsh((x.T @ x).numpy()) / y.numel(), 5))
    np.testing.assert_allclose(spectrum.smallest, expected, rtol=1e-10)
    assert np.array_equal(spectrum.smallest, spectrum.largest)


def test_least_squares_with_columns_of_many_scales(rng):
    """The smallest eigenvalues lie closer together than Lanczos on ‖H‖'s scale can tell: the whole space is taken."""
    x = torch.tensor(rng.standard_normal((90, 70)) * np.geomspace(1e-3, 1, 70))
    spectrum = network_spectrum(nn.Linear(70, 1, bias=False).double(), nn.MSELoss(), (x, x[:, :1]), 3)
    assert_spectrum(spectrum, 2 / 90 * (x.T @ x).numpy(), 3)
    assert spectrum.products < 12 * 70


class Unused(nn.Module):
    """A hundred parameters that the loss never sees, beside a layer that it does."""

    def __init__(self):
        super().__init__()
        self.linear, self.spare = nn.Linear(6, 5).double(), nn.Parameter(torch.ones(100, dtype=torch.float64))

    def forward(self, x):
        return self.linear(x)


def test_unused_parameters_and_a_constant_loss_give_zeros():
    model = Unused()
    np.testing.assert_allclose(network_spectrum(model, nn.MSELoss(), DATA, 3).smallest, 0, atol=1e-12)
    model.linear.requires_grad_(False)
    spectrum = network_spectrum(model, nn.MSELoss(), DATA, 3)
    assert (spectrum.method, spectrum.gradient_norm, list(spectrum.largest)) == ("lanczos", 0.0, [0.0] * 3)


def test_relu_in_place_is_accepted():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(inplace=True), nn.Linear(7, 5)).double()
    spectrum = network_spectrum(model, nn.MSELoss(), DATA, 3)
    weights = [p.detach() for p in model.parameters()]

    def by_hand(theta):
        w1, c1, w2, c2 = (
            piece.reshape(w.shape) for piece, w in zip(theta.split([w.numel() for w in weights]), weights, strict=True)
        )
        return ((torch.relu(DATA[0] @ w1.T + c1) @ w2.T + c2 - DATA[1]) ** 2).mean()

    assert_spectrum(spectrum, brute.dense_hessian(by_hand, torch.cat([w.flatten() for w in weights])), 3)


class Attention(nn.Module):
    """Takes a mapping, as language models do; fused attention has no second derivative."""

    def __init__(self):
        super().__init__()
        self.project, self.head = nn.Linear(6, 12).double(), nn.Linear(4, 3).double()
        self.register_buffer("scale", torch.tensor(0.5, dtype=torch.float64))

    def forward(self, inputs):
        q, k, v = self.project(inputs["x"])[inputs["rows"]].chunk(3, dim=-1)
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v * self.scale).mean(1))


def test_attention_and_a_mapping_of_inputs():
    torch.manual_seed(2)
    inputs = {"x": torch.randn(4, 5, 6).double(), "rows": torch.arange(4)}
    spectrum = network_spectrum(Attention(), nn.CrossEntropyLoss(), [(inputs, torch.tensor([0, 2, 1, 1]))], 3)
    assert spectrum.method == "lanczos"
    assert spectrum.smallest[0] < 0 < spectrum.largest[-1]


def test_the_certificate_measures_what_it_says():
    """On a quadratic risk central differences are exact: a planted error of each kind comes back in its own size."""
    torch.manual_seed(0)
    risk = empirical_risk(nn.Linear(6, 5, bias=False).double(), nn.MSELoss(), (10 * DATA[0], DATA[1]))
    generator, vector, theta = np.random.default_rng(0), HessianProducts(risk).vector, risk.theta()
    u, v = (network._unit(generator, theta.size) for _ in range(2))
    assert [np.linalg.norm(u), np.linalg.norm(v)] == pytest.approx([1, 1])
    of_product = network._product_error(risk, lambda w: 1.01 * vector(w), theta, 1.0, 1e-12, u)
    assert of_product == pytest.approx(0.01 / 2.01, rel=1e-3)
    skew = generator.standard_normal((theta.size, theta.size))
    skew -= skew.T
    images = [vector(w) + skew @ w for w in (u, v)]
    of_symmetry = network._symmetry_error(lambda w: vector(w) + skew @ w, u, v)
    assert of_symmetry == pytest.approx(abs(2 * u @ skew @ v) / sum(map(np.linalg.norm, images)))

    class Rescaled(EmpiricalRisk):
        def value_and_gradient(self, theta=None, names=None):
            value, gradients = super().value_and_gradient(theta, names)
            return value, [1.01 * part for part in gradients]

    # Along g/‖g‖ and a random unit vector: 0.01/1.01 at least once, and never twice that.
    of_gradient = network._gradient_error(Rescaled(**vars(risk)), theta, 1.0, 1e-12, generator)
    assert 0.99 * 0.01 / 1.01 <= of_gradient <= 2 * 0.01 / 1.01


# -- both ends by Lanczos


P = 120
SIGMA = np.repeat([3.0, 2.0, 1.0], 8)
SPECTRA = {
    "spread": np.linspace(-2, 5, P) ** 3,
    "symmetric, each 8 times": np.concatenate([SIGMA, -SIGMA, np.zeros(P - 48)]),
    "positive, with a kernel": np.concatenate([np.linspace(1, 2, 30), np.zeros(P - 30)]),
    "one spike": np.concatenate([[7.0], np.zeros(P - 1)]),
    "a multiple of the identity": np.full(P, -4.0),
    "zero": np.zeros(P),
    "geometric": np.geomspace(1e-6, 1.0, P),
    "of size 1e-8": 1e-8 * np.linspace(-2, 5, P),
    "of size 1e30": 1e30 * np.linspace(-2, 5, P),
}


def symmetric(values, rng):
    basis = np.linalg.qr(rng.standard_normal((len(values), len(values))))[0]
    return (basis * values) @ basis.T


def ends(matrix, k, **kwargs):
    return lanczos_ends(lambda v: matrix @ v, len(matrix), k, np.random.default_rng(5), **kwargs)


def assert_ends(found, values, k):
    values = np.sort(values)
    scale = np.max(np.abs(values)) or 1.0
    np.testing.assert_allclose(found.smallest, values[:k], rtol=0, atol=1e-9 * scale)
    np.testing.assert_allclose(found.largest, values[-k:], rtol=0, atol=1e-9 * scale)
    assert max(found.smallest_residuals.max(), found.largest_residuals.max()) <= 1e-9 * scale


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("k", [1, 9])
def test_known_spectra(name, k, rng):
    assert_ends(ends(symmetric(SPECTRA[name], rng), k), SPECTRA[name], k)


def test_one_krylov_space_misses_copies(rng):
    """The negative control: one run's values are eigenvalues to their residual, and still not the extreme ones."""
    matrix = symmetric(SPECTRA["symmetric, each 8 times"], rng)
    krylov = [np.eye(P)[0]]
    for _ in range(6):  # seven distinct eigenvalues
        image = matrix @ krylov[-1]
        for vector in krylov * 2:
            image = image - (vector @ image) * vector
        krylov.append(image / np.linalg.norm(image))
    single = ritz_ends(lambda v: matrix @ v, np.stack(krylov, axis=1), 3)[0]
    assert single.largest_residuals.max() < 1e-9
    assert_rejects(assert_ends, single, SPECTRA["symmetric, each 8 times"], 3)


def test_power_iteration_does_not_settle_on_a_symmetric_spectrum(rng):
    """Why Lanczos: v stays a mixture of ±σ, and its Rayleigh quotient is no eigenvalue however small its change."""
    matrix = symmetric(np.concatenate([[2.0, -2.0], np.zeros(P - 2)]), rng)
    v = rng.standard_normal(P)
    quotients = []
    for _ in range(50):
        v = matrix @ v
        v /= np.linalg.norm(v)
        quotients.append(v @ matrix @ v)
    assert abs(quotients[-1] - quotients[-2]) < 1e-12
    assert 2.0 - abs(quotients[-1]) > 1e-3
    assert ends(matrix, 1).largest[0] == pytest.approx(2.0, rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), copies=st.integers(1, 4), k=st.integers(1, 6))
def test_random_spectra_with_copies(seed, copies, k):
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.standard_normal(60 // copies + 1), copies)
    matrix = symmetric(values, rng)
    assert_ends(ends(matrix, k), values, k)
    negated = ends(-matrix, k)
    np.testing.assert_allclose(negated.smallest, -ends(matrix, k).largest[::-1], atol=1e-8)


def test_same_seed_same_bytes(rng):
    matrix = symmetric(SPECTRA["spread"], rng)
    first, second = ends(matrix, 4), ends(matrix, 4)
    assert first.smallest.tobytes() == second.smallest.tobytes()


@pytest.mark.bad_input
def test_too_small_a_dimension(rng):
    with pytest.raises(ArgumentError, match="dimension must be at least 2k"):
        ends(symmetric(np.arange(7.0), rng), 3)


@pytest.mark.bad_input
def test_an_unreachable_tolerance_is_refused(rng, monkeypatch):
    import scipy.sparse.linalg

    original = scipy.sparse.linalg.eigsh
    monkeypatch.setattr(
        scipy.sparse.linalg, "eigsh", lambda *args, **kwargs: original(*args, **kwargs | {"maxiter": 1})
    )
    monkeypatch.setattr(network, "WHOLE", 399)
    with pytest.raises(ArgumentError, match="tolerance: 1e-10 was not reached"):
        ends(symmetric(rng.standard_normal(400), rng), 9)


def test_an_end_that_lanczos_cannot_separate_costs_a_few_p_products(rng):
    matrix, spent = symmetric(SPECTRA["geometric"], rng), []

    def product(v):
        spent.append(1)
        return matrix @ v

    found = lanczos_ends(product, P, 3, np.random.default_rng(5))
    assert_ends(found, SPECTRA["geometric"], 3)
    np.testing.assert_allclose(found.smallest, np.geomspace(1e-6, 1.0, P)[:3], rtol=1e-8)
    assert P < len(spent) < 8 * P


def rough(matrix, size):
    """In ARPACK's place: the right vectors, all perturbed."""

    def arpack(product, start, n_values, shift, tolerance):
        vectors = np.linalg.eigh(matrix)[1]
        extreme = vectors[:, np.r_[: n_values // 2, -(n_values // 2) : 0]]
        return extreme + size * np.random.default_rng(0).standard_normal(extreme.shape)

    return arpack


@pytest.mark.parametrize("name", ["symmetric, each 8 times", "positive, with a kernel"])
def test_rough_vectors_are_polished(name, rng, monkeypatch):
    matrix = symmetric(SPECTRA[name], rng)
    monkeypatch.setattr(network, "_arpack", rough(matrix, 1e-6))
    assert_ends(ends(matrix, 2), SPECTRA[name], 2)


@pytest.mark.bad_input
def test_residuals_beyond_polishing_are_refused(rng, monkeypatch):
    matrix = symmetric(SPECTRA["spread"], rng)
    monkeypatch.setattr(network, "_arpack", rough(matrix, 1e-6))
    monkeypatch.setattr(network, "POLISHING", 0)
    with pytest.raises(ArgumentError, match=r"tolerance: residuals of .* wanted"):
        ends(matrix, 2, tolerance=1e-12)


def test_what_one_run_missed_is_found_by_the_next(rng, monkeypatch):
    """A first run that returns one copy of ±3 and one of ±1: the deflated runs bring the other copies."""
    matrix = symmetric(SPECTRA["symmetric, each 8 times"], rng)
    original, calls = network._arpack, []

    def first_run_misses(*args):
        calls.append(args[2])
        if len(calls) > 1:
            return original(*args)
        values, vectors = np.linalg.eigh(matrix)
        return vectors[:, [np.argmin(np.abs(values - value)) for value in (-3, -1, 1, 3)]]

    monkeypatch.setattr(network, "_arpack", first_run_misses)
    assert_ends(ends(matrix, 2), SPECTRA["symmetric, each 8 times"], 2)
    assert calls[:3] == [4, 2, 4]


def test_a_space_too_small_to_look_again_is_taken_whole(rng):
    """P = 2k + 2 leaves no room for a second run, and 2k + 2 < P ≤ 4k + 2 not for a third, which may be needed."""
    values = np.array([-3.0, -1.0, 0.0, 1.0, 3.0, 3.0])
    assert_ends(ends(symmetric(values, rng), 2), values, 2)
    values = np.repeat([-1.0, -0.88, -0.58, 0.92, 1.18], [8, 5, 19, 14, 20])
    for seed in range(6):
        matrix = symmetric(values, np.random.default_rng(seed))
        assert_ends(lanczos_ends(lambda v: matrix @ v, 66, 31, np.random.default_rng(seed)), values, 31)  # noqa: B023
