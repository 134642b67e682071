"""Run records: keys that depend on values alone; files that survive kills, full disks, many writers, altered bytes."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import records
from allora_analysis.records import files, origin
from allora_analysis.study import Result
from allora_analysis.validation import ArgumentError


@dataclass(frozen=True)
class Config:
    model: str = "minilm"
    rank: int = 16
    rate: float = 1e-4
    rates: tuple[float, ...] = (0.5, 1.0)
    head_rate: float | None = None


FACTS = {"time_utc": "2025-01-01T00:00:00+00:00"}
RESULT = Result({"accuracy": 0.8}, {"accuracy": np.float64(0.75), "rows": np.arange(3.0), "log_growth": math.inf})


def save(folder, config=None, result=RESULT, study="finetune", protocol=1, **options):
    options.setdefault("provenance", FACTS)
    return records.save(folder, study, Config() if config is None else config, result, protocol=protocol, **options)


def spoil(path: Path, offset: int = 40) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    path.write_bytes(bytes(content))


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_key_is_the_hash_of_the_canonical_json_by_hand():
    text = '{"config":{"b":[1,0.1],"ä":null},"digests":{"data":"ab"},"protocol":3}'.replace("ä", "\\u00e4")
    assert records.key({"ä": None, "b": (1.0, 0.1)}, 3, {"data": "ab"}) == sha256(text.encode()).hexdigest()


def test_equal_values_have_equal_keys():
    base = records.key(Config(), 1)
    same = (
        Config(rank=np.int64(16), rates=(np.float64(0.5), 1)),
        {"rates": [0.5, 1], "rate": 0.0001, "head_rate": None, "rank": 16.0, "model": "minilm"},
        {"model": "minilm", "rank": 16, "rate": 1e-4, "rates": np.array([0.5, 1.0]), "head_rate": None},
    )
    for config in same:
        assert records.key(config, 1) == base
    assert records.key({"x": -0.0}, 1) == records.key({"x": 0}, 1)
    assert records.key({"x": 1e300}, 1) == records.key({"x": int(1e300)}, 1)


def test_every_change_changes_the_key():
    changed = [
        records.key(Config(), 1),
        records.key(Config(), 2),
        records.key(Config(), 1, {"data": "aa"}),
        records.key(Config(), 1, {"data": "ab"}),
        records.key(Config(), 1, {"model": "aa"}),
        records.key(replace(Config(), rank=17), 1),
        records.key(replace(Config(), rate=math.nextafter(1e-4, 1)), 1),
        records.key(replace(Config(), rates=(1.0, 0.5)), 1),
        records.key(replace(Config(), head_rate=0.0), 1),
        records.key(replace(Config(), model="16"), 1),
        records.key({"x": True}, 1),
        records.key({"x": 1}, 1),
        records.key({"x": "1"}, 1),
        records.key({"x": [1]}, 1),
        records.key({"x": 2**60}, 1),
        records.key({"x": 2**60 + 1}, 1),
    ]
    assert len(set(changed)) == len(changed)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcé", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=80)
@given(st.dictionaries(st.text("abcdé", min_size=1, max_size=4), JSON_VALUES, max_size=5), st.randoms())
def test_the_key_survives_reordering_and_a_round_trip_through_json(config, random):
    names = list(config)
    random.shuffle(names)
    shuffled = {name: config[name] for name in names}
    assert records.key(shuffled, 1) == records.key(config, 1)
    assert records.key(json.loads(json.dumps(config)), 1) == records.key(config, 1)


@settings(deadline=None, max_examples=80)
@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_texts_of_numbers_are_equal_exactly_if_the_numbers_are(first, second):
    assert (records.canonical_json("x", first) == records.canonical_json("x", second)) == (first == second)


def test_the_key_is_the_same_in_other_processes():
    code = "from allora_analysis import records; print(records.key({'b': {'z', 'y'} and 1, 'a': 'ü'}, 1, {'d': 'e'}))"
    found = set()
    for seed in ("0", "1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "LC_ALL": "C"}
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        found.add(run.stdout.strip())
    assert found == {records.key({"a": "ü", "b": 1}, 1, {"d": "e"})}


# --- saving and loading -----------------------------------------------------------------------------------------------


def test_a_record_reads_back_as_it_was_saved(tmp_path):
    path, written = save(tmp_path / "new" / "folder", digests={"data": "ab" * 32})
    assert written
    record = records.load(path)
    assert record.config == {"model": "minilm", "rank": 16, "rate": 1e-4, "rates": [0.5, 1.0], "head_rate": None}
    assert record.result == {
        "predicted": {"accuracy": 0.8},
        "measured": {"accuracy": 0.75, "rows": [0.0, 1.0, 2.0], "log_growth": None},
    }
    assert (record.study, record.protocol, record.digests) == ("finetune", 1, {"data": "ab" * 32})
    assert record.provenance == FACTS
    assert record.key == records.key(Config(), 1, {"data": "ab" * 32})
    assert path.name == f"finetune-{record.key[:20]}.json"
    assert json.loads(path.read_text(encoding="utf-8"))["result"] == record.result
    assert os.listdir(path.parent) == [path.name]


def test_unicode_is_kept(tmp_path):
    path, _ = save(tmp_path, {"text": "naïve – 学习 🧪"}, {"sentence": 'ß"\n\u2028'})
    assert "学习 🧪" in path.read_text(encoding="utf-8")
    assert records.load(path).config == {"text": "naïve – 学习 🧪"}
    assert records.load(path).result == {"sentence": 'ß"\n\u2028'}
    assert records.find(tmp_path, text="naïve – 学习 🧪")[0].path == path


@settings(deadline=None, max_examples=30)
@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_floats_read_back_bit_for_bit(value, tmp_path_factory):
    path, _ = save(tmp_path_factory.mktemp("records"), {"x": 1}, {"value": value})
    read = records.load(path).result["value"]
    assert read == value
    assert math.copysign(1, read) == math.copysign(1, value)


def test_the_first_writer_of_a_run_wins(tmp_path):
    first = save(tmp_path)
    content = first.path.read_bytes()
    second = save(tmp_path, replace(Config(), rank=16.0), {"other": 1})
    assert (second.path, second.written) == (first.path, False)
    assert first.path.read_bytes() == content
    assert save(tmp_path, protocol=2).written
    assert save(tmp_path, study="other").written


def test_lookup_finds_exactly_the_run(tmp_path):
    assert records.lookup(tmp_path / "none", "finetune", Config(), 1) is None
    path, _ = save(tmp_path, digests={"data": "aa"})
    assert records.lookup(tmp_path, "finetune", Config(), 1, {"data": "aa"}).path == path
    assert records.lookup(tmp_path, "finetune", Config(), 1) is None
    assert records.lookup(tmp_path, "finetune", Config(), 2, {"data": "aa"}) is None
    assert records.lookup(tmp_path, "finetune", Config(rank=8), 1, {"data": "aa"}) is None
    assert records.lookup(tmp_path, "other", Config(), 1, {"data": "aa"}) is None


def test_find_filters_and_sorts_by_content_alone(tmp_path):
    configs = [Config(rank=rank, rate=rate) for rank in (8, 16) for rate in (1.0, 2.0)]
    for folder, order in (("a", configs), ("b", configs[::-1])):
        for config in order:
            save(tmp_path / folder, config)
            save(tmp_path / folder, config, study="other")
    first, second = (records.find(tmp_path / folder) for folder in ("a", "b"))
    assert [record.key for record in first] == [record.key for record in second]
    assert [record.study for record in first] == ["finetune"] * 4 + ["other"] * 4
    chosen = records.find(tmp_path / "a", "finetune", rank=8, rate=1)
    assert [record.config["rate"] for record in chosen] == [1.0]
    assert len(records.find(tmp_path / "a", rates=(0.5, 1.0), head_rate=None)) == 8
    assert records.find(tmp_path / "a", "finetune", rank=99) == []


def test_an_empty_folder_has_no_records_and_a_missing_one_is_a_mistake(tmp_path):
    assert records.find(tmp_path) == []
    assert records.find(tmp_path, rank=3) == []
    assert records.status(tmp_path, {"finetune": 1}).counts == {}
    with pytest.raises(ArgumentError, match=r"cannot be read .*; name a folder of records"):
        records.find(tmp_path / "none")


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
    fresh, stale = tmp_path / ".finetune-a-1.part", tmp_path / ".finetune-b-2.part"
    for part in (fresh, stale):
        part.write_text("half")
    os.utime(stale, (time.time() - 7200, time.time() - 7200))
    with pytest.warns(records.SetAsideWarning):
        found = records.status(tmp_path, {"finetune": 2})
    assert found.counts == {"finetune": 3, "other": 1}
    assert (found.older, found.newer, found.unknown) == ((old,), (new,), (other,))
    assert [name[:29] for name in found.set_aside] == [torn.stem]
    assert found.cleaned == (stale.name,)
    assert fresh.exists()
    assert not stale.exists()
    assert now in os.listdir(tmp_path)


# --- kills, full disks, many writers ----------------------------------------------------------------------------------

WRITER = """
import os, signal, sys
from allora_analysis import records
from allora_analysis.records import files
folder, moment = sys.argv[1:]
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
real_link = os.link
if moment == "in the middle of the write":
    write = files._write
    def half(path, content):
        path.write_bytes(content[: len(content) // 2])
        kill()
    files._write = half
elif moment == "between write and link":
    files._place = kill
elif moment == "after the link":
    files._sync_folder = kill
records.save(folder, "finetune", {"x": 1}, {"y": 2}, protocol=1)
"""


@pytest.mark.parametrize("moment", ["in the middle of the write", "between write and link", "after the link"])
def test_kill_9_leaves_a_whole_record_or_none(tmp_path, moment):
    finished = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path), moment], capture_output=True)
    assert finished.returncode == -signal.SIGKILL, finished.stderr
    parts = list(tmp_path.glob(".*.part"))
    assert len(parts) == 1
    whole = moment == "after the link"
    assert len(records.find(tmp_path)) == whole
    # The same command again: one record, none lost, none twice.
    assert save(tmp_path, {"x": 1}, {"y": 2}).written is not whole
    assert [record.result for record in records.find(tmp_path)] == [{"y": 2}]
    assert records.status(tmp_path, {"finetune": 1}).cleaned == ()
    os.utime(parts[0], (0, 0))
    assert records.status(tmp_path, {"finetune": 1}).cleaned == (parts[0].name,)
    assert [record.result for record in records.find(tmp_path)] == [{"y": 2}]


CROWD = """
import sys, time
from allora_analysis import records
folder, who, start = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
time.sleep(max(0.0, start - time.time()))
for run in range(40):
    result = {"writer": who, "filler": "x" * 20000}
    saved = records.save(folder, "crowd", {"run": run}, result, protocol=1, provenance={})
    if saved.written:
        print(run)
    records.save(folder, "crowd", {"own": who, "run": run}, {"writer": who}, protocol=1, provenance={})
    assert all(r.result["writer"] in (0, 1, 2) for r in records.find(folder))
"""


def test_three_processes_at_once_lose_nothing_tear_nothing_and_record_each_run_once(tmp_path):
    start = str(time.time() + 1.5)
    crowd = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CROWD, str(tmp_path), str(who), start],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for who in range(3)
    ]
    outputs = [process.communicate(timeout=60) for process in crowd]
    assert [process.returncode for process in crowd] == [0, 0, 0], outputs
    written = sorted(int(line) for out, _ in outputs for line in out.split())
    assert written == list(range(40))  # each shared run was written by exactly one
    assert len(records.find(tmp_path)) == 40 + 3 * 40
    assert not list(tmp_path.glob(".*"))


def test_many_who_find_one_torn_file_set_it_aside_once_and_save_once(tmp_path):
    for _ in range(10):
        path, _ = save(tmp_path)
        spoil(path)
        with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
            warnings.simplefilter("ignore", records.SetAsideWarning)
            outcomes = list(pool.map(lambda _: save(tmp_path), range(8)))
        assert sum(outcome.written for outcome in outcomes) == 1
        records.load(path)
        path.unlink()
    assert len(list((tmp_path / "set_aside").iterdir())) == 1  # one content, one name


@pytest.mark.bad_input
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("call", ["open", "fsync", "link"])
def test_no_room_or_no_permission_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, number, call):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(files.os, call, fail)
        with pytest.raises(records.RecordError) as error:
            save(tmp_path)
    assert os.strerror(number) in str(error.value)
    assert "finetune-" in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []
    assert save(tmp_path).written


def test_a_write_that_the_system_refuses_half_way_leaves_nothing(tmp_path):
    code = (
        "import signal, sys; from allora_analysis import cli, records; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "result = {'y': 'z' * 9999};"
        "command = lambda: records.save(sys.argv[1], 's', {'x': 1}, result, protocol=1, provenance={}) and 0;"
        "sys.exit(cli.guarded(command))"
    )

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    finished = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, preexec_fn=limit
    )
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "not recorded (File too large)" in finished.stderr
    assert os.listdir(tmp_path) == []


def test_without_hard_links_the_file_is_renamed_into_place(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(files.os, "link", no_links)
    first, second = save(tmp_path), save(tmp_path)
    assert (first.written, second.written) == (True, False)
    assert files.write_once(first.path, b"late") is False
    assert os.listdir(tmp_path) == [records.load(first.path).path.name]


def test_an_unreadable_file_is_an_error_and_is_not_set_aside(tmp_path, monkeypatch):
    path, _ = save(tmp_path)

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", refuse)
        for call in (lambda: records.find(tmp_path), lambda: records.load(path), lambda: save(tmp_path)):
            with pytest.raises(records.RecordError, match="cannot be read") as error:
                call()
            assert not isinstance(error.value, records.TornRecord)
    assert os.listdir(tmp_path) == [path.name]


# --- what a record may not hold ---------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {"model": Path("relative")}}, "config.model: a record holds no path of a machine"),
        ({"config": {"model": "/home/me/model"}}, "config.model: a record holds no path of a machine"),
        ({"config": {"models": ["a", "~/model"]}}, "config.models[1]: a record holds no path"),
        ({"config": {"model": "C:\\model"}}, "config.model: a record holds no path"),
        ({"config": {"model": "\\\\host\\share"}}, "config.model: a record holds no path"),
        ({"config": {"model": "FILE:///x"}}, "config.model: a record holds no path"),
        ({"config": {"rate": math.nan}}, "config.rate: must be a finite number, received nan"),
        ({"config": {"rate": math.inf}}, "config.rate: must be a finite number, received inf"),
        ({"config": {1: 2}}, "config: keys must be text, received 1"),
        ({"config": {"x": {1, 2}}}, "config.x: a record holds numbers, text, lists and mappings, received set"),
        ({"config": {"x": "\ud800"}}, "config.x: text must be valid Unicode"),
        ({"config": [1, 2]}, "config must be a dataclass or a mapping, received list"),
        ({"result": {"loss": [0.1, math.nan]}}, "result.loss[1]: must be a finite number, received nan"),
        ({"result": {"where": "/tmp/x"}}, "result.where: a record holds no path"),
        ({"result": Result({}, {}, interrupted=True)}, "an interrupted run is not recorded"),
        ({"provenance": {"cwd": Path("/tmp")}}, "provenance.cwd: a record holds no path"),
        ({"digests": {"data": ""}}, "digests.data: must be a digest's text"),
        ({"digests": {"data": "/data/x.csv"}}, "digests.data: a record holds no path"),
        ({"protocol": -1}, "protocol must be a whole number, 0 or above"),
        ({"study": "a/b"}, "study must be of letters, digits and _, received 'a/b'"),
        ({"study": ""}, "study must be of letters, digits and _"),
    ],
)
def test_bad_input(tmp_path, options, words):
    with pytest.raises(ArgumentError) as error:
        save(tmp_path, **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def test_ordinary_names_are_no_paths(tmp_path):
    config = {"model": "sentence-transformers/all-MiniLM-L6-v2", "about": "~5 s a step", "ratio": "1/2", "c": "a: /b"}
    assert save(tmp_path, config).written


@pytest.mark.bad_input
def test_an_unknown_field_is_named_with_those_there_are(tmp_path):
    save(tmp_path)
    with pytest.raises(ArgumentError, match=r"rnak: no record in .* there are head_rate, model, rank, rate, rates"):
        records.find(tmp_path, rnak=16)


@pytest.mark.bad_input
def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(records.RecordError, match=r"not recorded|cannot be read"):
        save(tmp_path / "file")


# --- digests and provenance -------------------------------------------------------------------------------------------


def test_digest_of_a_file_is_sha256_of_its_bytes(tmp_path):
    content = os.urandom(3_000_001)
    (tmp_path / "data").write_bytes(content)
    assert records.digest_file(tmp_path / "data") == sha256(content).hexdigest()
    assert records.digest_file(str(tmp_path / "data")) == sha256(content).hexdigest()


def filled(folder: Path, contents: dict[str, bytes]) -> Path:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_digest_of_a_folder_depends_on_names_and_contents_alone(tmp_path):
    contents = {"b/c.txt": b"1", "a.txt": b"2", "é.bin": b""}
    base = records.digest_folder(filled(tmp_path / "one", contents))
    expected = sha256()
    for name in sorted(contents, key=str.encode):
        expected.update(name.encode() + b"\0" + sha256(contents[name]).hexdigest().encode())
    assert base == expected.hexdigest()
    other = filled(tmp_path / "else where", dict(reversed(contents.items())))
    (other / "empty").mkdir()
    os.utime(other / "a.txt", (0, 0))
    assert records.digest_folder(other) == base
    os.rename(other / "a.txt", other / "moved")
    (other / "a.txt").symlink_to(other / "moved")
    assert records.digest_folder(other) != base  # a file more
    changed = [
        {**contents, "a.txt": b"3"},
        {"b/c.txt": b"1", "A.txt": b"2", "é.bin": b""},
        {"b/c.txt": b"2", "a.txt": b"1", "é.bin": b""},
        {"b/c.txt": b"1", "a.txt": b"2"},
    ]
    digests = {records.digest_folder(filled(tmp_path / str(i), content)) for i, content in enumerate(changed)}
    assert len(digests | {base}) == 5


def test_a_link_to_a_file_counts_as_the_file(tmp_path):
    (tmp_path / "blob").write_bytes(b"weights")
    real = filled(tmp_path / "real", {"model": b"weights"})
    linked = filled(tmp_path / "linked", {})
    linked.mkdir()
    (linked / "model").symlink_to(tmp_path / "blob")
    assert records.digest_folder(linked) == records.digest_folder(real)


@pytest.mark.bad_input
def test_digests_of_what_is_not_there(tmp_path):
    for call, words in (
        (lambda: records.digest_file(tmp_path / "no"), "cannot be read"),
        (lambda: records.digest_file(tmp_path), "cannot be read"),
        (lambda: records.digest_folder(tmp_path / "no"), "is not a folder"),
        (lambda: records.digest_folder(tmp_path), "holds no file"),
    ):
        with pytest.raises(records.RecordError, match=words):
            call()
    filled(tmp_path / "deep", {"x": b""})
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(records.RecordError, match="loop: is a link to a folder"):
        records.digest_folder(tmp_path)


def test_provenance_names_versions_time_and_revision_but_no_machine():
    import platform

    facts = records.provenance(packages=("numpy", "no-such-package"))
    assert facts["numpy"] == np.__version__
    assert facts["no-such-package"] is None
    assert {"python", "threads", "scipy", "torch", "allora_analysis"} <= set(facts)
    assert time.strptime(facts["time_utc"], "%Y-%m-%dT%H:%M:%S+00:00")
    text = json.dumps(facts)
    for secret in (str(Path.home()), str(Path.cwd()), platform.node()):
        assert len(secret) < 3 or secret not in text


def repository(folder: Path, monkeypatch) -> Path:
    package = folder / "allora_analysis"
    filled(package, {"__init__.py": b"", "x.py": b""})
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    monkeypatch.setattr(origin, "PACKAGE", package)
    return package


def test_provenance_tells_the_revision_and_whether_the_package_differs_from_it(tmp_path, monkeypatch):
    package = repository(tmp_path, monkeypatch)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True)
    clean = records.provenance()
    assert (clean["git_revision"], clean["git_dirty"]) == (head.stdout.strip(), False)
    (tmp_path / "a_result.json").write_text("{}")  # outside the package: no change of the code
    assert records.provenance()["git_dirty"] is False
    (package / "x.py").write_text("changed")
    assert records.provenance()["git_dirty"] is True


def test_provenance_outside_a_repository_or_without_git(tmp_path, monkeypatch):
    repository(tmp_path, monkeypatch)
    stranger = filled(tmp_path / "venv" / "allora_analysis", {"__init__.py": b""})
    monkeypatch.setattr(origin, "PACKAGE", stranger)
    facts = records.provenance()
    assert (facts["git_revision"], facts["git_dirty"]) == (None, None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.provenance()["git_revision"] is None


def test_saving_without_provenance_records_our_own(tmp_path):
    path, _ = save(tmp_path, provenance=None)
    assert {"git_revision", "python", "time_utc"} <= set(records.load(path).provenance)


def test_importing_and_saving_needs_no_heavy_library(tmp_path):
    code = (
        "import sys; from allora_analysis import records;"
        "records.save(sys.argv[1], 's', {'x': 1}, {'y': 1.0}, protocol=1); records.find(sys.argv[1]);"
        "print([name for name in ('torch', 'scipy', 'matplotlib', 'pickle5') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
