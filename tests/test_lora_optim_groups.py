"""Groups and refusals of `ALLoRAAdamW`."""

import copy

import pytest
import torch
from torch import nn

from allora_analysis.lora import optim
from allora_analysis.lora.functional import row_factor
from allora_analysis.lora.optim import ALLoRAAdamW
from allora_analysis.validation import ArgumentError


def matrices(seed=0, n1=5, n2=6, r=2, **options):
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator, **options)) for shape in ((r, n2), (n1, r))]


def step(optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    optimizer.step()


def built(seed=0, **options):
    params = [*matrices(seed), nn.Parameter(torch.ones(3))]
    groups = [{"params": params[:2], "scaling": 2.0}, {"params": params[2:], "lr": 0.5}]
    return params, ALLoRAAdamW(groups, **({"lr": 0.1, "eta": 3.0} | options))


# -- which groups are pairs


@pytest.mark.parametrize(
    ("first", "second", "said", "is_pair"),
    [
        ((2, 6), (5, 2), None, True),
        ((2, 6), (5, 2), True, True),
        ((2, 6), (5, 2), False, False),
        ((4, 4), (4, 4), None, True),  # square: the shapes do not tell A from B, the order does
        ((5, 2), (2, 6), None, False),  # B, then A
        ((5, 6), (5,), None, False),  # a head's weight and bias
        ((8, 3), (4, 8), None, False),  # chained, but no low rank: two layers of a network
        ((8, 3), (4, 8), True, True),
        ((1, 6), (5, 1), None, True),
    ],
)
def test_two_matrices_whose_shapes_chain_are_a_pair_unless_said_otherwise(first, second, said, is_pair):
    params = [nn.Parameter(torch.ones(first)), nn.Parameter(torch.ones(second))]
    group = {"params": params} | ({} if said is None else {"pair": said})
    assert ALLoRAAdamW([group], 0.1, 1.0, adaptor="constant").param_groups[0]["pair"] is is_pair
    if said is None:
        assert ALLoRAAdamW(params, 0.1, 1.0, adaptor="constant").param_groups[0]["pair"] is is_pair
        assert ALLoRAAdamW(iter(params), 0.1, 1.0, adaptor="constant").param_groups[0]["pair"] is is_pair


def test_of_two_square_matrices_the_first_is_a():
    a, b = matrices(n1=4, n2=4, r=4, dtype=torch.float64)
    d, before = row_factor(a.detach(), b.detach(), 2.0), [a.detach().clone(), b.detach().clone()]
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    ALLoRAAdamW([a, b], 0.1, 2.0, eps=0.0, weight_decay=0.0).step()
    torch.testing.assert_close((before[1] - b).detach() / 0.1, d[:, None].expand(4, 4))
    torch.testing.assert_close((before[0] - a).detach() / 0.1, d.mean().expand(4, 4))


def test_a_group_sets_its_own_values_and_can_be_added_later():
    params, optimizer = built()
    a, b = matrices(1)
    optimizer.add_param_group(
        {"params": [a, b], "pair": True, "eta": 7.0, "adaptor": "constant", "eps": 0.0, "lr": 0.2}
    )
    assert [group["pair"] for group in optimizer.param_groups] == [True, False, True]
    assert [group["eta"] for group in optimizer.param_groups] == [3.0, 3.0, 7.0]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.5, 0.2]
    before = b.detach().clone()
    a.grad, b.grad = torch.ones_like(a), torch.ones_like(b)
    optimizer.step()
    torch.testing.assert_close(b.detach(), before * (1 - 0.2 * 0.01) - 0.2 * 7.0)
    assert all(parameter.grad is None for parameter in params)


def test_named_parameters_are_taken():
    a, b = matrices()
    optimizer = ALLoRAAdamW([("down", a), ("up", b)], 0.1, 2.0)
    assert optimizer.param_groups[0]["pair"]
    assert optimizer.param_groups[0]["param_names"] == ["down", "up"]


def test_a_group_that_holds_pairs_among_others_is_counted_in_a_warning():
    """Planted: they got plain AdamW without a word."""
    (a, b), (c, d), (e, f) = (matrices(seed) for seed in range(3))
    bias = nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match=r"2 pairs \(A, B\) in groups of more than two parameters get plain AdamW"):
        ALLoRAAdamW([{"params": [a, b]}, {"params": iter([c, d, bias, e, f])}], 0.1, 2.0)
    ALLoRAAdamW([{"params": [a, b]}, {"params": [c, d, bias, e, f], "pair": False}], 0.1, 2.0)


@pytest.mark.parametrize("copied", [False, True])
def test_pairs_that_are_added_in_one_group_are_counted_too(copied):
    """Planted: a second adapter, added in one group, trained as plain LoRA without a word."""
    (a, b), (c, d), (e, f), last = (matrices(seed) for seed in range(4))
    optimizer = ALLoRAAdamW([a, b], 0.1, 2.0)
    optimizer = copy.deepcopy(optimizer) if copied else optimizer
    with pytest.warns(UserWarning, match=r"2 pairs \(A, B\) in groups of more than two") as told:
        optimizer.add_param_group({"params": iter([c, d, e, f])})
    assert len(told) == 1
    assert 'add each as a group, {"params": [A, B], "pair": True, "scaling": s}' in str(told[0].message)
    optimizer.add_param_group({"params": last})  # a pair: no warning, which is an error here
    optimizer.add_param_group({"params": [*matrices(5), *matrices(6)], "pair": False})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "asked", [{"eta": 2.0}, {"eta": 0.5}, {"eta": 1.0}, {"eta": 2.0, "adaptor": "constant"}], ids=str
)
def test_without_a_pair_it_would_be_adamw(asked):
    """Planted: bit for bit AdamW, without a word. With the constant factor 1, and no other, it is AdamW as asked."""
    four = [parameter for seed in range(2) for parameter in matrices(seed)]
    for params in (four, [{"params": four}], [nn.Parameter(torch.ones(2))], [{"params": matrices(), "pair": False}]):
        with pytest.raises(ArgumentError, match=r"no group is a pair \(A, B\), so eta = .* would do nothing") as caught:
            ALLoRAAdamW(params, 0.1, **asked)
        assert "call ALLoRAAdamW(param_groups(model), lr, eta), in a Trainer" in str(caught.value)
        assert "\n" not in str(caught.value)
    ALLoRAAdamW(four, 0.1, 1.0, adaptor="constant")


@pytest.mark.bad_input
@pytest.mark.parametrize("wrapped", [False, True])
def test_tuples_of_tensors_are_refused(wrapped):
    """Planted: of [(A, B)] only B was trained, A taken for its name."""
    tuples = [tuple(matrices())]
    with pytest.raises(
        ArgumentError, match=r'received a tuple of tensors; give each pair as \{"params": \[A, B\], "pair"'
    ):
        ALLoRAAdamW([{"params": tuples}] if wrapped else tuples, 0.1, 2.0)


@pytest.mark.bad_input
def test_a_model_is_no_list_of_groups():
    with pytest.raises(ArgumentError, match=r"received the model; call ALLoRAAdamW\(param_groups\(model\)"):
        ALLoRAAdamW(nn.Linear(2, 3), 0.1, 2.0)


def test_how_pairs_are_sharded():
    """By rows, whole pairs alone."""
    from torch.distributed.tensor import Replicate, Shard

    a, b = matrices()
    a.placements, b.placements, b.device_mesh = (Replicate(),), (Shard(0),), "mesh"
    assert optim._layout(optim._Member(a, b, 1.0, 1, (0, 1))) == ((Replicate(),), (Shard(0),), "mesh")
    for experts, place in ((2, Shard(0)), (1, Shard(1))):
        b.placements = (place,)
        with pytest.raises(ArgumentError, match="shard on axis 0, and no experts"):
            optim._layout(optim._Member(a, b, 1.0, experts, (0, 1)))


def test_of_what_is_sharded_a_step_takes_this_processes_part():
    (a, *_), optimizer = built()
    step(optimizer, 0)
    part = a.detach()[:1]
    assert optimizer._tensors([a], False).parameters[0] is a
    a.to_local = lambda: part
    assert optimizer._tensors([a], False).parameters[0] is part


def test_a_users_dictionary_is_left_as_it_is():
    group = {"params": matrices()}
    ALLoRAAdamW([group], 0.1, 2.0)
    assert set(group) == {"params"}


# -- torch's conventions


def test_one_tensor_is_a_group_and_a_set_is_none():
    bias = nn.Parameter(torch.ones(3))
    assert ALLoRAAdamW([{"params": matrices()}, {"params": bias}], 0.1, 2.0).param_groups[1]["params"] == [bias]
    with pytest.raises(TypeError, match="ordered collections"):
        ALLoRAAdamW([{"params": set(matrices())}], 0.1, 2.0)


def test_closure_and_schedulers():
    params, optimizer = built()
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)

    def closure():
        optimizer.zero_grad()
        loss = sum((parameter**2).sum() for parameter in params)
        loss.backward()
        return loss

    before = [parameter.detach().clone() for parameter in params]
    loss = optimizer.step(closure)
    assert loss.item() == pytest.approx(sum((start**2).sum().item() for start in before))
    assert not any(torch.equal(x, y) for x, y in zip(before, params, strict=True))
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.05, 0.25]


def test_a_rate_of_zero_moves_nothing_and_no_gradient_is_no_step():
    params, optimizer = built(lr=0.0)
    before = [parameter.detach().clone() for parameter in params]
    with pytest.warns(UserWarning, match=r"no parameter of its groups has a gradient.*: param_groups.model"):
        assert optimizer.step() is None
    assert not optimizer.state
    step(optimizer, 0)
    assert all(torch.equal(x, y) for x, y in zip(before[:2], params[:2], strict=True))
    assert not torch.equal(before[2], params[2])


def test_groups_of_another_model_are_named_once():
    """Planted: a cell that makes the model anew and keeps the groups trained nothing, in silence."""
    params, optimizer = built()
    loss = sum((parameter.detach().clone().requires_grad_() ** 2).sum() for parameter in params)
    loss.backward()
    with pytest.warns(UserWarning, match="this step trains nothing; are they another model's") as told:
        optimizer.step()
    assert len(told) == 1
    optimizer.step()  # a warning is an error here


def test_a_later_step_that_trains_nothing_is_named_once():
    """Planted: after `set_adapter` the first adapter's optimizer went on without a word."""
    _, optimizer = built()
    step(optimizer, 0)
    optimizer.zero_grad()
    with pytest.warns(UserWarning, match=r"this step trains nothing; was another adapter switched on .set_adapter."):
        optimizer.step()
    optimizer.step()  # a warning is an error here
    step(optimizer, 1)


def test_under_a_gradient_scaler_infinite_gradients_skip_the_step():
    params, optimizer = built()
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    before = [parameter.detach().clone() for parameter in params]
    for factor in (float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(sum((parameter**2).sum() * factor for parameter in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = [not torch.equal(x, y) for x, y in zip(before, params, strict=True)]
        assert all(moved) if factor == 1.0 else not any(moved)


# -- a caller's mistakes


class FlatParameter(nn.Parameter):
    """As FSDP1 makes it of all parameters of a block."""


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"lr": -0.1}, "lr must be a finite number, 0 or above, received -0.1"),
        ({"lr": float("nan")}, "lr must be"),
        ({"eta": 0.0}, "eta must be a finite number above 0, received 0.0"),
        ({"eta": 1e-160}, r"eta must be in \[1e-18, 1e\+18\], received 1e-160: 1/eta² leaves float32's range"),
        ({"eta": -2.0}, "eta must be"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers in"),
        ({"betas": (-0.1, 0.9)}, "betas must be two numbers in"),
        ({"betas": (0.9,)}, "betas must be two numbers in"),
        ({"eps": -1e-8}, "eps must be"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
        ({"lr": torch.tensor(0.1), "foreach": True}, "lr must be a number where foreach is True, received a tensor"),
        (
            {"adaptor": "square"},
            "adaptor must be one of inverse_sqrt, inverse, exponential, constant; received 'square'",
        ),
    ],
)
def test_values_out_of_range(wrong, words):
    with pytest.raises(ArgumentError, match=words) as caught:
        ALLoRAAdamW(matrices(), **({"lr": 0.1, "eta": 2.0} | wrong))
    assert "\n" not in str(caught.value)
    optimizer = ALLoRAAdamW(matrices(), 0.1, 2.0)
    with pytest.raises(ArgumentError, match=words):
        optimizer.add_param_group({"params": matrices()} | wrong)
    assert len(optimizer.param_groups) == 1


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("group", "words"),
    [
        ({"params": [torch.ones(5, 2), torch.ones(2, 6)], "pair": True}, r"a pair is A \(r, n2\), then B \(n1, r\)"),
        ({"params": [torch.ones(5, 2)], "pair": True}, r"received shapes \(5, 2\)"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2), torch.ones(5)], "pair": True}, "a pair is A"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2)], "pair": "yes"}, "pair must be True or False"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2)], "foreach": "yes"}, "foreach must be None or True or"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2)], "amsgrad": None}, "amsgrad must be True or False, received"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2)], "fused": True, "foreach": True}, "at most one can be True"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2)], "scaling": float("inf")}, "scaling must be"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2).double()]}, "A and B of one dtype wanted"),
        ({"params": [torch.ones(2, 6), torch.ones(5, 2, device="meta")]}, "A and B of one device wanted"),
        ({"params": [FlatParameter(torch.ones(12))]}, r"FSDP1's flattened ones; use FSDP2"),
        ({"params": [torch.ones(3, dtype=torch.complex64)]}, "real floating-point parameters wanted"),
        ({"params": torch.ones(3, dtype=torch.int32)}, "real floating-point parameters wanted"),
    ],
)
def test_wrong_groups(group, words):
    with pytest.raises(ArgumentError, match=words):
        ALLoRAAdamW([group], 0.1, 2.0)


@pytest.mark.bad_input
def test_sparse_gradients_are_refused_before_anything_moves():
    params, table = matrices(), nn.Embedding(4, 3, sparse=True)
    optimizer = ALLoRAAdamW([{"params": params}, {"params": table.parameters()}], 0.1, 2.0)
    before = params[1].detach().clone()
    (table(torch.tensor([1])).sum() + sum(parameter.sum() for parameter in params)).backward()
    with pytest.raises(ArgumentError, match="dense gradients wanted, received sparse ones"):
        optimizer.step()
    assert torch.equal(before, params[1])


@pytest.mark.bad_input
def test_a_number_of_experts_that_does_not_divide_the_rank():
    with pytest.raises(ArgumentError, match="experts: a divisor of A's 4 rows wanted, received 3"):
        ALLoRAAdamW([{"params": experts_of(4), "pair": True, "experts": 3}], 0.01, 3.0)


def experts_of(rank):
    return [nn.Parameter(torch.ones(rank, 5)), nn.Parameter(torch.ones(6, rank))]
