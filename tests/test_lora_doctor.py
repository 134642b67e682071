"""The doctor's numbers against autograd, and its statements on optimizers against models that really step."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis.doctor.answers import of_saved
from allora_analysis.doctor.saved import read
from allora_analysis.hessian import LowRankLinear
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.doctor.advice import unsaved
from allora_analysis.lora.doctor.measured import clipping_effect
from allora_analysis.lora.layers import ALLoRALinear
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.lora.watch import FactorUndone
from allora_analysis.validation import ArgumentError
from tests.brute_force.optim import row_factor

peft = pytest.importorskip("peft")
ETA = 4.0


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def twins(size=0.0, eta=ETA, dtype=torch.float64):
    """A network with ALLoRA layers, and the same with LoRA layers: the same base, A and B."""
    models = []
    for allora in (True, False):
        torch.manual_seed(0)
        base = [nn.Linear(6, 8).to(dtype), nn.Linear(8, 7).to(dtype)]
        make = (lambda b: ALLoRALinear(b, 2, eta, generator=generator())) if allora else (
            lambda b: LowRankLinear(b, 2, 1.0, generator())
        )  # fmt: skip
        models.append(nn.Sequential(make(base[0]), nn.Tanh(), make(base[1]), nn.Tanh(), nn.Linear(7, 3).to(dtype)))
        with torch.no_grad():
            for index in (0, 2):
                models[-1][index].b.copy_(size * torch.randn(models[-1][index].b.shape, generator=generator(index)))
    return models


def backward(model, seed=1):
    dtype = next(model.parameters()).dtype
    x, y = (torch.randn(16, n, generator=generator(seed), dtype=torch.float64).to(dtype) for n in (6, 3))
    model.zero_grad()
    ((model(x) - y) ** 2).mean().backward()
    return model


def test_the_rows_against_autograd():
    """Norms from BA itself, d by hand, the ratio from a LoRA model's own gradients."""
    allora, lora = (backward(model) for model in twins(size=0.7))
    rows = doctor(allora).layers
    assert [row.name for row in rows] == ["0", "2"]
    for row, ours, theirs in zip(rows, (allora[0], allora[2]), (lora[0], lora[2]), strict=True):
        a, b = (part.detach().numpy() for part in (ours.a, ours.b))
        norms, d = np.linalg.norm(b @ a, axis=1), row_factor(a, b, ETA)
        np.testing.assert_allclose(row.norms[::2], (norms.min(), norms.max()), rtol=1e-12)
        np.testing.assert_allclose(row.factors[::2], (d.min(), d.max()), rtol=1e-12)
        assert row.norms[1] in norms.round(12) or np.isclose(norms, row.norms[1], rtol=1e-12).sum() == 1
        assert (norms < row.norms[1] * (1 - 1e-12)).sum() <= len(norms) / 2
        assert row.gradient_ratio == pytest.approx(float(ours.b.grad.norm() / theirs.b.grad.norm()), rel=1e-10)
        assert (row.variant, row.eta, row.adaptor, row.scaling, row.rank) == ("allora", ETA, "inverse_sqrt", 1.0, 2)
        assert (row.backward, row.effect, row.drop_rate, row.quantised) == ("as stated", "unknown", 0.0, False)
        assert abs(row.gradient_ratio - 1) > 0.05
    plain = doctor(lora).layers
    assert [row.gradient_ratio for row in plain] == [1.0, 1.0]
    assert [row.factors for row in plain] == [None, None]


def test_at_the_start_the_ratio_is_eta():
    allora, _ = twins()
    assert [row.gradient_ratio for row in doctor(allora).layers] == [None, None]
    rows = doctor(backward(allora)).layers
    assert [row.gradient_ratio for row in rows] == pytest.approx([ETA, ETA])
    assert [row.norms for row in rows] == [(0.0, 0.0, 0.0)] * 2
    assert [row.factors for row in rows] == [pytest.approx((ETA, ETA, ETA))] * 2


def displacement(model, start):
    return torch.cat(
        [(p.detach() - q.detach()).flatten() for p, q in zip(adapters(model), adapters(start), strict=True)]
    )


def adapters(model):
    return [parameter for pair in lora_pairs(model) for parameter in (pair.a, pair.b)]


def distances(models, optimizers, steps, clip=None):
    """‖step-by-step distance of the two models‖ / ‖how far the second has moved‖."""
    start, found = copy.deepcopy(models[1]), []
    for step in range(steps):
        for model, optimizer in zip(models, optimizers, strict=True):
            backward(model, step)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
        one, other = (displacement(model, start) for model in models)
        found.append(float((one - other).norm() / other.norm()))
    return np.array(found)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop])
def test_undone_under_adam_the_first_step_is_loras_and_the_drift_is_slow(kind):
    models = twins()
    optimizers = [kind(model.parameters(), lr=1e-3, weight_decay=0.0) for model in models]
    diagnosis = doctor(backward(models[0]), optimizers[0])
    assert diagnosis.verdict == "off"
    assert [row.effect for row in diagnosis.layers] == ["undone"] * 2
    assert diagnosis.optimizer.response == pytest.approx(0, abs=1e-4)
    assert all(row.gradient_ratio == pytest.approx(ETA) for row in diagnosis.layers)  # and yet the gradient is η times
    drift = distances(models, optimizers, 40)
    assert drift[0] < 5e-4  # O(ε/|dg|)
    assert 1e-3 < drift[9] < 0.1
    assert drift[9] < drift[39] < 0.4


def test_on_under_sgd_the_first_step_is_eta_times_loras():
    models = twins()
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3) for model in models]
    diagnosis = doctor(backward(models[0]), optimizers[0])
    assert (diagnosis.verdict, {row.effect for row in diagnosis.layers}) == ("on", {"on the gradient"})
    assert diagnosis.optimizer.response == pytest.approx(1)
    assert distances(models, optimizers, 1)[0] == pytest.approx(ETA - 1)


@pytest.mark.parametrize("head", [True, False])
def test_clipping_undoes_sgds_first_step_as_far_as_measured(head):
    """The gain after clipping that the doctor announces is the ratio of the two models' clipped steps.

    A trained head has a share of the norm, which the factor does not scale: it keeps a part of the gain.
    """
    models, clip = twins(), 0.01
    for model in models:
        model[4].requires_grad_(head)
    optimizers = [torch.optim.SGD(model.parameters(), lr=1e-3) for model in models]
    clipping = doctor(backward(models[0], 0), optimizers[0], clip).clipping
    distance = distances(models, optimizers, 1, clip)[0]
    assert clipping.gain == pytest.approx(ETA)
    assert clipping.gain_after == pytest.approx(1 + distance, abs=1e-3)
    assert (1.5 < clipping.gain_after < ETA) if head else (clipping.gain_after < 1.001)
    assert 0 < clipping.removed < 1
    assert doctor(models[0], optimizers[0], 0).clipping is None


def test_on_the_update_the_first_step_is_eta_times_adamws():
    models = twins()[1], twins()[1]
    optimizers = [
        ALLoRAAdamW(param_groups(models[0]), 1e-3, ETA, weight_decay=0.0),
        torch.optim.AdamW(models[1].parameters(), 1e-3, weight_decay=0.0),
    ]
    diagnosis = doctor(backward(models[0]), optimizers[0], 1.0)
    assert (diagnosis.verdict, {row.effect for row in diagnosis.layers}) == ("on", {"on the update"})
    assert [row.factors for row in diagnosis.layers] == [pytest.approx((ETA, ETA, ETA))] * 2
    assert [(row.variant, row.eta, row.adaptor) for row in diagnosis.layers] == [("lora", ETA, "inverse_sqrt")] * 2
    assert [row.gradient_ratio for row in diagnosis.layers] == [1.0, 1.0]
    assert diagnosis.clipping.gain is None
    assert distances(models, optimizers, 1)[0] == pytest.approx(ETA - 1, rel=1e-3)
    assert {row.effect for row in doctor(models[1], optimizers[1]).layers} == {"off"}


def test_twice_is_once_at_first_and_more_later():
    """ALLoRAAdamW over ALLoRA's layers: the first step is that over LoRA's; later the moments' older d hold B back."""
    models = twins()
    groups = [
        [{"params": [m[0].a, m[0].b]}, {"params": [m[2].a, m[2].b]}, {"params": m[4].parameters()}] for m in models
    ]
    optimizers = [ALLoRAAdamW(group, 2e-3, ETA, weight_decay=0.0) for group in groups]
    assert {row.effect for row in doctor(backward(models[0]), optimizers[0]).layers} == {"twice"}
    drift = distances(models, optimizers, 60)
    assert drift[0] < 1e-4
    assert drift[59] > 0.02
    sizes = [sum((pair.b @ pair.a).norm().item() for pair in lora_pairs(model)) for model in models]
    assert sizes[0] < 0.99 * sizes[1]


# -- PEFT's models


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x)))))


def in_peft(variant=None, **options):
    fields = {"r": 2, "target_modules": ["first", "second"], "modules_to_save": ["head"]} | options
    if variant is None:
        return peft.get_peft_model(MLP(), peft.LoraConfig(**{"lora_alpha": 2, **fields}))
    from allora_analysis.lora.peft import allora_config

    return peft.get_peft_model(MLP(), allora_config(eta=ETA, variant=variant, **fields))


@pytest.mark.parametrize("variant", ["allora", "allora_0", "allora_od", "asf_lora"])
def test_alloras_variants_in_peft(variant):
    model = in_peft(variant)
    rows = doctor(backward(model), torch.optim.SGD(model.parameters(), 0.1)).layers
    assert [(row.name, row.adapter) for row in rows] == [
        ("base_model.model.first", "default"),
        ("base_model.model.second", "default"),
    ]
    assert {(row.variant, row.eta, row.adaptor, row.backward) for row in rows} == {
        (variant, ETA, "inverse_sqrt", "as stated")
    }
    assert {row.effect for row in rows} == {"in the forward" if variant == "asf_lora" else "on the gradient"}
    by_row = variant in ("allora", "allora_0")
    assert [row.gradient_ratio for row in rows] == ([pytest.approx(ETA)] * 2 if by_row else [None] * 2)


def test_lora_times_eta_in_peft():
    model = in_peft("lora_x_eta")
    (row, _) = doctor(backward(model), torch.optim.AdamW(model.parameters())).layers
    assert (row.variant, row.scaling, row.effect, row.backward) == ("lora_x_eta", ETA, "in the forward", "as stated")


def test_the_table_says_whose_eta_it_is():
    """Planted: of LoRA×η at η = 4 under ALLoRAAdamW at η = 3 it said "lora_x_eta, η = 3"."""
    model = in_peft("lora_x_eta")
    assert "lora_x_eta, η = 4 " in str(doctor(model, torch.optim.AdamW(model.parameters())))
    diagnosis = doctor(model, ALLoRAAdamW(param_groups(model), 1e-3, 3.0))
    assert "lora_x_eta, η = 4; update's η = 3 " in str(diagnosis)
    assert diagnosis.layers[0].eta == 3
    plain = in_peft()
    assert "lora, η = 3 " in str(doctor(plain, ALLoRAAdamW(param_groups(plain), 1e-3, 3.0)))


def test_plain_lora_in_peft_with_its_scaling():
    model = in_peft(lora_alpha=6)
    pair = lora_pairs(model)[0]
    with torch.no_grad():
        pair.b.fill_(1.0)
    (row, _) = doctor(model, ALLoRAAdamW(param_groups(model), 1e-3, ETA)).layers
    a, b = (part.detach().double().numpy() for part in (pair.a, pair.b))
    assert row.norms[0] == pytest.approx(3 * np.linalg.norm(b @ a, axis=1).min(), rel=1e-5)
    assert row.factors[0] == pytest.approx(row_factor(a, b, ETA, scaling=3.0).min(), rel=1e-5)
    assert (row.effect, row.scaling) == ("on the update", 3.0)


def test_through_wrappers_of_model_and_optimizer():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    class Prepared:
        def __init__(self, optimizer):
            self.optimizer = optimizer

    model = in_peft("allora")
    diagnosis = doctor(Wrapper(model), Prepared(torch.optim.AdamW(model.parameters())))
    assert diagnosis.optimizer.name == "AdamW"
    assert diagnosis.layers[0].name == "module.base_model.model.first"
    assert diagnosis.verdict == "off"


def test_readable_and_json():
    model = in_peft("allora", lora_dropout=0.1)
    diagnosis = doctor(backward(model), torch.optim.AdamW(model.parameters()), 0.001)
    text = str(diagnosis)
    assert text.startswith("ALLoRA is OFF.")
    for word in ("base_model.model.second (default)", "allora", "4/4/4", "undone", "AdamW", "clipping at 0.001", "SGD"):
        assert word in text
    assert max(len(line) for line in text.splitlines() if not line.startswith("[")) <= 140
    fields = json.loads(json.dumps(diagnosis.as_dict(), allow_nan=False))
    assert set(fields) == {"verdict", "layers", "optimizer", "clipping", "advice"}
    assert fields["layers"][0]["factors"] == pytest.approx([ETA, ETA, ETA])
    assert fields["optimizer"]["name"] == "AdamW"
    with torch.no_grad():
        lora_pairs(model)[0].b[0, 0] = float("nan")
    broken = doctor(model)
    assert json.loads(json.dumps(broken.as_dict(), allow_nan=False))["layers"][0]["norms"][2] is None
    assert "not finite" in [line.code for line in broken.advice]
    assert str(broken)


def test_the_model_and_the_optimizer_are_left_as_they_were():
    model = in_peft("allora", lora_dropout=0.5).train()
    optimizer = torch.optim.AdamW(model.parameters())
    backward(model)
    with pytest.warns(FactorUndone):
        optimizer.step()
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()]))
    random = torch.get_rng_state()
    doctor(model, optimizer, 1.0)
    after = (model.state_dict(), optimizer.state_dict(), [p.grad for p in model.parameters()])
    leaves, same = torch.utils._pytree.tree_flatten(before)
    found, shape = torch.utils._pytree.tree_flatten(after)
    assert same == shape
    assert sum(isinstance(leaf, torch.Tensor) for leaf in leaves) > 20
    for old, new in zip(leaves, found, strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
    assert torch.equal(random, torch.get_rng_state())
    assert all(module.training for module in model.modules())


@pytest.mark.bad_input
def test_what_the_doctor_cannot_see():
    for model in (MLP(), nn.Linear(2, 3)):
        with pytest.raises(ArgumentError, match="model: no LoRA adapter found"):
            doctor(model)
    model = twins()[0]
    with pytest.raises(ArgumentError, match="max_grad_norm must be"):
        doctor(model, None, -1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for other in (3, [optimizer], torch.optim.lr_scheduler.StepLR(optimizer, 1), torch.optim.SGD):
        kind = type(other).__name__
        with pytest.raises(
            ArgumentError, match=f"optimizer must have param_groups, received {kind}; give the one that"
        ):
            doctor(model, other)
    trainer = SimpleNamespace(optimizer=None)  # as transformers' before train(), once taken for no optimizer at all
    with pytest.raises(ArgumentError, match=r"the SimpleNamespace has made none yet; call its create_optimizer\(\)"):
        doctor(model, trainer)


@pytest.mark.parametrize(("asked", "told"), [(["head"], 0), (["hed"], 1), (["head", "hed", "ead"], 1), (None, 0)])
def test_modules_to_save_that_name_nothing_are_a_problem(asked, told):
    """Planted: a misspelled head, which PEFT neither trains nor saves, without a word. Its names match at the end."""
    model = in_peft(modules_to_save=asked)
    found = [line for line in doctor(model).advice if line.code == "modules_to_save"]
    assert [line.level for line in found] == ["problem"] * told
    assert all("'hed'" in line.text and "'head'" not in line.text for line in found)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target_modules": ["first", "v_proj"]}, ["'v_proj'"]),
        ({"target_modules": ["first", "irst", "second"]}, ["'irst'"]),
        ({"target_modules": ["first", "second"]}, []),
        ({"target_modules": r"(first|v_proj)"}, []),
        ({"target_modules": "all-linear"}, []),
        ({"target_modules": ["first", "head"]}, []),  # trained as a whole
        ({"target_modules": ["first", "second"], "exclude_modules": ["second"]}, ["'second'"]),
    ],
    ids=str,
)
def test_a_target_that_no_adapted_layer_matches_is_a_problem(options, told):
    """Planted: a name of another architecture beside one that fits, which PEFT passes over without a word."""
    found = [line for line in doctor(in_peft(**options)).advice if line.code == "target_modules"]
    assert [line.level for line in found] == ["problem"] * len(told)
    assert all(name in line.text for name, line in zip(told, found, strict=True))


def with_a_classifier(**options):
    base, head = MLP(), nn.Sequential()
    head.out_proj = base.head
    base.head = head
    return peft.get_peft_model(base, peft.LoraConfig(r=2, modules_to_save=["head"], **options))


@pytest.mark.parametrize(("name", "told"), [("out_proj", False), ("head.out_proj", False), ("v_proj", True)])
def test_a_target_within_a_module_that_is_trained_as_a_whole_is_no_problem(name, told, tmp_path):
    """PEFT gives no adapters to what lies within `modules_to_save`; the live doctor and a saved adapter's say so."""
    model = with_a_classifier(target_modules=["first", name])
    assert any("out_proj" in key and one.requires_grad for key, one in model.named_parameters())
    assert any(line.code == "target_modules" for line in doctor(model).advice) == told
    model.save_pretrained(tmp_path)
    assert ("NOT adapted" in dict(of_saved(read(tmp_path), None).lines)) == told


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")  # torch's own
def test_a_layer_without_outputs_is_left_out_and_no_problem():
    base = nn.ModuleDict({"first": nn.Linear(6, 8), "none": nn.Linear(6, 0)})
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["first", "none"]))
    found = doctor(model, torch.optim.SGD(model.parameters(), 0.1), allora=False)
    assert [row.name for row in found.layers] == ["base_model.model.first"]
    assert not [line for line in found.advice if line.code == "target_modules"]


def test_targets_in_some_layers_of_several_adapters_and_in_a_compiled_model_are_found():
    base = nn.Module()
    base.layers = nn.ModuleList([MLP(), MLP()])
    config = peft.LoraConfig(r=2, target_modules=["first", "second"], layers_to_transform=[1], layers_pattern="layers")
    model = peft.get_peft_model(base, config)
    model.add_adapter("other", peft.LoraConfig(r=2, target_modules=["layers.0.head"]))
    for one in (model, torch.compile(model), nn.DataParallel(model)):
        assert not [line for line in doctor(one).advice if line.code == "target_modules"]


def test_the_two_names_of_a_classifier_that_peft_adds_are_no_problem():
    model = nn.Module()
    model.score = nn.Linear(4, 2)
    config = SimpleNamespace(modules_to_save=["classifier", "score"])
    assert not list(unsaved(model, {"default": config}))


@pytest.mark.parametrize("head", [0.0, 1.0, 4.0, 16.0])
def test_what_clipping_leaves_of_eta_beside_a_classifiers_gradient(head):
    """At BA = 0, ‖h‖ = head·‖g‖: √(η²‖g‖² + ‖h‖²) in place of √(‖g‖² + ‖h‖²), so 1 of η alone, all of it at last."""
    g, h = torch.ones(4, 4, dtype=torch.float64) / 4, torch.tensor([head], dtype=torch.float64)
    found = clipping_effect(0.01, [ETA * g, h], [(None, ETA * g, torch.full((4,), ETA, dtype=torch.float64))])
    assert found.gain == pytest.approx(ETA)
    assert found.gain_after == pytest.approx(ETA * ((1 + head**2) / (ETA**2 + head**2)) ** 0.5, rel=1e-3)
