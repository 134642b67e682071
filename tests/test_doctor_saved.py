"""Saved adapters: names, scalings and row norms of several libraries, against BA itself and against PEFT."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from allora_analysis.doctor import answers
from allora_analysis.doctor.saved import read
from allora_analysis.validation import ArgumentError
from tests.saved_adapters import NAMES, drawn, peft_folder, single_file


def norms(scaling, seed=0, size=1.0):
    a, b = drawn(seed=seed, size=size)
    rows = np.linalg.norm(scaling * (b.double() @ a.double()).numpy(), axis=1)
    return rows.min(), sorted(rows)[2], rows.max()


@pytest.mark.parametrize("library", NAMES)
def test_a_file_of_any_librarys_names(library, tmp_path):
    saved = read(single_file(tmp_path / "x.safetensors", library))
    (pair,) = saved.pairs
    assert (pair.n1, pair.n2, pair.r, pair.scaling, pair.zero) == (6, 10, 4, 1.0, "")
    assert pair.norms == pytest.approx(norms(1.0), rel=1e-6)
    assert not saved.scaled
    given = read(tmp_path / "x.safetensors", alpha=12.0)
    assert given.scaled
    assert given.pairs[0].scaling == 3.0
    assert read(tmp_path / "x.safetensors", alpha=12.0, rslora=True).pairs[0].scaling == 6.0


def test_an_alpha_within_the_file(tmp_path):
    saved = read(single_file(tmp_path / "x.safetensors", "kohya", alpha=2.0))
    assert saved.scaled
    assert saved.pairs[0].scaling == 0.5
    assert saved.pairs[0].norms == pytest.approx(norms(0.5), rel=1e-6)


def test_the_callers_scaling_is_taken_before_the_files(tmp_path):
    kohya = single_file(tmp_path / "x.safetensors", "kohya", alpha=2.0)
    assert read(kohya, rslora=True).pairs[0].scaling == 1.0
    assert read(kohya, alpha=12.0).pairs[0].scaling == 3.0
    folder = peft_folder(tmp_path / "a")
    assert {pair.scaling for pair in read(folder, alpha=12.0).pairs} == {3.0}
    assert {pair.scaling for pair in read(folder, rslora=True).pairs} == {4.0}
    without = read(peft_folder(tmp_path / "b", lora_alpha=None, r=4), alpha=12.0)
    assert {pair.scaling for pair in without.pairs} == {3.0}
    assert without.scaled
    assert not read(tmp_path / "b").scaled


def test_asf_loras_scaling_is_one_for_certain(tmp_path):
    fields = {"peft_type": "ASF_LORA, which is not LoRA", "variant": "asf_lora", "eta": 2.0}
    folder = peft_folder(tmp_path, lora_alpha=None, r=None, asf_lora_r=4, **fields)
    assert read(folder).scaled
    assert {pair.scaling for pair in read(folder).pairs} == {1.0}
    with pytest.raises(ArgumentError, match="the scaling 1 and no other"):
        read(folder, alpha=12.0)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "fields",
    [
        {"lora_alpha": "16"},
        {"lora_dropout": "0.1"},
        {"lora_dropout": 1.5},
        {"lora_dropout": -0.5},
        {"eta": "2"},
        {"eta": 0},
        {"eta": 2.0, "variant": "other"},
        {"eta": 2.0, "adaptor": ["inverse"]},
        {"alpha_pattern": [4]},
        {"alpha_pattern": {"q_proj": "4"}},
        {"alpha_pattern": {"q_proj(": 4}},
        {"rank_pattern": {"q_proj": 0}},
        {"rank_pattern": {"q_proj(": 4}},
        {"target_parameters": "experts"},
        {"modules_to_save": "head"},
        {"use_rslora": "no"},
        {"use_dora": "false"},
    ],
    ids=str,
)
def test_a_config_with_a_value_of_another_kind_is_one_line(fields, tmp_path):
    with pytest.raises(ArgumentError, match=list(fields)[-1]) as caught:
        read(peft_folder(tmp_path, **fields))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("rslora", "scaling"), [(False, 2.0), (True, 4.0)])
def test_a_folder_of_pefts(rslora, scaling, tmp_path):
    saved = read(peft_folder(tmp_path, use_rslora=rslora))
    assert [pair.name for pair in saved.pairs] == ["layers.0.attn.q_proj", "layers.1.attn.v_proj"]
    assert {pair.scaling for pair in saved.pairs} == {scaling}
    assert saved.pairs[1].norms == pytest.approx(norms(scaling, seed=1, size=0.1), rel=1e-6)
    assert (saved.common(), saved.magnitudes, saved.left_out) == ((4, scaling, 10), 0, 0)


def test_what_peft_saves_has_the_scalings_that_its_layers_have(tmp_path):
    peft = pytest.importorskip("peft")
    base = torch.nn.Sequential()
    base.q_proj, base.v_proj = torch.nn.Linear(10, 6), torch.nn.Linear(6, 5)
    config = peft.LoraConfig(
        r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 2}, alpha_pattern={"v_proj": 3}
    )
    model = peft.get_peft_model(base, config)
    model.save_pretrained(tmp_path)
    saved = {pair.name: pair for pair in read(tmp_path).pairs}
    for name, layer in model.base_model.model.named_children():
        assert saved[name].scaling == layer.scaling["default"]
        assert saved[name].r == layer.r["default"]
        assert saved[name].zero == "b"


class Experts(torch.nn.Module):
    """A mixture's layer: all experts' matrices in one parameter each."""

    def __init__(self, experts=5, n2=10, n1=6):
        super().__init__()
        self.up = torch.nn.Parameter(torch.randn(experts, n2, n1))
        self.down = torch.nn.Parameter(torch.randn(experts, n2, n1))

    def forward(self, x):
        return torch.einsum("tn,enm->tm", x, self.up + self.down)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys did not match:RuntimeWarning")  # PEFT's; it did
@pytest.mark.parametrize("rslora", [False, True])
def test_experts_in_one_parameter_are_as_many_pairs_of_the_configs_rank(rslora, tmp_path):
    """Planted: one pair of rank E·r, at the scaling of that rank. The file against the live model, rows and all."""
    peft = pytest.importorskip("peft")
    from allora_analysis.lora.doctor import doctor

    base = torch.nn.Sequential()
    base.mixed, base.other, base.q = Experts(), Experts(experts=3), torch.nn.Linear(6, 6)
    config = peft.LoraConfig(
        r=4, lora_alpha=8, use_rslora=rslora, target_modules=["q"],
        target_parameters=["mixed.up", "mixed.down", "other.up"], rank_pattern={"other.up": 2},
    )  # fmt: skip
    model = peft.get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(tmp_path)
    saved = {pair.name: pair for pair in read(tmp_path).pairs}
    live = {row.name.removeprefix("base_model.model."): row for row in doctor(model, allora=False).layers}
    assert {name: (pair.r, pair.experts) for name, pair in saved.items()} == {
        "mixed": (4, 5), "mixed.base_layer": (4, 5), "other": (2, 3), "q": (4, 1),
    }  # fmt: skip
    assert live.keys() == saved.keys()
    for name, pair in saved.items():
        assert (pair.r, pair.scaling) == (live[name].rank, pytest.approx(live[name].scaling))
        assert pair.norms == pytest.approx(live[name].norms, rel=1e-5)
    a, b = (
        dict(model.named_parameters())[f"base_model.model.other.lora_{side}.default.weight"].detach().double()
        for side in "AB"
    )
    by_hand = [(b[:, e::3] @ a[2 * e : 2 * e + 2]).norm(dim=1) for e in range(3)]
    assert saved["other"].norms[2] == pytest.approx(float(saved["other"].scaling * torch.cat(by_hand).max()))


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning", "ignore:Could not find a config file")
@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys did not match:RuntimeWarning")  # they did
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    ("fields", "ranks"),
    [
        ({}, (8, 4, 4)),
        ({"rank_pattern": {"experts.down_proj": 2}}, (8, 2, 4)),
        ({"rank_pattern": {"down_proj": 2}}, (8, 2, 4)),
        ({"rank_pattern": {"q_proj": 8}, "use_rslora": True}, (8, 4, 4)),
    ],
    ids=str,
)
def test_a_mixture_under_all_linear(fields, ranks, order, tmp_path):
    """PEFT's rank for gate_up is 2r, and its file names the parameters in any order. Planted: the first that divides
    the rows, which gave 8 experts or 2."""
    peft = pytest.importorskip("peft")
    from allora_analysis.lora.pairs import lora_pairs
    from tests.tiny_peft_models import mixtral, randomise

    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="SEQ_CLS", **fields)
    model = peft.get_peft_model(mixtral(), config)
    randomise(model)
    model.save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    written = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(written | {"target_parameters": sorted(written["target_parameters"])[::order]}))
    saved = {pair.name: pair for pair in read(tmp_path).pairs}
    mixture = [f"model.layers.0.mlp.{name}" for name in ("experts.base_layer", "experts", "gate")]
    assert [(saved[name].r, saved[name].experts) for name in mixture] == list(zip(ranks, (4, 4, 1), strict=True))
    live = {pair.name.removeprefix("base_model.model."): pair for pair in lora_pairs(model)}
    assert live.keys() == saved.keys()
    for name, pair in live.items():
        a, b = (part.detach().double() for part in pair.matrices)
        rows = pair.scaling * (b @ a).norm(dim=-1)
        assert (saved[name].r, saved[name].experts) == (a.shape[1], pair.experts)
        assert saved[name].scaling == pytest.approx(pair.scaling)
        assert saved[name].norms == pytest.approx(
            [float(rows.min()), float(rows.median()), float(rows.max())], rel=1e-6
        )


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("rows", "fields", "match"),
    [
        ((8, 12), {}, "mixed: A has 12 and 8 rows, which the ranks of mixed.up, mixed.down fit in no way"),
        ((8, 8), {"alpha_pattern": {"up": 16}}, "fit in several ways; save the adapter again, with one rank and one"),
        ((8, 8, 8), {}, "8 and 8 and 8 rows, .* in no way"),
        ((3, 3), {}, "in no way"),
        ((8, 8), {"target_modules": "("}, r"target_modules must be names, received '\('"),
    ],
    ids=str,
)
def test_experts_that_no_rank_or_several_fit_are_refused(rows, fields, match, tmp_path):
    tensors = {}
    for depth, r in enumerate(rows):
        a, b = drawn(r=r)
        layer = "base_model.model.mixed" + ".base_layer" * depth
        tensors |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
    folder = peft_folder(tmp_path, tensors=tensors, layers=(), target_parameters=["up", "down"], **fields)
    with pytest.raises(ArgumentError, match=match) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


def test_several_adapters_in_one_file_are_pairs_of_their_own(tmp_path):
    """Planted: the second took the first one's place, without a word; and a bias (`lora_bias`) could take B's."""
    found = {}
    for index, adapter in enumerate(("default", "other")):
        a, b = drawn(seed=index)
        found |= {f"q.lora_A.{adapter}.weight": a, f"q.lora_B.{adapter}.weight": b}
        found[f"q.lora_B.{adapter}.bias"] = torch.ones(6)
    save_file(found, str(tmp_path / "two.safetensors"))
    saved = read(tmp_path / "two.safetensors")
    assert {pair.name for pair in saved.pairs} == {"q (default)", "q (other)"}
    assert sorted(pair.norms[2] for pair in saved.pairs) == pytest.approx(sorted(norms(1.0, i)[2] for i in (0, 1)))
    assert saved.left_out == 0


def test_the_common_rank_and_scaling_are_of_the_same_pairs(tmp_path):
    """Planted: each most frequent on its own, r = 8 of three pairs beside s = 1, n₂ = 10 of four others: no pair's."""
    ranks = {"a": 8, "b": 8, "c": 8, "d": 16, "e": 16, "f": 32, "g": 32}
    tensors = {}
    for name, r in ranks.items():
        a, b = drawn(r=r, n2=20 if r == 8 else 10)
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    pattern = {"f": 32, "g": 32}
    fields = {"lora_alpha": 16, "rank_pattern": {k: r for k, r in ranks.items() if r != 8}, "alpha_pattern": pattern}
    saved = read(peft_folder(tmp_path, layers=(), tensors=tensors, r=8, **fields))
    assert saved.common() == (8, 2.0, 20)
    assert dict(answers.of_saved(saved, None).lines)["pairs"].startswith("7, r = 8, s = 2 = α/r, α = 16 in most")


def test_halves_and_convolutions_are_counted_and_left_out(tmp_path):
    more = {
        "c.lora_A.weight": torch.ones(2, 3, 1, 1),
        "c.lora_B.weight": torch.ones(4, 2, 1, 1),
        "d.lora_A": torch.ones(2, 2),
        "of no rank.lora_A.weight": torch.ones(0, 3),
        "of no rank.lora_B.weight": torch.ones(4, 0),
        "of no rows.lora_A.weight": torch.ones(2, 3),
        "of no rows.lora_B.weight": torch.ones(0, 2),
    }
    saved = read(peft_folder(tmp_path, tensors=more))
    assert (len(saved.pairs), saved.left_out) == (2, 4)


def test_what_is_not_finite_has_no_norms(tmp_path):
    a, b = drawn()
    b[0, 0] = float("nan")
    saved = read(peft_folder(tmp_path, tensors={"x.lora_A.weight": a, "x.lora_B.weight": b}))
    assert [(pair.norms is None) for pair in saved.pairs].count(True) == 1


def broken(kind, folder):
    if kind == "nothing":
        return folder / "no"
    if kind == "empty":
        return folder
    if kind == "several":
        for name in ("second", "first"):
            peft_folder(folder / name)
        return folder
    if kind == "pickle":
        (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
        return folder
    if kind == "a .bin":
        (folder / "x.bin").write_bytes(b"\x80\x04.")
        return folder / "x.bin"
    peft_folder(folder)
    if kind == "its config":
        return folder / "adapter_config.json"
    if kind == "torn":
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "no LoRA":
        save_file({"weight": torch.ones(2)}, str(folder / "adapter_model.safetensors"))
    elif kind == "a convolution's":
        parts = {"x.lora_A.weight": torch.ones(2, 3, 3, 3), "x.lora_B.weight": torch.ones(4, 2, 1, 1)}
        save_file(parts, str(folder / "adapter_model.safetensors"))
    else:
        (folder / "adapter_config.json").write_text(
            {"no JSON": "{", "IA3": '{"peft_type": "IA3"}', "a list": "[]"}.get(kind, kind)
        )
    return folder


WORDS = {
    "nothing": "no such folder",
    "empty": "save_pretrained writes it",
    "several": "there is one in first, second: name that folder",
    "pickle": "a pickle, which runs code",
    "a .bin": "others are pickles, which run code",
    "torn": "cannot be read as safetensors",
    "no LoRA": "no LoRA pair .* among 1 tensors; a whole or merged model. give the adapter's folder",
    "a convolution's": "no LoRA pair .* among 2 tensors; 1 with no other half or no matrix .* are not read$",
    "its config": "a .safetensors file wanted; give the folder that it is in",
    "no JSON": "is no JSON",
    "IA3": "LoRA's config wanted, received 'IA3'",
    "a list": "LoRA's config wanted, received 'list'",
    '{"lora_alpha": "/dev/zero"}': "adapter_config.json: lora_alpha must be a finite number, received '/dev/zero'",
    '{"lora_alpha": [1]}': "lora_alpha must be a finite number",
    '{"lora_alpha": 1' + 400 * "0" + "}": "lora_alpha must be a finite number",
    '{"eta": "2"}': "eta must be a finite number",
    '{"r": "4"}': "r must be a whole number, 1 or above, received '4'",
    '{"lora_dropout": {}}': "lora_dropout must be a drop rate",
    '{"alpha_pattern": 7}': "alpha_pattern must be α by layer, received 7",
    '{"alpha_pattern": {"x": null}}': "must be a finite number, received None",
    '{"alpha_pattern": {"(": 1}}': "alpha_pattern must be of regular expressions",
    '{"variant": []}': "variant must be a name",
}


@pytest.mark.parametrize("kind", WORDS)
def test_what_cannot_be_read_is_refused_in_one_line(kind, tmp_path):
    with pytest.raises(ArgumentError, match=WORDS[kind]) as caught:
        read(broken(kind, tmp_path))
    assert "\n" not in str(caught.value)


def test_an_alpha_within_the_file_that_is_no_number(tmp_path):
    path = single_file(tmp_path / "x.safetensors", "kohya", alpha=2.0)
    tensors = load_file(path)
    save_file(tensors | {key: torch.ones(2) for key in tensors if key.endswith(".alpha")}, str(path))
    with pytest.raises(ArgumentError, match=r"alpha must be one number, received shape \(2,\)"):
        read(path)


def test_json_config_of_ours(tmp_path):
    saved = read(peft_folder(tmp_path, eta=2.0, variant="allora", adaptor="inverse_sqrt"))
    assert saved.config["eta"] == 2.0
    assert json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8")) == saved.config


@pytest.mark.parametrize(
    ("asked", "told"), [(["head"], []), (["hed", "embd"], ["NOT saved"]), (["score"], []), (None, [])]
)
def test_a_module_to_save_that_the_file_does_not_hold_is_told(asked, told, tmp_path):
    """Planted: a misspelled head, of which PEFT saves nothing, without a word."""
    folder = peft_folder(tmp_path, modules_to_save=asked, tensors={"base_model.model.head.weight": torch.ones(2, 6)})
    lines = dict(answers.of_saved(read(folder), None).lines)
    assert [topic for topic in lines if topic == "NOT saved"] == told
    assert not told or "'hed', 'embd'" in lines["NOT saved"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (["q_proj", "v_proj"], False), (["attn.q_proj", "v_proj", "k_proj", "proj"], True), ("all-linear", False),
        (".*proj", False), (None, False), (["q_proj", "v_proj", "head"], False),
    ],
    ids=str,
)  # fmt: skip
def test_a_target_of_which_the_file_holds_no_adapter_is_told(asked, told, tmp_path):
    """Planted: k_proj of another architecture; PEFT adapts the rest, without a word."""
    lines = dict(
        answers.of_saved(read(peft_folder(tmp_path, target_modules=asked, modules_to_save=["head"])), None).lines
    )
    assert ("NOT adapted" in lines) == told
    assert not told or "'k_proj', 'proj', and no adapted layer's path ends so" in lines["NOT adapted"]
