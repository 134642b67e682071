"""`param_groups` and `lora_pairs` of a model, PEFT's or the toolkit's own."""

import jaxtyping
import pytest
import torch
from torch import nn

from allora_analysis.hessian import add_adapters
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.foreign import any_pairs
from allora_analysis.lora.functional import row_factor
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.validation import ArgumentError

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


def test_anothers_module_may_have_a_variant_of_its_own():
    class Theirs(nn.Module):
        variant = "theirs"

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.zeros(6, 2))

    (pair,) = lora_pairs(nn.Sequential(Theirs()))
    assert (pair.variant, pair.eta) == ("lora", None)


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


@pytest.mark.parametrize("bias", ["lora_only", "all"])
def test_an_adapted_layers_own_biases_go_at_the_pairs_rate_and_do_not_decay(bias):
    """Planted: in the group "head", at head_lr, pulled towards 0; under "all" the other layers' still."""
    base = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(3, 2))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["0"], bias=bias, modules_to_save=["2"]))
    groups = param_groups(model, lr=1e-3, head_lr=1.0, weight_decay=0.1)
    assert [(group["name"], group["lr"], group["weight_decay"]) for group in groups[1:]] == [
        ("biases", 1e-3, 0.0),
        ("head", 1.0, 0.1),
    ]
    adapted_layer, other, head = model.base_model.model
    assert groups[1]["params"] == [adapted_layer.base_layer.bias, *([other.bias] if bias == "all" else [])]
    assert groups[2]["params"] == list(head.modules_to_save.parameters())
    assert sum(len(group["params"]) for group in groups) == sum(one.requires_grad for one in model.parameters())


def test_rows_of_tokens_train_at_the_pairs_rate_and_do_not_decay():
    """Planted: pretrained rows at head_lr, pulled towards 0."""
    model = adapted(target_modules=["first"], trainable_token_indices={"embed": [1, 3]})
    groups = param_groups(model, lr=1e-3, head_lr=1.0, weight_decay=0.1)
    assert_each_trainable_once(model, groups)
    (tokens,) = [group for group in groups if group["name"] == "tokens"]
    assert (tokens["lr"], tokens["weight_decay"], tokens["pair"]) == (1e-3, 0.0, False)
    assert [one.shape[0] for one in tokens["params"]] == [2]


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


def convolution(groups=1, kind=nn.Conv2d):
    config = peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0"])
    return peft.get_peft_model(nn.Sequential(kind(4, 6, 3, groups=groups), nn.Flatten()), config)


def convolution_of_a_line():
    return convolution(kind=nn.Conv1d)


@pytest.mark.bad_input
@pytest.mark.filterwarnings("ignore:LoRA adapter added to ConvNd layer with groups")
def test_a_convolutions_adapter_in_groups_is_refused():
    with pytest.raises(ArgumentError, match=r"no pair of matrices but \(2, 4, 3, 3\) and \(6, 1, 1, 1\); leave it out"):
        param_groups(convolution(groups=2))


@pytest.mark.bad_input
@pytest.mark.parametrize("size", [1, 3])
def test_a_pair_that_was_freed_is_refused(size):
    model = peft.get_peft_model(nn.Sequential(nn.Linear(size, size)), peft.LoraConfig(r=1, target_modules=["0"]))
    param_groups(model)
    lora_pairs(model)[0].a.untyped_storage().resize_(0)
    with pytest.raises(ArgumentError, match="FSDP1 flattens them"):
        param_groups(model)


@pytest.mark.bad_input
@pytest.mark.parametrize("call", [lora_pairs, any_pairs, param_groups, doctor])
@pytest.mark.parametrize(
    "given", ["model", {}, torch.optim.SGD([torch.ones(1)], 0.1), None], ids=lambda x: type(x).__name__
)
def test_what_is_no_model_is_one_line(call, given, request):
    words = f"model must be a torch.nn.Module, received {type(given).__name__}: the model is the first argument"
    untyped = request.config.option.untyped
    with pytest.raises(ArgumentError if untyped else jaxtyping.TypeCheckError) as caught:
        call(given)
    assert not untyped or str(caught.value).startswith(words)


class Experts(nn.Module):
    """Weights in one parameter, as a mixture of experts has them."""

    def __init__(self, count):
        super().__init__()
        self.stack, self.gate = nn.Parameter(torch.ones(count, 8, 6)), nn.Linear(6, count)

    def forward(self, x):
        return torch.einsum("ni,eoi,ne->no", x, self.stack, self.gate(x).softmax(-1))


def experts(count=4):
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=[], target_parameters=["0.stack"])
    return peft.get_peft_model(nn.Sequential(Experts(count)), config)


def two_experts():
    return experts(2)


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
@pytest.mark.parametrize("make", [convolution, convolution_of_a_line, experts, two_experts])
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
        lambda: nn.Sequential(torch.compile(ALLoRALinear(nn.Linear(7, 5), 2, 3.0, "lora_x_eta"), backend="eager")),
        lambda: peft.get_peft_model(WithOwnPair(), peft.LoraConfig(r=2, target_modules=["base"])),
        adapted,
    ],
)
def test_a_wrapper_that_hands_attributes_on_is_no_second_pair(make):
    model = make()
    wrapped = torch.compile(model, backend="eager")
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
    (pair,) = lora_pairs(frozen)
    assert pair.scaling == 1  # it names none


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
