"""What `ALLoRAAdamW` saves and loads: as if never stopped, of other rules, of adapters in another order."""

import copy
import io
import json
import warnings

import pytest
import torch
from torch import nn

from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.validation import ArgumentError
from tests.test_lora_optim_groups import built, matrices, step


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
@pytest.mark.parametrize("whose", ["ALLoRAAdamW", "AdamW or another Adam", "SGD", "another optimizer"])
def test_a_state_of_another_optimizer_or_of_more_groups_is_refused_by_name(whose):
    """Planted: torch's "different number of parameter groups", of an SGD with as many not even that."""
    model = with_adapters("one")
    optimizer = ALLoRAAdamW(param_groups(model), 0.1, 2.0)
    sizes, trained = [group["params"] for group in optimizer.param_groups], [*model.parameters()]
    make = {
        "ALLoRAAdamW": lambda: ALLoRAAdamW(param_groups(with_adapters("one", "two")), 0.1, 2.0),
        "AdamW or another Adam": lambda: torch.optim.AdamW([one for one in trained if one.requires_grad]),
        "SGD": lambda: torch.optim.SGD([{"params": one} for one in sizes], 0.1),
        "another optimizer": lambda: torch.optim.Adagrad([one for one in trained if one.requires_grad]),
    }[whose]
    with pytest.raises(ArgumentError, match=f"^state_dict: of {whose}, .* this ALLoRAAdamW has .*optimizer.pt") as told:
        optimizer.load_state_dict(make().state_dict())
    assert "\n" not in str(told.value)


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
