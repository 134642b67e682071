"""What is recorded of a list of runs: found by setting alone, told apart by it; an ambiguous name is refused."""

from __future__ import annotations

import dataclasses

import pytest

from allora_analysis import records
from allora_analysis.finetune import setting as settings
from allora_analysis.finetune.setting import PROTOCOL, STUDY, Setting
from allora_analysis.grid.reading import after_epoch, average_norm, recorded
from allora_analysis.validation import ArgumentError

RUN = Setting(model="tiny", data="words", arm="lora")
OTHER = dataclasses.replace(RUN, seed=1)
RESULT = {
    "epochs": [{"epoch": 1.0, "step": 2, "test_accuracy": 0.5}, {"epoch": 2.0, "step": 4, "test_accuracy": 0.75}],
    "row_norms": {
        "step": [0, 4],
        "layers": {"q": {"mean": [0.0, 1.0], "max": [0.0, 1.0]}, "v": {"mean": [0.0, 2.0], "max": [0.0, 2.0]}},
    },
}


def save(folder, run, model="0" * 64, protocol=PROTOCOL):
    digests = {"model": model, "data": "1" * 64}
    records.save(folder, STUDY, run, RESULT, protocol=protocol, digests=digests, provenance={})


def test_found_in_the_order_wanted_and_no_other(tmp_path):
    save(tmp_path, OTHER)
    save(tmp_path, RUN)
    save(tmp_path, dataclasses.replace(RUN, learning_rate=2e-4))
    assert list(recorded([RUN, OTHER], tmp_path)) == [RUN, OTHER]
    assert list(recorded([OTHER], tmp_path)) == [OTHER]
    assert recorded([RUN], tmp_path)[RUN] == RESULT


def test_nothing_there_and_an_older_protocol(tmp_path, monkeypatch):
    assert recorded([RUN], tmp_path / "none") == {}
    save(tmp_path, RUN, protocol=PROTOCOL + 1)
    assert recorded([RUN], tmp_path) == {}
    monkeypatch.setattr(settings, "RESULTS", tmp_path)
    save(tmp_path, RUN)
    assert list(recorded([RUN])) == [RUN]


def test_two_models_of_one_name_are_refused(tmp_path):
    save(tmp_path, RUN)
    save(tmp_path, RUN, model="2" * 64)
    with pytest.raises(ArgumentError, match="recorded on several models or data sets of one name"):
        recorded([RUN], tmp_path)


def test_numbers_of_a_result():
    assert after_epoch(RESULT) == 0.75
    assert after_epoch(RESULT | {"epochs": []}) is None
    assert [average_norm(RESULT, step) for step in (0, 4)] == [0.0, 1.5]


@pytest.mark.bad_input
def test_a_step_without_norms():
    with pytest.raises(ArgumentError, match=r"step must be one of \[0, 4\], received 1"):
        average_norm(RESULT, 1)
