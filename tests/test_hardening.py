"""A small share of what `tests.hardening` tries at scale, and that its page says what was recorded."""

import ast
import gc
import math
import os
import re
from types import FunctionType, SimpleNamespace

import mpmath as mp
import numpy as np
import pytest

from allora_analysis import adaptors, escape
from allora_analysis.doctor import saved
from allora_analysis.validation import ArgumentError
from tests import hardening
from tests.hardening import closed_forms, disks, false_fails, files, forks, fuzz, kills, mutants, numerics
from tests.hardening.__main__ import PAGE, page
from tests.saved_adapters import peft_folder

TOLERANCE = 1e-11
# 200 points of each have shown more of one alone (docs/hardening.md): condition numbers of 1e12 before the penalty.
LOOSER = {"tikhonov.ridge_solution": 1e-10}


@pytest.mark.parametrize("name", numerics.FORMS)
def test_closed_forms_against_fifty_digits(name):
    worst = numerics.sweep(name, 8, seed=1)
    assert worst.error < LOOSER.get(name, TOLERANCE), worst


def test_the_references_own_integral_is_the_gamma_function():
    with mp.workdps(numerics.DIGITS):
        seen = closed_forms._integral(lambda t: t ** mp.mpf(2.5) * mp.exp(-t), mp.mpf(-40), mp.mpf(5), 10)
        assert abs(seen / mp.gamma(2.5) - 1) < 1e-35


def test_a_planted_slope_is_seen(monkeypatch):
    form = numerics.FORMS["adaptors.exponential"]
    wrong = form._replace(value=lambda x, eta: adaptors.exponential(x, eta) * (1 + 1e-9))
    monkeypatch.setitem(numerics.FORMS, "adaptors.exponential", wrong)
    assert numerics.sweep("adaptors.exponential", 4).error > TOLERANCE


def test_every_function_answers_or_refuses_in_one_line(rng):
    ends = fuzz.calls(3_000, seed=int(rng.integers(2**32)))
    assert set(ends) <= {"answered", "refused"}, ends


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (lambda x: x[5], "IndexError"),
        (lambda x: float("nan"), "NaN in silence"),
        (lambda x: escape.Tradeoff(*[math.inf] * 7), "∞ in silence"),
        (lambda x: np.array([1e200]) ** 2, "RuntimeWarning"),
        (lambda x: adaptors.inverse(x, -1.0), "refused"),
        (lambda x: 1.0, "answered"),
    ],
)
def test_what_the_fuzz_would_report(function, how):
    assert fuzz.outcome(function, {"x": [1.0]}, 0)[0] == how


def test_the_same_numbers_in_another_dress_are_compared():
    assert not fuzz.same([1.0, 2.0], [1.0, 2.1])
    assert fuzz.same({"a": 1.0}, {"a": 1.0 + 1e-12})


def test_a_flow_of_subnormal_data_is_followed():
    function, usual = fuzz.functions()["dropout_sgd.factor_flow"]
    assert fuzz.outcome(function, usual | {"x": fuzz.X * 5e-324}, 0)[0] == "answered"


@pytest.mark.parametrize("name", ["a record", "the laboratory's table", "images in .npz"])
@pytest.mark.parametrize("there", ["a device", "a pipe"])
def test_what_has_no_end_is_refused_in_one_line(name, there, tmp_path):
    reader = files.READERS[name]
    path = reader.write(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero") if there == "a device" else os.mkfifo(path)
    assert files.attempt(reader, path, None) == "refused"


def test_a_config_nested_too_deep_is_refused_by_the_doctor(tmp_path):
    peft_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text("[" * 100_000 + "]" * 100_000)
    with pytest.raises(ArgumentError, match="is no JSON"):
        saved.read(tmp_path)


def test_an_altered_record_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ends, wrong = files.attempts("a record", 60, seed=1)
    assert (set(ends), wrong) == ({"refused"}, [])


def test_a_mutant_differs_in_one_place_and_its_module_names_tests():
    for mutant in mutants.drawn(5, seed=3):
        assert mutants.tests_of(mutant.path), mutant.path
        whole = ast.unparse(ast.parse((mutants.ROOT / "allora_analysis" / mutant.path).read_text(encoding="utf-8")))
        pairs = zip(whole.splitlines(), mutant.source.splitlines(), strict=True)
        assert sum(one != other for one, other in pairs) == 1, mutant


def test_studies_and_what_stands_on_the_theory_are_mutated_where_they_are_named():
    beside = {"ripple/study.py", "laboratory/training.py", "grid/reading.py"}
    assert not beside & set(mutants.modules())
    assert beside <= set(mutants.modules(("ripple", "laboratory", "grid/reading")))
    assert "test_laboratory_training.py" in mutants.all_tests(("laboratory/training",))


def test_a_row_takes_the_place_of_its_like_and_a_line_is_the_sum_of_its_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(hardening, "FIGURES", tmp_path / "figures.json")
    for name, found in (("laboratory", 3), ("finetune", 2), ("finetune", 4)):
        kills.keep(name, 1, found, 0)
    assert hardening.read()["kills"]["tried"] == 7
    assert [row[0] for row in hardening.read()["kills"]["rows"]] == ["what", "finetune", "laboratory"]
    kills.keep("finetune", 1, 4, 1)
    assert hardening.read()["kills"]["lost"] == "see 1 in the rows"
    disks.keep("export_lora", 5, 5, 0)
    disks.keep("export_lora", 6, 0, 0)  # counted anew, not tried
    assert hardening.read()["disks"]["tried"] == 15
    assert hardening.read()["disks"]["rows"][1] == ["export_lora", 6, 5, 15, 0]
    numerics.keep("adaptive.asf", 10, numerics.Worst(1e-16, "1, 2", 0))
    numerics.keep("adaptors.inverse", 20, numerics.Worst(2e-16, "3, 4", 1))
    assert hardening.read()["numerics"]["tried"] == 30
    assert hardening.read()["numerics"]["found"] == "largest relative error 2.0e-16, of adaptors.inverse"
    false_fails.keep("`test_statistics.py`", 1, (2, 0, 3), 1_000)
    false_fails.keep("expected loss, input", 1, (1, 1, 0), 1_000)
    line = hardening.read()["false fails"]
    assert (line["tried"], [row[0] for row in line["rows"][1:3]]) == (
        2_000,
        ["expected loss, input", "`test_statistics.py`"],
    )
    assert "at 1e-3 3 fail falsely (2 expected" in line["found"]
    assert "at the suite's 1e-6 1, of expected loss, input; " in line["found"]
    assert line["lost"] == "nothing"
    false_fails.keep("`test_statistics.py`", 1, (20, 0, 3), 1_000)
    line = hardening.read()["false fails"]
    assert "10.5 times as many as stated, 20 of 1 in `test_statistics.py`; at the suite's" in line["found"]
    assert line["lost"].endswith(" false fails more than chance allows (99.9 %)")


def test_one_functions_code_is_exchanged_for_a_mutants():
    plain = ast.unparse(ast.parse((mutants.ROOT / "allora_analysis" / "adaptors.py").read_text(encoding="utf-8")))
    change = forks.exchange("adaptors.py", plain, plain.replace("** 0.5", "** 1.5", 1))
    assert change.name == "_inverse_sqrt"
    assert FunctionType(change.code, {})(1.0, 1.0) == pytest.approx(2**-1.5)
    assert forks.exchange("adaptors.py", plain, f"{plain}\nMORE = 1") is None


def test_functions_that_the_collector_was_told_to_leave_alone_are_found():
    gc.freeze()
    server = forks.Server(SimpleNamespace(items=[]), forks.Results(), {})
    assert server.functions(forks.unchanged("adaptors.py", "_inverse_sqrt"))


def test_an_end_cut_by_a_kill_is_not_read(tmp_path):
    results = tmp_path / "ends.jsonl"
    results.write_text('{"mutant": 0}\n{"mutant": 1')
    assert mutants.ends(results) == [{"mutant": 0}]
    assert results.read_text(encoding="utf-8") == '{"mutant": 0}\n'


def test_statements_of_the_suite_are_found_in_the_code():
    found = false_fails.sites()
    assert len({site.file for site in found}) > 10
    assert all(site.function.startswith("test_") for site in found)


def test_the_page_is_what_was_recorded():
    assert PAGE.read_text(encoding="utf-8") == page(), "stale: python -m tests.hardening"


def test_files_that_the_page_names_and_lines_that_are_listed_as_equivalent_are_there():
    named = set(re.findall(r"[\w/]+\.py\b", PAGE.read_text(encoding="utf-8")))
    folders = [mutants.ROOT / folder for folder in ("", "tests", "allora_analysis")]
    assert not [one for one in named if not any((folder / one).exists() for folder in folders)]
    texts = [path.read_text(encoding="utf-8") for path in (mutants.ROOT / "allora_analysis").rglob("*.py")]
    lines = "\n".join(line.strip() for text in texts for line in ["", *text.splitlines()])
    assert not [start for start, _ in mutants.EQUIVALENT if f"\n{start}" not in lines]
