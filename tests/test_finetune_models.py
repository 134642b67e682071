"""Models from a folder: the classifier, the padding token and the pooled position, the content digest."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch

from allora_analysis.finetune import models, sources
from allora_analysis.validation import ArgumentError
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
SENTENCES = ["a good film", "the plot was not bad and the film is great a fine film", "awful"]
FAMILIES = {"pad": {"pad_token": "[PAD]", "eos_token": "[SEP]"}, "end": {"eos_token": "[SEP]"}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {"bert": tiny.bert(root / "bert")}
    for family in ("Qwen2", "Llama"):
        for tokens, special in FAMILIES.items():
            made[family, tokens] = tiny.decoder(root / f"{family}-{tokens}", family, **special)
    made["bare"] = tiny.decoder(root / "bare", "Llama")
    return made


def logits(pretrained, texts):
    batch = pretrained.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        return pretrained.model(**batch).logits


def padding_error(pretrained):
    """The largest difference between the logits of a padded batch and those of each sentence by itself."""
    pretrained.model.eval()
    with torch.no_grad():  # a fresh classifier on a tiny random model hardly tells sentences apart
        head = pretrained.model.classifier if hasattr(pretrained.model, "classifier") else pretrained.model.score
        head.weight.normal_()
    alone = torch.cat([logits(pretrained, [text]) for text in SENTENCES])
    assert (alone[0] - alone[1]).abs().max() > 0.1
    return float((logits(pretrained, SENTENCES) - alone).abs().max())


@pytest.mark.parametrize("key", ["bert", *((f, t) for f in ("Qwen2", "Llama") for t in FAMILIES)], ids=str)
@pytest.mark.parametrize("attention", [None, "eager"])
def test_a_padded_batch_has_the_logits_of_its_sentences_one_by_one(folders, key, attention):
    loaded = models.load(str(folders[key]), 3, attention=attention)
    assert padding_error(loaded) < 1e-5
    token = "[SEP]" if "end" in key else "[PAD]"
    assert loaded.tokenizer.pad_token == token
    assert loaded.model.config.pad_token_id == tiny.SPECIAL.index(token)
    assert loaded.model.num_labels == 3


def test_a_wrong_padding_token_shifts_the_logits(folders):
    """The planted error: the assertion above must see a padding token that the model takes for a word."""
    loaded = models.load(str(folders["Qwen2", "pad"]), 3)
    loaded.model.config.pad_token_id = tiny.SPECIAL.index("[SEP]")
    assert padding_error(loaded) > 0.1


def test_the_classifier_is_drawn_from_torchs_generator_and_the_rest_is_the_files(folders):
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(models.load(str(folders["bert"]), 2).model.state_dict())
    for name in drawn[0]:
        assert torch.equal(drawn[0][name], drawn[1][name])
        assert torch.equal(drawn[0][name], drawn[2][name]) == (name != "classifier.weight")


def test_names(folders, tmp_path, monkeypatch):
    (tmp_path / "small.q8.gguf").touch()
    monkeypatch.chdir(tmp_path)
    assert sources.name_of(str(folders["bert"]) + "/") == "bert"
    assert sources.name_of("small.q8.gguf") == "small.q8"
    assert sources.name_of(".") == tmp_path.name
    assert sources.name_of("Qwen/Qwen2-0.5B") == "Qwen2-0.5B"


def test_the_digest_is_of_the_contents_whatever_the_folder_is_called(folders, tmp_path):
    first = sources.digest(str(folders["bert"]))
    copy = shutil.copytree(folders["bert"], tmp_path / "copy")
    (copy / "README.md").write_text("words")
    assert sources.digest(str(copy)) == first
    with (copy / "config.json").open("a") as stream:
        stream.write(" ")
    assert sources.digest(str(copy)) != first
    assert sources.digest(str(copy / "config.json")) != first


def test_the_authors_code_counts_where_it_is_run(folders, tmp_path):
    copy = shutil.copytree(folders["bert"], tmp_path / "bert")
    plain, whole = sources.digest(str(copy)), sources.digest(str(copy), remote_code=True)
    (copy / "modeling_x.py").write_text("x = 1")
    assert sources.digest(str(copy)) == plain
    assert sources.digest(str(copy), remote_code=True) != whole


@pytest.mark.bad_input
def test_neither_padding_nor_end_token(folders):
    with pytest.raises(ArgumentError, match="neither a padding nor an end token") as caught:
        models.load(str(folders["bare"]), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["empty", "no/such-model"])
def test_what_transformers_cannot_load_is_one_line(tmp_path, monkeypatch, name):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArgumentError, match=r"give a folder with config.json") as caught:
        models.load(name, 2)
    assert "\n" not in str(caught.value)
    if name != "empty":
        with pytest.raises(ArgumentError, match=r"give a folder with config.json"):
            sources.digest(name)


@pytest.mark.bad_input
def test_weights_that_are_missing_are_an_error_and_not_drawn(folders, tmp_path):
    """transformers would draw them in silence, but for the report that a run does not show."""
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folders["bert"], tmp_path / "copy")
    weights = load_file(copy / "model.safetensors")
    del weights["encoder.layer.1.attention.self.query.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArgumentError, match=r"1 weights of BertFor\w+ are missing, .*query.weight for one"):
        models.load(str(copy), 2)


def test_the_mark_of_a_quantised_model_is_taken_off_float_weights_only(folders):
    loaded = models.load(str(folders["bert"]), 2).model
    loaded.is_quantized, loaded.hf_quantizer = True, object()
    models.unmark(loaded)
    assert not loaded.is_quantized
    assert not hasattr(loaded, "hf_quantizer")
    loaded.is_quantized = True
    loaded.register_parameter("packed", torch.nn.Parameter(torch.ones(2, dtype=torch.int8), requires_grad=False))
    models.unmark(loaded)
    assert loaded.is_quantized


def test_what_is_said_before_and_after_is_left_alone():
    from transformers.utils import logging

    from allora_analysis.finetune.quiet import quiet

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    with quiet():
        assert not logging.is_progress_bar_enabled()
        with pytest.raises(UserWarning, match="other"):
            warnings.warn("other", stacklevel=1)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.bad_input
def test_weights_that_are_cut_off_are_one_line(folders, tmp_path):
    copy = shutil.copytree(folders["bert"], tmp_path / "bert")
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:20_000])
    with pytest.raises(ArgumentError, match="transformers cannot load it") as caught:
        models.load(str(copy), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_a_language_model_that_sees_what_it_predicts_is_refused(tmp_path):
    from transformers import BertConfig, BertForMaskedLM

    fields = {"num_attention_heads": 2, "max_position_embeddings": 64}
    BertForMaskedLM(BertConfig(**tiny.SMALL, **fields)).save_pretrained(tmp_path / "masked")
    tiny.tokenizer(pad_token="[PAD]").save_pretrained(tmp_path / "masked")
    with pytest.raises(ArgumentError, match="BertLMHeadModel sees the token that it is to predict"):
        models.load(str(tmp_path / "masked"), None)
    for family in ("Qwen2", "Llama"):
        folder = tiny.decoder(tmp_path / family, family, causal=True, **FAMILIES["pad"])
        assert models.load(str(folder), None).model.config.vocab_size == 48


@pytest.mark.bad_input
def test_positions_that_roberta_does_not_have(tmp_path):
    from transformers import RobertaConfig, RobertaModel

    fields = {"num_attention_heads": 2, "max_position_embeddings": 34, "pad_token_id": 1}
    RobertaModel(RobertaConfig(**tiny.SMALL, **fields)).save_pretrained(tmp_path / "roberta")
    tiny.tokenizer(pad_token="[UNK]").save_pretrained(tmp_path / "roberta")
    model = models.load(str(tmp_path / "roberta"), 2).model
    models.check_length("roberta", model, 32)
    model(input_ids=torch.full((1, 32), 5))
    with pytest.raises(ArgumentError, match="max_length must be at most 32, the positions of the model 'roberta'"):
        models.check_length("roberta", model, 33)
    with pytest.raises((IndexError, RuntimeError)):  # what the line above keeps from the user
        model(input_ids=torch.full((1, 33), 5))


@pytest.mark.bad_input
def test_a_padding_token_that_the_model_does_not_know(folders, tmp_path):
    copy = shutil.copytree(folders["bert"], tmp_path / "bert")
    tokens = tiny.tokenizer(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    tokens.add_tokens([f"more{i}" for i in range(40)])
    tokens.add_special_tokens({"pad_token": "[NEW]"})
    tokens.save_pretrained(copy)
    with pytest.raises(ArgumentError, match="its tokenizer pads with token 58, and the model has 48"):
        models.load(str(copy), 2)
