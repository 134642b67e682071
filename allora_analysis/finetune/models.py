"""A pretrained model, with a fresh classifier or as a language model, and its tokenizer.

Checked by `tests/test_finetune_models.py`.

From a folder, a GGUF file or a hub id, as transformers loads them; remote code only where it is asked for by name. The
padding token matters: a decoder's classifier reads the last token that is no padding, so model and tokenizer must agree
on it, or the accuracy is chance's in silence.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from allora_analysis.finetune.machine import exhausted, quiet
from allora_analysis.finetune.sources import cut_at_word, located
from allora_analysis.validation import ArgumentError

MOST_LAYERS = 10_000
FRESH = ("classifier", "score", "pooler")  # what a checkpoint may lack: its weights are drawn


@dataclass(frozen=True)
class Pretrained:
    """A model as it was loaded, causal or with a classifier drawn from torch's global generator; its tokenizer pads
    right.
    """

    model: nn.Module
    tokenizer: Any


def load(source: str, classes: int | None, trust_remote_code: bool = False, attention: str | None = None) -> Pretrained:
    """Load a model for sequence classification, or with `classes` None as a causal language model, in float32 on the
    CPU.

    `source` is a folder, a GGUF file, a hub id, or the name of a package that carries a model (`sources.PACKAGES`);
    `trust_remote_code` runs what the model's authors ship, in this process; `attention` is transformers' name of an
    implementation ("eager" has second derivatives). Refused: what transformers cannot load, more than the memory holds,
    no tokenizer, weights that are missing, a language model that sees what it is to predict, no padding token that the
    model knows.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    path = Path(located(source))
    gguf = path.is_file() and path.suffix == ".gguf"
    where, options = (str(path.parent), {"gguf_file": path.name}) if gguf else (str(path), {})
    options |= {"trust_remote_code": trust_remote_code, "local_files_only": path.exists()}
    kind, chosen = AutoModelForCausalLM, {}
    if classes is not None:
        kind, chosen = AutoModelForSequenceClassification, {"num_labels": classes}
    if attention is not None:
        chosen["attn_implementation"] = attention
    try:
        with quiet():
            _check_depth(where, options)
            tokenizer = AutoTokenizer.from_pretrained(where, padding_side="right", **options)
            model, about = kind.from_pretrained(
                where, dtype=torch.float32, output_loading_info=True, **chosen, **options
            )
    except Exception as error:  # each broken file fails in a way of its own
        if exhausted(error):
            raise ArgumentError(f"model {source!r} does not fit into the memory; take a smaller one") from None
        raise ArgumentError(
            f"model {source!r}: transformers cannot load it ({cut_at_word(error)}); give a folder with config.json, "
            "weights and tokenizer, a .gguf file, or a hub id with network at hand"
        ) from None
    if lacking := sorted(name for name in about["missing_keys"] if not any(word in name for word in FRESH)):
        raise ArgumentError(
            f"model {source!r}: {len(lacking)} weights of {type(model).__name__} are missing, {lacking[0]} for one; "
            "fetch it again, or give a model that has them"
        )
    check_tokenizer(source, tokenizer)
    if gguf:
        unmark(model)
    if classes is None:
        _check_causal(source, model)
    _pad(source, model, tokenizer)
    return Pretrained(model, tokenizer)


def _check_depth(where: str, options: dict[str, Any]) -> None:
    # Layers are built one by one before any weight is read.
    from transformers import AutoConfig

    if "gguf_file" in options:
        return
    config = AutoConfig.from_pretrained(where, **options)
    claimed = getattr(config.get_text_config(), "num_hidden_layers", None)
    if isinstance(claimed, int) and claimed > MOST_LAYERS:
        raise ArgumentError(f"its config claims {claimed:,} layers")


def load_to_train(source: str, classes: int | None, trust_remote_code: bool, precision: str, device: str) -> Pretrained:
    """As `load`, with the attention that trains fastest: plain products for bf16 on a CPU.

    torch's fused attention is slow backward there: a step of SmolLM2-135M took 1.2 to 1.8 times as long with it.
    """
    import torch

    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return load(source, classes, trust_remote_code, "eager" if on_cpu and precision == "bf16" else None)


def turn_dropout_off(source: str, model: nn.Module) -> None:
    """Set every drop rate of a model to 0, those of its layers and those that its attention keeps as numbers.

    Refused: a model without any, and one whose two passes over the same tokens in training still differ.
    """
    import torch

    rates = [
        (module, name)
        for module in model.modules()
        for name, value in vars(module).items()
        if ("drop" in name or (isinstance(module, _DropoutNd) and name == "p")) and isinstance(value, float) and value
    ]
    if not rates:
        raise ArgumentError(f"model {source!r}: has no dropout of its own to turn off; leave out --no-own-dropout")
    for module, name in rates:
        setattr(module, name, 0.0)
    was, tokens = model.training, torch.arange(4).repeat(2, 1) % model.get_input_embeddings().num_embeddings
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        one, other = (model.train()(input_ids=tokens).logits for _ in range(2))
    model.train(was)
    if not torch.equal(one, other):
        raise ArgumentError(f"model {source!r}: its dropout cannot be turned off; leave out --no-own-dropout")


def check_tokenizer(source: str, tokenizer: Any) -> None:
    """Refuse a tokenizer without a vocabulary.

    Where a folder holds no tokenizer's file, transformers makes an empty one, which takes every word for [UNK], or for
    nothing.
    """
    if set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, "▁"}:
        raise ArgumentError(
            f"model {source!r}: holds no tokenizer (tokenizer.json, vocab.txt or another vocabulary); save its own "
            "beside the weights: tokenizer.save_pretrained"
        )


def check_rows(source: str, model: Any, rows: Iterable[Sequence[int]]) -> None:
    """Refuse rows that are longer than the model's positions, or with a token that it has no embedding of."""
    longest = largest = 0
    for row in rows:
        longest, largest = max(longest, len(row)), max(largest, *row, 0)
    _check_token(source, model, "gives", largest)
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None:
        positions -= _before_the_first(model)
    if positions is not None and longest > positions:
        raise ArgumentError(
            f"max_length must be at most {positions}, the positions of the model {source!r}; a row has {longest} tokens"
        )


def _check_token(source: str, model: Any, does: str, token: int) -> None:
    known = model.get_input_embeddings().num_embeddings
    if token >= known:
        raise ArgumentError(
            f"model {source!r}: its tokenizer {does} token {token}, and the model has {known}; they are not of one "
            "model, or the embeddings were never resized"
        )


def _before_the_first(model: nn.Module) -> int:
    # RoBERTa and its like count positions from the one after the padding token's.
    known = (module for name, module in model.named_modules() if name.endswith("position_embeddings"))
    return max((one.padding_idx + 1 for one in known if getattr(one, "padding_idx", None) is not None), default=0)


def _check_causal(source: str, model: nn.Module) -> None:
    """Refuse a language model in which a token's logits depend on what comes after it.

    transformers loads BERT as a causal model too, with attention to both sides: an answer's likelihood, each token's
    given those before, would then be of tokens that the model has seen.
    """
    import torch

    rows = torch.zeros(2, 4, dtype=torch.long)
    rows[1, -1] = 1
    with torch.no_grad():
        one, other = model(input_ids=rows).logits[:, :-1]
    if (one - other).abs().max() > 1e-5 * one.abs().max():
        raise ArgumentError(
            f"model {source!r}: {type(model).__name__} sees the token that it is to predict; multiple choice wants a "
            "causal language model, such as Qwen2's"
        )


def unmark(model: Any) -> None:
    """Take transformers' mark of a quantized model off one whose weights it has turned into float32.

    A GGUF file's are, on loading, but the Trainer would refuse to train the model because of the mark.
    """
    if all(parameter.is_floating_point() for parameter in model.parameters()):
        model.is_quantized = False
        model.config.__dict__.pop("quantization_config", None)
        for name in ("hf_quantizer", "quantization_method"):
            model.__dict__.pop(name, None)


def _pad(source: str, model: nn.Module, tokenizer: Any) -> None:
    """Give model and tokenizer one padding token: the tokenizer's, or else its end token."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ArgumentError(
                f"model {source!r}: its tokenizer has neither a padding nor an end token; set pad_token in its "
                "tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    _check_token(source, model, "pads with", tokenizer.pad_token_id)
    model.config.pad_token_id = tokenizer.pad_token_id
