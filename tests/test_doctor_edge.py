"""The largest stable rate of a tiny pretrained model, against the dense Hessian."""

import re

import pytest
import torch

pytest.importorskip("peft")

from allora_analysis.adaptive.recipe import Recipe
from allora_analysis.doctor import edge as edges
from allora_analysis.doctor.__main__ import main
from allora_analysis.finetune import models
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


def test_clipping_lengthens_the_rate_by_what_it_leaves_of_the_gradient(sources):
    recipe = Recipe(r=2, alpha=6.0, lr=0.1, optimizer="sgd")
    plain, clipped = (edges.edge(*sources, recipe, batch_size=8, clip=clip) for clip in (0.0, 1e-3))
    model, _, loss = edges._prepared(Setting(*sources, "lora", "sgd", 0.1, 0.1, rank=2, batch_size=8), recipe, 0)
    trained = [part for part in model.parameters() if part.requires_grad]
    norm = float(torch.cat([part.flatten() for part in torch.autograd.grad(loss(0), trained)]).norm())
    assert (plain.clipped, clipped.clipped) == (1.0, pytest.approx(1e-3 / norm, rel=1e-5))
    assert clipped.rate == pytest.approx(plain.rate * norm / 1e-3, rel=1e-3)
    assert clipped.head_rate == pytest.approx(plain.head_rate * norm / 1e-3, rel=1e-3)


def test_under_adam_it_is_in_the_preconditioned_curvature_after_the_trial_steps(sources):
    recipe = Recipe(r=2, alpha=2.0, lr=1e-3)
    found = edges.edge(*sources, recipe, steps=5, batch_size=8, clip=0.0)
    assert (found.threshold, found.steps) == (pytest.approx(38), 5)
    setting = Setting(*sources, "lora", "adamw", 1e-3, 1e-3, rank=2, batch_size=8)
    model, optimizer, loss = edges._prepared(setting, recipe, 5)
    for step in range(5):
        optimizer.zero_grad()
        loss(step).backward()
        optimizer.step()
    adapters = [part for pair in lora_pairs(model) for part in (pair.a, pair.b)]
    hessian = jacobian(torch.autograd.grad(loss(5), adapters, create_graph=True), adapters).double()
    seconds = torch.cat([optimizer.state[part]["exp_avg_sq"].flatten().double() for part in adapters])
    root = ((seconds / (1 - 0.999**5)).sqrt() + 1e-8).rsqrt()
    top = float(torch.linalg.eigvalsh(root[:, None] * hessian * root)[-1])
    assert found.curvature == pytest.approx(top, rel=0.02)
    assert found.rate == pytest.approx(38 / top, rel=0.02)
    assert edges.edge(*sources, recipe, steps=5, batch_size=8, clip=0.0) == found


def test_the_curvature_is_of_a_batch_that_no_step_has_seen(sources, monkeypatch):
    seen, prepared = [], edges._prepared

    def told(*of):
        model, optimizer, loss = prepared(*of)
        return model, optimizer, lambda step: seen.append(step) or loss(step)

    monkeypatch.setattr(edges, "_prepared", told)
    edges.edge(*sources, Recipe(r=2, alpha=2.0, lr=1e-3), steps=3, batch_size=8)
    assert (seen[:3], set(seen[3:])) == ([0, 1, 2], {3})


def test_the_trial_steps_are_clipped_too(sources):
    """At a norm of 1e-9 they go nowhere."""
    recipe = Recipe(r=2, alpha=2.0, lr=1.0, optimizer="sgd")
    still, moved = (edges.edge(*sources, recipe, steps=2, batch_size=8, clip=clip).loss for clip in (1e-9, 1.0))
    _, _, loss = edges._prepared(Setting(*sources, "lora", "sgd", 1.0, 1.0, rank=2, batch_size=8), recipe, 2)
    assert still == pytest.approx(float(loss(2).detach()), rel=1e-5)
    assert moved != pytest.approx(still, rel=1e-3)


@pytest.mark.parametrize(
    ("optimizer", "kind"), [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")], ids=["sgd", "adam", "adamw"]
)
def test_the_optimizer_is_the_recipes(optimizer, kind, sources):
    recipe = Recipe(2, 2.0, 0.1, optimizer, loraplus_ratio=16.0, eps=1e-3, weight_decay=0.2)
    setting = Setting(*sources, "lora", "sgd" if optimizer == "sgd" else "adamw", 0.1, 0.3, rank=2, batch_size=8)
    model, made, _ = edges._prepared(setting, recipe, 0)
    assert type(made).__name__ == kind
    assert [(group["lr"], group["weight_decay"]) for group in made.param_groups] == [(0.1, 0.2), (1.6, 0.2), (0.3, 0.0)]
    assert optimizer == "sgd" or {group["eps"] for group in made.param_groups} == {1e-3}
    pairs = lora_pairs(model)
    wanted = [{id(pair.a) for pair in pairs}, {id(pair.b) for pair in pairs}]
    assert [{id(part) for part in group["params"]} for group in made.param_groups[:2]] == wanted


def test_a_rate_of_b_and_decay_lower_the_largest_rate(sources):
    rates = [
        edges.edge(*sources, Recipe(2, 2.0, 0.1, "sgd", loraplus_ratio=ratio, weight_decay=decay), batch_size=8).rate
        for ratio, decay in ((1.0, 0.0), (16.0, 0.0), (1.0, 5.0))
    ]
    # At B = 0 the curvature in A is 0, and so is the mixed one in the diagonal: it is B's rate that counts.
    assert rates[1] < 0.5 * rates[0]
    assert rates[2] == pytest.approx(2 / (2 / rates[0] + 5.0), rel=0.02)


def test_the_command_says_it(sources, capsys):
    words = ["--r", "2", "--alpha", "2", "--lr", "0.1", "--optimizer", "sgd", "--batch-size", "8"]
    assert main([*words, "--model", sources[0], "--data", sources[1]]) == 0
    out = capsys.readouterr().out
    assert "largest stable rate" in out
    assert "beyond it no rate of A and B is stable" in out
    assert "the largest curvature of the Hessian in A and B of all linear layers on 8 sentences after 0 steps" in out
    assert "nothing is curved in A yet: after --trial-steps 100" in out
    assert "clipping" not in out  # the gradient is below 1
    assert main([*words, "--model", sources[0], "--data", sources[1], "--max-grad-norm", "1e-3"]) == 0
    assert re.search(r"clipping at 0\.001 leaves 0\.\d+ of this gradient", capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning", "ignore:Could not find a config file")
def test_an_adapters_layers_are_those_that_are_measured(sources, tmp_path, capsys):
    import peft

    base = models.load(sources[0], 2).model
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    model = peft.get_peft_model(base, config)
    for pair in lora_pairs(model):  # a file of zeros has no strength, which is asked too
        torch.nn.init.normal_(pair.b)
    model.save_pretrained(tmp_path)
    names = [pair.name.removeprefix("base_model.model.") for pair in lora_pairs(model)]
    setting = Setting(*sources, "lora", "sgd", 0.1, 0.1, rank=2)
    prepared, *_ = edges._prepared(setting, Recipe(2, 2.0, 0.1, "sgd"), 0, names)
    assert [pair.name for pair in lora_pairs(prepared)] == [f"base_model.model.{name}" for name in names]
    words = ["--lr", "0.1", "--optimizer", "sgd", "--batch-size", "8", "--model", sources[0], "--data", sources[1]]
    assert main([str(tmp_path), *words]) == 0
    of_adapter = capsys.readouterr().out
    assert f"of the Hessian in A and B of the adapter's {len(names)} layers on 8 sentences" in of_adapter
    bare = [name.removeprefix("bert.") for name in names]  # of an adapter that was trained without the head
    alone, same = (
        edges.edge(*sources, Recipe(2, 2.0, 0.1, "sgd"), batch_size=8, layers=of).rate for of in (names, bare)
    )
    assert bare != names
    assert alone == same
    assert f"largest stable rate  {alone:.3g} = " in of_adapter
    assert alone > 1.2 * edges.edge(*sources, Recipe(2, 2.0, 0.1, "sgd"), batch_size=8).rate


@pytest.mark.parametrize(
    ("recipe", "options", "match"),
    [
        (Recipe(2, 2.0, 1e-3), {"steps": 0}, "1 or more for Adam"),
        (Recipe(2, 2.0, 1e-3, "sgd"), {"batch_size": 10**6}, "want more than the"),
        (Recipe(2, 2.0, 1e-3, "sgd"), {"batch_size": 0}, "batch-size"),
        (Recipe(2, 2.0, 1e-3, "sgd", zero="a"), {}, "--zero a: .* from B = 0 alone"),
        (
            Recipe(2, 2.0, 1e6, "sgd"),
            {"steps": 2, "clip": 0.0, "batch_size": 8},
            r"--lr 1e\+06: too large, if its 2 steps have led here",
        ),
        (Recipe(2, 2.0, 1e-3, "sgd"), {"layers": ["x.query"]}, "has no linear layer 'x.query', which ADAPTER adapts"),
    ],
    ids=["adam", "rows", "batch", "zero", "too large", "layers"],
)
def test_mistakes_are_one_line(recipe, options, match, sources):
    with pytest.raises(ArgumentError, match=match):
        edges.edge(*sources, recipe, **options)


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("words", "named"), [(["--dora"], "DoRA"), (["--eta", "2"], "ALLoRA's rule")], ids=["dora", "eta"]
)
def test_what_is_not_modelled_is_refused(words, named, capsys):
    asked = ["--r", "2", "--alpha", "2", "--lr", "0.1", "--model", "x", "--data", "y"]
    assert main([*asked, *words]) == 2
    assert f"for LoRA from B = 0, not for {named}" in capsys.readouterr().err
