"""The doctor on LoRA of other libraries: `foreign_lora.py` has small doubles of their designs."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.doctor.trial import RowFactor, row_factor
from allora_analysis.lora.foreign import Trial, _passes, any_pairs, dropout_applied, rule
from allora_analysis.lora.optim import ALLoRAAdamW
from tests import foreign_lora as foreign

R, ALPHA = 3, 6.0


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def merging():
    return foreign.MergingLinear(7, 5, R, ALPHA)


LAYERS = {
    "kohya": lambda: foreign.KohyaModule(nn.Linear(7, 5).requires_grad_(False), R, ALPHA),
    "torchtune": lambda: foreign.TuneLinear(7, 5, R, ALPHA),
    "loralib": merging,
}


def trained(layer: nn.Module) -> nn.Sequential:
    """A model with the layer in it, B away from 0, and gradients."""
    model = nn.Sequential(nn.Linear(7, 7), layer, nn.Linear(5, 2))
    for name, parameter in layer.named_parameters():
        if "up" in name or name.startswith(("lora_B", "lora_b")):
            parameter.data.normal_()
    model(torch.randn(16, 7)).square().mean().backward()
    return model


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_another_library_is_found_and_its_scaling_measured(name):
    model = trained(LAYERS[name]())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    (layer,) = doctor(model, optimizer).layers
    assert (layer.name, layer.variant, layer.rank) == ("1", "lora", R)
    assert layer.scaling == pytest.approx(ALPHA / R, rel=1e-5)
    assert layer.rates == (1e-3, 1e-3)
    pair = any_pairs(model)[0]
    assert layer.norms[2] == pytest.approx(float((ALPHA / R * pair.b @ pair.a).detach().norm(dim=1).max()), rel=1e-5)
    assert (layer.backward, layer.effect) == ("as stated", "off")


@pytest.mark.parametrize("name", [*LAYERS, "hooked"])
@pytest.mark.parametrize("training", [True, False])
def test_the_doctor_leaves_another_librarys_layer_as_it_was(name, training):
    layer = foreign.HookedALLoRA(nn.Linear(7, 5), R, 2.0) if name == "hooked" else LAYERS[name]()
    model = trained(layer).train(training)
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    addresses = [p.data_ptr() for p in model.parameters()]
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        output = model(x)
    doctor(model, torch.optim.AdamW(model.parameters()))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert [p.data_ptr() for p in model.parameters()] == addresses
    for old, p in zip(gradients, model.parameters(), strict=True):
        assert (old is None and p.grad is None) or torch.equal(old, p.grad)
    assert {part.training for part in model.modules()} == {training}
    with torch.no_grad():
        assert torch.equal(model(x), output)


@pytest.mark.parametrize("eta", [0.5, 2.0, 8.0])
def test_a_ports_rule_and_its_eta_are_measured_and_adamw_undoes_it(eta):
    model = trained(foreign.HookedALLoRA(nn.Linear(7, 5), R, eta))
    (layer,) = doctor(model, torch.optim.AdamW(model.parameters(), lr=1e-3)).layers
    assert (layer.variant, layer.adaptor, layer.effect) == ("allora", "inverse_sqrt", "undone")
    assert layer.eta == pytest.approx(eta, rel=1e-3)
    assert doctor(model, torch.optim.AdamW(model.parameters())).verdict == "off"
    (layer,) = doctor(model, torch.optim.SGD(model.parameters(), lr=1e-3)).layers
    assert (layer.effect, layer.backward) == ("on the gradient", "as stated")


def test_a_factor_that_is_another_where_it_is_small_is_not_alloras():
    norms = torch.logspace(-3, 4, 8, dtype=torch.float64)
    found = Trial(1.0, True, (norms + 1 / 4) ** -0.5, norms, 1e-3, 1e-3)
    assert rule(found) == ("allora", pytest.approx(2.0))
    found.factors[-1] *= 1.2
    assert rule(found) == ("lora", None)


def test_a_gradient_that_something_multiplies_is_no_rule_and_is_said():
    model = trained(foreign.Doubled(7, 5, R, ALPHA))
    found = doctor(model, torch.optim.SGD(model.parameters(), lr=1e-3))
    assert (found.layers[0].variant, found.layers[0].backward) == ("lora", "another")
    assert any(line.code == "backward" for line in found.advice)


@pytest.mark.parametrize(("kind", "frozen"), [(foreign.FrozenScaleAdamW, True), (foreign.FollowingScaleAdamW, False)])
@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_an_optimizer_that_scales_by_a_parameters_own_rows_is_told_apart(kind, frozen, eta):
    model = trained(LAYERS["torchtune"]())
    optimizer = kind([p for p in model.parameters() if p.requires_grad], eta=eta)
    found = doctor(model, optimizer)
    assert found.optimizer.row_factor.frozen is frozen
    assert found.optimizer.row_factor.eta == pytest.approx(eta, rel=0.05)
    assert (found.verdict, found.layers[0].effect) == ("off", "factor of p")
    (line,) = [line for line in found.advice if line.code == "factor of p"]
    assert ("frozen at the first step" in line.text) is frozen
    assert found.as_dict()["optimizer"]["row_factor"]["frozen"] is frozen


def test_a_layer_that_cannot_be_tried_has_the_scaling_that_it_states():
    broken, zero = LAYERS["torchtune"](), LAYERS["torchtune"]()
    broken.forward = None
    nn.init.zeros_(zero.lora_a.weight)
    for layer in (broken, zero):
        assert any_pairs(layer)[0].scaling == ALPHA / R
        del layer.alpha
        assert any_pairs(layer)[0].scaling == 1.0


@pytest.mark.parametrize(("whole", "drop", "passes"), [(0.0, 0.0, 1), (0.5, 0.0, 20), (0.1, 0.5, 132), (0.0, 0.5, 1)])
def test_how_many_passes_miss_a_mask_once_in_a_million(whole, drop, passes):
    """A whole adapter left out at rate p: max(p, 1 − p)ⁿ ≤ 1e-6; of a dropout's many numbers one pass is enough."""
    (pair,) = any_pairs(foreign.HookedALLoRA(nn.Linear(3, 5), 8, 2.0))
    pair.module.module_dropout = whole
    assert _passes(replace(pair, drop_rate=drop)) == passes


@pytest.mark.parametrize("eta", [0.05, 2.0])
def test_another_function_of_the_rows_has_no_eta(eta):
    optimizer = foreign.InverseScaleAdamW([nn.Parameter(torch.ones(2, 2))], eta=eta)
    assert row_factor(optimizer, optimizer.param_groups[0]) == RowFactor(False, None)


OTHERS = [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adafactor, torch.optim.RMSprop, foreign.WarmingSGD]


@pytest.mark.parametrize("kind", OTHERS)
def test_torchs_own_optimizers_have_no_factor_of_a_row(kind):
    optimizer = kind([nn.Parameter(torch.ones(2, 2))], lr=1e-3)
    assert row_factor(optimizer, optimizer.param_groups[0]) is None


def test_ours_is_not_taken_for_such_an_optimizer():
    optimizer = ALLoRAAdamW([{"params": [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3, 2))]}], 1e-3, 2.0)
    assert row_factor(optimizer, optimizer.param_groups[0]) is None


def test_a_dropout_that_is_configured_and_never_applied_is_said():
    for kind, applied in ((foreign.TuneLinear, True), (foreign.Undropped, False)):
        found = doctor(trained(kind(7, 5, R, ALPHA, 0.3)))
        assert (found.layers[0].drop_rate, found.layers[0].dropout_applied) == (0.3, applied)
        assert ("dropout not applied" in [line.code for line in found.advice]) is not applied


def test_a_layer_on_the_cpu_is_tried_without_another_devices_random_state(monkeypatch):
    """`torch.manual_seed` seeds every GPU there is, which `fork_rng` of this layer's device does not bring back."""

    def seeded(seed):
        raise AssertionError("a GPU was seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded)
    (pair,) = any_pairs(trained(foreign.TuneLinear(7, 5, R, ALPHA, 0.3)))
    before = torch.get_rng_state()
    assert dropout_applied(pair) is True
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.45])
def test_a_dropout_of_the_whole_adapter_is_seen(rate):
    """Planted: two passes, whose draws are 0.496 and 0.758, so that any rate below the first was "never applied"."""
    for kind, applied in ((foreign.SkippingKohya, True), (foreign.NeverSkipping, False)):
        (pair,) = any_pairs(trained(kind(nn.Linear(7, 5), R, ALPHA, rate)))
        assert (pair.drop_rate, dropout_applied(pair)) == (rate, applied)


def test_of_a_dropout_too_small_to_be_seen_nothing_is_said():
    (seen,), (unseen,), (forgotten,) = (
        any_pairs(trained(kind(7, 5, R, ALPHA, rate)))
        for kind, rate in ((foreign.TuneLinear, 0.02), (foreign.TuneLinear, 1e-7), (foreign.Undropped, 1e-7))
    )
    assert dropout_applied(seen) is True
    assert dropout_applied(unseen) is dropout_applied(forgotten) is None
    nn.init.zeros_(seen.a)
    assert dropout_applied(seen) is None  # no mask is seen
    (wide,) = any_pairs(nn.Sequential(foreign.TuneLinear(300, 300, 256, ALPHA, 0.5)))
    assert dropout_applied(wide) is True  # where two masks are alike with probability 2^-2048


@pytest.mark.parametrize("size", [1.0, 30.0], ids=["base", "large base"])
@pytest.mark.parametrize("alpha", [1.0, 4.5, 9.6])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_in_few_digits_is_lora_up_to_its_rounding(dtype, alpha, size):
    """Planted: one tolerance of 1e-3, where bfloat16 rounds at 4e-3, so that any such adapter was "not BA"."""
    (layer,) = few_digits(foreign.TuneLinear(64, 48, R, alpha), dtype, size).layers
    assert (layer.variant, layer.scaling, layer.effect, layer.backward) == ("lora", alpha / R, "off", "as stated")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_few_digits_a_layer_that_is_not_lora_is_told_apart(dtype):
    found = few_digits(foreign.Tanh(nn.Linear(64, 48), R, ALPHA), dtype)
    assert (found.layers[0].variant, found.layers[0].effect) == ("another", "not BA")
    assert next(line.text for line in found.advice if line.code == "not BA").startswith(
        "what '0' add to the weight is not s·BA (measured), so"
    )
    (layer,) = few_digits(foreign.HookedALLoRA(nn.Linear(64, 48), R, 2.0), dtype).layers
    assert (layer.variant, layer.eta) == ("allora", pytest.approx(2.0, rel=0.05))


def few_digits(layer, dtype, size=1.0):
    if hasattr(layer, "org_forward"):
        layer.org_forward.__self__.to(dtype)
    for name, parameter in layer.named_parameters():
        parameter.data *= size if name == "weight" else 1.0
    model = nn.Sequential(layer.to(dtype))
    return doctor(model, torch.optim.SGD(model.parameters(), lr=1e-3), allora=False)


@pytest.mark.parametrize("kind", ["foreign", "peft"])
def test_the_doctor_inside_autocast_leaves_the_output_as_it_was(kind):
    """Planted: autocast kept the random B's copy, and the rest of the region ran with it."""
    if kind == "foreign":
        model = trained(foreign.TuneLinear(7, 5, R, ALPHA, 0.3))
    else:
        peft = pytest.importorskip("peft")
        model = nn.Sequential()
        model.q = nn.Linear(7, 5)
        model = peft.get_peft_model(model, peft.LoraConfig(r=R, lora_alpha=6, target_modules=["q"], lora_dropout=0.3))
        nn.init.normal_(model.base_model.model.q.lora_B["default"].weight)
    model.eval()
    x = torch.randn(4, 7)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = doctor(model, allora=False)
        assert torch.equal(model(x), before)
    assert found.layers[0].scaling == 2.0
    assert not [line for line in found.advice if line.level == "problem"]


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_an_a_of_zeros_or_nan_is_no_other_rule(value):
    """Planted: 0/0 as the scaling, and the advice "not s·BA (PEFT's another)"."""
    model = trained(foreign.TuneLinear(7, 5, R, ALPHA))
    nn.init.constant_(model[1].lora_a.weight, value)
    found = doctor(model, torch.optim.AdamW(model.parameters()), allora=False)
    assert (found.layers[0].variant, found.layers[0].scaling) == ("lora", ALPHA / R)
    assert [line.code for line in found.advice if line.level == "problem"] == ["not finite"] * (value != 0)


@pytest.mark.parametrize("device", ["meta", "cpu"])
def test_a_layer_without_numbers_is_as_it_states(device):
    """Offloaded weights are on meta: nothing can be tried on them."""
    model = foreign.MergingLinear(7, 5, R, ALPHA).to(device)
    (layer,) = doctor(nn.Sequential(model), None).layers
    assert (layer.variant, layer.scaling) == ("lora", pytest.approx(ALPHA / R))
    pair = replace(any_pairs(nn.Sequential(model))[0], drop_rate=0.1)
    assert dropout_applied(pair) is (None if device == "meta" else False)


def test_a_module_without_a_pair_is_none():
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].lora_down, model[0].lora_up = nn.Linear(3, 2), nn.Linear(5, 3)  # these do not chain
    assert any_pairs(model) == ()


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")  # torch's own
def test_a_layer_without_outputs_is_left_out():
    model = nn.ModuleList([LAYERS["torchtune"](), foreign.TuneLinear(7, 0, R, ALPHA)])
    assert [pair.name for pair in any_pairs(model)] == ["0"]
    assert [row.name for row in doctor(model).layers] == ["0"]
