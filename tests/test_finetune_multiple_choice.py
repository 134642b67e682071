"""Multiple choice: rows, scores against log-probabilities taken one token at a time, and a run to its record."""

import json
import os
import types

import numpy as np
import pytest
import torch

from allora_analysis.cli import main
from allora_analysis.finetune import data as text_data
from allora_analysis.finetune.data import choices
from allora_analysis.finetune.setting import Setting, check
from allora_analysis.finetune.study import STUDY
from allora_analysis.validation import ArgumentError
from tests import tiny_finetune as tiny

pytest.importorskip("peft")
from allora_analysis.finetune import models, tasks

ROW = {
    "instruction": "Which?\n\nAnswer format: answer1/answer2/answer3",
    "input": "",
    "output": "the correct answer is answer2",
    "answer": "answer2",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = tmp_path_factory.mktemp("choice")
    tiny.decoder(made / "qwen", causal=True, pad_token="[PAD]", eos_token="[SEP]")
    (made / "questions").mkdir()
    for seed, (name, size) in enumerate((("train", 24), ("test", 10))):
        tiny.write(made / "questions" / f"{name}.jsonl", tiny.questions(size, seed))
    return made


@pytest.fixture(scope="module")
def pretrained(root):
    loaded = models.load(str(root / "qwen"), None)
    loaded.model.eval()
    return loaded


def test_reads_rows_and_their_candidates(root):
    data = text_data.load(str(root / "questions"))
    assert (data.classes, data.task, data.name) == (None, "multiple_choice", "questions")
    train = data.splits["train"]
    rows = tiny.questions(24, 0)
    for text, right, candidates, row in zip(train.texts, train.labels, train.candidates, rows, strict=True):
        assert row["instruction"] in text
        assert text.endswith("### Response:\n")
        assert candidates[right] == row["output"]
        assert len(candidates) == len(set(candidates)) == row["instruction"].count("answer") // 2
    one = choices([("x", ROW | {"input": "Context."})])
    assert "### Input:\nContext.\n" in one.texts[0]
    assert one.candidates[0] == tuple(f"the correct answer is answer{place}" for place in (1, 2, 3))


def test_the_digest_is_of_prompts_and_candidates(root, tmp_path):
    digests = {text_data.load(str(root / "questions")).digest}
    for field, value in (("output", "it is answer2"), ("answer", "answer1"), ("instruction", "?" + ROW["instruction"])):
        row = ROW | {field: value}
        row |= {"output": "the correct answer is answer1"} if field == "answer" else {}
        for name in ("train", "test"):
            tiny.write(tmp_path / f"{name}.jsonl", [row])
        digests.add(text_data.load(str(tmp_path)).digest)
    assert len(digests) == 4


def by_hand(model, tokens, n_answer):
    """Σ log P of the last tokens, one forward pass a token, without padding."""
    total = 0.0
    for place in range(len(tokens) - n_answer, len(tokens)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokens[:place]])).logits[0, -1].double()
        total += float(torch.log_softmax(logits, 0)[tokens[place]])
    return total


def scores(pretrained, rows, batch):
    """As a run has them: collated, padded, in batches."""
    from transformers import DataCollatorForSeq2Seq

    collator = DataCollatorForSeq2Seq(pretrained.tokenizer, label_pad_token_id=tasks.IGNORED)
    found = []
    for start in range(0, len(rows), batch):
        inputs = collator([dict(row) for row in rows[start : start + batch]])
        labels = inputs.pop("labels")
        with torch.no_grad():
            found.append(-tasks.token_losses(pretrained.model(**inputs).logits, labels).sum(1))
    return torch.cat(found)


def encoded(root, pretrained, max_length=400):
    split = text_data.load(str(root / "questions")).splits["test"]
    return [row for of in tasks.encode_choices(split, pretrained.tokenizer, max_length) for row in of]


def expected(pretrained, rows):
    answers = [sum(label != tasks.IGNORED for label in row["labels"]) for row in rows]
    return torch.tensor([by_hand(pretrained.model, row["input_ids"], n) for row, n in zip(rows, answers, strict=True)])


def test_scores_are_sums_of_log_probabilities_whatever_the_batch(root, pretrained):
    rows = encoded(root, pretrained)[:6]
    assert len({len(row["input_ids"]) for row in rows}) > 1
    wanted = expected(pretrained, rows)
    for batch in (1, 4, 6):
        assert scores(pretrained, rows, batch).numpy() == pytest.approx(wanted.numpy(), rel=1e-5)


@pytest.mark.parametrize("shift", [-1, 1])
def test_labels_off_by_one_are_seen(root, pretrained, shift):
    """The planted error."""
    rows = encoded(root, pretrained)[:3]
    for row in rows:
        row["labels"] = np.roll(row["labels"], shift).tolist()
    found, wanted = scores(pretrained, rows, 3), expected(pretrained, encoded(root, pretrained)[:3])
    assert ((found - wanted).abs() > 0.1).all()


def test_a_long_prompt_loses_its_start_and_no_candidate_its_end(root, pretrained):
    whole, cut = encoded(root, pretrained), encoded(root, pretrained, 60)
    for long, short in zip(whole, cut, strict=True):
        assert len(short["input_ids"]) <= 60
        n = len(short["input_ids"])
        assert short["input_ids"] == long["input_ids"][-n:]
        assert short["labels"] == long["labels"][-n:]
    assert len({len(row["input_ids"]) for row in cut}) == 1


def test_the_loss_is_of_the_answers_tokens_and_meaned_over_the_whole_batch(root, pretrained):
    rows = encoded(root, pretrained)[:4]
    losses = -scores(pretrained, rows, 4)
    sizes = torch.tensor([sum(label != tasks.IGNORED for label in row["labels"]) for row in rows])
    from transformers import DataCollatorForSeq2Seq

    inputs = DataCollatorForSeq2Seq(pretrained.tokenizer)([dict(row) for row in rows])
    labels = inputs.pop("labels")
    with torch.no_grad():
        outputs = pretrained.model(**inputs)
        theirs = pretrained.model(**inputs, labels=labels).loss
    ours = tasks.answer_loss(outputs, labels)
    assert float(ours) == pytest.approx(float(losses.sum() / sizes.sum()), rel=1e-5)
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    assert float(tasks.answer_loss(outputs, labels, 100)) == pytest.approx(float(losses.sum() / 100), rel=1e-5)


def test_accuracy_by_prompt_whatever_the_order():
    facts = np.array([[0, 1, 3], [0, 0, 3], [1, 0, 3], [1, 1, 5], [1, 0, 3], [2, 0, 1], [2, 1, 1]])
    facts = np.column_stack([facts, [1, 1, 0, 0, 0, 0, 0]])  # the tasks: that of the first prompt is another
    scores = np.array([-1.0, -2.0, -1.0, -4.0, -5.0, -3.0, -3.0])  # right, wrong, and a tie, where the first counts
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(5)
        order = np.concatenate([order, [5, 6]])
        prediction = types.SimpleNamespace(predictions=scores[order], label_ids=facts[order])
        plain = {"accuracy": pytest.approx(1 / 3), "loss": pytest.approx(8 / 9), "right": "80"}
        assert tasks.measured_choices(prediction) == plain
        by_task = {"boolq_accuracy": 0, "piqa_accuracy": 1}
        assert tasks.measured_choices(prediction, ["boolq", "piqa", "none"]) == plain | by_task


@pytest.fixture
def two_tasks(tmp_path):
    """Two tasks, one of them without a training set."""
    folder = tmp_path / "tasks"
    for seed, (name, size) in enumerate((("near/train", 12), ("near/test", 6), ("far/test", 8))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tiny.write(folder / f"{name}.jsonl", tiny.questions(size, seed))
    (folder / "notes").mkdir()
    return folder


def test_a_folder_of_tasks_is_tested_task_by_task(root, two_tasks, capsys):
    data = text_data.load(str(two_tasks))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "test": 14}
    assert data.splits["test"].tasks == ("far",) * 8 + ("near",) * 6
    command = flags(root, "--data", two_tasks, "--epochs", "1", "--json", "-")
    assert main(STUDY, command) == 0
    (last,) = json.loads(capsys.readouterr().out)["measured"]["epochs"]
    shares = [last["test_far_accuracy"], last["test_near_accuracy"]]
    assert last["test_accuracy"] == pytest.approx((8 * shares[0] + 6 * shares[1]) / 14)
    (two_tasks / "near").rename(two_tasks / "close")
    assert text_data.load(str(two_tasks)).digest != data.digest
    tiny.write(two_tasks / "train.jsonl", tiny.questions(5, 7))  # a training set of the folder's own comes first
    assert len(text_data.load(str(two_tasks)).splits["train"]) == 5


@pytest.mark.bad_input
def test_a_folder_of_tasks_that_are_no_multiple_choice(two_tasks):
    tiny.write(two_tasks / "far" / "test.jsonl", [{"text": "x", "label": 0}])
    with pytest.raises(ArgumentError, match="the task far has no multiple-choice rows"):
        text_data.load(str(two_tasks))
    tiny.write(two_tasks / "far" / "test.jsonl", [ROW, ROW | {"answer": "answer3"}])
    with pytest.raises(ArgumentError, match=r"line 2 of far/test.jsonl"):
        text_data.load(str(two_tasks))


@pytest.mark.bad_input
def test_a_tasks_name_that_no_record_can_hold(two_tasks):
    os.rename(two_tasks / "far", os.fsencode(two_tasks) + b"/f\xe4r")
    with pytest.raises(ArgumentError, match=r"the name of its task 'f\\udce4r' is not UTF-8; rename that folder"):
        text_data.load(str(two_tasks))


def flags(root, *more):
    given = {"--model": root / "qwen", "--data": root / "questions", "--arm": "lora", "--task": "multiple_choice"}
    given |= {"--rank": 4, "--batch-size": 8, "--device": "cpu", "--learning-rate": 0.05, "--max-length": 300}
    return [str(word) for pair in given.items() for word in pair] + [str(word) for word in more]


@pytest.mark.parametrize("arm", [["lora"], ["allora_adamw", "--eta2", "2"], ["loraplus"]], ids=lambda arm: arm[0])
def test_a_run(root, tmp_path, capsys, arm):
    command = flags(root, "--json", "-", "--results", tmp_path, "--arm", *arm)
    assert main(STUDY, command) == 0
    measured = json.loads(capsys.readouterr().out)["measured"]
    assert measured["parameters"]["head"] == 0
    first, last = measured["loss"]["value"][0], measured["loss"]["value"][-1]
    assert 0 < last < first - 0.5
    assert [entry["step"] for entry in measured["epochs"]] == [3, 6]
    assert measured["epochs"][-1]["test_loss"] == pytest.approx(last, rel=0.3)
    assert all(
        entry["test_accuracy"] * 10 == pytest.approx(round(entry["test_accuracy"] * 10)) for entry in measured["epochs"]
    )
    assert main(STUDY, command) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == measured


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"answer": 2}, 'has no text for each of "instruction"'),
        ({"instruction": "Which?"}, "its instruction must end with 'Answer format"),
        ({"answer": "answer4"}, "answer 'answer4' is not one of 'answer1/answer2/answer3'"),
        ({"output": "it is answer3"}, "does not end with the answer 'answer2'"),
        ({"instruction": "Answer format: answer2"}, "is not one of"),
        ({"instruction": "Answer format: answer2/answer2"}, "is not one of"),
        ({"instruction": "half \ud83d" + ROW["instruction"]}, "its text has half a surrogate pair"),
        ({"input": "half \ud83d"}, "its text has half a surrogate pair"),
        ({"output": "half \ud83d answer2"}, "its text has half a surrogate pair"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, change, named):
    tiny.write(tmp_path / "train.jsonl", [ROW, ROW | change])
    tiny.write(tmp_path / "test.jsonl", [ROW])
    with pytest.raises(ArgumentError, match=f"line 2 of train.jsonl.*{named}") as caught:
        text_data.load(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_what_does_not_fit_together(root, tmp_path, capsys, pretrained):
    assert main(STUDY, flags(root, "--task", "classification")) == 2
    assert "task must be multiple_choice for the data 'questions'" in capsys.readouterr().err
    assert main(STUDY, flags(root, "--head-learning-rate", "0.5")) == 2
    assert "trains no head" in capsys.readouterr().err
    with pytest.raises(ArgumentError, match="must have adapters"):
        check(Setting("m", "d", "head_only", task="multiple_choice"))
    with pytest.raises(ArgumentError, match="max_length must leave room"):
        encoded(root, pretrained, 20)
    tiny.write(tmp_path / "train.jsonl", [ROW])
    tiny.write(tmp_path / "test.jsonl", [{"text": "x", "label": 0}])
    with pytest.raises(ArgumentError, match="some splits are multiple choice"):
        text_data.load(str(tmp_path))
