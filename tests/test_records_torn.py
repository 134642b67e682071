"""Torn and altered records are named, set aside and never read; the status of a folder."""

import json
import os
import time
from hashlib import sha256
from pathlib import Path

import pytest

from allora_analysis import records
from allora_analysis.records import files
from tests.toy_run import Config, save, spoil

# --- torn and altered files -------------------------------------------------------------------------------------------


def test_every_altered_byte_shows(tmp_path):
    path, _ = save(tmp_path, {"x": 1}, {"y": 2})
    content = path.read_bytes()
    for offset in range(len(content)):
        altered = bytearray(content)
        altered[offset] ^= 0x04
        path.write_bytes(bytes(altered))
        with pytest.raises(records.TornRecord, match=path.name):
            records.load(path)
    for end in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(records.TornRecord):
            records.load(path)
    path.write_bytes(content + b"\n")
    with pytest.raises(records.TornRecord):
        records.load(path)
    path.write_bytes(content)
    assert records.load(path).result == {"y": 2}


def forged(path: Path, **changes) -> None:
    """A file whose checksum is right and whose entries are not."""
    document = json.loads(path.read_text(encoding="utf-8")) | changes
    document = {name: value for name, value in document.items() if name != "checksum" and value != "absent"}
    body = json.dumps(document, indent=2, ensure_ascii=False).removesuffix("\n}").encode()
    path.write_bytes(body + f',\n  "checksum": "{sha256(body).hexdigest()}"\n}}\n'.encode())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"config": {"rank": 99}}, "its key is not that of its config"),
        ({"protocol": 7}, "its key is not that of its config"),
        ({"study": "other"}, "its name is not that of its config"),
        ({"result": "absent"}, "is not a record"),
        ({"config": [1]}, "is not a record"),
        ({"study": "no such/name"}, "is not a record"),
    ],
)
def test_a_right_checksum_does_not_excuse_a_wrong_key_or_name(tmp_path, changes, words):
    path, _ = save(tmp_path)
    forged(path)
    assert records.load(path).study == "finetune"
    forged(path, **changes)
    with pytest.raises(records.TornRecord, match=words):
        records.load(path)


def test_a_renamed_copy_is_no_second_record(tmp_path):
    path, _ = save(tmp_path)
    (tmp_path / f"finetune-{'0' * 20}.json").write_bytes(path.read_bytes())
    with pytest.warns(records.SetAsideWarning, match="finetune-00000"):
        assert [record.path for record in records.find(tmp_path)] == [path]


def test_find_sets_torn_files_aside_names_them_and_reads_the_rest(tmp_path):
    good, _ = save(tmp_path, Config(rank=1))
    torn, _ = save(tmp_path, Config(rank=2))
    content = torn.read_bytes()[:-20]
    torn.write_bytes(content)
    with pytest.warns(records.SetAsideWarning, match=f"{torn.name} is set aside in set_aside/ and not read") as caught:
        assert [record.path for record in records.find(tmp_path)] == [good]
    assert len(caught) == 1
    assert not torn.exists()
    aside = list((tmp_path / "set_aside").iterdir())
    assert [path.read_bytes() for path in aside] == [content]
    assert aside[0].name.startswith(torn.stem)
    assert len(records.find(tmp_path)) == 1  # silent now: a warning would be an error here


def test_who_only_judges_moves_nothing(tmp_path):
    good, _ = save(tmp_path, Config(rank=1))
    torn, _ = save(tmp_path, Config(rank=2))
    torn.write_bytes(torn.read_bytes()[:-20])
    before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
    for read in (
        lambda: records.standing(tmp_path, "finetune"),
        lambda: list(records.find_each(tmp_path, "finetune", 1, {1: Config(rank=1), 2: Config(rank=2)}).values()),
    ):
        with pytest.warns(records.SetAsideWarning, match=f"{torn.name} is not read and left where it is"):
            assert [record.path for record in read()] == [good]
    assert sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir()) == before


def test_a_torn_file_is_replaced_by_a_new_run_and_kept_for_inspection(tmp_path):
    path, _ = save(tmp_path)
    for offset in (30, 50):
        spoil(path, offset)
        with pytest.warns(records.SetAsideWarning):
            assert records.lookup(tmp_path, "finetune", Config(), 1) is None
        assert save(tmp_path).written
    spoil(path)
    with pytest.warns(records.SetAsideWarning):
        assert save(tmp_path).written
    assert records.load(path).result["predicted"] == {"accuracy": 0.8}
    assert len(list((tmp_path / "set_aside").iterdir())) == 3


def test_a_torn_file_that_cannot_be_set_aside_is_named_and_never_read(tmp_path):
    path, _ = save(tmp_path)
    spoil(path)
    (tmp_path / "set_aside").write_text("a file in the way")
    with pytest.warns(records.SetAsideWarning, match="cannot be set aside"):
        assert records.find(tmp_path) == []
    with pytest.warns(records.SetAsideWarning), pytest.raises(records.RecordError, match="delete it and run again"):
        save(tmp_path)


def test_a_good_record_saved_meanwhile_is_not_set_aside(tmp_path, monkeypatch):
    path, _ = save(tmp_path)
    content = path.read_bytes()
    spoil(path)
    locked = files.locked

    def neighbour_was_first(folder):
        path.write_bytes(content)
        return locked(folder)

    monkeypatch.setattr(files, "locked", neighbour_was_first)
    assert [record.path for record in records.find(tmp_path)] == [path]


def test_a_torn_file_gone_meanwhile_is_no_record(tmp_path, monkeypatch):
    path, _ = save(tmp_path)
    spoil(path)
    locked = files.locked

    def neighbour_was_first(folder):
        path.unlink()
        return locked(folder)

    monkeypatch.setattr(files, "locked", neighbour_was_first)
    assert records.find(tmp_path) == []


def test_files_that_are_no_records_are_left_alone(tmp_path):
    path, _ = save(tmp_path)
    for name in ("notes.json", "README.md", "finetune-abc.json", "table.csv"):
        (tmp_path / name).write_text("{")
    assert [record.path for record in records.find(tmp_path)] == [path]
    assert records.status(tmp_path, {"finetune": 1}).foreign == ("finetune-abc.json", "notes.json")


# --- status -----------------------------------------------------------------------------------------------------------


def test_status_counts_and_names(tmp_path):
    old, now, new = (save(tmp_path, protocol=protocol).path.name for protocol in (1, 2, 3))
    other = save(tmp_path, study="other").path.name
    torn, _ = save(tmp_path, Config(rank=2), protocol=2)
    spoil(torn)
    fresh, stale, theirs = (
        tmp_path / f".{name}.part"
        for name in (f"finetune-{20 * 'a'}-{16 * '1'}", f"finetune-{20 * 'b'}-{16 * '2'}", "thesis.pdf")
    )
    for part in (fresh, stale, theirs):
        part.write_text("half")
    for part in (stale, theirs):
        os.utime(part, (time.time() - 7200, time.time() - 7200))
    with pytest.warns(records.SetAsideWarning):
        found = records.status(tmp_path, {"finetune": 2})
    assert found.counts == {"finetune": 3, "other": 1}
    assert (found.older, found.newer, found.unknown) == ((old,), (new,), (other,))
    assert [name[:29] for name in found.set_aside] == [torn.stem]
    assert found.cleaned == (stale.name,)
    assert fresh.exists()
    assert theirs.exists(), "a hidden file of the user's own"
    assert not stale.exists()
    assert now in os.listdir(tmp_path)


def test_json_nested_too_deep_is_one_line(tmp_path):
    path, _ = save(tmp_path)
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["checksum"]
    deep = json.dumps(document | {"result": "here"}).replace('"here"', "[" * 100_000 + "]" * 100_000)
    body = deep.removesuffix("}").encode()
    path.write_bytes(body + f',\n  "checksum": "{sha256(body).hexdigest()}"\n}}\n'.encode())
    with pytest.raises(records.TornRecord, match=r"is not a record \(RecursionError\); delete it"):
        records.load(path)


def test_a_link_to_nothing_is_one_line(tmp_path):
    path, _ = save(tmp_path / "there")
    (tmp_path / "here").mkdir()
    link = tmp_path / "here" / path.name
    link.symlink_to(path)
    assert len(records.find(tmp_path / "here")) == 1
    path.unlink()
    words = f"{path.name}: is a link to a file that is not there; delete it, or bring that back"
    with pytest.raises(records.RecordError, match=words):
        records.find(tmp_path / "here")
    with pytest.raises(records.RecordError, match=words):
        save(tmp_path / "here")
