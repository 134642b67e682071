"""`python -m allora_analysis.doctor`, as a user calls it: what it answers, its JSON, one-line errors; its page."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from allora_analysis.adaptive.recipe import Recipe, rates
from allora_analysis.doctor.__main__ import main
from docs import doctor
from tests.saved_adapters import drawn, peft_folder, single_file

ROOT = Path(__file__).parents[1]
RUN = ["--r", "16", "--alpha", "32", "--lr", "2e-4"]


def said(capsys, *words):
    assert main([*map(str, words)]) == 0
    return capsys.readouterr().out


def document(capsys, *words):
    return json.loads(said(capsys, *words, "--json", "-"), parse_constant=pytest.fail)


def test_help_is_quick_light_and_has_an_example():
    code = "import sys; from allora_analysis.doctor.__main__ import main\n"
    code += (
        "try: main(['--help'])\nfinally: print(*[m for m in ('torch', 'scipy', 'transformers') if m in sys.modules])"
    )
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--r 16 --alpha 32 --lr 2e-4" in done.stdout
    assert "{adamw,adam,sgd,alloraadamw}" in done.stdout
    assert done.stdout.splitlines()[-1] == ""  # nothing heavy


def test_a_runs_settings(capsys):
    told = document(capsys, *RUN, "--width", 4096, "--weight-decay", 0.01, "--max-grad-norm", 1, "--warmup-steps", 100)
    recipe = told["recipe"]
    assert recipe["b"] == pytest.approx(4e-4)
    assert recipe["first_step"] == pytest.approx(rates(Recipe(16, 32.0, 2e-4, width=4096)).first_step)
    for topic in ("scaling", "rate of A", "rate of B", "first step of BA", "clipping", "warm-up", "weight decay"):
        assert recipe["answers"][topic]
    assert recipe["answers"]["α × 4 or rate × 4"].startswith("no: α × 4 is B's rate × 4 alone")
    first, second, third = told["equivalent"]["settings"]
    assert (first["alpha"], second["alpha"], second["rate_b"]) == (32, 16, pytest.approx(4e-4))
    assert third["init_a"] == pytest.approx(2**0.5)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--eta", 2], "undone, Adam divides"),
        (["--eta", 2, "--optimizer", "sgd"], "η = 2: on"),
        (["--eta", 2, "--optimizer", "sgd", "--max-grad-norm", 1], "but for clipping at 1"),
        (["--eta", 2, "--optimizer", "alloraadamw", "--max-grad-norm", 1], "neither Adam nor clipping undoes it"),
        (["--lora-dropout", 0.05], "0.05, on the adapter's input"),
        (["--dora"], "more than s·BA"),
        (["--loraplus-ratio", 16], "16 times A's"),
        (["--optimizer", "adam", "--weight-decay", 0.1], "whatever the decay is"),
        (["--rslora"], "α/√r"),
        (["--zero", "a"], "rate of B"),
        (["--as-alpha", 8], "α = 8, B's rate"),
    ],
    ids=str,
)
def test_what_is_on_and_what_undoes_it(words, told, capsys):
    assert told in said(capsys, *RUN, *words)


def test_what_the_theory_says_of_these_settings(capsys):
    told = document(capsys, *RUN, "--width", 4096, "--eta", 2, "--optimizer", "sgd", "--lora-dropout", 0.05)
    answers = told["recipe"]["answers"]
    assert "is about 0.062 under gradient descent" in answers["start at B = 0"]  # √(16/4113)
    assert re.search(r"a constant: 0.96\d of η", answers["factor at this width"])
    assert answers["stable step"].startswith("1/η = 0.5 of LoRA's")
    assert "at the end BA is 0.95 of the fit" in answers["dropout pays"]
    assert "at most 0.098 of" in answers["dropout pays"]  # 1 − 0.95²
    wide = document(capsys, *RUN, "--width", 16, "--eta", 8, "--optimizer", "sgd")["recipe"]["answers"]
    assert wide["factor at this width"].startswith("it tapers")
    assert "dropout pays" not in wide
    rate = [told["recipe"]["answers"]["factor at this width"]]
    for words in (["--loraplus-ratio", 16], ["--alpha", 256]):
        words = [*RUN, "--width", 4096, "--eta", 2, "--optimizer", "sgd", *words]
        rate.append(document(capsys, *words)["recipe"]["answers"]["factor at this width"])
    assert len(set(rate)) == 3
    other = document(capsys, *RUN, "--width", 4096, "--zero", "a")["recipe"]["answers"]
    assert not {"start at B = 0", "factor at this width", "stable step"} & set(other)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_first_step_has_the_rules_eta_under_sgd(optimizer, tmp_path, capsys):
    own = {"--optimizer": optimizer, "--lr": 1e-2, "--width": 64}
    words = [word for pair in own.items() for word in pair]
    plain, scaled = (document(capsys, "--r", 4, "--alpha", 4, *words, *more)["recipe"] for more in ([], ["--eta", 8]))
    assert scaled["first_step"] == pytest.approx(plain["first_step"] * (8 if optimizer == "sgd" else 1))
    assert ("LoRA's times 8" in scaled["answers"]["first step of BA"]) == (optimizer == "sgd")
    assert "LoRA's times" not in plain["answers"]["first step of BA"]
    for variant, factor in (("allora_od", 8), ("lora_x_eta", 1)):  # whose η is in the file's α
        folder = peft_folder(tmp_path / variant, eta=8.0, variant=variant)
        found = document(capsys, folder, "--r", 4, "--alpha", 4, *words)["recipe"]["first_step"]
        assert found == pytest.approx(plain["first_step"] * (factor if optimizer == "sgd" else 1))


def test_with_a_large_epsilon_the_first_step_is_said_for_large_gradients(capsys):
    words = [*RUN, "--width", 64, "--max-grad-norm", 1]
    assert "far above ε" not in said(capsys, *words)
    told = document(capsys, *words, "--eps", "1e-3")["recipe"]["answers"]
    assert told["first step of BA"].endswith(", where gradients are far above ε = 0.001")
    assert told["clipping"].endswith("divides a common factor out, where gradients are far above ε = 0.001")


def test_scores_as_shares_are_remarked_on(capsys):
    scores, baseline = (0.80, 0.81, 0.82), (0.79, 0.81, 0.80)
    for factor, told in ((1, ["no score is above 1"]), (100, [])):
        words = ["--scores", *(factor * one for one in scores), "--baseline", *(factor * one for one in baseline)]
        assert main(["--gap", "0.5", *map(str, words)]) == 0
        assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == told


def test_a_saved_adapter(tmp_path, capsys):
    folder = peft_folder(tmp_path / "a", lora_dropout=0.05, use_rslora=True)
    out = said(capsys, folder)
    assert "2, r = 4, s = 4 = α/√r (rsLoRA), α = 8" in out
    assert "yes: rows of s·BA are" in out
    assert "dropout" in out
    told = document(capsys, folder, "--lr", "1e-4")
    assert told["recipe"]["scaling"] == pytest.approx(4)
    assert told["recipe"]["recipe"]["width"] == 10
    assert told["recipe"]["first_step"] > 0
    assert [pair["name"] for pair in told["adapter"]["pairs"]] == ["layers.0.attn.q_proj", "layers.1.attn.v_proj"]


def test_an_adapter_of_a_rank_above_its_layers_width_has_no_width(tmp_path, capsys):
    """Its n₂ was once passed on as if the caller had given --width."""
    a, b = drawn(n2=10, r=20)
    keys = [f"base_model.model.layers.0.attn.q_proj.lora_{side}.weight" for side in "AB"]
    folder = peft_folder(tmp_path, layers=(), r=20, tensors=dict(zip(keys, (a, b), strict=True)))
    recipe = document(capsys, folder, "--lr", 1e-3)["recipe"]
    assert (recipe["recipe"]["r"], recipe["recipe"]["width"], recipe["first_step"]) == (20, None, None)
    assert main([str(folder), "--lr", "1e-3", "--width", "10"]) == 2
    assert "--width must be at least r = 20, received 10" in capsys.readouterr().err


def test_what_peft_takes_where_its_config_is_silent(tmp_path, capsys):
    """Planted: s = 1, a guess, though PEFT loads the adapter with its default; DoRA's missing magnitudes, unsaid."""
    import peft

    folder = peft_folder(tmp_path / "a")
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    del config["lora_alpha"]
    path.write_text(json.dumps(config | {"use_dora": True}))
    told = document(capsys, folder, "--lr", "1e-4")
    s = peft.LoraConfig.from_pretrained(str(folder)).lora_alpha / 4
    assert {pair["scaling"] for pair in told["adapter"]["pairs"]} == {told["recipe"]["scaling"]} == {s}
    answers = told["adapter"]["answers"]
    assert "α = 8 (PEFT's default: the config has no lora_alpha)" in answers["pairs"]
    assert answers["magnitudes"].startswith("use_dora is on and the file holds none")
    assert "PEFT's default" not in said(capsys, folder, "--alpha", 12)
    dora = {"base_model.model.x.lora_magnitude_vector": torch.ones(3)}
    assert "holds none" not in said(capsys, peft_folder(tmp_path / "b", tensors=dora, use_dora=True))
    path.unlink()
    assert "s = 1: the file holds no α, so s = 1 is a guess" in said(capsys, folder)


def test_rows_against_one_over_eta_squared(tmp_path, capsys):
    small = peft_folder(tmp_path / "small", size=1e-3, eta=2.0, variant="allora")
    told = said(capsys, small)
    assert "a constant so far" in told
    assert re.search(r"stable step +0.50\d to 0.5[01]\d of LoRA's", told)
    assert float(re.search(r"from η = ([\d.e+]+) on", told)[1]) > 2.0
    assert "on gradients, so Adam undoes it" in said(capsys, small)
    assert "undone, Adam divides" in said(capsys, small, "--lr", "1e-4")
    large = peft_folder(tmp_path / "large", size=10.0)
    assert "it tapers" in said(capsys, large, "--eta", 2)
    assert "factor" not in document(capsys, large)["adapter"]["answers"]
    start = document(capsys, peft_folder(tmp_path / "start", size=0.0), "--eta", 2)["adapter"]["answers"]["factor"]
    assert start.endswith("so ALLoRA's factor is 1 of η = 2 (1)")  # planted: "from η = inf on it is below …"


def test_the_callers_eta_and_dropout_are_taken_before_the_files(tmp_path, capsys):
    folder = peft_folder(tmp_path, size=1e-3, eta=2.0, variant="allora", lora_dropout=0.1)
    told = document(capsys, folder, "--eta", 3, "--lora-dropout", 0, "--lr", 1e-2, "--optimizer", "sgd")
    assert "of η = 3" in told["adapter"]["answers"]["factor"]
    assert told["recipe"]["answers"]["ALLoRA's rule"] == "allora, η = 3: on"
    assert "dropout" not in told["recipe"]["answers"]
    assert told["recipe"]["recipe"]["alpha"] == 8
    assert document(capsys, folder, "--r", 8, "--lr", 1e-2)["recipe"]["recipe"]["alpha"] == 8


def test_the_factor_is_that_of_the_saved_rule(tmp_path, capsys):
    def answers(name, **fields):
        return document(capsys, peft_folder(tmp_path / name, size=10.0, eta=2.0, **fields))["adapter"]["answers"]

    assert not {"factor", "stable step"} & set(answers("a", variant="lora_x_eta"))
    of_outputs = answers("b", variant="allora_od")
    assert of_outputs["factor"].startswith("of each output, not of rows")
    assert "stable step" not in of_outputs
    constant = answers("c", variant="allora", adaptor="constant")
    assert constant["factor"] == "a constant so far: ALLoRA's factor is 1 of η = 2 (1)"
    assert constant["stable step"].startswith("0.5 of LoRA's")
    norms = [float(one) for one in re.findall(r"[\d.]+", answers("d", variant="allora")["trained"])[:2]]
    told = answers("e", variant="allora", adaptor="inverse")
    assert told["stable step"].startswith(f"{norms[0] + 0.5:.3g} to {norms[1] + 0.5:.3g} of")  # u + 1/η
    assert "1/η²" not in told["factor"]


@pytest.mark.bad_input
def test_entries_whose_product_is_no_number_are_refused_in_a_line(tmp_path, capsys):
    large = {
        "x.lora_A.weight": torch.full((4, 9), 1e300, dtype=torch.float64),
        "x.lora_B.weight": torch.ones(6, 4).double(),
    }
    assert main([str(peft_folder(tmp_path, layers=(), tensors=large)), "--eta", "2"]) == 2
    assert capsys.readouterr().err.startswith("error: x: A and B are too large")


@pytest.mark.parametrize("init", ["pissa", "olora", "orthogonal", False])
def test_a_start_off_zero_does_not_pass_for_training(init, tmp_path, capsys):
    told = document(capsys, peft_folder(tmp_path, init_lora_weights=init))["adapter"]["answers"]["trained"]
    assert told.startswith(f"cannot be told: init_lora_weights={init!r}")


def test_an_adapter_that_was_never_trained_or_is_broken(tmp_path, capsys):
    zero = {"x.lora_A.weight": torch.ones(2, 3), "x.lora_B.weight": torch.zeros(3, 2)}
    assert "NO: B is 0 in all pairs" in said(capsys, peft_folder(tmp_path / "a", layers=(), tensors=zero))
    assert "in part: BA is 0 in 1 of 3" in said(capsys, peft_folder(tmp_path / "b", tensors=zero))
    broken = {"x.lora_A.weight": torch.full((2, 3), float("inf")), "x.lora_B.weight": torch.ones(3, 2)}
    told = document(capsys, peft_folder(tmp_path / "c", tensors=broken), "--eta", 2)
    assert told["adapter"]["answers"]["trained"].startswith("NO: A or B of 1 pairs is not finite")
    other = single_file(tmp_path / "x.safetensors", "torchtune")
    assert "holds no α, so s = 1 is a guess; give --alpha" in said(capsys, other)
    assert "s = 3" in said(capsys, other, "--alpha", 12)
    dora = {"base_model.model.x.lora_magnitude_vector": torch.ones(3)}
    assert "DoRA" in said(capsys, peft_folder(tmp_path / "d", tensors=dora, init_lora_weights="pissa"))


def test_a_config_of_another_rank_than_the_file_is_told(tmp_path, capsys):
    told = said(capsys, peft_folder(tmp_path / "a", r=2))
    assert "r = 4, s = 2 = α/r, α = 8; the config says r = 2 for 2 that have r = 4, and PEFT does not load them" in told
    pairs = document(capsys, peft_folder(tmp_path / "b", r=2, rank_pattern={"q_proj": 4}))["adapter"]["pairs"]
    assert [pair["stated"] for pair in pairs] == [None, 2]
    assert "the config says" not in said(capsys, peft_folder(tmp_path / "c"))


@pytest.mark.parametrize("rule", [{}, {"eta": 2.0, "variant": "allora"}])
def test_an_alpha_of_zero_adds_nothing(rule, tmp_path, capsys):
    told = said(capsys, peft_folder(tmp_path, lora_alpha=0, **rule))
    assert "NO: s = 0, so the adapter adds nothing, whatever A and B are; give --alpha" in told


def test_seeds(capsys):
    scores = ["--gap", 0.5, "--scores", 81.2, 80.1, 82.4, "--baseline", 80.8, 80.3, 81.1]
    told = document(capsys, *scores)["seeds"]
    assert told["settings"][0]["low"] <= told["settings"][0]["seeds"] <= told["settings"][0]["high"]
    assert "standard deviation of 0.60" in said(capsys, "--gap", 0.5, "--sd", 0.6)
    assert "seeds needed" in said(capsys, "--gap", 0.5)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nothing asked"),
        (["--r", "16"], "--alpha, --lr: missing"),
        ([*RUN, "--r", "0"], "r must be"),
        ([*RUN, "--lr", "nan"], "lr must be"),
        ([*RUN, "--width", "0"], "width"),
        (["--alpha", "8", "--lr", "1e-3", "--width", "4", "--r", "8"], "width must be at least r = 8, received 4"),
        ([*RUN, "--lora-dropout", "1"], "--lora-dropout must be a drop rate"),
        ([*RUN, "--eta", "-1"], "--eta"),
        ([*RUN, "--as-alpha", "0"], "error: --as-alpha must be"),
        ([*RUN, "--warmup-steps", "-1"], "--warmup-steps must be"),
        (["--gap", "0.5", "--arms", "lora", "lora"], "--arms must be two different ones, received lora twice"),
        ([*RUN, "--max-grad-norm", "-1"], "--max-grad-norm must be"),
        ([*RUN, "--model", "x"], "--data: missing"),
        (["no/such/folder"], "error: adapter 'no/such/folder': no such folder"),
        (["--gap", "0"], "--gap"),
        (["--gap", "1", "--scores", "1", "2"], "same seeds"),
        (["--gap", "1", "--sd", "0"], "--sd"),
        (["--gap", "1e-9", "--sd", "1"], "error: --gap: so small beside a standard deviation of 1 "),
        (["--gap", "1e-9", "--scores", "1", "2", "3", "--baseline", "1", "3", "2"], "error: --gap: so small beside"),
        (["--gap", "1", "--arms", "lora", "nothing"], "--arms|no setting"),
        ([*RUN, "--json", "no/such/folder/x.json"], "--json"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line_and_status_2(words, told, capsys):
    assert main(words) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert any(word in error for word in told.split("|"))


@pytest.mark.bad_input
def test_an_adapter_without_alpha_is_blamed_and_no_flag(tmp_path, capsys):
    folder = str(peft_folder(tmp_path, lora_alpha=0))
    assert main([folder, "--lr", "1e-3"]) == 2
    told = f"error: {folder}: has α = 0, of which no rates follow; give --alpha, or leave --lr out\n"
    assert capsys.readouterr().err == told
    assert main([folder]) == 0


@pytest.mark.bad_input
@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_json_is_never_written_over_the_adapter_that_is_read(name, tmp_path, capsys):
    folder = peft_folder(tmp_path / "a")
    before = (folder / name).read_bytes()
    assert main([str(folder), "--json", str(folder / name)]) == 2
    assert "ADAPTER and --json must be two files" in capsys.readouterr().err
    assert (folder / name).read_bytes() == before


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "words",
    [
        ["A", "--optimizer", "sgd"],
        ["A", "--loraplus-ratio", "16"],
        ["A", "--weight-decay", "0.1"],
        ["A", "--width", "64"],
        ["A", "--max-grad-norm", "1"],
        ["A", "--warmup-steps", "10"],
        ["A", "--as-alpha", "8"],
        ["A", "--trial-steps", "3"],
        [*RUN, "--batch-size", "8"],
        [*RUN, "--data", "x"],
        [*RUN, "--scores", "1", "2"],
        [*RUN, "--sd", "0.5"],
        ["--gap", "1", "--eta", "2"],
        ["--gap", "1", "--sd", "0.5", "--scores", "1", "2", "--baseline", "2", "1"],
        ["--gap", "1", "--sd", "0.5", "--arms", "lora", "dora"],
    ],
    ids=lambda words: " ".join(words[-4:]),
)
def test_a_flag_of_a_question_that_is_not_asked_is_refused(words, tmp_path, capsys):
    folder = str(peft_folder(tmp_path))
    assert main([folder if word == "A" else word for word in words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    flags = [word for word in words if word.startswith("--")]
    assert any(flag in error for flag in flags if flag not in ("--gap", "--r"))
    assert "leave" in error
    assert error.count("\n") == 1


@pytest.mark.bad_input
def test_a_word_that_is_no_choice_names_the_choices(capsys):
    assert main([*RUN, "--optimizer", "lion"]) == 2
    told = "error: --optimizer must be one of 'adamw', 'adam', 'sgd', 'alloraadamw'; received 'lion'\n"
    assert capsys.readouterr() == ("", told)


def test_json_into_a_file(tmp_path, capsys):
    said(capsys, *RUN, "--json", tmp_path / "x.json")
    assert set(json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))) == {"recipe", "equivalent"}


# -- docs/doctor.md: twelve questions, ten with a thread, and what its commands and code print today


TEXT = doctor.PAGE.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own, under a new transformers
def test_every_answer_is_what_the_command_prints_today():
    pytest.importorskip("peft")
    assert doctor.rewritten(TEXT) == TEXT


def test_there_are_twelve_questions_ten_with_a_thread_each_with_an_answer():
    questions = re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]
    assert [question.partition(".")[0] for question in questions] == [str(n) for n in range(1, 13)]
    for question in questions[:10]:
        assert re.search(r"\[[\w./-]+#\d+\]\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", question)
    for question in questions:
        assert doctor.BLOCK.search(question)
        assert re.search(r"```(sh|python)", question)
    assert len(re.findall("```(?:sh|python)", TEXT)) == len(doctor.BLOCK.findall(TEXT))


def test_a_stale_answer_is_written_anew_and_a_command_that_fails_is_refused():
    block = "```sh\npython -m allora_analysis.doctor --gap 0.5 --sd 0.6\n```\n\n```text\nold\n```\n"
    assert "standard deviation of 0.60" in doctor.rewritten(block)
    with pytest.raises(ValueError, match="one that fails"):
        doctor.rewritten(block.replace("--sd 0.6", "--sd 0"))
    with pytest.raises(ValueError, match="no command of the doctor"):
        doctor.rewritten(block.replace("python -m", "rm"))
