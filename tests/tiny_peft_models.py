"""Tiny random models for the tests of `allora_analysis.lora.peft`. Imports nothing from the package."""

import warnings

import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    MixtralConfig,
    MixtralForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

QWEN_TARGETS = ["q_proj", "o_proj", "down_proj"]
BERT_TARGETS = ["query", "value", "output.dense"]
SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_labels": 3}


def qwen() -> Qwen2ForSequenceClassification:
    torch.manual_seed(0)
    config = Qwen2Config(**SIZES, intermediate_size=24, num_key_value_heads=2, pad_token_id=0, initializer_range=0.2)
    return Qwen2ForSequenceClassification(config)


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(**SIZES, intermediate_size=24, max_position_embeddings=16, initializer_range=0.2)
    return BertForSequenceClassification(config)


def gpt2() -> GPT2ForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 16}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, vocab_size=50, num_labels=3, pad_token_id=0))


def mixtral(labels: int = 3) -> MixtralForSequenceClassification:
    """One layer, four experts of which each token takes two."""
    torch.manual_seed(0)
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 2, "intermediate_size": 24}
    sizes = SIZES | {"num_hidden_layers": 1, "num_labels": labels}
    return MixtralForSequenceClassification(MixtralConfig(**sizes, **experts, pad_token_id=0, initializer_range=0.2))


def peft_takes_experts() -> bool:
    """Whether this PEFT's all-linear adapts the experts of `mixtral` too."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=1, target_modules="all-linear", task_type="SEQ_CLS")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        get_peft_model(mixtral(), config)
    return bool(config.target_parameters)


def batch(size: int = 4, length: int = 7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 50, (size, length), generator=generator)
    return {"input_ids": tokens, "labels": torch.arange(size) % 3}


def randomise(model: torch.nn.Module, scale: float = 0.5, seed: int = 2) -> None:
    """Every lora_B (zero at the start) drawn anew, in the order of the model's parameters."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = (scale * values).to(parameter.dtype)


def logits(model: torch.nn.Module) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=batch()["input_ids"]).logits
