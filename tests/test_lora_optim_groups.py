"""Groups, states and refusals of `ALLoRAAdamW`; `param_groups` of a model, PEFT's or the toolkit's own."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from allora_analysis.hessian import add_adapters
from allora_analysis.lora.functional import row_factor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs
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
    assert ALLoRAAdamW([group], 0.1, 1.0).param_groups[0]["pair"] is is_pair
    if said is None:
        assert ALLoRAAdamW(params, 0.1, 1.0).param_groups[0]["pair"] is is_pair
        assert ALLoRAAdamW(iter(params), 0.1, 1.0).param_groups[0]["pair"] is is_pair


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
@pytest.mark.parametrize("eta", [2.0, 0.5])
def test_without_a_pair_it_would_be_adamw(eta):
    """Planted: bit for bit AdamW, without a word. At η = 1 it is AdamW by its own formula at BA = 0."""
    four = [parameter for seed in range(2) for parameter in matrices(seed)]
    for params in (four, [{"params": four}], [nn.Parameter(torch.ones(2))], [{"params": matrices(), "pair": False}]):
        with pytest.raises(ArgumentError, match=r"no group is a pair \(A, B\), so eta = .* would do nothing") as caught:
            ALLoRAAdamW(params, 0.1, eta)
        assert str(caught.value).endswith("call ALLoRAAdamW(param_groups(model), lr, eta)")
        assert "\n" not in str(caught.value)
    ALLoRAAdamW(four, 0.1, 1.0)


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


def test_a_users_dictionary_is_left_as_it_is():
    group = {"params": matrices()}
    ALLoRAAdamW([group], 0.1, 2.0)
    assert set(group) == {"params"}


# -- torch's conventions


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
    second.load_state_dict(saved_and_loaded(first.state_dict()))
    assert second.param_groups[0]["eta"] == 3.0
    assert second.param_groups[0]["scaling"] == 2.0
    for seed in range(3, 6):
        step(second, seed)
    assert all(torch.equal(x, y) for x, y in zip(whole, resumed, strict=True))


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


@pytest.mark.bad_input
def test_a_state_of_other_groups_is_refused():
    _, optimizer = built()
    step(optimizer, 0)
    a, b = matrices(n1=4)
    other = ALLoRAAdamW([{"params": [a, b]}, {"params": [nn.Parameter(torch.ones(3))]}], 0.1, 2.0)
    with pytest.raises(ArgumentError, match=r"state_dict: exp_avg of shape \(5, 2\) for a parameter of shape \(4, 2\)"):
        other.load_state_dict(optimizer.state_dict())
    off = ALLoRAAdamW([{"params": [a, b], "pair": False}, {"params": [nn.Parameter(torch.ones(3))]}], 0.1, 1.0)
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
        ({"eta": -2.0}, "eta must be"),
        ({"betas": (0.9, 1.0)}, "betas must be two numbers in"),
        ({"betas": (-0.1, 0.9)}, "betas must be two numbers in"),
        ({"betas": (0.9,)}, "betas must be two numbers in"),
        ({"eps": -1e-8}, "eps must be"),
        ({"weight_decay": -1.0}, "weight_decay must be"),
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


peft = pytest.importorskip("peft")


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.first, self.norm = nn.Embedding(11, 6), nn.Linear(6, 8), nn.LayerNorm(8)
        self.second, self.classifier = nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, tokens):
        return self.classifier(torch.tanh(self.second(self.norm(self.first(self.embed(tokens))))).mean(1))


def adapted(**options):
    fields = {"r": 2, "lora_alpha": 6, "target_modules": ["first", "second"], "modules_to_save": ["classifier"]}
    return peft.get_peft_model(MLP(), peft.LoraConfig(**(fields | options)))


def names_of(model, groups):
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in groups]


def assert_each_trainable_once(model, groups):
    held = [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]
    assert len(held) == len(set(held))
    assert set(held) == {parameter for parameter in model.parameters() if parameter.requires_grad}


def test_groups_of_a_peft_model():
    model = adapted()
    groups = param_groups(model, lr=1e-3, head_lr=1e-4, weight_decay=0.1)
    assert_each_trainable_once(model, groups)
    assert [group["name"] for group in groups] == [
        "base_model.model.first (default)",
        "base_model.model.second (default)",
        "head",
    ]
    assert [group["pair"] for group in groups] == [True, True, False]
    assert [group["scaling"] for group in groups[:2]] == [3.0, 3.0]
    assert [group["lr"] for group in groups] == [1e-3, 1e-3, 1e-4]
    assert [group["weight_decay"] for group in groups] == [0.1] * 3
    assert names_of(model, groups)[0] == [
        "base_model.model.first.lora_A.default.weight",
        "base_model.model.first.lora_B.default.weight",
    ]
    assert all("classifier" in name for name in names_of(model, groups)[2])
    optimizer = ALLoRAAdamW(param_groups(model, head_lr=0.5), 0.1, 2.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.5]


def test_only_the_active_adapter_of_several_is_trained():
    model = adapted(modules_to_save=None)
    model.add_adapter("other", peft.LoraConfig(r=3, lora_alpha=3, target_modules=["second"]))
    assert [group["name"] for group in param_groups(model)] == [
        "base_model.model.first (default)",
        "base_model.model.second (default)",
    ]
    model.set_adapter("other")
    (group,) = param_groups(model)
    assert group["name"] == "base_model.model.second (other)"
    assert group["scaling"] == 1.0
    assert_each_trainable_once(model, [group])


@pytest.mark.parametrize(
    ("options", "word"),
    [({"lora_bias": True}, "lora_B.default.bias"), ({"use_dora": True}, "lora_magnitude_vector.default.weight")],
)
def test_what_else_an_adapter_trains_goes_at_its_rate(options, word):
    model = adapted(**options)
    groups = param_groups(model, lr=1e-3, head_lr=1e-4)
    assert_each_trainable_once(model, groups)
    assert [group["name"] for group in groups[2:]] == ["adapters", "head"]
    assert [group["lr"] for group in groups[2:]] == [1e-3, 1e-4]
    assert [name.endswith(word) for name in names_of(model, groups)[2]] == [True, True]


def test_an_embeddings_adapter_is_a_pair_and_a_frozen_matrix_stays_in_its_pair():
    model = adapted(target_modules=["embed"])
    groups = param_groups(model)
    assert groups[0]["name"] == "base_model.model.embed (default)"
    assert [tuple(parameter.shape) for parameter in groups[0]["params"]] == [(2, 11), (6, 2)]
    groups[0]["params"][0].requires_grad_(False)
    assert_each_trainable_once(model, param_groups(model))
    assert len(param_groups(model)[0]["params"]) == 2


def test_groups_of_the_toolkits_own_layers():
    model = add_adapters(MLP(), 2, 5.0, torch.Generator().manual_seed(0))
    model.norm.requires_grad_(True)
    groups = param_groups(model, weight_decay=0.0)
    assert_each_trainable_once(model, groups)
    assert [(group["name"], group["pair"], group.get("scaling")) for group in groups] == [
        ("first", True, 5.0),
        ("second", True, 5.0),
        ("classifier", True, 5.0),
        ("head", False, None),
    ]


def test_one_step_of_a_peft_model_moves_b_by_the_factor():
    model = adapted().double()
    optimizer = ALLoRAAdamW(param_groups(model), 1e-3, 4.0, weight_decay=0.0)
    pairs = lora_pairs(model)
    with torch.no_grad():
        for pair in pairs:
            pair.b.copy_(torch.randn(pair.b.shape))
    d = [row_factor(pair.a * 3.0, pair.b, 4.0).detach() for pair in pairs]
    before = [pair.b.detach().clone() for pair in pairs]
    model(torch.arange(8).reshape(2, 4)).square().sum().backward()
    optimizer.step()
    for pair, start, factor in zip(pairs, before, d, strict=True):
        moved = (pair.b.detach() - start).abs() / 1e-3
        torch.testing.assert_close(moved, factor[:, None].expand_as(moved), rtol=1e-4, atol=0)


@pytest.mark.bad_input
def test_models_without_a_trainable_pair_are_refused():
    for model in (MLP(), adapted(inference_mode=True), nn.Linear(2, 3)):
        with pytest.raises(ArgumentError, match="no trainable LoRA pair found"):
            param_groups(model)


def convolution(groups=1):
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"])
    return peft.get_peft_model(nn.Sequential(nn.Conv2d(4, 6, 3, groups=groups), nn.Flatten()), config)


@pytest.mark.bad_input
@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_a_convolutions_adapter_in_groups_is_refused():
    with pytest.raises(ArgumentError, match=r"no pair of matrices but \(2, 4, 3, 3\) and \(6, 1, 1, 1\); leave it out"):
        param_groups(convolution(groups=2))


class Experts(nn.Module):
    """Four weights in one parameter, as a mixture of experts has them."""

    def __init__(self):
        super().__init__()
        self.stack, self.gate = nn.Parameter(torch.ones(4, 8, 6)), nn.Linear(6, 4)

    def forward(self, x):
        return torch.einsum("ni,eoi,ne->no", x, self.stack, self.gate(x).softmax(-1))


def experts():
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=[], target_parameters=["0.stack"])
    return peft.get_peft_model(nn.Sequential(Experts()), config)


def kasa():
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["0"], kasa_config=peft.KasaConfig())
    return peft.get_peft_model(nn.Sequential(nn.Linear(6, 8)), config)


def adalora():
    config = peft.AdaLoraConfig(init_r=2, target_r=2, target_modules=["0"], total_step=9)
    return peft.get_peft_model(nn.Sequential(nn.Linear(6, 8)), config)


def flattened(a, b, experts):
    """One pair of matrices for each expert, in PEFT's layout, and the way back."""
    ranks = len(a) // experts
    pairs = [
        (a[e * ranks : (e + 1) * ranks].reshape(ranks, -1), b.reshape(len(b), -1)[:, e::experts])
        for e in range(experts)
    ]
    return [[nn.Parameter(part.detach().clone()) for part in pair] for pair in pairs]


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"foreach": False}], ids=str)
@pytest.mark.parametrize("make", [convolution, experts])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_convolutions_and_experts_step_as_the_pairs_of_matrices_in_them(make, layout, options):
    """Each expert has its own d, and a convolution is the pair of its flattened kernels."""
    torch.manual_seed(0)
    model = make()
    (pair,) = lora_pairs(model)
    pair.b.data.normal_()
    if layout == "channels last" and pair.a.ndim == 4:
        model.to(memory_format=torch.channels_last)
    count = pair.experts
    twins = flattened(pair.a, pair.b, count)
    ours = ALLoRAAdamW(param_groups(model), 0.01, 3.0, weight_decay=0.1, **options)
    groups = [{"params": twin, "pair": True, "scaling": pair.scaling} for twin in twins]
    theirs = ALLoRAAdamW(groups, 0.01, 3.0, weight_decay=0.1, **options)
    for _ in range(3):
        pair.a.grad, pair.b.grad = torch.randn_like(pair.a), torch.randn_like(pair.b)
        for twin, gradients in zip(twins, flattened(pair.a.grad, pair.b.grad, count), strict=True):
            for part, gradient in zip(twin, gradients, strict=True):
                part.grad = gradient.detach()
        ours.step(), theirs.step()
    for twin, found in zip(twins, flattened(pair.a, pair.b, count), strict=True):
        for one, other in zip(found, twin, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert (pair.b.grad != 0).all()
    if count > 1:  # planted: one d for all experts
        factors = [row_factor(*twin, 3.0) for twin in twins]
        assert not torch.allclose(factors[0], factors[1], rtol=0.05)


@pytest.mark.bad_input
def test_a_number_of_experts_that_does_not_divide_the_rank():
    with pytest.raises(ArgumentError, match="experts: a divisor of A's 4 rows wanted, received 3"):
        ALLoRAAdamW([{"params": experts_of(4), "pair": True, "experts": 3}], 0.01, 3.0)


def experts_of(rank):
    return [nn.Parameter(torch.ones(rank, 5)), nn.Parameter(torch.ones(6, rank))]


NOT_PRODUCTS = {"SVDLinear": adalora}
if hasattr(peft, "KasaConfig"):  # from PEFT 0.20
    NOT_PRODUCTS["KasaLinearVariant"] = kasa


@pytest.mark.bad_input
@pytest.mark.parametrize("kind", NOT_PRODUCTS)
def test_layers_whose_delta_is_not_the_product_are_refused(kind):
    """Their A and B chain: nothing in the shapes gives them away."""
    model = NOT_PRODUCTS[kind]()
    (pair,) = lora_pairs(model)
    assert pair.a.shape[0] == pair.b.shape[1]
    with pytest.raises(
        ArgumentError, match=f"0 \\(default\\) is PEFT's {kind}, whose change .* is not s·BA.*plain LoRA"
    ):
        param_groups(model)


class WithOwnPair(nn.Module):
    """PEFT's model hands `a` and `b` on from the model inside."""

    def __init__(self):
        super().__init__()
        self.base, self.a, self.b = nn.Linear(7, 5), nn.Parameter(torch.ones(2, 7)), nn.Parameter(torch.ones(5, 2))


@pytest.mark.parametrize(
    "make",
    [
        lambda: ALLoRALinear(nn.Linear(7, 5), 2, 3.0, "lora_x_eta"),
        lambda: nn.Sequential(torch.compile(ALLoRALinear(nn.Linear(7, 5), 2, 3.0, "lora_x_eta"))),
        lambda: peft.get_peft_model(WithOwnPair(), peft.LoraConfig(r=2, target_modules=["base"])),
        adapted,
    ],
)
def test_a_wrapper_that_hands_attributes_on_is_no_second_pair(make):
    model = make()
    wrapped = torch.compile(model)
    assert [pair.a for pair in lora_pairs(wrapped)] == [pair.a for pair in lora_pairs(model)]
    assert len(lora_pairs(model)) == len({id(pair.a) for pair in lora_pairs(model)})
    assert_each_trainable_once(wrapped, param_groups(wrapped))


def test_a_pair_that_is_parametrised_or_in_buffers_is_found():
    model = ALLoRALinear(nn.Linear(7, 5), 2, 3.0, "lora_x_eta")
    nn.utils.parametrize.register_parametrization(model, "a", nn.Identity())
    assert len(lora_pairs(model)) == 1
    frozen = nn.Module()
    frozen.register_buffer("a", torch.ones(2, 7))
    frozen.register_buffer("b", torch.ones(5, 2))
    assert len(lora_pairs(frozen)) == 1


@pytest.mark.bad_input
def test_a_matrix_in_two_pairs_is_refused():
    model = add_adapters(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), 2, 1.0, torch.Generator())
    model[1].a = model[0].a
    with pytest.raises(ArgumentError, match="1 shares a matrix with another pair"):
        param_groups(model)


@pytest.mark.bad_input
@pytest.mark.parametrize("variant", ["allora", "allora_0", "allora_od", "asf_lora"])
def test_layers_of_alloras_family_are_refused(variant):
    model = nn.Sequential(ALLoRALinear(nn.Linear(4, 4), 2, 3.0, variant))
    with pytest.raises(ArgumentError, match=f"0 trains '{variant}'.*plain LoRA layers"):
        param_groups(model)


def test_lora_times_eta_is_plain_lora():
    (group,) = param_groups(nn.Sequential(ALLoRALinear(nn.Linear(4, 4), 2, 3.0, "lora_x_eta")))
    assert (group["pair"], group["scaling"]) == (True, 3.0)
