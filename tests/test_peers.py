"""`make peers`, which runs PEFT's tests: what stands in LoRA's place, and that the list of failures is strict."""

import os
from collections import Counter
from pathlib import Path

import pytest

from allora_analysis.lora.peft import VARIANTS, ALLoRAConfig
from tests import warm
from tests.peers.__main__ import LISTS, PEERS, check_files
from tests.peers.draft import patterns
from tests.peers.plugin import LISTS as PATH
from tests.peers.plugin import LORA_CONFIG, listed, stand_in

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest
from peft import AdaLoraConfig, LoraConfig

class TestOfLora:
    def test_that_passes(self):
        assert LoraConfig(r=2).eta == 2

    @pytest.mark.parametrize("cls", [LoraConfig, AdaLoraConfig])
    def test_by_method(self, cls):
        assert cls is LoraConfig

    def test_that_fails(self):
        assert not LoraConfig(r=2)

    @pytest.mark.xfail(raises=ZeroDivisionError)
    def test_fails_by_pefts_own_word_too(self):
        assert not LoraConfig(r=2)

def test_of_something_else():
    raise AssertionError("never run")
"""
ENTRY = """[[difference]]
reason = "planted"
tests = ["test_planted.py::TestOfLora::{}"]
"""


@pytest.mark.parametrize(
    ("name", "every", "status", "printed"),
    [
        ("test_*fails*", 2, 0, "1 passed, 3 deselected, 2 xfailed"),
        ("test_*", 9, 1, "[XPASS(strict)] planted"),
        ("test_by_method[LoraConfig]", 1, 1, "FAILED tests/test_planted.py::TestOfLora::test_that_fails"),
        ("test_gone", 1, 4, "lists 'test_planted.py::TestOfLora::test_gone', which names no test"),
    ],
)
def test_the_list_is_strict(tmp_path, name, every, status, printed):
    (tmp_path / "tests").mkdir()
    for file, text in (("__init__", ""), ("testing_utils", ""), ("test_planted", TESTS)):
        (tmp_path / "tests" / f"{file}.py").write_text(text)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    (tmp_path / "lists.toml").write_text(ENTRY.format(name))
    options = ["-p", "peers.plugin", "-p", "no:cacheprovider", "--peer=allora", f"--every={every}"]
    options += ["--lists", str(tmp_path / "lists.toml")]
    words = ["pytest", "-q", "-rf", "-W", "ignore", *options, "tests"]
    done = warm.Popen(*words, folder=tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    shown = "".join(done.communicate())
    assert done.returncode == status, shown
    assert printed in shown


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_stands_in_loras_place(variant):
    config = stand_in(variant)(r=4, target_modules=["q_proj"], lora_alpha=16, lora_dropout=0.1)
    assert isinstance(config, ALLoRAConfig)
    assert (config.r, config.target_modules, config.variant) == (4, {"q_proj"}, variant)
    assert config.lora_dropout == (0 if variant == "allora_0" else 0.1)
    assert config.lora_alpha == (4 if variant == "asf_lora" else 16)
    assert config.eta == (4 if variant == "lora_x_eta" else 2)
    assert isinstance(LORA_CONFIG(), stand_in(variant))


def test_the_lists_say_for_whom_and_why():
    for entry in LISTS["difference"]:
        assert set(entry) <= {"reason", "peers", "tests", "strict"}
        assert entry["reason"]
        assert entry.get("strict", True) or entry["peers"] == ["plain"]
        assert set(entry.get("peers", ())) <= set(PEERS)
        assert entry["tests"] == sorted(set(entry["tests"]))
        assert {test.partition("::")[0] for test in entry["tests"]} <= set(LISTS["run"]["files"])
    run = LISTS["run"]
    assert not set(run["files"]) & set(LISTS["left_out"])
    assert set(run["slow"]) < set(run["files"])
    assert set(run["fast_peers"]) < set(PEERS)


@pytest.mark.parametrize("peer", PEERS)
def test_no_name_has_two_reasons(peer):
    names = Counter(name for entry in listed(PATH, peer) for name in entry["tests"])
    assert names, "nothing is listed"
    assert [name for name, count in names.items() if count > 1] == []


def test_a_new_file_of_pefts_is_noticed(tmp_path):
    (tmp_path / "test_config.py").write_text("LoraConfig")
    (tmp_path / "test_arrow.py").write_text("LoraConfig")
    (tmp_path / "test_ia3.py").write_text("IA3Config")
    check_files(tmp_path)
    (tmp_path / "test_new.py").write_text("LoraConfig")
    with pytest.raises(SystemExit, match=r"neither runs nor leaves out test_new\.py"):
        check_files(tmp_path)


def test_drafted_patterns_fit_no_test_that_passed():
    failed = {"test_a.py::TestX::test_f[1]", "test_a.py::TestX::test_f[2]", "test_a.py::TestX::test_g[1]"}
    assert patterns(failed, set()) == ["test_a.py::TestX::*"]
    passed = {"test_a.py::TestX::test_g[2]"}
    assert patterns(failed, passed) == ["test_a.py::TestX::test_f*", "test_a.py::TestX::test_g[1]"]
