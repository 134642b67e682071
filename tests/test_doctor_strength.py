"""How strongly a saved adapter acts in its network, against PEFT's own forward pass of the same files."""

import dataclasses
import json

import numpy as np
import pytest
import torch

pytest.importorskip("peft")

from allora_analysis.doctor import saved
from allora_analysis.doctor.__main__ import main
from allora_analysis.finetune import models
from allora_analysis.ripple.transformer import Design, draw, turned_at_random
from allora_analysis.validation import ArgumentError
from tests import tiny_finetune
from tests.saved_adapters import peft_folder

SENTENCE = "the film was good"
pytestmark = pytest.mark.filterwarnings(  # PEFT's own, under a new transformers
    "ignore:.*gradient_checkpointing:FutureWarning",
    "ignore:Could not find a config file",
    "ignore:.*invalid shape",  # PEFT's own, of lora_bias's vectors
)


def adapter_of(source, folder, size=0.1, targets=("query", "dense")):
    """PEFT's own adapter on the base model, B drawn."""
    import peft

    torch.manual_seed(3)
    base = models.load(str(source), 2, attention="eager").model
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules=list(targets), init_lora_weights=False)
    model = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=size)
    model.save_pretrained(folder)
    return model.eval()


@pytest.fixture(scope="module", params=["bert", "llama", "qwen2"])
def both(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "bert":
        source, targets = tiny_finetune.bert(folder / "base"), ("query", "dense")
    else:
        family = request.param.capitalize()
        source, targets = tiny_finetune.decoder(folder / "base", family, pad_token="[PAD]"), ("q_proj", "up_proj")
    return source, folder / "adapter", adapter_of(source, folder / "adapter", targets=targets)


def found(source, folder):
    return saved.strength(str(source), saved.matrices(folder, saved.read(folder)), SENTENCE)


def test_the_change_is_pefts_own(both):
    source, folder, model = both
    told = found(source, folder)
    tokens = models.load(str(source), 2).tokenizer(SENTENCE)["input_ids"][: saved.TOKENS]
    with torch.no_grad():
        with model.disable_adapter():
            before = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1]
        after = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1]
    assert told.change == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-3)
    assert told.tokens == len(tokens)
    assert told.adapted == (4 + 4 if "bert" in str(source) else 4)  # query and three dense layers; q and up
    assert told.at_random == pytest.approx(told.change, rel=0.7)  # its entries are random


def test_the_radius_halves_with_twice_the_adapter(both, tmp_path):
    source, folder, _ = both
    matrices = saved.matrices(folder, saved.read(folder))
    one = saved.strength(str(source), matrices, SENTENCE)
    two = saved.strength(str(source), {name: (a, 2 * b) for name, (a, b) in matrices.items()}, SENTENCE)
    assert two.radius == pytest.approx(one.radius / 2, rel=0.16)  # to the bisection's tolerance
    assert two.change > one.change


def test_an_adapter_aligned_with_the_model_is_told_from_one_at_random(tmp_path):
    """Planted: A reads what the layer's inputs have in common, where a random row reads 1/√n of it."""
    source = tiny_finetune.bert(tmp_path / "base")
    loaded = models.load(str(source), 2)
    name, seen = "encoder.layer.0.attention.output.dense", []
    layer = loaded.model.bert.get_submodule(name)
    layer.register_forward_hook(lambda _, inputs, output: seen.append(inputs[0][0].detach().double().numpy()))
    with torch.no_grad():
        loaded.model(torch.tensor([loaded.tokenizer(SENTENCE)["input_ids"][: saved.TOKENS]]))
    common = np.linalg.svd(seen[0])[2][:1]
    b = np.random.default_rng(3).standard_normal((layer.out_features, 1))
    told = saved.strength(str(source), {f"bert.{name}": (common, b)}, SENTENCE)
    assert told.change > 2 * told.at_random
    assert "more than at random: on " in told.words()


def test_adapters_at_random_keep_rank_and_row_norm():
    model = draw(Design(heads=2), 2, 64, 4, 0.3, np.random.default_rng(0))
    other = turned_at_random(model, np.random.default_rng(1))
    for block, turned in zip(model.blocks, other.blocks, strict=True):
        for name, one in block.items():
            assert turned[name].w is one.w
            assert turned[name].a.shape == one.a.shape
            sizes = [np.sqrt(np.mean(np.sum((m.b @ m.a) ** 2, axis=1))) for m in (one, turned[name])]
            assert sizes[1] == pytest.approx(sizes[0], rel=0.25)
            assert np.abs(turned[name].b - one.b).max() > 0.01


def test_the_command_says_it(both, capsys):
    source, folder, _ = both
    assert main([str(folder), "--model", str(source)]) == 0
    out = capsys.readouterr().out
    assert "times as much as 3 adapters at random" in out
    assert "the network is a power series in c up to c =" in out
    assert main([str(folder), "--model", str(source), "--lr", "1e-3", "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"adapter", "strength", "recipe", "equivalent"}
    assert told["strength"]["radius"] > 0


def test_words_say_below_one_and_what_is_left_out():
    one = saved.Strength(0.57, 0.05, 1.4, 36, 0, 4)
    assert one.words().startswith("more than at random: on 4 tokens of one sentence it changes the output by 0.57")
    assert "11 times as much as 3 adapters at random" in one.words()
    assert "c = 1.4, beyond which" in one.words()
    near = dataclasses.replace(one, radius=0.5, left_out=2, change=0.06)
    assert near.words().startswith("about as at random: ")
    assert dataclasses.replace(one, change=0.01).words().startswith("less than at random: ")
    assert "c = 0.5, below the adapter's own 1" in near.words()
    assert near.words().endswith("2 pairs on other layers are left out")


def test_a_change_that_double_precision_does_not_see_is_said_in_words(tmp_path, capsys):
    source = tiny_finetune.bert(tmp_path / "base")
    adapter_of(source, tmp_path / "adapter", size=1e-30)
    assert main([str(tmp_path / "adapter"), "--model", str(source), "--json", "-"]) == 0
    told = json.loads(capsys.readouterr().out)["strength"]
    assert told["answers"]["in its network"].startswith("nothing: BA is too small to change the output on 4 tokens")
    assert (told["change"], told["radius"]) == (0.0, None)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "options",
    [{"lora_bias": True}, {"bias": "all"}, {"modules_to_save": ["word_embeddings"]}, {"trainable_token_indices": [2]}],
    ids=lambda options: next(iter(options)),
)
def test_what_a_file_holds_of_the_model_beside_a_and_b_is_refused_and_a_head_is_not(options, tmp_path, capsys):
    import peft

    source = tiny_finetune.bert(tmp_path / "base")
    for name, more in (("head", {"modules_to_save": ["classifier"]}), ("more", options)):
        base = models.load(str(source), 2, attention="eager").model
        model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query"], **more))
        torch.nn.init.normal_(model.base_model.model.bert.encoder.layer[0].attention.self.query.lora_B.default.weight)
        model.save_pretrained(tmp_path / name)
    assert main([str(tmp_path / "head"), "--model", str(source)]) == 0
    assert "beside A and B" not in capsys.readouterr().out
    assert main([str(tmp_path / "more"), "--model", str(source)]) == 2
    assert "holds more of the model than A and B (bert." in capsys.readouterr().err
    assert main([str(tmp_path / "more")]) == 0
    assert "beside A and B  bert." in capsys.readouterr().out


def test_a_pooler_beside_a_and_b_is_behind_the_last_block(both):
    source, folder, _ = both
    matrices = saved.matrices(folder, saved.read(folder))
    names = ["classifier.weight", "pooler.dense.bias", "bert.pooler.dense.bias"]
    saved.strength(str(source), matrices, SENTENCE, beside=names)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("make", "match"),
    [
        (tiny_finetune.distilbert, "distilbert .* cannot be read as blocks"),
        (tiny_finetune.bert, "no layer of it has one of the adapter's names"),
    ],
    ids=["kind", "names"],
)
def test_a_model_that_is_not_the_adapters_is_one_line(make, match, tmp_path):
    with pytest.raises(ArgumentError, match=match):
        saved.strength(str(make(tmp_path)), {"x.y": (np.ones((1, 3)), np.ones((2, 1)))}, SENTENCE)


@pytest.mark.bad_input
def test_an_adapter_of_another_width_is_one_line(tmp_path):
    wrong = {"bert.encoder.layer.0.attention.self.query": (np.ones((1, 3)), np.ones((2, 1)))}
    with pytest.raises(ArgumentError, match="is 32×32 in the model, 2×3 in the adapter"):
        saved.strength(str(tiny_finetune.bert(tmp_path)), wrong, SENTENCE)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"variant": "asf_lora", "eta": 2.0}, "ASF-LoRA"),
        ({"kasa_config": {}, "use_bdlora": {"x": 1}}, "use_bdlora"),
        ({"alora_invocation_tokens": [5]}, "alora_invocation_tokens"),
    ],
    ids=["dora", "pissa", "olora", "asf_lora", "bdlora", "alora"],
)
def test_an_adapter_that_adds_more_than_ba_is_refused(fields, named, tmp_path, capsys):
    assert main([str(peft_folder(tmp_path, **fields)), "--model", "x"]) == 2
    error = capsys.readouterr().err
    assert f"is {named}" in error
    assert error.count("\n") == 1
