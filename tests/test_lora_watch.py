"""An optimizer that undoes ALLoRA's factor is named at its first step, once, where nobody asked the doctor."""

import copy
import warnings
import weakref

import pytest
import torch
from torch import nn

from allora_analysis.lora import watch
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs

# What SGD is worth nothing without: the Trainer clips unless it is told not to.
NO_CLIPPING = r"torch.optim.SGD without clipping \(max_grad_norm=0\) at a rate of its own, usually far above Adam's, or"


def adapted(variant: str = "allora") -> nn.Module:
    return nn.Sequential(ALLoRALinear(nn.Linear(6, 5), 2, 2.0, variant), nn.Tanh(), nn.Linear(5, 3))


def in_peft(**options) -> nn.Module:
    peft = pytest.importorskip("peft")
    from allora_analysis.lora.peft import allora_config

    return peft.get_peft_model(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)), allora_config(**options))


def step(model: nn.Module, optimizer, times: int = 1) -> None:
    for _ in range(times):
        optimizer.zero_grad()
        model(torch.randn(4, 6, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        optimizer.step()


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("made", [adapted, lambda: in_peft(target_modules=["0", "2"], r=2, eta=2.0)])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop, torch.optim.Adagrad])
def test_what_divides_the_factor_out_is_named_once(made, kind):
    model = made()
    optimizer = kind(trained(model), lr=1e-3)
    with pytest.warns(watch.FactorUndone, match=rf"ALLoRA is OFF: {kind.__name__} .*use {NO_CLIPPING}") as told:
        step(model, optimizer, times=3)
    assert len(told) == 1
    assert told[0].filename == __file__


@pytest.mark.parametrize("variant", ["asf_lora", "lora_x_eta"])
def test_a_factor_of_the_forward_pass_is_not_undone(variant):
    model = adapted(variant)
    step(model, torch.optim.AdamW(trained(model), lr=1e-3))


def test_a_factor_of_one_is_not_undone():
    """Planted: adaptor "constant" and η = 1, which is LoRA as asked, was named."""
    model = nn.Sequential(ALLoRALinear(nn.Linear(6, 5), 2, 1.0, adaptor="constant"), nn.Tanh(), nn.Linear(5, 3))
    step(model, torch.optim.AdamW(trained(model), lr=1e-3))


def test_what_keeps_the_factor_is_not_named():
    model = adapted()
    step(model, torch.optim.SGD(trained(model), lr=1e-3, momentum=0.9))
    plain = nn.Sequential(nn.Linear(6, 3))
    step(plain, torch.optim.AdamW(plain.parameters(), lr=1e-3))  # has none of the layers
    lora = in_peft(target_modules=["0"], r=2, eta=2.0, variant="lora_x_eta")
    step(lora, ALLoRAAdamW(param_groups(lora, head_lr=1e-3), lr=1e-3, eta=2.0))


def test_a_frozen_or_inactive_layer_is_not_meant():
    model = in_peft(target_modules=["0"], r=2, eta=2.0)
    model.requires_grad_(False)
    model.base_model.model[2].requires_grad_(True)
    step(model, torch.optim.AdamW(model.parameters(), lr=1e-3))


def test_whoever_asked_the_doctor_is_not_told_twice():
    model = adapted()
    optimizer = torch.optim.AdamW(trained(model), lr=1e-3)
    assert doctor(model, optimizer).verdict == "off"
    step(model, optimizer)


@pytest.mark.parametrize("before", ["merged", "frozen", "held by none"])
def test_what_comes_after_the_doctor_was_asked_is_looked_at(before):
    model = in_peft(target_modules=["0"], r=2, eta=2.0)
    head, pair = list(model.base_model.model[2].requires_grad_(True).parameters()), lora_pairs(model)[0]
    optimizer = torch.optim.AdamW(head if before == "held by none" else trained(model), lr=1e-3)
    if before == "merged":
        model.merge_adapter()
    for part in (pair.a, pair.b):
        part.requires_grad_(before != "frozen")
    doctor(model, optimizer)
    if before == "merged":
        model.unmerge_adapter()
    if before == "held by none":
        optimizer.add_param_group({"params": [pair.a, pair.b]})
    for part in (pair.a, pair.b):
        part.requires_grad_(True)
    with pytest.warns(watch.FactorUndone, match="ALLoRA is OFF"):
        step(model, optimizer)


def test_it_can_be_made_an_error():
    model = adapted()
    with warnings.catch_warnings():
        warnings.simplefilter("error", watch.FactorUndone)
        with pytest.raises(watch.FactorUndone):
            step(model, torch.optim.AdamW(trained(model), lr=1e-3))


def test_a_look_that_fails_does_not_end_the_run(monkeypatch):
    """Planted: on a device without float64 (Apple's MPS) `optimizer.step()` raised."""

    def raising(*arguments):
        raise TypeError("no float64\nhere")

    monkeypatch.setattr("allora_analysis.lora.doctor.trial.effects_on", raising)
    model = adapted()
    before = model[0].b.detach().clone()
    with pytest.warns(UserWarning, match=r"AdamW makes .* could not be looked at \(TypeError: no float64\)$") as told:
        step(model, torch.optim.AdamW(trained(model), lr=1e-3), times=3)
    assert len(told) == 1
    assert not torch.equal(model[0].b, before)


def test_the_looking_changes_no_step():
    pair = []
    for looked in (True, False):
        torch.manual_seed(0)
        model = adapted()
        optimizer = torch.optim.AdamW(trained(model), lr=1e-3)
        if not looked:
            watch.known(optimizer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", watch.FactorUndone)
            step(model, optimizer)
        pair.append([torch.cat([one.flatten() for one in trained(model)]), torch.rand(3)])
    assert torch.equal(pair[0][0], pair[1][0])
    assert torch.equal(pair[0][1], pair[1][1])  # nor the draws after it


@pytest.mark.parametrize("made", [adapted, lambda: in_peft(target_modules=["0"], r=2, eta=2.0)])
def test_a_copy_and_a_model_from_a_file_are_watched_too(made, tmp_path):
    model = made()
    torch.save(model, tmp_path / "model.pt")
    for other in (copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        with pytest.warns(watch.FactorUndone):
            step(other, torch.optim.AdamW(trained(other), lr=1e-3))


@pytest.mark.parametrize("before", ["merged", "another adapter"])
def test_what_is_switched_on_later_is_looked_at_again(before):
    model = in_peft(target_modules=["0"], r=2, eta=2.0)
    model.add_adapter("plain", pytest.importorskip("peft").LoraConfig(r=2, target_modules=["0"]))
    parameters = [one for name, one in model.named_parameters() if "lora" in name or ".2." in name]
    model.base_model.model[2].requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    model.merge_adapter() if before == "merged" else model.set_adapter("plain")
    step(model, optimizer)
    model.unmerge_adapter() if before == "merged" else model.set_adapter("default")
    with pytest.warns(watch.FactorUndone, match="ALLoRA is OFF"):
        step(model, optimizer)


def test_what_holds_a_alone_undoes_a_part():
    model = adapted()
    step(model, torch.optim.SGD([model[0].b], lr=1e-3))
    with pytest.warns(watch.FactorUndone, match=r"^AdamW undoes a part of the factor"):
        step(model, torch.optim.AdamW([model[0].a], lr=1e-3))


def test_whose_b_another_optimizer_holds_is_a_part_though_one_b_is_frozen():
    model = nn.Sequential(*(ALLoRALinear(nn.Linear(6, 6), 2, 2.0) for _ in range(3)))
    model[2].b.requires_grad_(False)
    step(model, torch.optim.SGD([layer.b for layer in model[:2]], lr=1e-3))
    with pytest.warns(watch.FactorUndone, match=r"^AdamW undoes a part of the factor .*\(3\)"):
        step(model, torch.optim.AdamW([layer.a for layer in model], lr=1e-3))


def test_a_step_leaves_no_weak_reference_on_a_parameter():
    """torch swaps none that has one, and so moves no DTensor."""
    model = adapted()
    step(model, torch.optim.SGD(trained(model), lr=1e-3))
    assert all(weakref.getweakrefcount(one) == 0 for one in model.parameters())


def test_an_id_that_was_anothers_is_not_believed():
    model, other = adapted(), adapted()
    watch._PLACES.update({id(one): weakref.ref(other[0]) for one in model.parameters()})
    with pytest.warns(watch.FactorUndone, match="ALLoRA is OFF"):
        step(model, torch.optim.AdamW(trained(model), lr=1e-3))


def test_a_vector_of_no_layer_has_no_layer_searched(monkeypatch):
    model = nn.Sequential(adapted()[0], nn.LayerNorm(5))
    step(model, torch.optim.SGD([model[0].a], lr=1e-3))
    monkeypatch.setattr(watch, "_LAYERS", {None})  # which has no parameters to search
    step(model, torch.optim.SGD(model[1].parameters(), lr=1e-3))


def test_an_optimizer_is_judged_at_the_size_of_the_gradients_as_by_the_doctor():
    """At gradients of size 1 this one undoes a part; at these its step is the gradient's."""
    model = adapted()
    made = [torch.optim.AdamW(trained(model), lr=1e-3, eps=1.0) for _ in range(2)]
    (1e-4 * model(torch.ones(4, 6))).square().sum().backward()
    assert doctor(model, made[0]).verdict == "on"
    made[1].step()  # no warning, which is an error here


def test_of_many_optimizers_each_looks_at_its_own_layer_alone(monkeypatch):
    model = nn.Sequential(*(ALLoRALinear(nn.Linear(6, 6), 2, 2.0) for _ in range(20)))
    optimizers, looked = [torch.optim.SGD([one], lr=1e-3) for one in trained(model)], []
    find = watch.lora_pairs
    monkeypatch.setattr(watch, "lora_pairs", lambda layer: looked.append(layer) or find(layer))
    model(torch.ones(4, 6)).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    assert len(looked) == len(optimizers) == 40


def test_what_is_thawed_or_added_later_is_looked_at_again():
    model = adapted()
    layer, head = model[0], list(model[2].parameters())
    for pair in (layer.a, layer.b):
        pair.requires_grad_(False)
    whole, later = torch.optim.AdamW(model.parameters(), lr=1e-3), torch.optim.AdamW(head, lr=1e-3)
    step(model, whole)
    step(model, later)
    for pair in (layer.a, layer.b):
        pair.requires_grad_(True)
    later.add_param_group({"params": [layer.a, layer.b]})
    for optimizer in (whole, later):
        with pytest.warns(watch.FactorUndone):
            step(model, optimizer)


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 1e6])
def test_an_adapter_in_another_group_is_looked_at_though_the_first_keeps_its_factor(asked, eps):
    """Planted: whoever had judged one pair of an optimizer knew it for good."""
    model = in_peft(target_modules=["0"], r=2, eta=2.0)
    optimizer = torch.optim.AdamW(trained(model), lr=1e-3, eps=1e6)  # far above the gradients: they are the step
    if asked:
        doctor(model, optimizer)
    step(model, optimizer, times=2)
    before = {id(one) for one in trained(model)}
    from allora_analysis.lora.peft import allora_config

    model.add_adapter("later", allora_config(target_modules=["2"], r=2, eta=2.0))
    model.base_model.set_adapter(["default", "later"])
    added = [one for one in trained(model) if id(one) not in before]
    optimizer.add_param_group({"params": added, "eps": eps})
    if eps == 1e6:
        step(model, optimizer, times=2)  # no warning, which is an error here
        return
    with pytest.warns(watch.FactorUndone, match=r"^AdamW divides .*layers \(1\) train") as told:
        step(model, optimizer, times=3)
    assert len(told) == 1


@pytest.mark.parametrize("asked", [False, True])
def test_pairs_that_were_judged_are_not_named_again_for_one_that_keeps_its_factor(asked):
    model = nn.Sequential(*(ALLoRALinear(nn.Linear(6, 6), 2, 2.0) for _ in range(2)))
    optimizer = torch.optim.AdamW([model[0].a, model[0].b], lr=1e-3)
    if asked:
        doctor(model, optimizer)
    else:
        with pytest.warns(watch.FactorUndone):
            step(model, optimizer)
    step(model, optimizer)
    optimizer.add_param_group({"params": [model[1].a, model[1].b], "eps": 1e6})
    step(model, optimizer, times=2)


@pytest.mark.parametrize("cleared", [False, True])
@pytest.mark.parametrize("eps", [1e-16, 1e-2])
def test_with_a_closure_the_gradients_size_decides_as_without(eps, cleared):
    """Planted: before its first gradients AdamW was tried at gradients of 1, where this ε undoes the factor."""
    model = adapted()
    optimizer = torch.optim.AdamW(trained(model), lr=1e-3, eps=eps)

    def closure():
        optimizer.zero_grad()
        loss = (1e-4 * model(torch.ones(4, 6))).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    if cleared:  # so that no step ever begins with one
        optimizer.zero_grad()
    if eps == 1e-2 and not cleared:
        optimizer.step(closure)
        return
    with pytest.warns(
        watch.FactorUndone, match=r"OFF.*gradients of 1\)" if cleared else r"OFF.*gradients of \S+e-\d+\)"
    ):
        optimizer.step(closure)
