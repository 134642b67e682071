"""Text sets: a folder of JSON lines, or a hub id, to the rows of splits.

A folder holds `train.jsonl`, `test.jsonl` and, if there is one, `validation.jsonl` (each may end in .gz), a row an
object with `text` and an integer `label` from 0, or a multiple-choice row. `info.json` may name the labels:
{"label_names": [...]}. A folder without a test file may hold a folder a multiple-choice task instead: tested is
on all of them, trained on its own `train.jsonl`, or without one on the tasks'.

A multiple-choice row is an object in LLM-Adapters' form (Hu et al., 2023) with `instruction`, `input` (may be empty),
`output` ("the correct answer is answer2") and `answer` ("answer2"). The instruction ends with "Answer format:
answer1/answer2/…", which lists what may be answered: each answer in the output's place is a candidate.
Checked by `tests/test_finetune_data.py` and `tests/test_finetune_multiple_choice.py`.
"""

import gzip
import hashlib
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allora_analysis.validation import ArgumentError

NAMES = ("train", "validation", "test")
FORMAT = re.compile(r"Answer format: *(\S+)\s*$")
# Alpaca's prompt, which LLM-Adapters trains with.
PROMPT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
PROMPT_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
    "response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
# Sets of the paper whose columns and splits have other names on the hub.
RENAMED = {"LabHC/bias_in_bios": {"hard_text": "text", "profession": "label", "dev": "validation"}}
FORM = 'not a JSON object with "text" and "label", or with "instruction", "output" and "answer"'

__all__ = ["Split", "TextData", "load"]


@dataclass(frozen=True)
class Split:
    """Sentences and their labels, an integer each, from 0."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)


def whole(text: str) -> bool:
    """Whether a text can be written as UTF-8, and so tokenized and recorded: it has no half of a surrogate pair."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


@dataclass(frozen=True)
class Choices(Split):
    """Prompts, what each may be given as an output, which is right, and of which task it is (empty: all of one)."""

    candidates: tuple[tuple[str, ...], ...] = ()
    tasks: tuple[str, ...] = ()


def _joined(by_task: Mapping[str, Split]) -> Choices:
    """The prompts of several tasks in one split, each with its task."""
    wrong = next((task for task, split in by_task.items() if not isinstance(split, Choices)), None)
    if wrong is not None:
        raise ArgumentError(f"data: the task {wrong} has no multiple-choice rows; a folder of tasks must have no other")
    parts = {
        name: tuple(value for split in by_task.values() for value in getattr(split, name))
        for name in ("texts", "labels", "candidates")
    }
    return Choices(**parts, tasks=tuple(task for task, split in by_task.items() for _ in split.labels))


def choices(rows: list[tuple[str, Any]]) -> Choices:
    """The prompts and candidates of a split's rows; one of another form is refused."""
    made = [_question(where, row) for where, row in rows]
    return Choices(tuple(one[0] for one in made), tuple(one[1] for one in made), tuple(one[2] for one in made))


def _question(where: str, row: Any) -> tuple[str, int, tuple[str, ...]]:
    wanted = ("instruction", "output", "answer")
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in wanted):
        raise ArgumentError(f'data: {where} has no text for each of "instruction", "output" and "answer": {row!r:.80}')
    found = FORMAT.search(row["instruction"])
    if found is None:
        raise ArgumentError(f"data: {where}: its instruction must end with 'Answer format: answer1/answer2/…'")
    answers, right = found[1].split("/"), row["answer"]
    if right not in answers or len(set(answers)) < len(answers) or len(answers) < 2:
        raise ArgumentError(f"data: {where}: answer {right!r:.40} is not one of {'/'.join(answers)!r:.60}")
    if not row["output"].endswith(right):
        raise ArgumentError(f"data: {where}: output {row['output']!r:.60} does not end with the answer {right!r:.40}")
    stem = row["output"].removesuffix(right)
    prompt = (PROMPT_WITH_INPUT if row.get("input") else PROMPT).format(**{"input": "", **row})
    if not whole(prompt + row["output"]):
        raise ArgumentError(f"data: {where}: its text has half a surrogate pair: {row!r:.80}")
    return prompt, answers.index(right), tuple(stem + answer for answer in answers)


@dataclass(frozen=True)
class TextData:
    """A classification or a multiple-choice set: what records call it, its splits ("train" and "test" are always
    there), the number of labels (None: multiple choice), and the digest of sentences and labels, split by split.
    """

    name: str
    splits: dict[str, Split]
    classes: int | None
    digest: str

    @property
    def task(self) -> str:
        """The `Setting`'s word for what its rows ask."""
        return "multiple_choice" if self.classes is None else "classification"

    def majority_rates(self) -> dict[str, float]:
        """By split, the accuracy of whoever always says the training split's most frequent label."""
        (majority, _), *_ = Counter(self.splits["train"].labels).most_common(1)
        return {name: sum(label == majority for label in of.labels) / len(of) for name, of in self.splits.items()}


def load(source: str, name: str | None = None) -> TextData:
    """Read a set from a folder, or the hub by an id such as "dair-ai/emotion"; a row that is not what it should be is
    refused, its file and line named. `name` is what records call it: None for the folder's, or the id's last part.
    """
    folder = Path(source)
    if folder.is_dir():
        splits, names = _from_folder(folder)
    elif folder.exists():
        raise ArgumentError(f"data must be a folder of JSON lines or a hub id, received the file {source!r}")
    else:
        splits, names = _from_hub(source)
    for part in dict.fromkeys(("train", "test", *splits)):
        if not len(splits.get(part, ())):
            raise ArgumentError(f"data {source!r}: its {part} split is empty or missing; give one with rows")
    classes = None if _are_choices(source, splits) else _classes(source, splits, names)
    return TextData(name or folder.resolve().name, splits, classes, _digest(splits, classes))


def _are_choices(source: str, splits: dict[str, Split]) -> bool:
    kinds = {isinstance(split, Choices) for split in splits.values()}
    if len(kinds) > 1:
        raise ArgumentError(f"data {source!r}: some splits are multiple choice and some are not")
    return kinds.pop()


def _classes(source: str, splits: dict[str, Split], names: list[str] | None) -> int:
    trained = max(splits["train"].labels) + 1
    classes = trained if names is None else len(names)
    if classes < 2:
        raise ArgumentError(f"data {source!r}: 2 or more labels wanted, received {classes}")
    if names is None and classes > len(splits["train"]):
        raise ArgumentError(
            f"data {source!r}: label {trained - 1} in train, which has {len(splits['train'])} rows; number the labels "
            "from 0, or name them in info.json"
        )
    for part, split in splits.items():
        wrong = next((label for label in split.labels if not 0 <= label < classes), None)
        if wrong is not None:
            known = "info.json names" if names is not None else "the training split has"
            raise ArgumentError(f"data {source!r}: label {wrong} in {part}, but {known} labels 0 to {classes - 1}")
    return classes


def _digest(splits: dict[str, Split], classes: int | None) -> str:
    digest = hashlib.sha256()
    if classes not in (None, max(splits["train"].labels) + 1):  # info.json names a label without a row
        digest.update(f"{classes} classes".encode())
    for name in NAMES:
        if name in splits:
            rows = [name, list(splits[name].texts), list(splits[name].labels)]
            if isinstance(splits[name], Choices):
                rows.append(splits[name].candidates)
                rows += [splits[name].tasks] if splits[name].tasks else []
            digest.update(json.dumps({"rows": rows}, separators=(",", ":"), allow_nan=False).encode("ascii"))
    return digest.hexdigest()


def _from_folder(folder: Path) -> tuple[dict[str, Split], list[str] | None]:
    splits = _files(folder)
    if "test" not in splits:
        splits = _of_tasks(folder) | splits
    if not splits:
        raise ArgumentError(
            f"data {str(folder)!r}: holds no train.jsonl or train.jsonl.gz; write one "
            "JSON object a line, with text and label"
        )
    return splits, _label_names(folder / "info.json")


def _files(folder: Path, above: str = "") -> dict[str, Split]:
    splits: dict[str, Split] = {}
    for name in NAMES:
        found = [path for ending in ("", ".gz") if (path := folder / f"{name}.jsonl{ending}").is_file()]
        if found:
            splits[name] = _split(_rows(above + found[0].name, _lines(found[0])))
    return splits


def _of_tasks(folder: Path) -> dict[str, Split]:
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    tasks = {path.name: own for path in inside if "test" in (own := _files(path, f"{path.name}/"))}
    if (unwritten := next((task for task in tasks if not whole(task)), None)) is not None:
        raise ArgumentError(
            f"data {str(folder)!r}: the name of its task {unwritten!r} is not UTF-8; rename that folder"
        )
    by_split = {name: {task: own[name] for task, own in tasks.items() if name in own} for name in ("train", "test")}
    return {name: _joined(of) for name, of in by_split.items() if of}


def _label_names(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8-sig")).get("label_names")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ArgumentError(f"data: {path.name} is not a JSON object ({error})") from None
    if names is not None and not isinstance(names, list):
        raise ArgumentError(f"data: label_names in {path.name} must be a list, received {names!r}")
    return names


def _lines(path: Path) -> Iterable[str]:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig") as stream:  # a byte order mark at the start is no part of a row
            yield from stream
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ArgumentError(f"data: {path.name} cannot be read ({error})") from None


def _split(rows: list[tuple[str, Any]]) -> Split:
    # Checks them, a folder's as the hub's; each comes with where it stands.
    if rows and isinstance(rows[0][1], dict) and "instruction" in rows[0][1]:
        return choices(rows)
    for where, row in rows:
        if not isinstance(row, dict) or not {"text", "label"} <= set(row):
            raise ArgumentError(f"data: {where} is {FORM}: {json.dumps(row)[:60]!r}")
        if not isinstance(row["text"], str) or isinstance(row["label"], bool) or not isinstance(row["label"], int):
            raise ArgumentError(f"data: {where}: text must be text, label an integer: {row!r:.80}")
        if not whole(row["text"]):
            raise ArgumentError(f"data: {where}: text has half a surrogate pair: {row['text']!r:.80}")
    return Split(tuple(row["text"] for _, row in rows), tuple(row["label"] for _, row in rows))


def _rows(name: str, lines: Iterable[str]) -> list[tuple[str, Any]]:
    numbered = ((f"line {number} of {name}", line) for number, line in enumerate(lines, 1) if line.strip())
    return [(where, _row(where, line)) for where, line in numbered]


def _row(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise ArgumentError(f"data: {where} is {FORM}: {line.strip()[:60]!r}") from None


def _from_hub(source: str) -> tuple[dict[str, Split], list[str] | None]:
    way_out = "give the id of a data set on the hub with network at hand, or a folder with train.jsonl and test.jsonl"
    try:
        from datasets import load_dataset
    except ImportError:
        raise ArgumentError(
            f"data {source!r}: is no folder here, and the hub needs: pip install 'allora-analysis[llm]'"
        ) from None
    try:
        loaded: Any = load_dataset(source)
    except Exception as error:  # the hub's client fails in many ways of its own
        raise ArgumentError(f"data {source!r}: is no folder here, and the hub says {error!r:.150}; {way_out}") from None
    new = RENAMED.get(source, {})
    parts = {new.get(name, name): of for name, of in loaded.items()}
    if new:
        parts = {
            name: of.rename_columns({old: new[old] for old in of.features if old in new}) for name, of in parts.items()
        }
    splits = {name: _of_hub(source, name, of) for name, of in parts.items() if name in NAMES}
    names = getattr(next(iter(parts.values())).features.get("label"), "names", None)
    return splits, names


def _of_hub(source: str, name: str, of: Any) -> Split:
    columns = set(of.features)
    if "instruction" in columns:
        rows = iter(of)
    elif {"text", "label"} <= columns:
        rows = ({"text": text, "label": label} for text, label in zip(of["text"], of["label"], strict=True))
    else:
        raise ArgumentError(
            f'data {source!r}: its {name} split has the columns {", ".join(sorted(columns))}; "text" and "label" are '
            "wanted: write it as a folder with train.jsonl and test.jsonl"
        )
    return _split([(f"row {number} of {name} in {source!r}", row) for number, row in enumerate(rows, 1)])
