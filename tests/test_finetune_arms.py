"""Each arm's adapters and optimiser, and the identities of their first steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from allora_analysis.finetune.setting import ARMS, LORAPLUS_RATIO, WITH_ETA, Setting, check
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
from allora_analysis.finetune import arms, models  # noqa: E402

RATE, HEAD = 0.05, 0.003


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.bert(tmp_path_factory.mktemp("arms") / "bert"))


def setting(arm, **fields):
    eta2 = {"eta2": 4.0} if arm in WITH_ETA else {}
    rates = {"learning_rate": RATE, "head_learning_rate": HEAD}
    return check(Setting("m", "d", arm, rank=2, **({**eta2, **rates} | fields)))


def adapted(folder, made):
    transformers.set_seed(made.seed)
    pretrained = models.load(folder, 2)
    return arms.adapt(pretrained.model, made).train(), pretrained.tokenizer


def batch(tokenizer, n=8):
    rows = tiny.rows(n, 5)
    encoded = tokenizer([row["text"] for row in rows], padding=True, return_tensors="pt")
    return {**encoded, "labels": torch.tensor([row["label"] for row in rows])}


def state(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def step(folder, made, steps=1):
    """The parameters before and after some steps on one batch, without clipping."""
    model, tokenizer = adapted(folder, made)
    optimizer = arms.optimizer(model, made)
    before = state(model)
    for _ in range(steps):
        optimizer.zero_grad()
        model(**batch(tokenizer)).loss.backward()
        optimizer.step()
    return before, state(model)


@pytest.mark.parametrize("arm", ARMS)
def test_adapters_and_classifier_move_and_the_frozen_base_does_not(folder, arm):
    before, after = step(folder, setting(arm), steps=2)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    kinds = ("lora_A", "lora_B", "lora_magnitude_vector") if arm == "dora" else ("lora_A", "lora_B")
    adapters = {name for name in before if any(kind in name for kind in kinds)}
    head = {name for name in before if "classifier" in name and "original_module" not in name}
    assert len(adapters) == (0 if arm == "head_only" else len(kinds) * 13)  # 6 layers twice and the pooler
    assert moved == adapters | head


@pytest.mark.parametrize(
    ("arm", "optimizer"), [(arm, "adamw") for arm in ARMS] + [("lora", "sgd"), ("loraplus", "momentum")]
)
def test_each_parameter_is_in_one_group_at_its_own_rate(folder, arm, optimizer):
    made = setting(arm, optimizer=optimizer, weight_decay=0.25)
    model, _ = adapted(folder, made)
    built = arms.optimizer(model, made)
    rates = {}
    for group in built.param_groups:
        assert group["weight_decay"] == 0.25
        for parameter in group["params"]:
            assert parameter not in rates
            rates[parameter] = group["lr"]
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            assert parameter not in rates
        elif "classifier" in name:
            assert rates.pop(parameter) == HEAD
        else:
            factor = LORAPLUS_RATIO if arm == "loraplus" and "lora_B" in name else 1
            assert rates.pop(parameter) == pytest.approx(RATE * factor)
    assert not rates
    kind = "SGD" if made.optimizer != "adamw" else "ALLoRAAdamW" if arm == "allora_adamw" else "AdamW"
    assert type(built).__name__ == kind


def test_one_seed_draws_the_same_classifier_and_the_same_a_in_every_arm(folder):
    plain = state(adapted(folder, setting("lora"))[0])
    for arm in ARMS:
        other = state(adapted(folder, setting(arm))[0])
        ours = [name for name in plain if "classifier" in name and "original" not in name]
        for name in ours:
            theirs = (
                name
                if name in other
                else name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
            )
            assert torch.equal(plain[name], other[theirs]), arm
        if arm not in ("pissa", "head_only"):
            assert all(torch.equal(plain[name], other[name]) for name in plain if "lora_A" in name), arm
    assert not torch.equal(plain[ours[0]], state(adapted(folder, setting("lora", seed=1))[0])[ours[0]])


def changes(before, after, kind):
    return torch.cat([(after[name] - before[name]).flatten() for name in before if kind in name]).double()


@pytest.mark.parametrize("arm", ["allora", "allora_0", "allora_od", "lora_x_eta"])
def test_the_first_sgd_step_is_loras_at_eta_times_the_rate(folder, arm):
    """§4.2: at B = 0 every row factor is η. LoRA×η has η² in its step: η in the gradient and η in the product."""
    eta = 2.0
    b = changes(*step(folder, setting(arm, optimizer="sgd")), "lora_B")
    scaled = changes(*step(folder, setting("lora", optimizer="sgd", learning_rate=eta * RATE)), "lora_B")
    plain = changes(*step(folder, setting("lora", optimizer="sgd")), "lora_B")
    assert (b - scaled).norm() <= 1e-6 * scaled.norm()
    assert (b - plain).norm() > 0.5 * plain.norm()
    head = changes(*step(folder, setting(arm, optimizer="sgd")), "classifier.modules_to_save")
    assert (head - changes(*step(folder, setting("lora", optimizer="sgd")), "classifier.modules_to_save")).norm() == 0


def test_counts(folder):
    model, _ = adapted(folder, setting("lora"))
    found = arms.counts(model)
    assert found["head"] == 2 * 32 + 2
    assert found["adapters"] == 2 * (2 * (4 * (32 + 32) + 2 * (32 + 48)) + 64)
    base = sum(p.numel() for p in models.load(folder, 2).model.parameters())
    assert found["total"] == base + found["adapters"]
    assert found["percent"] == 100 * (found["adapters"] + found["head"]) / found["total"]
    assert arms.counts(adapted(folder, setting("head_only"))[0]) | {"percent": 0} == {
        "total": base, "adapters": 0, "head": 66, "percent": 0
    }  # fmt: skip


@pytest.mark.bad_input
def test_a_model_that_the_arm_cannot_take_is_one_line(folder):
    from allora_analysis.validation import ArgumentError

    with pytest.raises(ArgumentError, match="has no classifier"):
        arms.adapt(torch.nn.Linear(2, 2), setting("lora"))
    made = dataclasses.replace(setting("allora"), rank=10**6)
    with pytest.raises(ArgumentError) as caught:
        arms.adapt(models.load(folder, 2).model, made)
    assert "\n" not in str(caught.value)
