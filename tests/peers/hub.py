"""A hub's cache on disk for PEFT's tests: tiny models of the classes that they name, random weights, no network.

`python -m tests.peers.hub FOLDER` fills FOLDER as huggingface_hub lays out its cache, so that every `from_pretrained`
of an id below finds it there under `HF_HUB_CACHE=FOLDER HF_HUB_OFFLINE=1`. Adapters are plain PEFT's. Imports nothing
from the package.
"""

import sys
from pathlib import Path

import peft
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

COMMIT = "0" * 40
VOCABULARY = 1024

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
}
_GROUPED = _SIZES | {"num_key_value_heads": 2, "head_dim": 8}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 512}
_OPT = _SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32}
_T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_T5 |= {"decoder_start_token_id": 0}
_BART = {"vocab_size": VOCABULARY, "d_model": 32, "max_position_embeddings": 512}
for _part in ("encoder", "decoder"):
    _BART |= {f"{_part}_layers": 2, f"{_part}_ffn_dim": 48, f"{_part}_attention_heads": 4}
_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_EXPERTS = _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}

# The sizes that a class's config has in place of `_SIZES`, or those of one id.
SIZES = {
    "OPTForCausalLM": _OPT | {"hidden_size": 16, "word_embed_proj_dim": 16, "num_hidden_layers": 5},
    "GPT2LMHeadModel": _GPT,
    "GPTJForCausalLM": _GPT | {"rotary_dim": 4},
    "BloomForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 5, "n_head": 4},
    "LlamaForSequenceClassification": _GROUPED | {"pad_token_id": 0},
    "MistralForCausalLM": _GROUPED,
    "Qwen2ForCausalLM": _GROUPED,
    "Qwen3ForCausalLM": _GROUPED,
    "Gemma3ForCausalLM": _GROUPED,
    "MixtralForCausalLM": _EXPERTS,
    "Qwen3MoeForCausalLM": _GROUPED | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "GptOssForCausalLM": _EXPERTS,
    "Llama4ForCausalLM": _EXPERTS | {"intermediate_size_mlp": 48},
    "FalconMambaForCausalLM": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "CLIPTextModel": _SIZES | {"eos_token_id": 2},
    "BartForConditionalGeneration": _BART,
    "T5ForConditionalGeneration": _T5,
    "ResNetForImageClassification": _RESNET,
    "peft-internal-testing/opt-125m": _OPT | {"num_hidden_layers": 12},
}
# Ids of the hub, and the class of the model there.
MODELS = {
    "peft-internal-testing/tiny-random-OPTForCausalLM": "OPTForCausalLM",
    "peft-internal-testing/opt-125m": "OPTForCausalLM",
    "facebook/opt-125m": "OPTForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "hf-internal-testing/tiny-random-gpt2": "GPT2LMHeadModel",
    "peft-internal-testing/tiny-random-gpt2": "GPT2LMHeadModel",
    "peft-internal-testing/tiny-random-GPT2LMHeadModel": "GPT2LMHeadModel",
    "peft-internal-testing/tiny-random-GPTJForCausalLM": "GPTJForCausalLM",
    "peft-internal-testing/tiny-random-GPTNeoXForCausalLM": "GPTNeoXForCausalLM",
    "peft-internal-testing/tiny-random-BloomForCausalLM": "BloomForCausalLM",
    "trl-internal-testing/tiny-random-LlamaForCausalLM": "LlamaForCausalLM",
    "peft-internal-testing/tiny-random-LlamaForCausalLM": "LlamaForCausalLM",
    "hf-internal-testing/tiny-random-LlamaForCausalLM": "LlamaForCausalLM",
    "trl-internal-testing/tiny-LlamaForSequenceClassification-3.2": "LlamaForSequenceClassification",
    "hf-internal-testing/tiny-random-MistralForCausalLM": "MistralForCausalLM",
    "peft-internal-testing/tiny-dummy-qwen2": "Qwen2ForCausalLM",
    "Qwen/Qwen2-0.5B": "Qwen2ForCausalLM",
    "trl-internal-testing/tiny-Qwen3ForCausalLM": "Qwen3ForCausalLM",
    "hf-internal-testing/tiny-random-Gemma3ForCausalLM": "Gemma3ForCausalLM",
    "hf-internal-testing/Mixtral-tiny": "MixtralForCausalLM",
    "trl-internal-testing/tiny-Qwen3MoeForCausalLM": "Qwen3MoeForCausalLM",
    "hf-internal-testing/tiny-qwen3-moe": "Qwen3MoeForCausalLM",
    "trl-internal-testing/tiny-GptOssForCausalLM": "GptOssForCausalLM",
    "trl-internal-testing/tiny-Llama4ForCausalLM": "Llama4ForCausalLM",
    "tiiuae/falcon-mamba-tiny-dev": "FalconMambaForCausalLM",
    "peft-internal-testing/tiny-random-BertModel": "BertModel",
    "hf-internal-testing/tiny-random-BertModel": "BertModel",
    "bert-base-uncased": "BertModel",
    "peft-internal-testing/tiny-random-BertForSequenceClassification": "BertForSequenceClassification",
    "peft-internal-testing/tiny-random-RobertaModel": "RobertaModel",
    "peft-internal-testing/tiny-random-RobertaForSequenceClassification": "RobertaForSequenceClassification",
    "peft-internal-testing/tiny-random-DebertaModel": "DebertaModel",
    "peft-internal-testing/tiny-random-DebertaV2Model": "DebertaV2Model",
    "peft-internal-testing/tiny-clip-text-2": "CLIPTextModel",
    "peft-internal-testing/tiny-random-BartForConditionalGeneration": "BartForConditionalGeneration",
    "peft-internal-testing/tiny-random-t5": "T5ForConditionalGeneration",
    "google/flan-t5-small": "T5ForConditionalGeneration",
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration": "T5ForConditionalGeneration",
    "peft-internal-testing/tiny-random-T5ForConditionalGeneration-calibrated": "T5ForConditionalGeneration",
    "peft-internal-testing/tiny-random-ResNetForImageClassification": "ResNetForImageClassification",
}
# A plain LoRA adapter: its id, its base, its task, the folder within.
_OPT_ID = "peft-internal-testing/tiny-random-OPTForCausalLM"
ADAPTERS = [
    ("peft-internal-testing/tiny-OPTForCausalLM-lora", _OPT_ID, "CAUSAL_LM", ""),
    ("peft-internal-testing/opt-125m-dummy-lora", "peft-internal-testing/opt-125m", "CAUSAL_LM", ""),
    ("peft-internal-testing/tiny-opt-lora-revision", _OPT_ID, "CAUSAL_LM", ""),
    ("peft-internal-testing/gpt2-lora-random", "gpt2", "CAUSAL_LM", ""),
    ("peft-internal-testing/test-lora-subfolder", "peft-internal-testing/opt-125m", "CAUSAL_LM", "test"),
    ("peft-internal-testing/tiny-random-BertModel-lora", "peft-internal-testing/tiny-random-BertModel", "", ""),
]


def snapshot(cache: Path, name: str) -> Path:
    """The folder that the cache has for an id's main branch."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    for revision in ("main", "test"):
        (repo / "refs" / revision).write_text(COMMIT)
    (repo / "snapshots" / COMMIT).mkdir(parents=True, exist_ok=True)
    return repo / "snapshots" / COMMIT


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Bytes as tokens, after the special ones."""
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special.values(), *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=512, **special)


def make_model(name: str, class_name: str) -> transformers.PreTrainedModel:
    """Seeded random weights."""
    cls = getattr(transformers, class_name)
    torch.manual_seed(0)
    return cls(cls.config_class(**SIZES.get(name, SIZES.get(class_name, _SIZES))))


def fill(cache: Path) -> None:
    """Every model and adapter of the tables."""
    for name, class_name in MODELS.items():
        make_model(name, class_name).save_pretrained(snapshot(cache, name))
        tokenizer().save_pretrained(snapshot(cache, name))
    for name, base, task, folder in ADAPTERS:
        automodel = transformers.AutoModelForCausalLM if task else transformers.AutoModel
        model = automodel.from_pretrained(snapshot(cache, base))
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task or None, init_lora_weights=False))
        for config in adapted.peft_config.values():
            config.base_model_name_or_path = base
        adapted.save_pretrained(snapshot(cache, name) / folder)
    (cache / "complete").touch()


if __name__ == "__main__":
    fill(Path(sys.argv[1]))
