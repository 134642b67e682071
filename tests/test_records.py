"""Run records: keys that depend on values alone, round trips, finding, and what a record may not hold; content digests
and provenance, which a record names in place of paths and machines.
"""

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allora_analysis import records
from allora_analysis.study import Result
from allora_analysis.validation import ArgumentError
from tests.toy_run import FACTS, Config, filled, save

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


def test_a_field_that_came_later_is_in_no_key_at_its_default():
    @dataclass(frozen=True)
    class Longer(Config):
        later: bool = field(default=True, metadata={**records.LATER, "more": 1})

    assert records.key(Longer(), 1) == records.key(Config(), 1)
    assert records.key(Longer(later=False), 1) != records.key(Config(), 1)
    assert records.later(Longer) == {"later": True}


def test_a_field_that_came_later_is_found_at_its_default_too(tmp_path):
    @dataclass(frozen=True)
    class Longer(Config):
        later: bool = field(default=True, metadata=records.LATER)

    for config in (Config(), Longer(rank=8), Longer(later=False)):
        save(tmp_path, config)
    ranks = [one.config["rank"] for one in records.find(tmp_path, "finetune", Longer, later=True)]
    assert sorted(ranks) == [8, 16]
    assert len(records.find(tmp_path, "finetune", Longer, later=False)) == 1
    assert len(records.find(tmp_path, "finetune", later=False)) == 1


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
    code = r"from allora_analysis import records; print(records.key({'b': {'z'} and 1, 'a': '\xfc'}, 1, {'d': 'e'}))"
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


# --- what a record may not hold ---------------------------------------------------------------------------------------


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"config": {"model": Path("relative")}}, "config.model: a record holds no path of a machine"),
        ({"config": {"model": "/home/me/model"}}, "config.model: a record holds no path of a machine"),
        ({"config": {"models": ["a", "~/model"]}}, "config.models[1]: a record holds no path"),
        ({"config": {"model": "../../model"}}, "config.model: a record holds no path"),
        ({"config": {"model": "./model"}}, "config.model: a record holds no path"),
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
    with pytest.raises(ArgumentError, match=re.escape(words)):
        save(tmp_path, **options)
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


def test_digest_of_a_file_is_sha256_of_its_bytes(tmp_path):
    content = os.urandom(3_000_001)
    (tmp_path / "data").write_bytes(content)
    assert records.digest_file(tmp_path / "data") == sha256(content).hexdigest()
    assert records.digest_file(str(tmp_path / "data")) == sha256(content).hexdigest()


@pytest.mark.bad_input
def test_digests_of_what_is_not_there(tmp_path):
    for call, words in (
        (lambda: records.digest_file(tmp_path / "no"), "cannot be read"),
        (lambda: records.digest_file(tmp_path), "cannot be read"),
    ):
        with pytest.raises(records.RecordError, match=words):
            call()


def test_provenance_names_versions_time_and_revision_but_no_machine():
    import platform

    facts = records.provenance(packages=("numpy", "no-such-package"))
    assert "seconds" not in facts
    assert 2 <= records.provenance(begun=time.perf_counter() - 2)["seconds"] < 60
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
    monkeypatch.setattr("allora_analysis.records.record.PACKAGE", package)
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
    monkeypatch.setattr("allora_analysis.records.record.PACKAGE", stranger)
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


def test_the_processor_is_named_with_its_instruction_sets(tmp_path, monkeypatch):
    listed = tmp_path / "cpuinfo"
    listed.write_text(
        "cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Some CPU w/ care\nstepping\t: 1\ncache size\t: 512 KB\n"
        "flags\t\t: fpu avx2 avx512f avx512_bf16\n\nmodel name\t: other\n"
    )
    monkeypatch.setattr("allora_analysis.records.record.CPU", listed)
    name = "Some CPU w  care, family 25, model 17, stepping 1, cache 512 KB"
    known = {"cpu": name, "instructions": ["avx2", "avx512f", "avx512_bf16"]}
    assert records.processor() == known
    assert known.items() <= records.provenance().items()
    listed.write_text("model name\t: Another\n")
    assert records.processor() == {"cpu": "Another", "instructions": None}
    monkeypatch.setattr("allora_analysis.records.record.CPU", tmp_path / "none")
    assert records.processor()["instructions"] is None


def test_a_run_that_is_not_recorded_yet_has_a_folder_of_its_own(tmp_path):
    keys = [records.key({"seed": seed}, 1) for seed in (1, 2)]
    found = [records.unfinished(tmp_path, "toy", key) for key in keys]
    assert [path.parent for path in found] == [tmp_path / "unfinished"] * 2
    assert found[0] != found[1]
    assert all(path.name.startswith("toy") for path in found)


def test_the_toolkits_own_records_are_the_clones_or_the_packages(monkeypatch, tmp_path):
    monkeypatch.setattr("allora_analysis.records.record.PACKAGE", tmp_path / "package")
    assert records.results_folder("study") == tmp_path / "package" / "results" / "study"
    (clone := tmp_path / "experiments" / "results").mkdir(parents=True)
    assert records.results_folder("study") == clone / "study"
