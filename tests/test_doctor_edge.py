"""The largest stable rate of a tiny pretrained model, against the dense Hessian."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("peft")

from allora_analysis.adaptive.recipe import Recipe
from allora_analysis.doctor import edge as edges
from allora_analysis.doctor.__main__ import main
from allora_analysis.finetune.setting import Setting
from allora_analysis.lora.pairs import lora_pairs
from allora_analysis.validation import ArgumentError
from tests import tiny_finetune


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return str(tiny_finetune.bert(folder / "bert")), str(tiny_finetune.sentences(folder / "data"))


def jacobian(outputs, inputs):
    """Every entry of the outputs by every entry of the inputs, all rows at once."""
    flat = torch.cat([part.flatten() for part in outputs])
    rows = torch.autograd.grad(flat, inputs, torch.eye(len(flat)), retain_graph=True, is_grads_batched=True)
    return torch.cat([part.flatten(1) for part in rows], 1)


def test_under_sgd_it_is_two_over_the_largest_curvature(sources):
    recipe = Recipe(r=2, alpha=6.0, lr=0.1, optimizer="sgd")
    found = edges.edge(*sources, recipe, batch_size=8)
    setting = Setting(*sources, "lora", "sgd", 0.1, 0.1, rank=2, batch_size=8)
    model, _, loss = edges._prepared(setting, recipe, 0)
    pairs = lora_pairs(model)
    assert {pair.scaling for pair in pairs} == {3.0}
    adapters = [part for pair in pairs for part in (pair.a, pair.b)]
    value = loss(0)
    slopes = torch.autograd.grad(value, adapters, create_graph=True)
    top = float(torch.linalg.eigvalsh(jacobian(slopes, adapters).double())[-1])
    assert found.curvature == pytest.approx(top, rel=0.01)
    assert found.rate == pytest.approx(2 / top, rel=0.01)
    assert found.loss == pytest.approx(float(value.detach()))
    assert (found.threshold, found.steps) == (2.0, 0)
    head = [part for part in model.parameters() if part.requires_grad and all(part is not one for one in adapters)]
    dense = jacobian(torch.autograd.grad(loss(0), head, create_graph=True), head).double()
    assert found.head_rate == pytest.approx(2 / float(torch.linalg.eigvalsh(dense)[-1]), rel=0.01)


def test_under_adam_it_is_in_the_preconditioned_curvature_after_the_trial_steps(sources):
    recipe = Recipe(r=2, alpha=2.0, lr=1e-3)
    found = edges.edge(*sources, recipe, steps=5, batch_size=8)
    assert (found.threshold, found.steps) == (pytest.approx(38), 5)
    assert found.rate == pytest.approx(38 / found.curvature)
    assert 1e-5 < found.rate < 10
    again = edges.edge(*sources, recipe, steps=5, batch_size=8)
    assert again == found


def test_the_command_says_it(sources, capsys):
    words = ["--r", "2", "--alpha", "2", "--lr", "0.1", "--optimizer", "sgd", "--batch-size", "8"]
    assert main([*words, "--model", sources[0], "--data", sources[1]]) == 0
    out = capsys.readouterr().out
    assert "largest stable rate" in out
    assert "beyond it no rate of A and B is stable" in out
    assert "the largest curvature of the Hessian in A and B on 8 sentences after 0 steps" in out


@pytest.mark.parametrize(
    ("recipe", "options", "match"),
    [
        (Recipe(2, 2.0, 1e-3), {"steps": 0}, "1 or more for Adam"),
        (Recipe(2, 2.0, 1e-3, "sgd"), {"batch_size": 10**6}, "want more than the"),
        (Recipe(2, 2.0, 1e-3, "sgd"), {"batch_size": 0}, "batch-size"),
    ],
    ids=["adam", "rows", "batch"],
)
def test_mistakes_are_one_line(recipe, options, match, sources):
    with pytest.raises(ArgumentError, match=match):
        edges.edge(*sources, recipe, **options)
