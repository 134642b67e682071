"""`ALLoRAAdamW` against a NumPy twin that forms BA and torch's AdamW; what it promises: signs, descent, escape."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from allora_analysis.lora import optim
from allora_analysis.lora.functional import allora
from allora_analysis.lora.optim import ALLoRAAdamW
from tests.brute_force import optim as reference
from tests.stat_assert import assert_rejects

BOTH = pytest.mark.parametrize("foreach", [False, True, None])


class Drawn:
    """Gradients drawn beforehand, with a drift and noise: rounding in A and B is not fed back through them.

    (Through a loss it is, and Adam divides by √v̂: entries that nearly vanish grow an error of 1e-16 beyond 1e-12.)
    """

    def __init__(self, rng, n1, n2, r, steps, missing=None):
        shapes, self.steps, self.missing = ((r, n2), (n1, r)), steps, missing
        self.drift = [rng.choice([-1.0, 1.0], size=shape) for shape in shapes]
        self.noise = [rng.normal(size=(steps, *shape)) for shape in shapes]

    def __call__(self, a, b, t):
        pairs = zip(self.drift, self.noise, strict=True)
        return [None if k == self.missing else drift + noise[t] for k, (drift, noise) in enumerate(pairs)]

    def backward(self, a, b, t):
        for parameter, gradient in zip((a, b), self(a, b, t), strict=True):
            parameter.grad = None if gradient is None else torch.tensor(gradient)


class Teacher:
    """L = ½‖s·BAX − Y_t‖² with another Y at every step; gradients by hand for the twin, else by autograd."""

    def __init__(self, rng, n1, n2, samples, scaling, steps):
        self.x, self.scaling, self.steps = rng.normal(size=(n2, samples)), scaling, steps
        self.y = rng.normal(size=(steps, n1, samples))

    def __call__(self, a, b, t):
        g = self.scaling * (self.scaling * b @ a @ self.x - self.y[t]) @ self.x.T
        return b.T @ g, g @ a.T

    def backward(self, a, b, t):
        x, y = torch.tensor(self.x), torch.tensor(self.y[t])
        a.grad = b.grad = None
        (0.5 * ((self.scaling * b @ a @ x - y) ** 2).sum()).backward()


def pair(rng, n1, n2, r, b_size=0.3, dtype=torch.float64):
    a, b = rng.normal(size=(r, n2)) / n2**0.5, b_size * rng.normal(size=(n1, r))
    return nn.Parameter(torch.tensor(a, dtype=dtype)), nn.Parameter(torch.tensor(b, dtype=dtype))


def trained(gradients, a, b, *, scaling=1.0, **options):
    """[(A_t, B_t)] by the optimizer."""
    optimizer = ALLoRAAdamW([{"params": [a, b], "pair": True, "scaling": scaling}], **options)
    path = [(a.detach().numpy().copy(), b.detach().numpy().copy())]
    for t in range(gradients.steps):
        gradients.backward(a, b, t)
        optimizer.step()
        path.append((a.detach().numpy().copy(), b.detach().numpy().copy()))
    return path


def assert_same(path, expected, tolerance=1e-12):
    for (a, b), (want_a, want_b) in zip(path, expected, strict=True):
        for got, want in ((a, want_a), (b, want_b)):
            np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * (1 + np.abs(want).max()))


CASES = [
    # n1, n2, r, scaling, adaptor, eta, betas, decay, size of B at the start
    (5, 7, 2, 1.0, "inverse_sqrt", 4.0, (0.9, 0.999), 0.1, 0.0),
    (5, 7, 2, 2.0, "inverse_sqrt", 2.0, (0.9, 0.99), 0.1, 0.5),
    (3, 4, 3, -0.5, "inverse", 5.0, (0.5, 0.9), 0.0, 0.3),
    (1, 6, 1, 1.5, "exponential", 1.5, (0.0, 0.999), 0.3, 0.3),
    (6, 1, 1, 1.0, "inverse_sqrt", 0.5, (0.9, 0.999), 0.1, 0.3),
    (4, 4, 4, 3.0, "constant", 0.7, (0.9, 0.999), 0.2, 0.3),
    (3, 4, 2, 2.0, "inverse_sqrt", 2.0, (0.9, 0.999), 1.0, 0.3),
    (9, 11, 8, 2.0, "inverse_sqrt", 2.0, (0.9, 0.999), 0.1, 0.3),  # rows of B as long as a vector register, not below
]


@BOTH
@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_the_twin_over_many_steps(rng, case, foreach):
    n1, n2, r, scaling, adaptor, eta, betas, decay, size = case
    gradients, (a, b) = Drawn(rng, n1, n2, r, 120), pair(rng, n1, n2, r, size)
    start = (a.detach().numpy().copy(), b.detach().numpy().copy())
    options = {"lr": 0.01, "eta": eta, "betas": betas, "eps": 1e-8, "adaptor": adaptor}
    path = trained(gradients, a, b, scaling=scaling, weight_decay=decay, foreach=foreach, **options)
    assert_same(path, reference.trajectory(*start, gradients, decay=decay, scaling=scaling, **options))
    assert np.abs(path[-1][1] - path[0][1]).max() > 0.05
    assert np.abs(path[-1][0] - path[0][0]).max() > 0.05


@pytest.mark.parametrize("eta", [1.0, 4.0])
def test_equals_the_twin_on_a_teacher(eta):
    """The gradients too: by autograd on one side, by hand on the other."""
    rng = np.random.default_rng(0)
    teacher, (a, b) = Teacher(rng, 5, 7, 6, 1.5, 100), pair(rng, 5, 7, 2, 0.0)
    start = (a.detach().numpy().copy(), b.detach().numpy().copy())
    path = trained(teacher, a, b, scaling=1.5, lr=0.01, eta=eta, weight_decay=0.1)
    assert_same(path, reference.trajectory(*start, teacher, 0.01, eta, decay=0.1, scaling=1.5), 1e-10)
    assert np.abs(path[-1][1]).max() > 0.05


@pytest.mark.parametrize("planted", [*reference.PLANTED, "exponent_minus_one", "scaling_left_out"])
def test_planted_bugs_are_rejected_by_the_same_assertion(rng, planted):
    scaling, (a, b) = 2.0, pair(rng, 5, 7, 2, 0.5)
    gradients, start = Drawn(rng, 5, 7, 2, 60), (a.detach().numpy().copy(), b.detach().numpy().copy())
    path = trained(gradients, a, b, scaling=scaling, lr=0.01, eta=3.0, weight_decay=0.1)
    wrong = {"scaling": scaling}
    if planted == "exponent_minus_one":
        wrong["adaptor"] = planted
    elif planted == "scaling_left_out":
        wrong["scaling"] = 1.0
    else:
        wrong["rule"] = planted
    right = reference.trajectory(*start, gradients, 0.01, 3.0, decay=0.1, scaling=scaling)
    assert_same(path, right)
    assert_rejects(assert_same, path, reference.trajectory(*start, gradients, 0.01, 3.0, decay=0.1, **wrong))


@pytest.mark.parametrize("missing", [0, 1])
def test_a_pair_of_which_one_has_no_gradient(rng, missing):
    gradients, (a, b) = Drawn(rng, 5, 7, 2, 30, missing), pair(rng, 5, 7, 2)
    start = (a.detach().numpy().copy(), b.detach().numpy().copy())
    path = trained(gradients, a, b, lr=0.01, eta=3.0, weight_decay=0.1)
    assert_same(path, reference.trajectory(*start, gradients, 0.01, 3.0, decay=0.1))
    np.testing.assert_array_equal(path[-1][missing], start[missing])
    assert np.abs(path[-1][1 - missing] - start[1 - missing]).max() > 0.05


def network(seed, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)).to(dtype)


def groups_of(model, eta=None):
    pair_group = {"params": [model[0].weight, model[1].weight], "pair": True}
    return [pair_group | ({} if eta is None else {"eta": eta}), {"params": list(model[3].parameters())}]


def run(model, optimizer, steps, seed=3):
    generator = torch.Generator().manual_seed(seed)
    dtype = model[0].weight.dtype
    for _ in range(steps):
        x = torch.randn(8, 6, generator=generator, dtype=torch.float64).to(dtype)
        y = torch.randn(8, 3, generator=generator, dtype=torch.float64).to(dtype)
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("foreach", [False, True])
def test_with_constant_one_it_is_torchs_adamw_bit_for_bit(foreach, dtype):
    ours, theirs = network(0, dtype), network(0, dtype)
    options = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-6}
    optimizer = ALLoRAAdamW(groups_of(ours), eta=1.0, adaptor="constant", foreach=foreach, **options)
    got = run(ours, optimizer, 200)
    want = run(theirs, torch.optim.AdamW(theirs.parameters(), foreach=foreach, **options), 200)
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"foreach": False},
        {"foreach": True},
        {"fused": True},
        {"amsgrad": True},
        {"maximize": True},
        {"fused": True, "amsgrad": True, "maximize": True},
    ],
    ids=str,
)
def test_what_is_no_pair_gets_torchs_adamw_whatever_eta(options):
    ours, theirs = network(0), network(0)
    a, b = nn.Parameter(torch.ones(2, 6)), nn.Parameter(torch.ones(5, 2))
    groups = [{"params": [a, b]}, {"params": ours.parameters(), "pair": False}]
    got = run(ours, ALLoRAAdamW(groups, 0.01, 9.0, **options), 50)
    want = run(theirs, torch.optim.AdamW(theirs.parameters(), 0.01, **options), 50)
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize("options", [{"amsgrad": True}, {"maximize": True}, {"fused": True, "amsgrad": True}], ids=str)
def test_what_torchs_adamw_can_the_pairs_can(options, rng):
    """With the constant factor 1 from the adaptor itself: η = 1 and BA = 0, B's step held at 0."""
    ours, theirs = network(0), network(0)
    with torch.no_grad():
        ours[1].weight.zero_(), theirs[1].weight.zero_()
    ours[1].weight.requires_grad_(False), theirs[1].weight.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    optimizer = ALLoRAAdamW([{"params": [ours[0].weight, ours[1].weight], "pair": True}], 0.01, 1.0, **options)
    peer = torch.optim.AdamW([theirs[0].weight], 0.01, **options)
    for _ in range(40):
        gradient = torch.randn(2, 6, generator=generator, dtype=torch.float64)
        ours[0].weight.grad, theirs[0].weight.grad = gradient.clone(), gradient.clone()
        optimizer.step(), peer.step()
    torch.testing.assert_close(ours[0].weight, theirs[0].weight, rtol=1e-13, atol=1e-13)
    assert set(optimizer.state[ours[0].weight]) == set(peer.state[theirs[0].weight])


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
def test_the_implementation_changes_nothing(dtype, tolerance):
    """torch's loop and foreach agree to the last bit, its fused kernel (the default on a CPU) to rounding."""
    results = []
    for options in ({"foreach": False}, {"foreach": True}, {"fused": True}, {}):
        model = network(1, dtype)
        results.append(run(model, ALLoRAAdamW(groups_of(model), 0.01, 3.0, **options), 50))
    for other, exact in zip(results[1:], (True, False, False), strict=True):
        for x, y in zip(results[0], other, strict=True):
            assert torch.equal(x, y) if exact else (x - y).abs().max() <= tolerance * y.abs().max()


GROUPS = {"pair": {"pair": True}, "constant": {"pair": True, "adaptor": "constant"}, "plain": {"pair": False}}


@pytest.mark.parametrize("layout", ["transposed", "sliced"])
@pytest.mark.parametrize("fused", [None, True])
@pytest.mark.parametrize("kind", GROUPS)
def test_layouts_with_gaps_or_turned_are_stepped_in_place(layout, fused, kind):
    """Against contiguous copies; the memory beside a slice is not touched."""

    def laid_out(rows, columns, start):
        whole = torch.randn((columns, rows) if layout == "transposed" else (rows, columns + 3), generator=start)
        return nn.Parameter(whole.T if layout == "transposed" else whole[:, :columns]), whole

    start = torch.Generator().manual_seed(4)
    (a, beside_a), (b, beside_b) = laid_out(2, 6, start), laid_out(5, 2, start)
    copies = [nn.Parameter(one.detach().clone(memory_format=torch.contiguous_format)) for one in (a, b)]
    before = [beside.clone() for beside in (beside_a, beside_b)]
    tiny = {"params": [nn.Parameter(torch.zeros(*size)) for size in ((1, 2), (2, 1))], "pair": True}
    pairs = [
        ALLoRAAdamW([{"params": of, **GROUPS[kind]}, copy.deepcopy(tiny)], 0.1, 3.0, fused=fused)
        for of in ([a, b], copies)
    ]
    for _ in range(3):
        for one, twin in zip((a, b), copies, strict=True):
            gradient = torch.randn(one.shape, generator=start)
            one.grad, twin.grad = gradient, gradient.clone()
        for optimizer in pairs:
            optimizer.step()
    for one, twin in zip((a, b), copies, strict=True):
        torch.testing.assert_close(one, twin, rtol=1e-5, atol=1e-6)
    if layout == "sliced":
        assert torch.equal(beside_a[:, 6:], before[0][:, 6:])
        assert torch.equal(beside_b[:, 2:], before[1][:, 2:])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_factor_that_vanishes_leaves_the_decay(dtype):
    """exp(−‖(BA)_i‖) is 0 here: A and B shrink by 1 − lλ, and nothing else moves them."""
    a, b = nn.Parameter(torch.full((2, 6), 40.0, dtype=dtype)), nn.Parameter(torch.full((5, 2), 40.0, dtype=dtype))
    optimizer = ALLoRAAdamW([{"params": [a, b], "pair": True}], 0.5, 2.0, weight_decay=0.5, adaptor="exponential")
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer.step()
    assert (a == 30).all()
    assert (b == 30).all()


def test_a_rate_that_is_a_tensor_stays_one():
    """As in torch: a schedule changes it in place, which a compiled step sees; pairs and what is no pair."""
    results = []
    for rate in (0.01, torch.tensor(0.01, dtype=torch.float64)):
        model = network(2)
        optimizer = ALLoRAAdamW(groups_of(model), rate, 3.0, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (t + 1))
        for _ in range(3):
            run(model, optimizer, 1)
            schedule.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    assert type(optimizer.param_groups[0]["lr"]) is torch.Tensor
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_many_pairs_of_several_shapes_step_as_each_alone(monkeypatch):
    """Pairs of one shape are stacked, some on A's Cholesky factor and some (of rank one, of columns at odds) on QR.

    Their factors are made in pieces, which end inside a pair.
    """
    monkeypatch.setattr(optim, "_CACHED", 50)
    generator, pairs = torch.Generator().manual_seed(0), []
    for index in range(9):
        r, n1, n2 = ((2, 40, 30), (4, 25, 70), (3, 40, 30))[index % 3]
        a, b = (torch.randn(shape, generator=generator) for shape in ((r, n2), (n1, r)))
        pairs.append((a[:1].expand(r, n2).clone() if index == 4 else a * 1e-18 if index == 3 else a, b))
    gradients = [[torch.randn(part.shape, generator=generator) for part in pair] for pair in pairs]

    def stepped(groups):
        for group in groups:
            for parameter, gradient in zip(group["params"], group.pop("gradients"), strict=True):
                parameter.grad = gradient.clone()
        optimizer = ALLoRAAdamW(groups, 0.01, 3.0)
        for _ in range(3):
            optimizer.step()
        return [parameter.detach() for group in groups for parameter in group["params"]]

    def groups():
        return [
            {"params": [nn.Parameter(part.clone()) for part in pair], "pair": True, "scaling": s, "gradients": g}
            for pair, s, g in zip(pairs, (1.0, 2.0, -0.5) * 3, gradients, strict=True)
        ]

    together = stepped(groups())
    alone = [parameter for group in groups() for parameter in stepped([group])]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=1e-8)


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("default", [torch.bfloat16, torch.float16, torch.float64])
def test_the_step_count_is_torchs_whatever_the_default_dtype(default, foreach, request):
    """Planted: the count was of the default dtype, and stayed at 256 in bfloat16."""
    request.addfinalizer(lambda: torch.set_default_dtype(torch.float32))
    torch.set_default_dtype(default)
    ours, theirs = (nn.Parameter(torch.ones(3, dtype=torch.float32)) for _ in range(2))
    optimizer = ALLoRAAdamW([ours], 1e-2, 1.0, adaptor="constant", foreach=foreach)
    peer = torch.optim.AdamW([theirs], 1e-2, foreach=foreach)
    for t in range(300):
        ours.grad, theirs.grad = (torch.tensor([1.0, -2.0, t % 3 - 1.0], dtype=torch.float32) for _ in range(2))
        optimizer.step(), peer.step()
    count = optimizer.state[ours]["step"]
    assert (count.item(), count.dtype) == (300, peer.state[theirs]["step"].dtype)
    assert torch.equal(ours, theirs)


def test_the_first_step_in_low_precision_has_the_factor_in_float32(rng):
    """Norms of BA near 1e-22 vanish in bfloat16's squares, not in float32's; and d = 2.65 differs from the η = 4."""
    a, b = pair(rng, 5, 7, 2, dtype=torch.bfloat16)
    before = b.detach().clone()
    a.grad, b.grad = torch.zeros_like(a), torch.ones_like(b)
    ALLoRAAdamW([a, b], 2.0**-3, 4.0, weight_decay=0.0).step()
    d = reference.row_factor(a.detach().double().numpy(), before.double().numpy(), 4.0)
    # one rounding of d, of the product, of the sum
    np.testing.assert_allclose((before - b.detach()).double().numpy() * 8, np.outer(d, [1, 1]), rtol=0.03)
    assert b.dtype == torch.bfloat16


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**31),
    st.floats(0.1, 50),
    st.sampled_from(["inverse_sqrt", "inverse", "constant"]),
    st.floats(0, 0.95),
    st.floats(0.1, 5),
)
def test_every_entry_keeps_the_sign_of_adamws_own_step(seed, eta, adaptor, beta1, size):
    """From one state, one step of each: the updates' signs agree entry by entry; λ = 0."""
    rng = np.random.default_rng(seed)
    a, b = pair(rng, 4, 5, 2, size)
    ours = ALLoRAAdamW([a, b], 1e-2, eta, (beta1, 0.99), weight_decay=0.0, adaptor=adaptor)
    a2, b2 = nn.Parameter(a.detach().clone()), nn.Parameter(b.detach().clone())
    theirs = torch.optim.AdamW([a2, b2], 1e-2, (beta1, 0.99), weight_decay=0.0)
    for _ in range(4):
        with torch.no_grad():
            a2.copy_(a), b2.copy_(b)
        for mine, other in ((a, a2), (b, b2)):
            mine.grad = torch.tensor(rng.normal(size=mine.shape))
            other.grad = mine.grad.clone()
        start = [a.detach().clone(), b.detach().clone()]
        ours.step(), theirs.step()
        for before, mine, other in zip(start, (a, b), (a2, b2), strict=True):
            moved, want = (mine - before).detach(), (other - before).detach()
            assert torch.equal(moved.sign(), want.sign())
            assert moved.abs().min() > 0


@pytest.mark.parametrize("seed", range(6))
def test_without_momentum_each_step_descends(seed):
    """β₁ = 0, λ = 0: ⟨∇L, step⟩ < 0 exactly, and a small enough step lowers L; random networks, batches and targets."""
    model, generator = network(seed), torch.Generator().manual_seed(seed)
    optimizer = ALLoRAAdamW(groups_of(model), 1e-5, 5.0, betas=(0.0, 0.9), weight_decay=0.0)
    for _ in range(20):
        x, y = (torch.randn(8, n, generator=generator, dtype=torch.float64) for n in (6, 3))
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        optimizer.step()
        slopes = [
            (parameter.grad * (parameter.detach() - start)).sum()
            for parameter, start in zip(model.parameters(), before, strict=True)
        ]
        assert all(slope < 0 for slope in slopes)
        after = ((model(x) - y) ** 2).mean()
        assert after < loss
        # to first order the loss falls by the slope: the step is small enough for the comparison to mean something
        assert abs((after - loss) / sum(slopes) - 1) < 0.01


def test_with_momentum_a_step_can_ascend():
    """The negative control of the test above: the same inequality fails for β₁ = 0.9 when the gradient turns."""
    a, b = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(2, 1))
    optimizer = ALLoRAAdamW([a, b], 1e-3, 2.0, betas=(0.9, 0.99), weight_decay=0.0)
    for value in (1.0, 1.0, -0.01):
        start, b.grad = b.detach().clone(), torch.full((2, 1), value)
        optimizer.step()
    assert (b.grad * (b.detach() - start)).sum() > 0


def size_of_product(optimizer_of, forward, lr, steps, eta=6.0):
    """‖BA‖ by step on a linear teacher, from B = 0."""
    rng = np.random.default_rng(5)
    a, b = pair(rng, 12, 10, 3, 0.0)
    x, y = torch.tensor(rng.normal(size=(40, 10))), torch.tensor(rng.normal(size=(40, 12)))
    optimizer, sizes = optimizer_of([a, b], lr, eta), []
    for _ in range(steps):
        optimizer.zero_grad()
        ((forward(x, a, b, eta) - y) ** 2).mean().backward()
        optimizer.step()
        sizes.append((b @ a).norm().item())
    return np.array(sizes)


def test_escape_from_zero_is_restored():
    """‖BA‖ early: η times AdamW's under `ALLoRAAdamW`; under AdamW with ALLoRA's scaled gradients it is AdamW's own."""

    def adamw(params, lr, eta):
        return torch.optim.AdamW(params, lr, weight_decay=0.0)

    def plain(x, a, b, eta):
        return x @ a.T @ b.T

    lr, steps, eta = 1e-5, 20, 6.0
    lora = size_of_product(adamw, plain, lr, steps)
    undone = size_of_product(adamw, allora, lr, steps) / lora
    restored = size_of_product(lambda p, lr, eta: ALLoRAAdamW(p, lr, eta, weight_decay=0.0), plain, lr, steps) / lora
    np.testing.assert_allclose(undone, 1, atol=0.01)
    np.testing.assert_allclose(restored, eta, rtol=0.02)  # d falls as ‖BA‖ grows: 1.6 % after these steps
    assert restored[0] > restored[-1]
    np.testing.assert_allclose(restored[0], eta, rtol=1e-4)
