"""The η sweep in pretrained models: transformers' own numbers, the command end to end, and the figure drawn from it."""

import json
import math

import numpy as np
import pytest
import torch

from allora_analysis.claims import pretrained_ripple, s3_3_scaling_factor
from allora_analysis.finetune import models
from allora_analysis.ripple import transformer as ripple
from allora_analysis.ripple.transformer import forward, with_adapters
from paper_figures import transformer as figure
from tests import tiny_finetune
from tests.figure_layout import assert_readable

FAMILIES = {
    "bert": tiny_finetune.bert,
    "llama": lambda folder: tiny_finetune.decoder(folder, "Llama", pad_token="[PAD]"),
}


@pytest.fixture(params=FAMILIES)
def pretrained(request, tmp_path):
    return models.load(str(FAMILIES[request.param](tmp_path)), 2, attention="eager")


def states(model):
    ids = torch.tensor([[5, 6, 7, 8, 9], [9, 4, 6, 10, 4]])
    with torch.no_grad():
        return model.eval()(ids, output_hidden_states=True, output_attentions=True)


def test_a_pass_is_transformers_own_with_the_adapters_merged(pretrained):
    plain = pretrained_ripple.transformer_of(pretrained.model, {})
    told = states(pretrained.model)
    x = told.hidden_states[0].double().numpy()
    run = forward(plain, x, 0.0)
    np.testing.assert_allclose(run.output, told.hidden_states[-1], atol=2e-5)
    np.testing.assert_allclose(run.weights[1], told.attentions[1], atol=2e-5)
    adapted = with_adapters(plain, 0.3, 4, np.random.default_rng(0))
    assert pretrained_ripple.row_norm(adapted)[0] == pytest.approx(0.3, rel=0.2)
    names = ripple.BERT if pretrained.model.config.model_type == "bert" else ripple.LLAMA
    modules = dict(pretrained.model.named_modules())
    for index, block in enumerate(adapted.blocks):
        for key, one in block.items():
            linear = next(modules[name] for name in modules if name.endswith(f".{index}.{names[key]}"))
            linear.weight.data += torch.tensor(2.0 * one.b @ one.a, dtype=torch.float32)
    moved = states(pretrained.model).hidden_states[-1].double().numpy()
    np.testing.assert_allclose(forward(adapted, x, 2.0).output, moved, atol=5e-5)
    assert np.abs(moved - run.output).max() > 0.1


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """What the command writes of two tiny models under the names that rows read."""
    monkeypatch.setattr(pretrained_ripple, "ETAS", (0.0, 1.0, 2.0, 1024.0))
    monkeypatch.setattr(pretrained_ripple, "SEEDS", (0,))
    monkeypatch.setattr(pretrained_ripple, "TRAINED", pretrained_ripple.TRAINED | {"max_steps": 2, "batch_size": 4})
    data, out = tiny_finetune.sentences(tmp_path / "words"), tmp_path / "sweep.json"
    for name, make in zip(("all-MiniLM-L6-v2", "SmolLM2-135M"), FAMILIES.values(), strict=True):
        model, adapters = make(tmp_path / name), tmp_path / f"{name}.safetensors"
        words = [str(model), name, "--data", str(data), "--adapters", str(adapters), "--out", str(out)]
        words += ["--sentences", "2", "--tokens", "4"]
        assert pretrained_ripple.main(words) == 0
    written = out.read_bytes()
    assert adapters.exists()
    assert pretrained_ripple.main(words) == 0  # the same adapters, read again
    assert out.read_bytes() == written
    monkeypatch.setattr(pretrained_ripple, "FILE", out)
    return out


def test_the_command_and_the_figure(swept):
    known = json.loads(swept.read_text(encoding="utf-8"))
    assert list(known) == ["all-MiniLM-L6-v2", "SmolLM2-135M"]
    for name, found in known.items():
        assert found["off_from_transformers"] < 1e-5
        assert found["row_norm"]["random"] == pytest.approx(pretrained_ripple.recorded_row_norm(name), rel=1e-4)
        for kind in ("random", "trained"):
            one = found[kind]
            assert len(one["log_stream"]) == len(found["eta"]) == 4
            assert np.shape(one["entropy"]) == (4, 2)
            assert one["log_change"][0] is None
            assert -1e-12 <= np.min(one["entropy"]) <= np.max(one["entropy"]) <= math.log(4) + 1e-4
            assert one["radius"]["winding"] > 0
    streams = {name: np.array(found["random"]["log_stream"])[:, -1] for name, found in known.items()}
    assert streams["SmolLM2-135M"][-1] > 3 > streams["all-MiniLM-L6-v2"][-1]
    drawn = figure.make_figure(figure.load_data())
    assert drawn.get_suptitle() == figure.finding({name: known[name] for name in figure.MODELS})
    assert "(1 + ηm̄)$^L$, m̄ of row norms: no bound" in drawn.axes[1].get_legend_handles_labels()[1]
    line = next(line for line in drawn.axes[0].get_lines() if line.get_label() == "adapters at random")
    np.testing.assert_allclose(line.get_ydata(), streams["SmolLM2-135M"][1:] - streams["SmolLM2-135M"][0])
    assert_readable(drawn)
    told = figure.predicted_entropy(known["SmolLM2-135M"])
    assert told[0] == pytest.approx(np.mean(known["SmolLM2-135M"]["random"]["entropy"][0]), rel=1e-3)
    assert (np.diff(told) <= 0).all()


def test_the_title_has_the_largest_change_up_to_the_papers_eta_and_up_to_the_last():
    """Planted: streams of two blocks, of which only the last counts; a fall counts as a rise does."""
    eta, still = [0.0, 2.0, 4.0, 1024.0], [[1.0, 7.0]] * 4
    smol = {
        "eta": eta,
        "random": {"log_stream": still},
        "trained": {"log_stream": [[9, 7.0], [0, 7.2], [0, 8], [0, 2]]},
    }
    mini = {
        "eta": eta,
        "random": {"log_stream": [[1, 0.0], [1, -0.4], [1, 3.1], [1, 1]]},
        "trained": {"log_stream": still},
    }
    assert figure.finding({"all-MiniLM-L6-v2": mini, "SmolLM2-135M": smol}) == (
        "Up to the paper's η of 2 the last stream's norm changes by at most a factor of e^0.4;\n"
        "up to 1,024 by e^3.1 (MiniLM) and e^5.0 (SmolLM2)"
    )
    assert figure.finding({}) == ""


@pytest.mark.bad_input
@pytest.mark.parametrize("module", [pretrained_ripple, s3_3_scaling_factor])
def test_where_numbers_cannot_be_added_is_told_before_a_model_is_loaded(tmp_path, capsys, module):
    data = ["--data", "no data"] if module is pretrained_ripple else []
    (tmp_path / "notes.json").write_text("no JSON")
    (tmp_path / "list.json").write_text("[1]")
    for name, told in (("notes.json", "holds no JSON object"), ("list.json", "holds no"), ("a/b.json", "cannot be")):
        assert module.main(["no model", "name", *data, "--out", str(tmp_path / name)]) == 2
        assert f"--out {tmp_path / name}: {told}" in capsys.readouterr().err
    assert (tmp_path / "notes.json").read_text() == "no JSON"


@pytest.mark.bad_input
def test_a_model_without_records_and_sentences_that_are_too_short(tmp_path, capsys):
    data = tiny_finetune.sentences(tmp_path / "words")
    assert pretrained_ripple.main([str(tmp_path), "nameless", "--data", str(data)]) == 2
    assert "no run of LoRA under AdamW at 1e-4 is recorded" in capsys.readouterr().err
    model = tiny_finetune.bert(tmp_path / "model")
    words = [str(model), "all-MiniLM-L6-v2", "--data", str(data), "--tokens", "60"]
    assert pretrained_ripple.main(words) == 2
    assert "only 0 of 2 sentences are as long; take fewer" in capsys.readouterr().err
