"""The edge against dense Hessians, and against torch's optimizers on quadratics and the laboratory's digits, on both
sides of it.
"""

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis.hessian.stable_rate import largest_stable_rate, step_sizes, threshold
from allora_analysis.laboratory import training
from allora_analysis.laboratory.design import Cell
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW
from allora_analysis.validation import ArgumentError

OPTIMIZERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr),
    "momentum": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9),
    "dampened": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.8, dampening=0.3),
    "nesterov": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.0),
    "adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.99)),
    "decayed sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=0.4),
    "decayed adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr, weight_decay=0.05),
    "decayed adam": lambda p, lr: torch.optim.Adam(p, lr=lr, betas=(0.5, 0.99), weight_decay=0.4),
}


def quadratic(size=6, seed=0):
    generator = np.random.default_rng(seed)
    root = generator.standard_normal((size, size))
    return torch.tensor(root @ root.T / size + 0.1 * np.eye(size))


def hold(optimizer, parameter, scale):
    """Adam's corrected second moments are scale² after the next step, as the threshold assumes: taken as constant."""
    state, group = optimizer.state[parameter], optimizer.param_groups[0]
    beta, decay = group.get("betas", (0, 0))[1], 0.0 if group.get("decoupled_weight_decay") else group["weight_decay"]
    if "exp_avg_sq" in state and float(state["step"]):
        wanted = scale**2 * (1 - beta ** (float(state["step"]) + 1))
        state["exp_avg_sq"].fill_(wanted).sub_((1 - beta) * (parameter.grad + decay * parameter.detach()) ** 2).div_(
            beta
        )


def grown(kind, rate, hessian, scale, steps=2000):
    """‖x‖ after some steps from a small random start, over the start's."""
    x = nn.Parameter(1e-9 * torch.randn(len(hessian), generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    x.grad = torch.zeros_like(x)
    optimizer, start = OPTIMIZERS[kind]([x], rate), float(x.detach().norm())
    (group,) = optimizer.param_groups
    decay, group["weight_decay"] = group["weight_decay"], 0.0
    optimizer.step()  # moves nothing, and makes the state
    group["weight_decay"] = decay
    if "step" in optimizer.state[x]:
        optimizer.state[x]["step"].fill_(1e6)  # no bias correction, whose early steps are longer
    for _ in range(steps):
        x.grad = hessian @ x.detach()
        hold(optimizer, x, scale)
        optimizer.step()
        if (ratio := float(x.detach().norm()) / start) > 1e3:
            break
    return ratio


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_quadratic_shrinks_below_the_edge_and_grows_above(kind):
    hessian, scale = quadratic(), 2.0
    x = nn.Parameter(torch.ones(6, dtype=torch.float64))
    rate, adam = 1e-4, "adam" in kind
    optimizer = OPTIMIZERS[kind]([x], rate)
    if adam:
        for grad in (0.0, 1.0):
            x.grad = torch.full_like(x, grad)
            hold(optimizer, x, scale)
            optimizer.step()
    found = largest_stable_rate([x], optimizer, lambda: x @ hessian @ x / 2)
    edge = rate * found.multiple
    if adam and "decayed" not in kind:  # ε aside
        top = float(torch.linalg.eigvalsh(hessian)[-1]) / 2.0
        assert edge == pytest.approx(found.threshold / top, rel=1e-5)
    if "decayed" in kind:  # planted: without the decay the rate is beyond the edge
        top = float(torch.linalg.eigvalsh(hessian)[-1]) / (scale if adam else 1.0)
        assert found.threshold / top > 1.02 * edge
    assert grown(kind, 0.98 * edge, hessian, scale) < 1
    assert grown(kind, 1.02 * edge, hessian, scale) > 1


def test_the_largest_curvature_of_two_layers_against_the_dense_hessian():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4)).double()
    x, y = torch.randn(20, 9).double(), torch.randint(4, (20,))
    parameters = list(model.parameters())
    groups = [{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:], "lr": 0.7}]
    optimizer = torch.optim.AdamW(groups)
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    names = [name for name, _ in model.named_parameters()]
    sizes = [p.numel() for p in parameters]

    def loss(flat):
        values = [part.reshape(p.shape) for part, p in zip(flat.split(sizes), parameters, strict=True)]
        return nn.functional.cross_entropy(
            torch.func.functional_call(model, dict(zip(names, values, strict=True)), x), y
        )

    dense = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in parameters]))
    moments = [optimizer.state[p]["exp_avg_sq"] / (1 - 0.999) for p in parameters]
    rates = torch.cat([torch.full((n,), r).double() for n, r in zip(sizes, (0.1, 0.1, 0.7, 0.7), strict=True)])
    root = (rates / (torch.cat([m.flatten() for m in moments]).sqrt() + 1e-8)).sqrt()
    decay = 0.01 * 38 / 2 * torch.diag(rates)  # AdamW's own default
    top = float(torch.linalg.eigvalsh(root[:, None] * dense * root + decay)[-1])
    found = largest_stable_rate(parameters, optimizer, lambda: nn.functional.cross_entropy(model(x), y), tolerance=1e-8)
    assert found.curvature == pytest.approx(top, rel=1e-6)
    assert found.multiple == pytest.approx(38 / top, rel=1e-6)
    assert found.products > 10
    part = largest_stable_rate(parameters[2:], optimizer, lambda: nn.functional.cross_entropy(model(x), y))
    assert part.multiple > found.multiple  # fewer parameters, no more curvature


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_a_clipped_quadratic_shrinks_below_the_edge_and_grows_above(decay):
    """Along x, beside a slope in y that keeps the gradient's norm at 50, which is clipped at 2."""
    hessian = quadratic()

    def made(start):
        x, y = nn.Parameter(start), nn.Parameter(torch.zeros(1, dtype=torch.float64))
        return x, y, lambda: x @ hessian @ x / 2 + 50 * y.sum()

    x, y, loss = made(1e-9 * torch.ones(6, dtype=torch.float64))
    found = largest_stable_rate([x], torch.optim.SGD([x, y], 0.1, weight_decay=decay), loss, clip=2.0)
    assert found.clipped == pytest.approx(0.04)
    top, edge = float(torch.linalg.eigvalsh(hessian)[-1]), 0.1 * found.multiple
    assert edge == pytest.approx(2 / (0.04 * top + decay), rel=1e-6)
    for factor in (0.98, 1.02):
        x, y, loss = made(1e-9 * torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
        optimizer, start = torch.optim.SGD([x, y], factor * edge, weight_decay=decay), float(x.detach().norm())
        for _ in range(500):
            optimizer.zero_grad()
            loss().backward()
            torch.nn.utils.clip_grad_norm_([x, y], 2.0)
            optimizer.step()
        ratio = float(x.detach().norm()) / start
        assert ratio < 1 if factor < 1 else ratio > 1


def test_adams_edge_is_the_same_at_every_norm_at_which_all_gradients_are_clipped():
    """Its steps are. Planted: without the clipping of the curvature the edges are a factor of 100 apart."""
    x, y = torch.randn(20, 9, generator=torch.Generator().manual_seed(0)).double(), torch.arange(20) % 4
    found = {}
    for clip in (1e-2, 1e-4):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 4)).double()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-20, weight_decay=0.0)

        def loss(model=model):
            return nn.functional.cross_entropy(model(x), y)

        for _ in range(10):
            optimizer.zero_grad()
            loss().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        last = list(model[2].parameters())  # the norm is that of all, whichever the curvature is in
        found[clip] = [largest_stable_rate(last, optimizer, loss, clip=used) for used in (clip, 0.0)]
    (one, one_without), (other, other_without) = found.values()
    assert one.multiple == pytest.approx(other.multiple, rel=1e-5)
    assert one_without.multiple == pytest.approx(100 * other_without.multiple, rel=1e-5)
    assert one.clipped == pytest.approx(100 * other.clipped, rel=1e-5)


def adapting(task, optimizer, rate, head_rate, clip, seed, steps):
    """LoRA and a fresh classifier on the laboratory's digits, the rates falling over 200 steps; how it stands then."""
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randint(training.TRAIN, (201, training.BATCH), generator=generator)
    model = training._adapted(task.network, Cell(optimizer=optimizer, head="l"), generator)
    head = list(model[-1].parameters())
    adapters = [part for layer in model[:-1] for part in layer.parameters() if part.requires_grad]
    groups = [{"params": adapters, "lr": rate}, {"params": head, "lr": head_rate}]
    momentum = training.MOMENTUM if optimizer == "momentum" else 0.0
    adam = optimizer == "adamw"
    made = torch.optim.AdamW(groups, weight_decay=0.0) if adam else torch.optim.SGD(groups, momentum=momentum)

    def loss(step):
        return nn.functional.cross_entropy(model(task.pool[0][batches[step]]), task.pool[1][batches[step]])

    for step in range(steps):
        for group, start in zip(made.param_groups, (rate, head_rate), strict=True):
            group["lr"] = start * (1 - step / 200)
        made.zero_grad()
        loss(step).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(adapters + head, clip)
        made.step()
    return model, made, adapters, head, loss


@pytest.mark.parametrize("clip", [0.0, 0.1])
@pytest.mark.parametrize(
    ("optimizer", "trial", "steps", "head_rate", "trains", "fails"),
    [("sgd", 0.05, 0, 0.1, 0.25, 4.0), ("adamw", 1e-3, 20, 1e-3, 0.25, 4.0), ("momentum", 5e-3, 0, 0.01, 0.05, 1.0)],
    ids=["sgd", "adamw", "momentum"],
)
def test_digits_train_well_below_the_predicted_rate_and_not_well_above(
    optimizer, trial, steps, head_rate, trains, fails, clip, task
):
    """Within a factor of 4; momentum fails below. Planted: without the clipping of the curvature SGD trains at 100
    times the prediction, AdamW at 30 times.
    """
    _, made, adapters, _, loss = adapting(task, optimizer, trial, head_rate, clip, 0, steps)
    rate = made.param_groups[0]["lr"] * largest_stable_rate(adapters, made, lambda: loss(steps), clip=clip).multiple
    x, y = task.test
    found = {}
    for factor in (trains, fails):
        seeds = range(2 if factor == trains else 3)  # of three, as two may be half right, by the processor's rounding
        models = [adapting(task, optimizer, factor * rate, head_rate, clip, seed, 200)[0] for seed in seeds]
        found[factor] = [float((model(x).argmax(dim=1) == y).double().mean()) for model in models]
    assert min(found[trains]) > 0.8  # a guess is 0.2
    assert min(found[fails]) < 0.5


def test_digits_train_with_a_classifier_at_twice_its_own_predicted_rate(task):
    """A fresh classifier's curvature is largest at the start: beyond its edge the loss falls to where it is smaller."""
    model, made, _, head, loss = adapting(task, "sgd", 0.05, 0.1, 0.0, 0, 0)
    assert largest_stable_rate(head, made, lambda: loss(0)).multiple < 0.5
    model, *_ = adapting(task, "sgd", 0.05, 0.1, 0.0, 0, 200)
    assert float((model(task.test[0]).argmax(dim=1) == task.test[1]).double().mean()) > 0.8


def test_clipping_beyond_the_gradient_is_none():
    x = nn.Parameter(torch.ones(6, dtype=torch.float64))
    hessian, optimizer = quadratic(), torch.optim.SGD([x], 0.1)
    with_clip, without = (
        largest_stable_rate([x], optimizer, lambda: x @ hessian @ x / 2, clip=c) for c in (100.0, 0.0)
    )
    assert with_clip == without
    assert without.clipped == 1.0


def of_pair(a0, b0, rate, kind=ALLoRAAdamW, shift=0.0, **options):
    """A pair near (a0, b0), and an optimizer whose second moments are there."""
    generator = torch.Generator().manual_seed(1)
    pair = [nn.Parameter(p + shift * torch.randn(p.shape, generator=generator, dtype=p.dtype)) for p in (a0, b0)]
    for parameter in pair:
        parameter.grad = torch.zeros_like(parameter)
    own = {"pair": True} if kind is ALLoRAAdamW else {}
    optimizer = kind([{"params": pair, **own}], lr=rate, **({"weight_decay": 0.0} | options))
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()  # moves nothing, and makes the state
    optimizer.param_groups[0]["lr"] = rate
    for parameter in pair:
        optimizer.state[parameter]["step"].fill_(1e6)
        optimizer.state[parameter]["exp_avg_sq"].fill_(4.0)
    return pair, optimizer


@pytest.mark.parametrize(("adaptor", "eta"), [("inverse_sqrt", 3.0), ("exponential", 1.5)])
def test_a_pairs_quadratic_shrinks_below_the_edge_and_grows_above(adaptor, eta):
    """Under ALLoRAAdamW, around a rest at which d differs between rows."""
    generator = torch.Generator().manual_seed(0)
    rest = [torch.randn(*shape, generator=generator, dtype=torch.float64) / 3 for shape in ((2, 4), (3, 2))]
    rate, hessian, options = 1e-4, quadratic(14), {"eta": eta, "adaptor": adaptor}

    def away(pair):
        return torch.cat([(p - p0).flatten() for p, p0 in zip(pair, rest, strict=True)])

    pair, optimizer = of_pair(*rest, rate, **options)
    edge = rate * largest_stable_rate(pair, optimizer, lambda: away(pair) @ hessian @ away(pair) / 2).multiple
    plain = torch.optim.AdamW(pair, lr=rate, weight_decay=0.0)
    plain.state.update(optimizer.state)
    without = rate * largest_stable_rate(pair, plain, lambda: away(pair) @ hessian @ away(pair) / 2).multiple
    assert not 0.9 < without / edge < 1.1  # planted: without d the edge is another
    for factor in (0.98, 1.02):
        pair, optimizer = of_pair(*rest, factor * edge, shift=1e-9, **options)
        start = float(away(pair).detach().norm())
        for _ in range(300):
            for parameter, part in zip(pair, (hessian @ away(pair).detach()).split([8, 6]), strict=True):
                parameter.grad = part.view_as(parameter)
                hold(optimizer, parameter, 2.0)
            optimizer.step()
            if (ratio := float(away(pair).detach().norm()) / start) > 1e3:
                break
        assert ratio < 1 if factor < 1 else ratio > 1


def test_a_constant_factor_is_one_of_the_rate():
    """ALLoRAAdamW with h = 4 is AdamW at four times the rate and a quarter of the decay."""
    a0, b0 = torch.full((2, 4), 0.5).double(), torch.full((3, 2), 0.3).double()
    hessian, found = quadratic(14), []
    for kind, rate, options in (
        (ALLoRAAdamW, 1e-3, {"eta": 4.0, "adaptor": "constant", "weight_decay": 0.4}),
        (torch.optim.AdamW, 4e-3, {"weight_decay": 0.1}),
    ):
        pair, optimizer = of_pair(a0, b0, rate, kind, **options)

        def loss(pair=pair):
            flat = torch.cat([p.flatten() for p in pair])
            return flat @ hessian @ flat / 2

        found.append(largest_stable_rate(pair, optimizer, loss).multiple)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_amsgrad_divides_by_the_largest_second_moment():
    x = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([x], lr=0.1, amsgrad=True)
    for gradient in (5.0, 0.1, 0.1):
        before = x.detach().clone()
        x.grad = torch.full_like(x, gradient)
        optimizer.step()
    state = optimizer.state[x]
    moved = (before - x.detach()) / (state["exp_avg"] / (1 - 0.9**3))
    assert torch.allclose(step_sizes(optimizer, [x])[0], moved, rtol=1e-9)
    assert (state["max_exp_avg_sq"] > state["exp_avg_sq"]).all()  # by 0.2 %: the tolerance sees it


@pytest.mark.parametrize("experts", [1, 2])
def test_the_factors_are_what_a_step_multiplies_by(experts):
    """A step of ALLoRAAdamW over AdamW's own, entry by entry."""
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.randn(4, 5).double()), nn.Parameter(torch.randn(3, 4).double())
    a.grad, b.grad = torch.randn(4, 5).double(), torch.randn(3, 4).double()
    group = {"params": [a, b], "pair": True, "scaling": -2.0, "experts": experts}
    optimizer = ALLoRAAdamW([group], lr=1e-3, eta=2.0, weight_decay=0.0)
    factors, before = optimizer.update_factors(optimizer.param_groups[0]), [p.detach().clone() for p in (a, b)]
    optimizer.step()
    for parameter, old, factor in zip((a, b), before, factors, strict=True):
        own = -1e-3 * parameter.grad / (parameter.grad.abs() + 1e-8)  # AdamW's first step
        assert torch.allclose((parameter.detach() - old) / own, factor, rtol=1e-9)
        assert factor.unique().numel() > 1 or (experts == 1 and parameter is a)


def test_thresholds_are_the_known_ones():
    parameter = [nn.Parameter(torch.ones(2))]
    assert [threshold(make(parameter, 0.1)) for make in OPTIMIZERS.values()] == pytest.approx(
        [2, 3.8, 2 * 1.8 / 0.7, 3.8 / 2.8, 38, 6, 3.8, 38, 6]
    )


@pytest.mark.bad_input
@pytest.mark.parametrize("variant", ["allora", "allora_0", "allora_od"])
def test_layers_that_scale_their_gradients_have_no_hessian(variant):
    """Planted: a number came out, of a product that is not even symmetric."""
    layer = ALLoRALinear(nn.Linear(6, 5), 2, 2.0, variant)
    parameters, x = [layer.a, layer.b], torch.ones(3, 6)
    with pytest.raises(ArgumentError, match="goes through ALLoRA's layers, whose backward pass is not its gradient"):
        largest_stable_rate(parameters, torch.optim.SGD(parameters, 0.1), lambda: (layer(x) ** 2).sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_neither_a_parameters_type_nor_naming_it_twice_moves_the_edge(dtype):
    """2/(0.2·2) = 5 times the rate, also where the type has no such rate (1e-7 in float16)."""
    p = nn.Parameter(torch.ones(3, dtype=dtype))
    for lr in (0.2, 1e-7):
        sgd = torch.optim.SGD([p], lr=lr)
        for parameters in ([p], [p, p]):
            found = largest_stable_rate(parameters, sgd, lambda: p.float().square().sum())
            assert found.multiple == pytest.approx(1 / lr, rel=0.02)


def test_mistakes_are_one_line():
    x = nn.Parameter(torch.ones(2))
    sgd = torch.optim.SGD([x], lr=0.1)
    with pytest.raises(ArgumentError, match="at least one tensor"):
        largest_stable_rate([], sgd, lambda: x.sum())
    with pytest.raises(ArgumentError, match="does not hold all"):
        step_sizes(sgd, [nn.Parameter(torch.ones(1))])
    with pytest.raises(ArgumentError, match="no second moments yet"):
        step_sizes(torch.optim.AdamW([x]), [x])
    for other in ("Rprop", "RAdam", "NAdam", "Adamax", "Adagrad"):
        with pytest.raises(ArgumentError, match=f"ALLoRAAdamW wanted, received {other}$"):
            threshold(getattr(torch.optim, other)([x]))
    accelerate = pytest.importorskip("accelerate")
    with pytest.raises(ArgumentError, match=r"received AcceleratedOptimizer; give what it wraps, its \.optimizer$"):
        largest_stable_rate([x], accelerate.Accelerator(cpu=True).prepare(sgd), lambda: x.sum())
    for dampening in (1.0, 2.0):
        with pytest.raises(ArgumentError, match="dampening below 1 wanted, received"):
            threshold(torch.optim.SGD([x], lr=0.1, momentum=0.9, dampening=dampening))
    with pytest.raises(ArgumentError, match="maximize=False wanted"):
        threshold(torch.optim.SGD([x], maximize=True))
    y = nn.Parameter(torch.ones(2))
    mixed = torch.optim.SGD([{"params": [x]}, {"params": [y], "momentum": 0.9}], lr=0.1)
    with pytest.raises(ArgumentError, match=r"thresholds 2, 3\.8; give the parameters of one group"):
        largest_stable_rate([x, y], mixed, lambda: (x * x).sum() + (y * y).sum())
    assert threshold(mixed, [x]) == 2
    assert threshold(mixed, [y]) == pytest.approx(3.8)
    with pytest.raises(ArgumentError, match="one above 0 is wanted"):
        largest_stable_rate([x], sgd, lambda: -(x * x).sum())
    with pytest.raises(ArgumentError, match="no second derivative"):
        largest_stable_rate([x], sgd, lambda: x.detach().sum())
    with pytest.raises(ArgumentError, match="seed must be"):
        largest_stable_rate([x], sgd, lambda: (x * x).sum(), seed=-1)
    with pytest.raises(ArgumentError, match="clip must be"):
        largest_stable_rate([x], sgd, lambda: (x * x).sum(), clip=-1.0)
    with pytest.raises(ArgumentError, match="tolerance"):
        largest_stable_rate([x], sgd, lambda: (x * x).sum(), tolerance=0.0)


@pytest.mark.bad_input
@pytest.mark.parametrize("size", [8, 40])
@pytest.mark.parametrize(
    ("loss", "match"),
    [
        (lambda p: (p * float("nan")).square().sum(), "loss: nan and its second derivatives must be finite"),
        (lambda p: (p.clamp_max(0) ** 1.5).sum() + p.square().sum(), "must be finite"),
        (lambda p: 0 * p.square().sum(), "its largest curvature is 0; one above 0 is wanted"),
    ],
    ids=["nan", "no second derivative", "flat"],
)
def test_what_has_no_curvature_is_one_line_in_few_dimensions_and_in_many(size, loss, match):
    parameter = torch.nn.Parameter(torch.zeros(size))
    with pytest.raises(ArgumentError, match=match):
        largest_stable_rate([parameter], torch.optim.SGD([parameter], lr=0.1), lambda: loss(parameter))
