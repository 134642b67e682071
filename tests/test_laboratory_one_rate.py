"""The laboratory's arms at one rate: equal runs are one cell, rates and classifiers are as named, masks strike Ax."""

import dataclasses
import math

import pytest
import torch

from allora_analysis.laboratory import storage, training
from allora_analysis.laboratory.design import Cell, check
from allora_analysis.laboratory.one_rate import (
    AFTER,
    ALLORA,
    BASE,
    CANDIDATES,
    EARLY_SEEDS,
    ETA2,
    FAMILY,
    LORA,
    arm,
    early,
    lora,
    points,
)
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.validation import ArgumentError
from experiments import laboratory, one_rate
from tests.test_experiments_finetune import STATED


def short(cell, steps=10):
    return dataclasses.replace(cell, steps=steps)


def test_the_rules_are_stated():
    words = one_rate.__doc__
    assert all(f"**{title}.**" in words for title in STATED)
    assert "python -m experiments.one_rate" in words.splitlines()[0]


def test_every_point_is_a_valid_run_and_stands_once():
    found = points()
    assert all(check(point.cell) == point.cell for point in found)
    assert len(set(found)) == len(found)
    assert {point.cell.rule for point in found} == {
        "lora",
        "allora",
        "allora_adamw",
        "allora_od",
        "asf_lora",
        "lora_x_eta",
    }


def test_what_does_nothing_at_eta_1_is_left_out():
    assert {arm(name, "sgd", 1.0) for name in (LORA, BASE, "LoRA × η")} == {lora("sgd")}
    ours = {one.cells(1.0)[0] for name, one in CANDIDATES.items() if one.optimizer == "adamw" and one.arm == ALLORA}
    assert len(ours) == 2, "but for ε"


def test_lora_at_eta_l_is_lora_at_that_rate(task):
    """Planted: its classifier at l."""
    at_double = training.run(task, short(lora("adamw")), 0.01, 7)
    assert training.run(task, short(arm(LORA, "adamw", 4.0)), 0.005, 7) == at_double
    assert training.run(task, short(arm(BASE, "adamw", 4.0)), 0.005, 7) != at_double


def test_every_rate_times_eta_is_lora_at_eta_l_but_for_epsilon_and_what_d_has_moved(task):
    (ours, theirs) = (short(cell, 2) for cell in CANDIDATES["every rate times η as well"].cells(4.0))
    wanted = training.run(task, theirs, 1e-3, 7)
    assert training.run(task, ours, 1e-3, 7).loss == pytest.approx(wanted.loss, rel=1e-4)
    listed = short(CANDIDATES["as listed, under AdamW"].cells(4.0)[0], 2)
    assert training.run(task, listed, 1e-3, 7).loss > 1.0002 * wanted.loss


def test_a_fresh_classifier_starts_the_same_for_all_arms_and_is_trained_at_its_rate(task):
    cells = [lora("sgd"), *(arm(name, "sgd", 4.0) for name in (ALLORA, *FAMILY)), arm(AFTER, "adamw", 4.0)]
    models = [training._adapted(task.network, cell, torch.Generator().manual_seed(3)) for cell in cells]
    for model, cell in zip(models, cells, strict=True):
        assert torch.equal(model[-1].weight, models[0][-1].weight)
        assert not torch.equal(model[-1].weight, task.network[-1].weight)
        assert torch.equal(lora_pairs(model)[0].a, lora_pairs(models[0])[0].a)
        groups = training._optimizer(model, dataclasses.replace(cell, head="eta_l", eta2=4.0), 0.1).param_groups
        (rate,) = (group["lr"] for group in groups if group["params"][0] is model[-1].weight)
        assert rate == pytest.approx(0.2)
        assert all(group["lr"] == 0.1 for group in groups if group["params"][0] is not model[-1].weight)
        trained = {id(one) for group in groups for one in group["params"]}
        assert trained == {id(one) for one in model.parameters() if one.requires_grad}


def test_epsilon_is_a_part_of_loras_gradient_whatever_eta(task, monkeypatch):
    seen = {}
    original = training._set_epsilon

    def told(optimizer, model, cell):
        original(optimizer, model, cell)
        seen[cell.rule, cell.eta2] = [group["eps"] for group in optimizer.param_groups]

    monkeypatch.setattr(training, "_set_epsilon", told)
    one = CANDIDATES["as listed, ε a tenth of the gradients"]
    for cell in (*one.cells(1.0), *one.cells(4.0)):
        training.run(task, short(cell, 1), 1e-3, 7)
    first = seen["lora", None][0]
    assert 0 < first < 1
    for of in seen.values():
        assert of == [pytest.approx(first, rel=1e-4)] * 2


def test_epsilon_is_of_the_median(task):
    cell = Cell("lora", head="l", epsilon=0.1)
    model = training._adapted(task.network, cell, torch.Generator().manual_seed(3))
    for pair in lora_pairs(model):
        pair.b.grad = torch.arange(1.0, 1 + pair.b.numel()).reshape(pair.b.shape) ** 2
    optimizer = training._optimizer(model, cell, 0.1)
    training._set_epsilon(optimizer, model, cell)
    seen = torch.cat([pair.b.grad.flatten() for pair in lora_pairs(model)])
    assert [group["eps"] for group in optimizer.param_groups] == [pytest.approx(0.1 * float(seen.median()))] * 2


def test_masks_in_the_bottleneck_strike_ax(task):
    """Ax is zeroed or doubled entry by entry at drop rate ½. Planted: a mask on x leaves Ax neither."""
    cell = Cell("lora", drop_rate=0.5, placement="bottleneck")
    layer = training._adapted(task.network, cell, torch.Generator().manual_seed(3))[0]
    torch.nn.init.eye_(layer.b)
    x = task.test[0][:40]
    plain, whole = layer.base(x), x @ layer.a.T

    def ratios(layer):
        return ((layer(x) - plain)[:, : layer.a.shape[0]] / whole).round(decimals=3)

    torch.manual_seed(0)
    assert set(ratios(layer).flatten().abs().tolist()) == {0.0, 2.0}
    layer.eval()
    torch.testing.assert_close(layer(x) - plain, whole @ layer.b.T, rtol=1e-4, atol=1e-5)
    at_input = training._adapted(task.network, dataclasses.replace(cell, placement="input"), torch.Generator())[0]
    torch.nn.init.eye_(at_input.b)
    assert len(set(ratios(at_input).flatten().tolist())) > 10


@pytest.mark.parametrize(
    ("cell", "words"),
    [
        (Cell("lora", eta2=4.0), "adaptor and eta2 must be left out"),
        (Cell("lora", head="l", scaled=True), "eta2"),
        (Cell("lora_x_eta", eta2=4.0, adaptor="inverse"), "adaptor and eta2"),
        (Cell("lora", placement="bottleneck"), "placement must be 'input'"),
        (Cell("dora", placement="bottleneck", drop_rate=0.4), "placement must be 'input'"),
        (Cell("lora", placement="output"), "placement"),
        (Cell("lora", head="2l"), "head"),
        (Cell("lora", epsilon=0.1), "head is None"),
    ],
)
def test_cells_that_make_no_sense(cell, words):
    with pytest.raises(ArgumentError, match=words):
        check(cell)


def test_the_list_tunes_lora_alone_and_goes_on_to_the_same_bytes(tmp_path, monkeypatch, capsys):
    calls = []

    def told(task, cell, rate, seed):
        calls.append((cell, rate, seed))
        best = {"sgd": 1.3, "adamw": 2.3}[cell.optimizer]
        return training.Outcome(abs(math.log10(rate) + best) + 1.0, seed % 90, 0.25)

    monkeypatch.setattr(training, "run", told)
    monkeypatch.setattr(laboratory.records, "provenance", lambda packages=(): {"time_utc": "then"})
    whole = tmp_path / "whole" / "digits.jsonl"
    assert one_rate.main(["--results", str(whole.parent)]) == 0
    assert {cell for cell, _, seed in calls if seed >= 1000} == {lora("adamw"), lora("sgd")}
    judging = [call for call in calls if call[2] < 1000]
    assert len(judging) == len(set(judging)) == 60 * len(points()) + 200 * len(early())
    assert {rate for cell, rate, _ in judging if cell.rule == "allora_adamw"} == {0.0014, 0.0057}
    content, ran = storage.content(whole), len(calls)
    path = tmp_path / "cut" / "digits.jsonl"
    path.parent.mkdir()
    path.write_bytes(content[: len(content) // 2])
    assert one_rate.main(["--results", str(path.parent)]) == 0
    assert storage.content(path) == content
    assert len(calls) < 1.6 * ran
    capsys.readouterr()
    assert one_rate.main(["--results", str(path.parent), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert (out.count("n = 60"), out.count("n = 200")) == (len(points()), len(early()))
    assert set(ETA2) == {1.0, 2.0, 4.0}
    calls.clear()
    part = ["--only", "allora_od", "sgd", "--seeds", "12", "--results", str(tmp_path / "part")]
    assert one_rate.main(part) == 0
    assert {cell for cell, _, seed in calls if seed >= 1000} == {lora("sgd")}
    assert {(cell.rule, cell.optimizer) for cell, _, seed in calls if seed < 1000} == {("allora_od", "sgd")}
    assert {seed for _, _, seed in calls if seed < 1000} == {*range(12), *EARLY_SEEDS[:12]}
    assert one_rate.main(["--only", "dora", "--dry-run"]) == 2
