"""American spelling: which words are mended, and what is left as it stands."""

import json

import pytest

from tests import spelling


@pytest.mark.parametrize(
    ("british", "american"),
    [
        ("The colour, the BEHAVIOUR and Normalisation.", "The color, the BEHAVIOR and Normalization."),
        ("it minimises; the minimiser", "it minimizes; the minimizer"),
        ("- a self-regularised loss", "- a self-regularised loss"),  # part of a name, as an id's parts are
        ("`normalised` and [centre](centre.html#colour)", "`normalised` and [center](centre.html#colour)"),
        (
            "3.1-minimiser, _colour, plot.colour, colour(x), colour=1",
            "3.1-minimiser, _colour, plot.colour, colour(x), colour=1",
        ),
        ("Args:\n    colour: a colour", "Args:\n    colour: a color"),
        ("noise raises the four exercises likewise", "noise raises the four exercises likewise"),
    ],
)
def test_words(british, american):
    assert spelling.mended(british) == american


def test_of_python_comments_and_strings_are_mended_names_and_quotations_are_not():
    text = (
        'colour = f"the colour {colour}"  # a colour\n'
        'claim(says="a colour of theirs", reading="a colour of ours")\n'
        'known = {"colour": Reliance("who", "The colour of it", "x")}\n'
    )
    told = spelling.of_python(text).splitlines()
    assert told[0] == 'colour = f"the color {colour}"  # a color'
    assert told[1:] == text.splitlines()[1:]  # the line that quotes is left whole
    parts = 'claim(\n    says="a colour",\n    reading="a colour",\n)\n'
    assert spelling.of_python(parts) == parts.replace('reading="a colour', 'reading="a color')


def test_of_a_notebook_outputs_and_names_stay():
    cells = [
        {"cell_type": "markdown", "source": ["A colour.\n", "Two."]},
        {"cell_type": "code", "source": ["colour = 1  # its colour"], "outputs": [{"text": "a colour"}]},
    ]
    told = json.loads(spelling.of_notebook(json.dumps({"cells": cells})))["cells"]
    assert told[0]["source"] == ["A color.\n", "Two."]
    assert told[1] == dict(cells[1], source=["colour = 1  # its color"])


def test_of_the_recorded_ledger_answers_alone_are_ours():
    text = '  "statement": "a colour",\n  "answer": "No: a colour."\n'
    assert spelling.of_answers(text) == '  "statement": "a colour",\n  "answer": "No: a color."\n'


def test_of_a_script_its_names_stay():
    text = 'const a = { label: "a colour of", b: "c", colour: "d" }; `its ${colour} colour`; // a colour\n'
    assert spelling.of_script(text) == text.replace("a colour", "a color").replace("} colour", "} color")
