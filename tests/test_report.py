"""The ledger's page: its structure, what it holds of each claim, that it loads nothing, its palette."""

import dataclasses
import importlib.resources
import itertools
import re
from collections import Counter
from html.parser import HTMLParser

import pytest
from PIL import Image, PngImagePlugin

from allora_analysis.__main__ import main
from allora_analysis.claims import ledger
from allora_analysis.claims.claim import VERDICTS, Claim, Evidence, Finding
from allora_analysis.claims.ledger import Row
from allora_analysis.render.html import ABOUT, facts, html, page, quantities, value
from paper_figures import NAMES

VOID = {"meta", "link", "input", "wbr", "br", "use", "image", "mspace"}
EVIDENCE = Evidence(
    {"‖W‖": 1.0, "log_change": 2.0},
    {"‖W‖": 1.0 + 1e-9, "log_change": None, "worst": {"a": {"interval": (0.5, float("inf")), "seen": True}}},
    "rounding & <sums>",
    error=1.7e-16,
    tolerance=1e-9,
    n=2000,
    seed=31,
    seconds=0.25,
)


def claim(name, statement="W = pX⁺Y", command="python -m allora_analysis.tikhonov", test="tests/test_tikhonov.py"):
    return Claim(name, "§3.1, <where> & there", statement, lambda cases: Finding("holds", EVIDENCE), command, test)


ROWS = (
    Row(claim("3.1-one"), Finding("holds", EVIDENCE, flips_if="another sum")),
    Row(claim("3.1-two", "so <it> & n < r"), Finding("holds_corrected", EVIDENCE, 'now "<so>" & p = 1')),
    Row(claim("3.3-three"), Finding("refuted", EVIDENCE)),
    Row(claim("4-four", test="tests/test_a.py, tests/test_b.py"), None, "RuntimeError: <planted>"),
    Row(claim("D-five"), Finding("not_run", Evidence({}, {}, "none: nothing was run"))),
)


class Page(HTMLParser):
    """A document taken apart: elements with their attributes and text, in order; every element closed."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict, list[str]]] = []
        self.open: list[tuple[str, dict, list[str]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names))
        self.elements.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def all(self, tag, **wanted):
        return [
            (attributes, " ".join(" ".join(text).split()))
            for name, attributes, text in self.elements
            if name == tag and all(attributes.get(key) == one for key, one in wanted.items())
        ]


@pytest.fixture
def parsed(tmp_path):
    return Page(page(ROWS, tmp_path))


def test_ids_are_unique_and_every_reference_finds_one(parsed):
    ids = [attributes["id"] for _, attributes, _ in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = ("for", "aria-labelledby", "aria-describedby", "form")
    for tag, attributes, _ in parsed.elements:
        for name in references if tag != "mo" else ():
            assert attributes.get(name) is None or attributes[name] in ids
        if str(attributes.get("href")).startswith("#"):
            assert attributes["href"][1:] in ids


def test_language_title_landmarks_and_one_main(parsed):
    assert parsed.all("html")[0][0]["lang"] == "en"
    assert parsed.all("title")[0][1]
    assert [len(parsed.all(tag)) for tag in ("main", "header", "footer", "h1")] == [1, 1, 1, 1]
    assert parsed.all("a")[0][0]["href"] == "#claims"
    assert parsed.all("main")[0][0]["id"] == "claims"


def test_headings_go_down_one_level_at_a_time(parsed):
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_controls_have_names_and_the_count_is_announced(parsed):
    labelled = {attributes.get("for") for attributes, _ in parsed.all("label")}
    for tag in ("input", "select"):
        for attributes, _ in parsed.all(tag):
            assert attributes.get("type") == "checkbox" or attributes["id"] in labelled
    wrapped = [attributes for attributes, text in parsed.all("label") if attributes.get("class") == "choice" and text]
    assert len(wrapped) == len(parsed.all("input", type="checkbox"))
    assert all(text for _, text in parsed.all("button"))
    assert parsed.all("p", role="status")[0][0]["aria-live"] == "polite"


def test_each_claim_with_its_statement_correction_evidence_command_and_test(parsed):
    items = {attributes["id"]: (attributes, text) for attributes, text in parsed.all("li") if "id" in attributes}
    assert list(items) == [row.claim.id for row in ROWS]
    assert "so <it> &" in items["3.1-two"][1]
    assert 'Corrected now "<so>" &' in items["3.1-two"][1]
    assert "§3.1, <where> & there" in items["3.1-one"][1]
    assert "python -m allora_analysis --only 3.1-one" in items["3.1-one"][1]
    assert "python -m allora_analysis.tikhonov" in items["3.1-one"][1]
    assert "tests/test_a.py" in items["4-four"][1]
    assert "tests/test_b.py" in items["4-four"][1]
    assert "RuntimeError: <planted>" in items["4-four"][1]
    assert "Run it python -m allora_analysis.tikhonov" in items["D-five"][1]
    for name in ("error 1.7 × 10", "tolerance 10", "rounding & <sums>", "n 2000", "seed 31", "seconds 0.25"):
        assert name in items["3.3-three"][1]
    assert "Tests tests/test_tikhonov.py" in items["3.1-one"][1]
    assert "Changes if another sum" in items["3.1-one"][1]
    assert "Yes: it passes on every case." in items["3.1-one"][1]
    assert items["3.1-two"][0]["data-verdict"] == "holds_corrected"
    assert items["3.1-two"][0]["data-search"].startswith("3.1-two §3.1, <where> & there holds_corrected so <it>")


def test_counts(parsed):
    verdicts = Counter(row.finding.verdict if row.finding else "error" for row in ROWS)
    totals = {
        attributes["data-total"]: int(text) for attributes, text in parsed.all("td") if "data-total" in attributes
    }
    assert totals == verdicts
    choices = [text.rsplit(" ", 1) for attributes, text in parsed.all("label") if attributes.get("class") == "choice"]
    assert {name.replace(" ", "_"): int(count) for name, count in choices} == verdicts
    assert parsed.all("h2")[0][1] == "5 claims"
    assert parsed.all("p", role="status")[0][1] == "5 of 5 claims shown"


def test_nothing_is_loaded_from_elsewhere(tmp_path):
    text = page(ROWS, tmp_path)
    assert not re.search(r"(?:src|href|action|srcset|poster)\s*=\s*['\"]?\s*(?:https?:)?//", text)
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|<iframe|<object", text)
    assert "default-src 'none'" in text
    for attributes, _ in Page(text).all("link") + Page(text).all("script"):
        assert "src" not in attributes
        assert attributes.get("href", "data:").startswith("data:")


def test_the_same_rows_give_the_same_bytes(tmp_path):
    assert page(ROWS, tmp_path) == page(ROWS, tmp_path)


def test_every_claim_of_the_real_ledger(tmp_path):
    claims = ledger.all_claims()
    found = Page(page([Row(one, Finding("holds", EVIDENCE)) for one in claims], tmp_path))
    items = {attributes["id"]: attributes for attributes, _ in found.all("li") if "id" in attributes}
    assert sorted(items) == sorted(one.id for one in claims)
    for one in claims:
        assert one.statement.casefold() in items[one.id]["data-search"]


def test_a_part_of_the_ledger_says_so(tmp_path):
    assert f"This page has 5 of the ledger's {len(ledger.all_claims())} claims." in page(ROWS, tmp_path)


def test_quantities_stand_side_by_side():
    rows = {str(one.name): (str(one.predicted), str(one.measured)) for one in quantities(EVIDENCE)}
    norm = next(name for name in rows if "‖" in name)
    assert rows[norm] == ("1", "1")
    assert rows["log change"] == ("2", "–")
    worst, (predicted, measured) = list(rows.items())[2]
    assert worst.startswith("worst, ")
    assert predicted == "–"
    assert measured == "interval [0.5, ∞]; seen yes"


def test_a_prediction_that_nothing_is_measured_beside_is_a_line_of_its_own():
    apart = Evidence({"average": "falls", "worst": "rises"}, {"mnist": 1.0}, "")
    assert facts(apart)["predicted"] == "average falls; worst rises"
    assert [(one.name, one.measured) for one in quantities(apart)] == [("mnist", "1")]
    assert "predicted" not in facts(EVIDENCE)


def test_values_and_facts():
    assert value([1, -2.5e-7, None, []]) == "[1, −2.5 × 10<sup>−7</sup>, –, none]"
    assert value(["so & so", True]) == "[so &amp; so; yes]"
    assert list(facts(Evidence({}, {}, ""))) == []
    assert facts(Evidence({}, {}, "t", interval=(0.5, 1.0)))["interval"] == "[0.5, 1]"


def test_each_picture_is_one_that_is_drawn_and_about_claims_that_exist():
    claims = ledger.all_claims()
    known = {one.id for one in claims} | {one.section for one in claims}
    assert set(ABOUT) <= set(NAMES)
    assert {key for about in ABOUT.values() for key in about} <= known


def test_a_picture_is_embedded_once_small_and_described(tmp_path):
    described = PngImagePlugin.PngInfo()
    described.add_text("Description", "ripple: the worst case & the typical one")
    Image.new("RGBA", (2800, 700), (0, 0, 0, 0)).save(tmp_path / "ripple.png", pnginfo=described)
    rows = [Row(claim(name), Finding("holds", EVIDENCE)) for name in ("3.3-a", "3.3-b", "4-c")]
    found = Page(page(rows, tmp_path))
    (embedded,) = found.all("image")
    assert (embedded[0]["width"], embedded[0]["height"]) == ("1400", "350")
    assert embedded[0]["href"].startswith("data:image/png;base64,")
    assert [attributes["href"] for attributes, _ in found.all("use")] == ["#picture-ripple"] * 2
    assert found.all("figcaption")[0][1] == "the worst case & the typical one docs/ripple.png"
    assert not Page(page(rows, tmp_path / "none")).all("figure")


# The palette: each theme's colors out of the style sheet, and the pairs that are read.
STYLE = importlib.resources.files("allora_analysis.render").joinpath("templates", "ledger.css").read_text("utf-8")
COLOURS = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", STYLE)
PALETTES = {"light": {name: light for name, light, _ in COLOURS}, "dark": {name: dark for name, _, dark in COLOURS}}
PAIRS = [
    *itertools.product(("text", "muted", "link"), ("page", "card")),
    *((verdict, f"{verdict}-ground") for verdict in (*VERDICTS, "error")),
]


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_the_contrast_formula():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", PALETTES)
def test_every_text_has_contrast(scheme):
    palette = PALETTES[scheme]
    for text, ground in PAIRS:
        assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
    for ground in ("page", "card"):  # the focus ring, and a control's border
        assert contrast(palette["focus"], palette[ground]) >= 3
        assert contrast(palette["muted"], palette[ground]) >= 3


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(ledger, "all_claims", lambda: tuple(row.claim for row in ROWS[:3]))


def test_the_command_writes_the_page(few, tmp_path, capsys):
    path = tmp_path / "ledger.html"
    assert main(["--report", str(path)]) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert [attributes["id"] for attributes, _ in Page(text).all("li") if "id" in attributes] == [
        row.claim.id for row in ROWS[:3]
    ]
    assert "This page has" not in text
    assert "3 claims on 2 printed statements: 3 holds" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ledger.json", "--report must end in .html"),
        ("-", "--report must end in .html"),
        ("nowhere/ledger.html", "cannot be written"),
        ("folder.html", "is a folder"),
    ],
)
def test_a_bad_path_is_one_line_and_exit_2(few, tmp_path, monkeypatch, capsys, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    assert main(["--report", name]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_the_page_says_that_it_was_interrupted_and_whose_records_it_read():
    reads = dataclasses.replace(ROWS[0], claim=dataclasses.replace(ROWS[0].claim, reads="finetune"))
    plain, other = page([reads, *ROWS[1:]]), page([reads, *ROWS[1:]], own=True, interrupted=True)
    command = f"python -m allora_analysis --only {reads.claim.id}"
    for words in ("Its making was interrupted", "were judged by <code>--results</code>", f"{command} --results FOLDER"):
        assert words not in plain
        assert words in other
    assert f"--only {ROWS[1].claim.id} --results" not in other


@pytest.mark.bad_input
def test_one_file_cannot_be_both_page_and_json(few, tmp_path, capsys):
    path = str(tmp_path / "both.html")
    assert main(["--report", path, "--json", path]) == 2
    assert "must be two files" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("‖B_lA_l‖", "‖B<sub>l</sub>A<sub>l</sub>‖"),
        ("(BA)_i, W_true, s_max²", "(BA)<sub>i</sub>, W<sub>true</sub>, s<sub>max</sub>²"),
        ("Σ_{k≥2} η^k c_k", "Σ<sub>k≥2</sub> η<sup>k</sup> c<sub>k</sub>"),
        ("(1 + η)^L < 1e-16", "(1 + η)<sup>L</sup> &lt; 10<sup>−16</sup>"),
        ("rotten_tomatoes, log_change", "rotten_tomatoes, log_change"),
        ("1.7e-5 & so", "1.7 × 10<sup>−5</sup> &amp; so"),
    ],
)
def test_subscripts_superscripts_and_powers_are_set(text, shown):
    assert html(text) == shown
