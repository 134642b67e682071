"""LoRA's Hessian in a transformer's layer: the model cut at the layer, the counts, the ends, the records."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from allora_analysis import records
from allora_analysis.finetune import data as text_data
from allora_analysis.finetune import models, sources
from allora_analysis.validation import ArgumentError
from allora_analysis.zero_initialisation import measurement
from allora_analysis.zero_initialisation import run as runs
from allora_analysis.zero_initialisation.measurement import Silu, adapted
from allora_analysis.zero_initialisation.run import PROTOCOL, STUDY, Setting, check, recorded
from experiments import hessian as experiment
from tests import tiny_finetune

MODULES = {"bert": ("query", "value"), "llama": ("q_proj", "v_proj")}
WHERE = {
    "bert": "bert.encoder.layer.{}.attention.self.{}",
    "llama": "model.layers.{}.self_attn.{}",
}
EXACT = Setting("tiny", "films", 0, (), rank=1, k=0, sentences=6, precision="float64")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return {
        "bert": tiny_finetune.bert(root / "bert"),
        "llama": tiny_finetune.decoder(root / "llama", "Llama", pad_token="[PAD]"),
        "films": tiny_finetune.sentences(root / "films"),
    }


def loaded(made, kind):
    torch.manual_seed(0)
    return models.load(str(made[kind]), 2, attention="eager")


def cut(made, kind, setting):
    return adapted(loaded(made, kind), text_data.load(str(made["films"])).splits["train"], setting)


def exact(kind, layer, **changes):
    # A Llama computes its norms and its softmax in float32, whatever it is asked for: its precision is that.
    fields = {"layer": layer, "modules": MODULES[kind], "precision": "float64" if kind == "bert" else "float32"}
    return dataclasses.replace(EXACT, **(fields | changes))


def dense(made, kind, setting):
    """The Hessian in (A, B) of the whole model as it was loaded, W + BA by hand, by autograd twice, in float64."""
    ours = cut(made, kind, setting)
    own = measurement.adapters(ours.model)
    whole = loaded(made, kind).model.eval().double()
    names = [WHERE[kind].format(setting.layer, module) + ".weight" for module in setting.modules]
    weights = [dict(whole.named_parameters())[name].detach() for name in names]
    inputs, labels = ours.data
    inputs = {name: value for name, value in inputs.items() if name != "hidden"}
    start = [part.detach() for layer in own.values() for part in (layer.a, layer.b)]

    def loss(theta):
        pieces = theta.split([part.numel() for part in start])
        parts = [piece.reshape(part.shape) for piece, part in zip(pieces, start, strict=True)]
        changed = {name: w + b @ a for name, w, a, b in zip(names, weights, parts[::2], parts[1::2], strict=True)}
        logits = torch.func.functional_call(whole, changed, (), inputs).logits
        return nn.functional.cross_entropy(logits, labels)

    theta = torch.cat([part.flatten() for part in start])
    return torch.autograd.functional.hessian(loss, theta).numpy()


def signs(values, zero):
    limit = zero * np.abs(values).max()
    return {"negative": int((values < -limit).sum()), "positive": int((values > limit).sum())}


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("kind", MODULES)
def test_the_whole_spectrum_is_the_whole_models_dense_hessian(made, kind, layer):
    setting = exact(kind, layer)
    values = np.linalg.eigvalsh(dense(made, kind, setting))
    result = measurement.measure(setting, cut(made, kind, setting))
    tolerance = 1e-10 if kind == "bert" else 1e-5
    np.testing.assert_allclose(result["all"], values, rtol=0, atol=tolerance * np.abs(values).max())
    assert result["gradient_norms"]["a"] == 0 < result["gradient_norms"]["b"]
    assert result["parameters"] == len(values)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_counts_foretold_are_the_dense_hessians_signs(made, layer):
    for module in MODULES["bert"]:
        setting = dataclasses.replace(exact("bert", layer), modules=(module,))
        told = measurement.measure(setting, cut(made, "bert", setting))["foretold"]
        seen = signs(np.linalg.eigvalsh(dense(made, "bert", setting)), 1e-11)
        assert {sign: told[sign] for sign in seen} == {sign: [number] * 2 for sign, number in seen.items()}
        # The negative control: the ranks alone do not count where ker C is not empty.
        least, most = measurement.bounds(told["shapes"], told["ranks"], 1)[0]["negative"]
        assert least <= seen["negative"] <= most


@pytest.mark.parametrize("kind", MODULES)
def test_both_ends_by_lanczos_and_the_singular_values(made, kind):
    setting = exact(kind, 1, k=4, rank=2)
    values = np.linalg.eigvalsh(dense(made, kind, setting))
    result = measurement.measure(setting, cut(made, kind, setting))
    assert result["method"] == "lanczos"
    scale = np.abs(values).max()
    np.testing.assert_allclose(result["smallest"], values[:4], rtol=0, atol=1e-6 * scale)
    np.testing.assert_allclose(result["largest"], values[-4:], rtol=0, atol=1e-6 * scale)
    negative = result["foretold"]["negative"]
    assert negative[0] <= signs(values, 1e-9)["negative"] <= negative[1]
    assert result["foretold"]["kernel_dimension"] == negative[1] - negative[0]
    assert all(len(of) == 4 for of in result["singular_values"].values())


def test_without_k_the_eigenvalues_are_the_singular_values(made):
    """A small A takes K, which is quadratic in it, to 0: ±σ_i(G), r times each."""
    setting = exact("bert", 0, rank=2)
    model = cut(made, "bert", setting)
    for layer in measurement.adapters(model.model).values():
        with torch.no_grad():
            layer.a.mul_(1e-4)
    result = measurement.measure(setting, model)
    sigma = np.concatenate(list(result["singular_values"].values()))
    expected = np.sort(np.concatenate([sigma, sigma, -sigma, -sigma]))
    np.testing.assert_allclose(result["all"], expected, rtol=0, atol=1e-6 * sigma.max())


def test_full_ranks_leave_nothing_to_k():
    shapes = {"query": (3, 5), "value": (2, 5)}
    counts, kernel = measurement.bounds(shapes, {"query": 3, "value": 2}, 4)
    assert (counts, kernel) == ({"negative": [20, 20], "zero": [20, 20], "positive": [20, 20]}, 0)
    counts, kernel = measurement.bounds(shapes, {"query": 1, "value": 2}, 4)
    assert (counts["negative"], counts["zero"], kernel) == ([12, 20], [28, 36], 8)


def test_silu_is_silu():
    x = torch.linspace(-9, 9, 50, dtype=torch.float64)
    torch.testing.assert_close(Silu()(x), nn.functional.silu(x))


def arguments(made, kind="bert", **changes):
    fields = {"model": str(made[kind]), "data": str(made["films"]), "layers": (1,), "sentences": 4, "rank": 1, "k": 2}
    fields |= {"modules": MODULES[kind]}
    return experiment.Arguments(**(fields | changes))


def test_a_layer_is_recorded_once_and_read(made, tmp_path, capsys, monkeypatch):
    asked = arguments(made, results=tmp_path / "results")
    assert experiment.run(dataclasses.replace(asked, dry_run=True)) == 0
    assert "to run    bert, films, layer 1 (query, value), r = 1, 2 eigenvalues at each end" in capsys.readouterr().out
    assert not asked.results.exists()
    assert experiment.run(asked) == 0
    (record,) = records.find(asked.results, STUDY)
    assert record.provenance["seconds"] > 0
    assert record.result["foretold"]["ranks"].keys() == record.result["singular_values"].keys()
    assert str(tmp_path) not in record.path.read_text(encoding="utf-8")
    capsys.readouterr()
    assert experiment.run(asked) == 0
    assert capsys.readouterr().out == f"1 of 1 runs recorded in {asked.results}\n"
    elsewhere = dataclasses.replace(asked, model="someone/bert", dry_run=True)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "digest", None)  # a dry run fetches nothing
        assert experiment.run(elsewhere) == 0
        assert capsys.readouterr().out.startswith("recorded  bert, films, layer 1")
    (setting,) = experiment.chosen(asked, "bert", "films")
    assert recorded([setting, dataclasses.replace(setting, seed=1)], asked.results) == {setting: record.result}
    other = {"model": "0" * 64, "data": "1" * 64}
    records.save(asked.results, STUDY, setting, {}, protocol=PROTOCOL, digests=other, provenance={})
    with pytest.raises(ArgumentError, match="recorded on several models"):
        recorded([setting], asked.results)


def test_the_lists():
    assert [check(one) for one in runs.RUNS] == runs.RUNS
    assert len(set(runs.RUNS)) == len(runs.RUNS)
    words = experiment.__doc__
    for title in ("Question", "Arms", "Seeds", "Test", "Stopping rule"):
        assert f"\n**{title}.**" in words
    asked = experiment.Arguments(model="m", data="d", layers=(5,))
    assert {one.layer for one in experiment.chosen(asked, runs.BERT, runs.DATA)} == {5}
    further = experiment.Arguments(model="m", data="d", layers=(20, 7))  # planted: layer 7, of no list, was passed over
    assert [one.layer for one in experiment.chosen(further, runs.LLAMA, runs.DATA)] == [20, 7]
    whole = experiment.Arguments(model="m", data="d", layers=(3,), k=0)
    (one,) = experiment.chosen(whole, runs.LLAMA, "films")
    assert (one.precision, one.modules, one.data) == ("float64", runs.MODULES[runs.LLAMA], "films")
    part = experiment.Arguments(model="m", data="d", only=("float64",), seeds=2, seed=3)
    listed = [(one.k, one.seed) for one in experiment.chosen(part, runs.BERT, runs.DATA)]
    assert listed == [(0, 3), (0, 3), (0, 4), (0, 4)]
    both = experiment.Arguments(model="m", data="d", only=("query", "float32"))  # planted: ran query's in float64 too
    kinds = {(one.modules, one.precision) for one in experiment.chosen(both, runs.BERT, runs.DATA)}
    assert kinds == {(("query", "value"), "float32")}
    with pytest.raises(ArgumentError, match="--only must be one of query, float64, value, float32"):
        experiment.chosen(experiment.Arguments(model="m", data="d", only=("key",)), runs.BERT, runs.DATA)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": (7,)}, "layer must be below 2 for bert, received 7"),
        ({"layers": (-1,)}, "--layers must be"),
        ({"layers": (), "model_name": "all-MiniLM-L6-v2"}, "--modules: are those of --layers; name layers too"),
        ({"layers": ()}, "'bert' has no list of runs; name layers"),
        ({"modules": ("query", "q_proj")}, "'q_proj' names 0 linear maps of a layer; there are query, key, value"),
        ({"modules": ("dense",)}, "'dense' names 3 linear maps"),
        ({"sentences": 400}, "sentences must be at most 48, received 400"),
        ({"rank": 0}, "rank must be"),
        ({"modules": ("query", "query")}, r"modules must differ from one another, received \('query', 'query'\)"),
        ({"seed": 2**33}, r"seed must be a whole number in \[0, 2147483648\], received 8589934592"),
        ({"seed": 2**70}, "seed must be a whole number in"),
        ({"model": "/nowhere/at/all"}, "is no folder or file here"),
    ],
)
def test_mistakes_are_one_line(made, tmp_path, changes, words):
    with pytest.raises(ArgumentError, match=words):
        experiment.run(arguments(made, results=tmp_path, **changes))
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="--results must be a folder"):
        experiment.run(arguments(made, results=tmp_path / "file"))


@pytest.mark.bad_input
def test_multiple_choice_is_refused(made, tmp_path):
    folder = tmp_path / "choices"
    folder.mkdir()
    for name in ("train", "test"):
        tiny_finetune.write(folder / f"{name}.jsonl", tiny_finetune.questions(4, 0))
    with pytest.raises(ArgumentError, match="is multiple choice"):
        runs.run(exact("bert", 0), str(made["bert"]), text_data.load(str(folder)), {}, tmp_path)
