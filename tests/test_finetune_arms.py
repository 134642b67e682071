"""Each arm's adapters and optimizer, and the identities of their first steps."""

import dataclasses

import pytest
import torch

from allora_analysis.finetune.setting import ARMS, LORAPLUS_RATIO, WITH_ETA, Setting, check
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
import transformers

from allora_analysis.finetune import arms, models, training
from allora_analysis.finetune import data as text_data
from allora_analysis.finetune.machine import quiet
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.validation import ArgumentError
from tests.tiny_peft_models import mixtral, peft_takes_experts

RATE, HEAD = 0.05, 0.003


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return str(tiny.bert(tmp_path_factory.mktemp("arms") / "bert"))


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """Without dropout of its own."""
    return str(tiny.bert(tmp_path_factory.mktemp("still") / "bert", 0.0))


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
    of_adam = {"betas": (0.8, 0.95), "epsilon": 1e-6} if optimizer == "adamw" else {}
    made = setting(arm, optimizer=optimizer, weight_decay=0.25, **of_adam)
    model, _ = adapted(folder, made)
    built = arms.optimizer(model, made)
    rates = {}
    for group in built.param_groups:
        assert group["weight_decay"] == 0.25
        assert not of_adam or (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-6)
        assert of_adam or group["momentum"] == (0.9 if optimizer == "momentum" else 0.0)
        assert arm != "allora_adamw" or group["eta"] == 2.0
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


def first_step(folder, tmp_path, arm, **fields):
    """The parameters before and after one step of the Trainer on the whole of 8 sentences, constant rate, SGD."""
    made = setting(arm, optimizer="sgd", schedule="constant", max_steps=1, batch_size=8, **fields)
    data = text_data.load(str(tiny.sentences(tmp_path / "films", 8)))
    transformers.set_seed(0)
    whole = training.make(made, models.load(folder, 2), data, tmp_path / "run", save_steps=10**9, device="cpu")
    before = state(whole.model)
    with quiet():
        whole.train()
    return before, state(whole.model)


@pytest.mark.parametrize("arm", ["allora", "allora_0", "allora_od", "lora_x_eta"])
def test_the_first_sgd_step_is_loras_at_eta_times_the_rate(still, tmp_path, arm):
    """§4.2: at B = 0 every row's factor is η, so ΔB at l is LoRA's at η·l; the classifier's step is LoRA's at l."""
    off = {"max_grad_norm": 0.0}
    ours = first_step(still, tmp_path, arm, **off)
    plain = first_step(still, tmp_path, "lora", **off)
    scaled = changes(*first_step(still, tmp_path, "lora", learning_rate=2.0 * RATE, **off), "lora_B")
    assert (changes(*ours, "lora_B") - scaled).norm() <= 1e-6 * scaled.norm()
    assert (changes(*ours, "lora_B") - changes(*plain, "lora_B")).norm() > 0.4 * scaled.norm()
    head = changes(*plain, "classifier.modules_to_save")
    assert head.norm() > 0
    assert (changes(*ours, "classifier.modules_to_save") - head).norm() <= 1e-6 * head.norm()


def test_clipping_takes_the_first_steps_eta_away(still, tmp_path):
    """Claim 17: once the gradient's norm is cut to c, every arm's first step has the norm l·c, whatever its η."""
    cut = {"max_grad_norm": 1e-3, "head_learning_rate": RATE}
    norms = {}
    for arm in ("lora", "allora", "lora_x_eta"):
        before, after = first_step(still, tmp_path, arm, **cut)
        moved = torch.cat([(after[name] - before[name]).double().flatten() for name in before])
        norms[arm] = float(moved.norm())
        assert changes(before, after, "lora_B").norm() > 0
    assert norms == {arm: pytest.approx(RATE * 1e-3, rel=2e-3) for arm in norms}


# -- dropout between A and B


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = torch.nn.Linear(3, 4)

    def forward(self, x):
        return self.dense(x)


def bottleneck(drop_rate, lora_dropout=0.0):
    import peft

    torch.manual_seed(0)
    fields = {"r": 2, "lora_alpha": 2, "target_modules": ["dense"], "init_lora_weights": False}
    model = peft.get_peft_model(OneLayer(), peft.LoraConfig(**fields, lora_dropout=lora_dropout))
    if lora_dropout == 0:
        arms.drop_bottleneck(model, drop_rate)
    return model


def masked_outputs(model, x, drop_rate):
    """Wx + B(m ⊙ Ax)/(1 − drop_rate) for each of the four m."""
    (pair,) = lora_pairs(model)
    with torch.no_grad():
        base = pair.module.base_layer(x)
        inner = x @ pair.a.T / (1 - drop_rate)
        masks = [torch.tensor(mask) for mask in ((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))]
        return [base + (mask * inner) @ pair.b.T for mask in masks]


def frequencies(model, x, drop_rate, n):
    """How often each of the four comes out, row by row of n equal rows; −1 for what is none of them."""
    wanted = torch.stack(masked_outputs(model, x, drop_rate))
    with torch.no_grad():
        outputs = model(x.expand(n, -1))
    distance, which = (outputs[:, None] - wanted[None]).norm(dim=2).min(dim=1)
    return [int((which[distance < 1e-5] == i).sum()) for i in range(4)], int((distance >= 1e-5).sum())


def test_bottleneck_dropout_is_its_definition():
    """Exactly one of the four masks for each row; each as often as its probability says, and the mean is unmasked."""
    drop_rate, n = 0.3, 20_000
    model, x = bottleneck(drop_rate).train(), torch.randn(3, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(11)
    found, other = frequencies(model, x, drop_rate, n)
    assert other == 0
    for count, probability in zip(found, (0.09, 0.21, 0.21, 0.49), strict=True):
        assert abs(count / n - probability) < 4.5 * (probability * (1 - probability) / n) ** 0.5
    plain = bottleneck(drop_rate).eval()
    with torch.no_grad():
        mean = model(x.expand(n, -1)).mean(0)
        assert torch.equal(model.eval()(x), plain(x))
        spread = (torch.stack(masked_outputs(model, x, drop_rate)) - mean).abs().max()
        assert (mean - plain(x)).abs().max() < 4.5 * spread / n**0.5
    (pair,) = lora_pairs(model)
    assert torch.allclose(plain(x), pair.module.base_layer(x) + pair.b @ (pair.a @ x), atol=1e-6)


def test_pefts_own_dropout_is_not_in_the_bottleneck():
    """The planted error: masks on the input give other outputs than the four."""
    model, x = bottleneck(0.0, lora_dropout=0.3).train(), torch.randn(3, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(11)
    assert frequencies(model, x, 0.3, 500)[1] > 100


def test_the_bottleneck_arm_drops_there_and_nowhere_else(still):
    model, tokenizer = adapted(still, setting("lora", drop_rate=0.5, placement="bottleneck"))
    assert {pair.drop_rate for pair in lora_pairs(model)} == {0.0}
    inputs = batch(tokenizer)
    logits = [model(**inputs).logits for _ in range(2)]
    assert torch.equal(*logits)  # B = 0: the masks reach nothing yet
    with torch.no_grad():
        for pair in lora_pairs(model):
            pair.b.normal_()
    logits = [model(**inputs).logits for _ in range(2)]
    assert not torch.equal(*logits)
    model.eval()
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    none, _ = adapted(still, setting("lora", drop_rate=0.5))
    assert not any(module._forward_hooks for module in none.modules())


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
    with pytest.raises(ArgumentError, match="has no classifier"):
        arms.adapt(torch.nn.Linear(2, 2), setting("lora"))
    made = dataclasses.replace(setting("pissa"), rank=10**6)
    with pytest.raises(ArgumentError, match="rank must be at most") as caught:
        arms.adapt(models.load(folder, 2).model, made)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("arm", ["pissa", "dora", "allora_od"])
def test_a_mixture_that_the_arm_cannot_take_is_one_line(arm):
    """Planted: PiSSA's AttributeError came out of PEFT."""
    if not peft_takes_experts():
        pytest.skip("this PEFT leaves experts out")
    with pytest.raises(ArgumentError, match=rf"arm {arm}: .*all-linear takes in th.*down_proj, .*gate_up_p") as caught:
        arms.adapt(mixtral(), setting(arm))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arm", ["lora", "allora", "dora", "head_only"])
def test_distilberts_classifier_has_a_layer_before_it(tmp_path, arm):
    """PEFT trains that in full too, and must not adapt it as well."""
    folder = str(tiny.distilbert(tmp_path / "distilbert"))
    model, tokenizer = adapted(folder, setting(arm))
    assert "pre_classifier" not in {pair.name.rpartition(".")[2] for pair in lora_pairs(model)}
    model(**batch(tokenizer)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("pre_classifier" in name for name in trained)
    assert arms.counts(model)["head"] == (16 * 16 + 16) + (2 * 16 + 2)  # one head for all arms


@pytest.mark.bad_input
def test_a_rank_that_the_arm_would_cut_in_silence(folder):
    with pytest.raises(ArgumentError, match="rank must be at most 32 for the arm pissa here, received 33"):
        arms.adapt(models.load(folder, 2).model, dataclasses.replace(setting("pissa"), rank=33))
    wide = arms.adapt(models.load(folder, 2).model, dataclasses.replace(setting("lora"), rank=33))
    assert {pair.a.shape[0] for pair in lora_pairs(wide)} == {33}


@pytest.mark.bad_input
def test_a_rank_too_large_for_the_memory_is_one_line(folder):
    with pytest.raises(ArgumentError, match="rank: adapters of rank 10000000000000 do not fit into the memory"):
        arms.adapt(models.load(folder, 2).model, dataclasses.replace(setting("lora"), rank=10**13))
