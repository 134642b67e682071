"""Optimizers, wrappers, hooks and layers as a run has them: what the doctor says of each beside what they do."""

import copy
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from allora_analysis.lora.callback import DoctorCallback
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.doctor.trial import optimizer_effect
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.watch import FactorUndone
from tests.test_lora_doctor import adapters, backward, distances, twins


class Signed(Optimizer):
    """SGD, or with `normalized` sign descent; the option is no default of a group."""

    def __init__(self, params, lr=0.1, normalized=False):
        super().__init__(params, {"lr": lr})
        self.normalized = normalized

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for one in (one for one in group["params"] if one.grad is not None):
                one -= group["lr"] * (one.grad.sign() if self.normalized else one.grad)


class Keywords(torch.optim.Adam):
    def __init__(self, params, **options):
        super().__init__(params, **options)


class Unbuilt(Signed):
    """Cannot be built from a group alone, and keeps its own list of what it trains."""

    def __init__(self, params, lr, *, must):
        super().__init__(params, lr, normalized=must == "sign")
        self.own = [one for group in self.param_groups for one in group["params"]]

    @torch.no_grad()
    def step(self):
        for one in self.own:
            one -= self.param_groups[0]["lr"] * (one.grad.sign() if self.normalized else one.grad)


def response(optimizer):
    found = optimizer_effect(optimizer, optimizer.param_groups[0])
    return found.response if found.measured else None


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: Signed(p), 1),
        (lambda p: Signed(p, normalized=True), 0),
        (lambda p: Keywords(p, eps=1e3), 1),
        (lambda p: Keywords(p), 0),
        (lambda p: Unbuilt(p, 0.1, must="sgd"), 1),
        (lambda p: Unbuilt(p, 0.1, must="sign"), 0),
    ],
)
def test_an_optimizer_is_tried_with_the_options_that_it_was_made_with(make, expected):
    weights = [nn.Parameter(torch.ones(6, 4)) for _ in range(2)]
    assert response(make(weights)) == pytest.approx(expected, abs=1e-2)
    assert all(torch.equal(one, torch.ones(6, 4)) for one in weights)


def test_a_trial_steps_neither_the_model_nor_its_optimizer():
    """A scheduler puts a `step` of the optimizer itself in the class's place."""
    models = twins()
    optimizers = [Unbuilt(adapters(model), 0.1, must="sign") for model in models]
    optimizers[0].register_step_post_hook(lambda *_: pytest.fail("a hook of the run"))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizers[0], lambda step: 1.0)
    before = copy.deepcopy(models[0].state_dict())
    assert doctor(backward(models[0]), optimizers[0]).verdict == "off"
    assert all(torch.equal(one, before[key]) for key, one in models[0].state_dict().items())
    assert optimizers[0].own == adapters(models[0])
    assert schedule.optimizer is optimizers[0]
    optimizers[0]._optimizer_step_post_hooks.clear()
    assert distances(models, optimizers, 1)[0] < 1e-9


def test_bitsandbytes_sgd_is_tried():
    """Its momentum is no setting of a group, and 0 is refused."""
    bnb = pytest.importorskip("bitsandbytes")
    optimizer = bnb.optim.SGD([nn.Parameter(torch.ones(6, 4))], 0.1, momentum=0.9)
    assert response(optimizer) == pytest.approx(1, abs=2e-3)


class SignByGroup(Optimizer):
    """Sign descent where the group says so, SGD elsewhere."""

    def __init__(self, params, lr, use_sign=False):
        super().__init__(params, {"lr": lr, "use_sign": use_sign})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for one in (one for one in group["params"] if one.grad is not None):
                one -= group["lr"] * (one.grad.sign() if group["use_sign"] else one.grad)


@pytest.mark.parametrize("signs", [(True, False), (False, True), (True, True), (False, False)])
def test_each_layer_is_judged_by_its_own_group(signs):
    model = backward(twins()[0])
    groups = [{"params": [model[at].a, model[at].b], "use_sign": sign} for at, sign in zip((0, 2), signs, strict=True)]
    expected = ["undone" if sign else "on the gradient" for sign in signs]
    asked, silent = SignByGroup(groups, 1e-3), SignByGroup(copy.copy(groups), 1e-3)
    found = doctor(model, asked)
    assert [layer.effect for layer in found.layers] == expected
    assert [layer.optimizer.response for layer in found.layers] == pytest.approx([1.0 - sign for sign in signs])
    assert found.optimizer.response == pytest.approx(1.0 - any(signs))
    assert found.verdict == {2: "off", 1: "partly", 0: "on"}[sum(signs)]
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        silent.step()
    assert [str(one.message).startswith("ALLoRA is OFF") for one in told] == [all(signs)] * any(signs)
    assert all(f"ALLoRA's layers ({sum(signs)}) train as LoRA" in str(one.message) for one in told)


def normalized(gradient):
    return gradient / (gradient.norm(dim=1, keepdim=True) + 1e-12)


@pytest.mark.parametrize(
    ("hook", "kind", "verdict"),
    [
        (normalized, torch.optim.SGD, "unknown"),
        (normalized, torch.optim.AdamW, "off"),
        (lambda gradient: gradient, torch.optim.SGD, "on"),
    ],
)
def test_a_hook_that_undoes_the_factor_is_not_on(hook, kind, verdict):
    models = twins()
    for pair in (pair for model in models for pair in lora_pairs(model)):
        pair.a.requires_grad_(False)
        pair.b.register_hook(hook)
    optimizers = [kind([one for one in adapters(model) if one.requires_grad], 1e-3) for model in models]
    found = doctor(backward(models[0]), optimizers[0])
    assert found.verdict == verdict
    assert {layer.backward for layer in found.layers} == {"as stated" if verdict == "on" else "another"}
    assert ("backward" in {line.code for line in found.advice}) == (verdict != "on")
    assert (distances(models, optimizers, 1)[0] < 1e-3) == (verdict != "on")


@pytest.mark.parametrize("which", ["a", "b", None])
def test_a_hook_after_the_backward_pass_is_named_but_the_callbacks_own(which):
    callback, model = examined(DoctorCallback(step=1), twins()[0].float(), which)
    lines = {line.code: line for found in callback.diagnoses.values() for line in found.advice}
    assert ("hooks" in lines) == (which is not None)
    assert which is None or (lines["hooks"].level, lines["hooks"].text[:13]) == ("note", "A or B of '0'")
    assert all(not one._post_accumulate_grad_hooks for one in adapters(model)[2:])


def examined(callback, model, hooked=None, value=None):
    """What the callback finds at the first step; of layer 0 a part has a hook, or a gradient is `value`."""
    arguments = SimpleNamespace(max_grad_norm=0.0, fsdp="", deepspeed=None)
    state = SimpleNamespace(global_step=0, log_history=[], is_world_process_zero=True)
    if hooked:
        getattr(model[0], hooked).register_post_accumulate_grad_hook(lambda one: None)
    if value is not None:
        model[0].b.register_post_accumulate_grad_hook(lambda one: one.grad.__setitem__(0, value))
    callback.on_step_begin(arguments, state, None, model=model)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    callback.on_pre_optimizer_step(arguments, state, None, model=backward(model), optimizer=optimizer)
    return callback, model


def test_the_callback_warns_of_a_problem_under_the_verdict_on():
    callback = DoctorCallback(step=1)
    with pytest.warns(UserWarning, match=r"^ALLoRA is on \(step 0\): the gradient of '0' is not finite"):
        examined(callback, twins()[0].float(), value=float("nan"))
    assert callback.diagnoses[0].verdict == "on"
    examined(callback, twins()[0].float(), value=1.0)  # no warning, which is an error here


class Half(nn.Module):
    """Of two layers with ALLoRA the second is not called."""

    def __init__(self):
        super().__init__()
        self.called, self.idle = (ALLoRALinear(nn.Linear(6, 3), 2, 4.0) for _ in range(2))

    def forward(self, x):
        return self.called(x)


@pytest.mark.parametrize(("kind", "verdict"), [(torch.optim.SGD, "on"), (torch.optim.AdamW, "off")])
def test_a_layer_that_no_gradient_reached_is_not_on(kind, verdict):
    model = Half()
    optimizer = kind(model.parameters(), lr=1e-3)
    before = doctor(model, optimizer)
    assert len({layer.effect for layer in before.layers}) == 1
    assert "no gradient" not in {line.code for line in before.advice}
    found = doctor(backward(model), optimizer)
    assert (found.verdict, found.layers[1].effect) == (verdict, "no gradient")
    assert found.layers[0].effect == before.layers[0].effect
    (line,) = [line for line in found.advice if line.code == "no gradient"]
    assert line.text.startswith("no gradient reached 'idle', though others have one: never called")
    model.called.requires_grad_(False)  # its gradient is an old one
    assert doctor(model, optimizer).layers[1].effect == before.layers[1].effect


@pytest.mark.parametrize(("frozen", "rates"), [(True, (None, 1.6e-3)), (False, (1e-4, 1.6e-3))])
def test_a_frozen_a_that_the_optimizer_holds_has_no_rate(frozen, rates):
    """LoRA-FA is not LoRA+."""
    model = twins()[1]
    for pair in lora_pairs(model):
        pair.a.requires_grad_(not frozen)
    groups = [{"params": adapters(model)[::2], "lr": 1e-4}, {"params": adapters(model)[1::2], "lr": 1.6e-3}]
    found = doctor(backward(model), torch.optim.AdamW(groups), allora=False)
    assert {layer.rates for layer in found.layers} == {rates}
    assert ("LoRA+" in {line.code for line in found.advice}) == (not frozen)


class RowsOfOne(Optimizer):
    """Divides each row of a gradient by its norm, then steps another optimizer."""

    def __init__(self, optimizer, rows=True):
        self.optimizer, self.rows = optimizer, rows
        super().__init__(optimizer.param_groups, {})

    @torch.no_grad()
    def step(self):
        for one in (one for group in self.param_groups for one in group["params"] if one.grad is not None):
            if self.rows and one.ndim > 1:
                one.grad /= one.grad.norm(dim=1, keepdim=True) + 1e-30
        self.optimizer.step()


class Bare:
    """No torch optimizer, and hands on all but the step."""

    def __init__(self, optimizer, rows=True):
        self.optimizer = optimizer
        self.own = RowsOfOne(optimizer, rows)

    @property
    def param_groups(self):
        return self.optimizer.param_groups

    def step(self):
        self.own.step()


@pytest.mark.filterwarnings("ignore::allora_analysis.lora.watch.FactorUndone")
@pytest.mark.parametrize("kind", [RowsOfOne, Bare])
@pytest.mark.parametrize(("rows", "expected"), [(True, "off"), (False, "on")])
def test_a_wrapper_whose_step_changes_gradients_is_tried_as_it_is(kind, rows, expected):
    models = twins()
    optimizers = [kind(torch.optim.SGD(adapters(model), 1e-3, momentum=0.9), rows) for model in models]
    for _ in range(2):  # before the inner optimizer has a state and after
        found = doctor(backward(models[0]), optimizers[0])
        assert (found.verdict, found.optimizer.name) == (expected, kind.__name__)
        apart = distances(models, optimizers, 1)[0]
        assert apart < 1e-3 if expected == "off" else apart > 1


@pytest.mark.parametrize("itself", [True, False])
def test_an_optimizer_that_refers_to_itself_is_tried(itself):
    optimizer = Unbuilt([nn.Parameter(torch.ones(6, 4))], 0.1, must="sign")
    optimizer.other = optimizer if itself else torch.optim.SGD(optimizer.own, 0.1)
    optimizer.other.parent = optimizer
    optimizer.other.add_param_group({"params": []})
    assert response(optimizer) == pytest.approx(0, abs=1e-9)


def test_a_wrapper_that_undoes_the_factor_is_named_where_nobody_asked():
    model = backward(twins()[0])
    with pytest.warns(FactorUndone, match="ALLoRA is OFF: RowsOfOne"):
        RowsOfOne(torch.optim.SGD(model.parameters(), 1e-3)).step()


def test_accelerates_wrapper_is_looked_through():
    accelerate = pytest.importorskip("accelerate")
    model = twins()[0]
    prepared = accelerate.Accelerator(cpu=True).prepare_optimizer(torch.optim.SGD(model.parameters(), 1e-3))
    assert doctor(backward(model), prepared).optimizer.name == "SGD"
