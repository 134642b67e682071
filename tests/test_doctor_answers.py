"""The doctor's words are of what they say: ASF-LoRA's first step, other starts, the paper's factor alone, medians."""

import re

import pytest
import torch

from allora_analysis.adaptive import recipe as recipes
from tests.saved_adapters import peft_folder
from tests.test_doctor_command import RUN, document, said


@pytest.mark.parametrize(("optimizer", "times"), [("sgd", 64), ("adamw", 8)])
def test_asf_loras_first_step_has_eta_of_its_output_too(optimizer, times, tmp_path, capsys):
    words = ["--optimizer", optimizer, "--lr", 1e-2, "--width", 64]
    plain = document(capsys, "--r", 4, "--alpha", 4, *words)["recipe"]["first_step"]
    fields = {"peft_type": "ASF_LORA", "variant": "asf_lora", "eta": 8.0, "lora_alpha": None, "r": None}
    found = document(capsys, peft_folder(tmp_path, **fields), *words)["recipe"]["first_step"]
    assert found == pytest.approx(plain * times)


@pytest.mark.parametrize(
    ("init", "told"), [("eva", "A starts along the inputs"), ("pissa", "neither A nor B starts at 0")]
)
def test_another_start_is_told_in_its_place(init, told, tmp_path, capsys):
    folder = peft_folder(tmp_path, init_lora_weights=init)
    answers = document(capsys, folder, "--lr", 1e-4, "--width", 64)["recipe"]["answers"]
    assert told in answers["start"]
    assert "start at B = 0" not in answers


@pytest.mark.parametrize(
    ("fields", "told"), [({}, True), ({"adaptor": "inverse"}, False), ({"variant": "allora_od"}, False)], ids=str
)
def test_the_factor_at_a_width_is_of_the_papers_rule_alone(fields, told, tmp_path, capsys):
    folder = peft_folder(tmp_path, **({"eta": 2.0, "variant": "allora"} | fields))
    answers = document(capsys, folder, "--lr", 1e-2, "--width", 64, "--optimizer", "sgd")["recipe"]["answers"]
    assert ("factor at this width" in answers, "stable step" in answers) == (told, told)


def test_the_factors_words_are_of_the_medians(tmp_path, capsys):
    told = document(capsys, peft_folder(tmp_path, eta=2.0, variant="allora"))["adapter"]
    medians = [pair["norms"][1] for pair in told["pairs"]]
    assert f"rows are {4 * max(medians):.3g} of 1/η² = 0.25 in the median" in told["answers"]["factor"]
    assert told["answers"]["factor"].endswith(recipes.eta_to_taper(medians, 2.0))


def test_several_scalings_of_one_rank_are_told(tmp_path, capsys):
    folder = peft_folder(tmp_path, layers=("q_proj", "k_proj", "v_proj"), alpha_pattern={"v_proj": 4})
    assert "r = 4, s = 2 = α/r, α = 8 in most" in said(capsys, folder)


@pytest.mark.parametrize(
    ("zeros", "named"), [("a", "A"), ("b", "B"), ("aa", "A"), ("ab", "a matrix"), ("ba", "a matrix")]
)
def test_what_is_0_in_all_pairs_is_named_where_it_is_one(zeros, named, tmp_path, capsys):
    tensors = {}
    for index, which in enumerate(zeros):
        tensors[f"{index}.lora_A.weight"] = torch.full((2, 3), float(which != "a"))
        tensors[f"{index}.lora_B.weight"] = torch.full((3, 2), float(which != "b"))
    assert f"NO: {named} is 0 in all pairs" in said(capsys, peft_folder(tmp_path, layers=(), tensors=tensors))


def test_settings_that_train_alike_have_two_decays(capsys):
    assert "0.1, 0.05" in said(capsys, *RUN, "--weight-decay", 0.1)


def test_seeds_of_several_settings_are_from_the_fewest_to_the_most(capsys):
    fewest, most = map(int, re.search(r"(\d+) to (\d+) to see a gap", said(capsys, "--gap", 0.5)).groups())
    assert fewest < most
