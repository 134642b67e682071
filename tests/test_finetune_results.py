"""What a record's result holds: norms over layers, and one clear line where a leaf is missing."""

import copy

import pytest

from allora_analysis.finetune.run import check_result, summarised
from allora_analysis.validation import ArgumentError

BY_LAYER = {
    "step": [0, 3, 9],
    "layers": {
        "q": {"mean": [0.0, 0.1, 0.7], "max": [0.0, 0.2, 1.1]},
        "k": {"mean": [0.0, 0.3, 0.2], "max": [0.0, 0.9, 0.4]},
        "v": {"mean": [0.0, 0.2, 0.3], "max": [0.0, 0.3, 0.5]},
    },
}
WHOLE = {"epochs": [{"step": 9, "test_accuracy": 0.5, "test_loss": 1.0}], "row_norms": summarised(BY_LAYER)}


def test_norms_over_layers():
    found = summarised(BY_LAYER)
    assert found["step"] == [0, 3, 9]
    assert found["mean"] == [0.0, (0.1 + 0.3 + 0.2) / 3, (0.7 + 0.2 + 0.3) / 3]  # to the last bit
    assert (found["least"], found["most"]) == ([0.0, 0.1, 0.2], [0.0, 0.3, 0.7])
    assert found["largest"] == [0.0, 0.9, 1.1]
    nothing = {"step": [0, 1], "layers": {}}
    assert summarised(nothing) == {"step": [0, 1], "mean": [], "least": [], "most": [], "largest": []}


def test_a_whole_result_passes():
    check_result("one", WHOLE)
    check_result("one", {"epochs": []})


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("epochs",), None, "epochs of its result is missing or null"),
        (("epochs", 0, "test_accuracy"), None, r"epochs\[0\].test_accuracy of its result is missing or null"),
        (("epochs", 0, "test_loss"), "much", r"epochs\[0\].test_loss of its result is 'much'"),
        (("row_norms",), None, "row_norms.step of its result is missing or null"),
        (("row_norms", "mean"), [0.1], r"row_norms.mean of its result is \[0.1\]"),
        (("row_norms", "mean", 1), None, r"row_norms.mean of its result is \[0.0, None"),
        (("row_norms", "most"), None, "row_norms.most of its result is missing or null"),
        (("row_norms",), BY_LAYER, "row_norms.mean of its result is missing or null"),
    ],
)
def test_a_leaf_that_is_missing_or_null_is_one_line(path, value, words):
    result = copy.deepcopy(WHOLE)
    *above, leaf = path
    at = result
    for part in above:
        at = at[part]
    at[leaf] = value
    with pytest.raises(ArgumentError, match=f"finetune-0.json: {words}") as caught:
        check_result("finetune-0.json", result)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("delete the record and run again")
