"""Classification sets from folders of JSON lines: read whole, digested by content, wrong rows named."""

import gzip
import json
import sys
import types

import pytest

from allora_analysis.finetune import data
from allora_analysis.validation import ArgumentError
from tests.tiny_finetune import questions, sentences, write

ROWS = [{"text": "one", "label": 0}, {"text": "two", "label": 1}, {"text": "three", "label": 1}]


def folder(path, train=ROWS, test=ROWS, info=None):
    path.mkdir(exist_ok=True)
    write(path / "train.jsonl", train)
    write(path / "test.jsonl", test)
    if info is not None:
        (path / "info.json").write_text(json.dumps(info))
    return path


def test_reads_a_folder(tmp_path):
    loaded = data.load(str(sentences(tmp_path / "films", 10)))
    assert (loaded.name, loaded.classes) == ("films", 2)
    assert {name: len(split) for name, split in loaded.splits.items()} == {"train": 10, "validation": 16, "test": 24}
    assert data.load(str(tmp_path / "films"), "other").name == "other"


def test_the_majority_is_the_training_splits(tmp_path):
    loaded = data.load(str(folder(tmp_path, ROWS, [{"text": "x", "label": label} for label in (0, 0, 0, 1)])))
    assert loaded.majority_rates() == {"train": 2 / 3, "test": 1 / 4}


def test_gzip_and_plain_files_have_one_digest_and_any_change_another(tmp_path):
    plain = data.load(str(folder(tmp_path / "a")))
    packed = tmp_path / "b"
    packed.mkdir()
    for name in ("train", "test"):
        with gzip.open(packed / f"{name}.jsonl.gz", "wt", encoding="utf-8") as stream:
            stream.write((tmp_path / "a" / f"{name}.jsonl").read_text(encoding="utf-8") + "\n")
    assert data.load(str(packed)).digest == plain.digest
    changed = [
        folder(tmp_path / "c", ROWS[::-1]),
        folder(tmp_path / "d", ROWS, ROWS[:2]),
        folder(tmp_path / "e", [*ROWS[:2], {"text": "three", "label": 0}]),
    ]
    assert len({plain.digest, *(data.load(str(path)).digest for path in changed)}) == 4


def test_a_byte_order_mark_is_no_part_of_a_row(tmp_path):
    """Windows' editors write one; the set is the same."""
    info = {"label_names": ["a", "b", "c"]}
    plain = data.load(str(folder(tmp_path / "a", info=info))).digest
    marked = folder(tmp_path / "b", info=info)
    for path in marked.iterdir():
        path.write_text(path.read_text(encoding="utf-8"), encoding="utf-8-sig")
    assert data.load(str(marked)).digest == plain
    with gzip.open(marked / "train.jsonl.gz", "wb") as stream:
        stream.write((marked / "train.jsonl").read_bytes())
    (marked / "train.jsonl").unlink()
    assert data.load(str(marked)).digest == plain


def test_info_names_labels_that_the_training_split_lacks(tmp_path):
    assert data.load(str(folder(tmp_path, info={"label_names": ["a", "b", "c"]}))).classes == 3
    assert data.load(str(folder(tmp_path, info={"rows": 3}))).classes == 2


def test_a_label_without_a_row_makes_it_another_set(tmp_path):
    """Its classifier has another size. Naming the labels that are there changes nothing."""
    plain, named, more = (
        data.load(str(folder(tmp_path / name, info=info)))
        for name, info in (
            ("a", None),
            ("b", {"label_names": ["no", "yes"]}),
            ("c", {"label_names": ["no", "yes", "perhaps"]}),
        )
    )
    assert plain.digest == named.digest != more.digest


def test_a_sentence_may_look_like_a_path(tmp_path):
    texts = ["/ good film", "~", "C:/x", "file:/ x"]
    rows = [{"text": text, "label": i % 2} for i, text in enumerate(texts)]
    assert data.load(str(folder(tmp_path, rows))).splits["train"].texts == tuple(texts)


@pytest.mark.bad_input
def test_an_empty_validation_split_is_named(tmp_path):
    write(folder(tmp_path) / "validation.jsonl", [])
    with pytest.raises(ArgumentError, match="its validation split is empty"):
        data.load(str(tmp_path))


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("train", "test", "info", "named"),
    [
        ([], ROWS, None, "its train split is empty"),
        (ROWS, [], None, "its test split is empty"),
        ([{"text": "x"}], ROWS, None, 'line 1 of train.jsonl is not a JSON object with "text" and "label"'),
        ([ROWS[0], {"text": 3, "label": 0}], ROWS, None, "line 2 of train.jsonl: text must be text"),
        ([ROWS[0], {"text": "x", "label": "0"}], ROWS, None, "line 2 of train.jsonl"),
        ([ROWS[0], {"text": "x", "label": True}], ROWS, None, "line 2 of train.jsonl"),
        (ROWS, [{"text": "x", "label": 2}], None, "label 2 in test, but the training split has labels 0 to 1"),
        (ROWS, [{"text": "x", "label": 3}], {"label_names": ["a", "b", "c"]}, "info.json names labels 0 to 2"),
        ([{"text": "x", "label": -1}, *ROWS], ROWS, None, "label -1 in train"),
        (ROWS[:1], ROWS[:1], None, "2 or more labels"),
        (ROWS, ROWS, {"label_names": "ab"}, "label_names in info.json must be a list"),
        (ROWS, ROWS, [1], "info.json is not a JSON object"),
        ([*ROWS, {"text": "a stray", "label": 5}], ROWS, None, "label 5 in train, which has 4 rows; number the labels"),
        (
            [ROWS[0], {"text": "half \ud83d", "label": 1}],
            ROWS,
            None,
            "line 2 of train.jsonl: text has half a surrogate",
        ),
    ],
)
def test_wrong_rows_are_named(tmp_path, train, test, info, named):
    with pytest.raises(ArgumentError, match=named) as caught:
        data.load(str(folder(tmp_path, train, test, info)))
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_files_that_cannot_be_read(tmp_path):
    path = folder(tmp_path / "a")
    with (path / "train.jsonl").open("a") as stream:
        stream.write("\n{half a row\n")
    with pytest.raises(ArgumentError, match=r"line 5 of train\.jsonl is not a JSON object"):
        data.load(str(path))
    (path / "train.jsonl").write_text("[" * 100_000 + "\n")
    with pytest.raises(ArgumentError, match=r"line 1 of train\.jsonl is not a JSON object"):
        data.load(str(path))
    (path / "train.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(ArgumentError, match=r"train.jsonl cannot be read"):
        data.load(str(path))
    (path / "train.jsonl").unlink()
    (path / "train.jsonl.gz").write_bytes(gzip.compress(b'{"text": "x", "label": 0}\n' * 99)[:-9])
    with pytest.raises(ArgumentError, match=r"train.jsonl.gz cannot be read"):
        data.load(str(path))
    packed = bytearray((path / "train.jsonl.gz").read_bytes())
    packed[10] = 0xFF  # a block of no known kind
    (path / "train.jsonl.gz").write_bytes(packed)
    with pytest.raises(ArgumentError, match=r"train.jsonl.gz cannot be read") as caught:
        data.load(str(path))
    assert "\n" not in str(caught.value)
    with pytest.raises(ArgumentError, match="must be a folder"):
        data.load(str(path / "test.jsonl"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArgumentError, match=r"holds no train.jsonl"):
        data.load(str(tmp_path / "empty"))


def hub(monkeypatch, load_dataset):
    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)


class Hub:
    """As much of a `datasets.Dataset` as is read."""

    def __init__(self, rows, **features):
        self.rows, self.features = rows, dict.fromkeys(rows[0]) | features

    def __iter__(self):
        return iter(self.rows)

    def __getitem__(self, column):
        return [row[column] for row in self.rows]


def test_reads_a_set_of_the_hub(monkeypatch, tmp_path):
    label = types.SimpleNamespace(names=["no", "yes", "perhaps"])
    hub(monkeypatch, lambda name: {part: Hub(ROWS, label=label) for part in ("train", "test", "unsupervised")})
    loaded = data.load("someone/films")
    assert (loaded.name, loaded.classes, set(loaded.splits)) == ("films", 3, {"train", "test"})
    assert loaded.digest == data.load(str(folder(tmp_path, info={"label_names": label.names}))).digest


def test_reads_multiple_choice_of_the_hub(monkeypatch, tmp_path):
    rows = questions(5, 0)
    hub(monkeypatch, lambda name: {part: Hub(rows) for part in ("train", "test")})
    assert data.load("someone/questions").digest == data.load(str(folder(tmp_path, rows, rows))).digest


def test_the_papers_set_has_other_names_on_the_hub(monkeypatch, tmp_path):
    from datasets import Dataset

    rows = [{"hard_text": row["text"], "profession": row["label"], "gender": 0} for row in ROWS]
    parts = {part: Dataset.from_list(rows) for part in ("train", "test", "dev")}
    hub(monkeypatch, lambda name: parts)
    loaded = data.load("LabHC/bias_in_bios")
    write(folder(tmp_path) / "validation.jsonl", ROWS)
    assert (loaded.name, loaded.classes) == ("bias_in_bios", 2)
    assert loaded.digest == data.load(str(tmp_path)).digest
    with pytest.raises(ArgumentError, match="its train split has the columns gender, hard_text, profession"):
        data.load("someone/bias_in_bios")


@pytest.mark.bad_input
def test_other_columns_are_named(monkeypatch):
    hub(monkeypatch, lambda name: {"train": Hub([{"sentence": "x", "label": 0}])})
    with pytest.raises(ArgumentError, match="its train split has the columns label, sentence"):
        data.load("someone/films")


@pytest.mark.bad_input
@pytest.mark.parametrize(
    "wrong",
    [{"label": "pos"}, {"label": True}, {"label": 1.0}, {"label": None}, {"label": [1, 0]}, {"text": None}],
    ids=str,
)
def test_rows_of_the_hub_are_checked_as_a_folders_are(monkeypatch, wrong):
    hub(monkeypatch, lambda name: {part: Hub([ROWS[0], ROWS[1] | wrong, ROWS[2]]) for part in ("train", "test")})
    named = "row 2 of train in 'someone/films': text must be text, label an integer"
    with pytest.raises(ArgumentError, match=named) as caught:
        data.load("someone/films")
    assert "\n" not in str(caught.value)


@pytest.mark.bad_input
def test_no_network_and_no_client_say_how_to_use_a_folder(monkeypatch):
    def offline(name):
        raise ConnectionError("no network\nat all")

    hub(monkeypatch, offline)
    with pytest.raises(ArgumentError, match=r"is no folder here, and the hub says .*train.jsonl") as caught:
        data.load("someone/films")
    assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ArgumentError, match=r"pip install 'allora-analysis\[llm\]'"):
        data.load("someone/films")
