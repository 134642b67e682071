"""Saved adapters: names, scalings and row norms of several libraries, against BA itself and against PEFT."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

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
        {"eta": "2"},
        {"eta": 0},
        {"eta": 2.0, "variant": "other"},
        {"eta": 2.0, "adaptor": ["inverse"]},
        {"alpha_pattern": [4]},
        {"alpha_pattern": {"q_proj": "4"}},
        {"alpha_pattern": {"q_proj(": 4}},
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
    assert (saved.common("r"), saved.common("n2"), saved.magnitudes, saved.left_out) == (4, 10, 0, 0)


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


def test_halves_and_convolutions_are_counted_and_left_out(tmp_path):
    more = {
        "c.lora_A.weight": torch.ones(2, 3, 1, 1),
        "c.lora_B.weight": torch.ones(4, 2, 1, 1),
        "d.lora_A": torch.ones(2, 2),
    }
    saved = read(peft_folder(tmp_path, tensors=more))
    assert (len(saved.pairs), saved.left_out) == (2, 2)


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
    if kind == "pickle":
        (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")
        return folder
    if kind == "a .bin":
        (folder / "x.bin").write_bytes(b"\x80\x04.")
        return folder / "x.bin"
    peft_folder(folder)
    if kind == "torn":
        path = folder / "adapter_model.safetensors"
        path.write_bytes(path.read_bytes()[:-40])
    elif kind == "no LoRA":
        save_file({"weight": torch.ones(2)}, str(folder / "adapter_model.safetensors"))
    else:
        (folder / "adapter_config.json").write_text(
            {"no JSON": "{", "IA3": '{"peft_type": "IA3"}', "a list": "[]"}.get(kind, kind)
        )
    return folder


WORDS = {
    "nothing": "no such folder",
    "empty": "save_pretrained writes it",
    "pickle": "a pickle, which runs code",
    "a .bin": "others are pickles, which run code",
    "torn": "cannot be read as safetensors",
    "no LoRA": "no LoRA pair",
    "no JSON": "is no JSON",
    "IA3": "LoRA's config wanted, received 'IA3'",
    "a list": "LoRA's config wanted, received 'list'",
    '{"lora_alpha": "/dev/zero"}': "adapter_config.json: lora_alpha must be a finite number, received '/dev/zero'",
    '{"lora_alpha": [1]}': "lora_alpha must be a finite number",
    '{"lora_alpha": 1' + 400 * "0" + "}": "lora_alpha must be a finite number",
    '{"eta": "2"}': "eta must be a finite number",
    '{"lora_dropout": {}}': "lora_dropout must be a finite number",
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
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == saved.config
