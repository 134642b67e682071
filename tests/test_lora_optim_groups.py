"""Groups, states and refusals of `ALLoRAAdamW`."""

import copy
import io
import json
import warnings

import pytest
import torch
from torch import nn

from allora_analysis.lora import optim
from allora_analysis.lora.functional import row_factor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
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
        ALLoRAAdamW([{"params": [a, b]}, {"params": [c, d, bias, e, f]}], 0.1, 2.0)
    ALLoRAAdamW([{"params": [a, b]}, {"params": [c, d, bias, e, f], "pair": False}], 0.1, 2.0)


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
        assert str(caught.value).endswith("call ALLoRAAdamW(param_groups(model), lr, eta)")
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
    assert optimizer.step() is None
    assert not optimizer.state
    step(optimizer, 0)
    assert all(torch.equal(x, y) for x, y in zip(before[:2], params[:2], strict=True))
    assert not torch.equal(before[2], params[2])


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


# -- states


def saved_and_loaded(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def plain(value):
    if isinstance(value, dict):
        return all(plain(key) and plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(plain(item) for item in value)
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)


@pytest.mark.parametrize("foreach", [False, True])
def test_a_run_goes_on_from_a_saved_state_as_if_never_stopped(foreach):
    whole, straight = built(foreach=foreach)
    for seed in range(6):
        step(straight, seed)
    half, first = built(foreach=foreach)
    for seed in range(3):
        step(first, seed)
    assert plain(first.state_dict())
    resumed, second = built(seed=1, foreach=foreach, lr=9.0, eta=9.0)
    with torch.no_grad():
        for new, old in zip(resumed, half, strict=True):
            new.copy_(old)
    with pytest.warns(UserWarning, match=r"the saved eta 3.0, not with 9.0"):
        second.load_state_dict(saved_and_loaded(first.state_dict()))
    assert second.param_groups[0]["eta"] == 3.0
    assert second.param_groups[0]["scaling"] == 2.0
    for seed in range(3, 6):
        step(second, seed)
    assert all(torch.equal(x, y) for x, y in zip(whole, resumed, strict=True))


def test_lists_in_place_of_tuples_step_alike():
    """Full state dicts of torch.distributed.checkpoint, and JSON, have lists where tuples were; so may a user."""
    params, optimizer = built(betas=(0.8, 0.95))
    twins, twin = built(betas=(0.8, 0.95))
    for one in (optimizer, twin):
        step(one, 0)
    state = optimizer.state_dict()
    optimizer.load_state_dict(state | {"param_groups": json.loads(json.dumps(state["param_groups"]))})
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)
    optimizer.param_groups[1]["betas"] = [0.8, 0.95]
    for one in (optimizer, twin):
        step(one, 1)
    assert all(torch.equal(x, y) for x, y in zip(params, twins, strict=True))


@pytest.mark.bad_input
def test_a_state_whose_values_are_out_of_range_is_refused():
    _, optimizer = built()
    state = optimizer.state_dict()
    state["param_groups"][0]["betas"] = [0.9, 1.0]
    with pytest.raises(ArgumentError, match="betas must be two numbers in"):
        optimizer.load_state_dict(state)


def test_a_deep_copy_goes_its_own_way():
    params, optimizer = built()
    step(optimizer, 0)
    twin = copy.deepcopy(optimizer)
    step(twin, 1)
    before = [parameter.detach().clone() for parameter in params]
    copied = [parameter for group in twin.param_groups for parameter in group["params"]]
    assert all(torch.equal(x, y) for x, y in zip(before, params, strict=True))
    step(optimizer, 1)
    assert all(torch.equal(x, y) for x, y in zip(copied, params, strict=True))


def test_a_state_of_adamw_loads_and_eta_and_the_pairs_stay():
    params, optimizer = built()
    other = [nn.Parameter(parameter.detach().clone()) for parameter in params]
    adamw = torch.optim.AdamW([{"params": other[:2]}, {"params": other[2:]}], lr=0.3)
    step(adamw, 0)
    optimizer.load_state_dict(adamw.state_dict())
    assert [(group["pair"], group["eta"], group["lr"]) for group in optimizer.param_groups] == [
        (True, 3.0, 0.3),
        (False, 3.0, 0.3),
    ]
    torch.testing.assert_close(optimizer.state[params[0]]["exp_avg"], adamw.state[other[0]]["exp_avg"])
    step(optimizer, 1)
    assert optimizer.state[params[0]]["step"].item() == 2


@pytest.mark.parametrize(
    ("name", "saved", "own"),
    [("eta", 2.0, 8.0), ("adaptor", "inverse_sqrt", "inverse"), ("scaling", 1.0, 0.5)],
)
def test_a_state_of_another_eta_warns_in_one_line_and_says_the_way_out(name, saved, own):
    def of(value):
        a, b = matrices()
        return ALLoRAAdamW([{"params": [a, b], name: value}, {"params": [nn.Parameter(torch.ones(3))]}], 0.1, 2.0)

    optimizer, state = of(own), of(saved).state_dict()
    with pytest.warns(
        UserWarning, match=f"1 of 1 pairs go on with the saved {name} {saved!r}, not with {own!r}"
    ) as told:
        optimizer.load_state_dict(state)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert optimizer.param_groups[0][name] == saved
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        of(saved).load_state_dict(state)
        optimizer.load_state_dict(state)


@pytest.mark.parametrize("rule", ["maximize", "amsgrad", "fused"])
def test_a_state_of_another_rule_brings_its_rule(rule):
    """As in torch: with the saved groups; planted: an optimizer that was built with the rule steps alike."""
    params, optimizer = built()
    twins, twin = built(**{rule: True})
    other = torch.optim.AdamW([{"params": params[:2]}, {"params": params[2:], "lr": 0.5}], lr=0.1, **{rule: True})
    for one in (other, twin):
        step(one, 0)
    with torch.no_grad():
        for new, old in zip(twins, params, strict=True):
            new.copy_(old)
    for one in (optimizer, twin):
        one.load_state_dict(copy.deepcopy(other.state_dict()))
        assert one.param_groups[0][rule]
        step(one, 1)
    assert all(torch.equal(x, y) for x, y in zip(params, twins, strict=True))


def with_adapters(*names):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=2, target_modules=["0", "2"], lora_bias=True)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)), config, names[0])
    for name in names[1:]:
        model.add_adapter(name, config)
    model.base_model.set_adapter(list(names))
    return model


def moments(model, optimizer):
    return {name: optimizer.state[one]["exp_avg"] for name, one in model.named_parameters() if one in optimizer.state}


@pytest.mark.parametrize("wrapped", [lambda model: model, lambda model: torch.compile(model, backend="eager")])
def test_a_state_goes_by_name_to_adapters_that_were_added_in_another_order(wrapped):
    model, other = with_adapters("first", "second"), with_adapters("second", "first")
    optimizer, later = (ALLoRAAdamW(param_groups(one), 0.1, 2.0) for one in (model, wrapped(other)))
    for seed, parameter in enumerate(one for group in optimizer.param_groups for one in group["params"]):
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        later.load_state_dict(saved_and_loaded(optimizer.state_dict()))
    expected, found = moments(model, optimizer), moments(other, later)
    assert len(expected) == 12  # A, B and the bias of two layers and two adapters
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert later.param_groups[0]["name"].endswith("0 (second)")


def test_a_state_of_adapters_of_other_names_is_taken_in_order_with_a_warning():
    optimizer, other = (
        ALLoRAAdamW(param_groups(with_adapters(*names)), 0.1, 2.0) for names in (("one", "two"), ("three", "two"))
    )
    with pytest.warns(UserWarning, match=r"no 'base_model.model.0 \(three\)' but 'base_model.model.0 \(one\)', …: mom"):
        other.load_state_dict(optimizer.state_dict())
    again = ALLoRAAdamW(param_groups(with_adapters("three", "two")), 0.1, 2.0)
    again.load_state_dict(other.state_dict())  # goes on under its own names, without a warning


def test_names_inside_a_group_stay_the_optimizers_own():
    def made(head):
        model = nn.ModuleDict({"layer": ALLoRALinear(nn.Linear(6, 6), 2, 1.0, "lora_x_eta"), head: nn.Linear(6, 2)})
        return ALLoRAAdamW(param_groups(model), 0.1, 2.0)

    later = made("score")
    later.load_state_dict(made("classifier").state_dict())
    assert later.param_groups[1]["names"] == ["score.weight", "score.bias"]


@pytest.mark.bad_input
def test_a_state_of_more_groups_is_refused():
    optimizer = ALLoRAAdamW(param_groups(with_adapters("one", "two")), 0.1, 2.0)
    with pytest.raises(ValueError, match="different number of parameter groups"):
        ALLoRAAdamW(param_groups(with_adapters("one")), 0.1, 2.0).load_state_dict(optimizer.state_dict())


@pytest.mark.bad_input
def test_a_state_of_other_groups_is_refused():
    _, optimizer = built()
    step(optimizer, 0)
    a, b = matrices(n1=4)
    other = ALLoRAAdamW([{"params": [a, b]}, {"params": [nn.Parameter(torch.ones(3))]}], 0.1, 2.0)
    with pytest.raises(ArgumentError, match=r"state_dict: exp_avg of shape \(5, 2\) for a parameter of shape \(4, 2\)"):
        other.load_state_dict(optimizer.state_dict())
    off = ALLoRAAdamW(
        [{"params": [a, b], "pair": False}, {"params": [nn.Parameter(torch.ones(3))]}], 0.1, 1.0, adaptor="constant"
    )
    with pytest.raises(ArgumentError, match="state_dict: a group is a pair there and no pair here"):
        off.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="group"):
        ALLoRAAdamW([a, b], 0.1, 2.0).load_state_dict(optimizer.state_dict())


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
