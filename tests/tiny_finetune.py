"""Tiny models with random weights, a word-level tokenizer and a set whose labels a linear classifier can learn."""

import json
import string
from pathlib import Path

import torch

WORDS = ("good", "fine", "great", "bad", "poor", "awful", "a", "the", "film", "plot", "is", "was", "and", "not")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
SMALL = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}


def tokenizer(**special: str):
    """One word, one token; with the special tokens that are asked for."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", **special)


def letters(**special: str):
    """Qwen2's own tokenizer, which transformers insists on for its models, a token a letter or digit, no merges."""
    from transformers import Qwen2Tokenizer

    vocabulary = {word: index for index, word in enumerate((*SPECIAL, "Ġ", *string.ascii_lowercase, *string.digits))}
    none = {"pad_token": None, "eos_token": None}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[], unk_token="[UNK]", **(none | special))


def bert(folder: Path, drop_rate: float = 0.1) -> Path:
    """A BERT of two layers with dropout of its own, saved as transformers does, with a padding token."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    fields = {"num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0}
    fields |= {"hidden_dropout_prob": drop_rate, "attention_probs_dropout_prob": drop_rate}
    BertModel(BertConfig(**SMALL, **fields)).save_pretrained(folder)
    tokenizer(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]").save_pretrained(folder)
    return folder


def distilbert(folder: Path) -> Path:
    """A DistilBERT of two layers, whose classifier has two."""
    from transformers import DistilBertConfig, DistilBertModel

    torch.manual_seed(0)
    config = DistilBertConfig(dim=16, hidden_dim=16, n_layers=2, n_heads=2, vocab_size=SMALL["vocab_size"])
    DistilBertModel(config).save_pretrained(folder)
    tokenizer(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]").save_pretrained(folder)
    return folder


def decoder(folder: Path, family: str = "Qwen2", causal: bool = False, **special: str) -> Path:
    """A decoder of two layers, without a padding token in its config; `special` are its tokenizer's."""
    import transformers

    torch.manual_seed(0)
    fields = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512}
    fields |= {"pad_token_id": None, "initializer_range": 0.2}  # a head that can tell tokens apart
    config = getattr(transformers, f"{family}Config")(**SMALL, **fields)
    kind = "ForCausalLM" if causal else "Model"
    getattr(transformers, family + kind)(config).save_pretrained(folder)
    (letters if family == "Qwen2" else tokenizer)(**special).save_pretrained(folder)
    return folder


def rows(n: int, seed: int) -> list[dict]:
    """Sentences of 3 to 9 words whose label says whether a good word is in them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (1,), generator=generator))

    made = []
    for _ in range(n):
        label = draw(2)
        words = [WORDS[6 + draw(8)] for _ in range(2 + draw(7))]
        words.insert(draw(len(words)), WORDS[3 * (1 - label) + draw(3)])
        made.append({"text": " ".join(words), "label": label})
    return made


def questions(n: int, seed: int) -> list[dict]:
    """Multiple-choice rows of 2 or 3 answers; the right one is the one that is called good."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(n):
        size = 2 + int(torch.randint(2, (1,), generator=generator))
        right = int(torch.randint(size, (1,), generator=generator))
        answers = [f"answer{place + 1}" for place in range(size)]
        told = " ".join(f"{answer} {'good' if place == right else 'bad'}" for place, answer in enumerate(answers))
        instruction = f"which is good {told}\n\nAnswer format: {'/'.join(answers)}"
        output = f"the correct answer is {answers[right]}"
        made.append({"instruction": instruction, "input": "", "output": output, "answer": answers[right]})
    return made


def write(path: Path, lines: list[dict]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def sentences(folder: Path, n: int = 48) -> Path:
    """A folder of data: n rows to train on, 16 to validate, 24 to test."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, size) in enumerate((("train", n), ("validation", 16), ("test", 24))):
        write(folder / f"{name}.jsonl", rows(size, seed))
    return folder
