"""The house's notation as MathML: what is a formula, how it is set, and that nothing of a text is lost."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest

from allora_analysis.claims import ledger
from allora_analysis.report.notation import Formula, html, number, pieces
from allora_analysis.report.tree import mathml

LEDGER = Path(__file__).parents[1] / "docs" / "ledger.md"
# What no sentence has; a name out of a program may have underscores.
MATHEMATICS = re.compile("[_^ᵀ²³⁺⁻¹‖√Σ∏α-ωΑ-Ω₀-₉ℓℝ∂∇⊗⊙\u0303\u0304]")
PROGRAM = re.compile(r"(?:[A-Za-z]\w+\.)?[a-z]{2,}(?:_[a-z]{2,})+")


def shape(element: ElementTree.Element) -> str:
    """MathML in one line: a fraction is [a/b], scripts _{} and ^{}, a root √{}."""
    parts = [shape(child) for child in element]
    match element.tag:
        case "mfrac":
            return f"[{parts[0]}/{parts[1]}]"
        case "msub":
            return f"{parts[0]}_{{{parts[1]}}}"
        case "msup":
            return f"{parts[0]}^{{{parts[1]}}}"
        case "msubsup":
            return f"{parts[0]}_{{{parts[1]}}}^{{{parts[2]}}}"
        case "msqrt":
            return f"√{{{''.join(parts)}}}"
        case "mspace":
            return " "
        case "mi" if len(element.text) == 1 and element.get("mathvariant") == "normal":
            return f"'{element.text}"
    return (element.text or "") + "".join(parts)


def marked(text: str) -> str:
    """A text with its formulas in ⟦⟧, each as `shape` writes it."""
    return "".join(
        piece if isinstance(piece, str) else f"⟦{shape(ElementTree.fromstring(mathml(piece.tree)))}⟧"
        for piece in pieces(text)
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("W = p(XᵀX)⁻¹XᵀY", "W=p(X^{'T}X)^{−1}X^{'T}Y"),
        ("W = c/(c + λ)·(XᵀX)⁻¹YᵀX", "W=[c/c+λ]⋅(X^{'T}X)^{−1}Y^{'T}X"),
        ("λ = c(1 − p)/p", "λ=[c(1−p)/p]"),
        ("E‖Y − (XW) ⊙ V‖²_F", "'E ‖Y−(XW)⊙V‖_{F}^{2}"),
        ("Tr((XW)ᵀ(XW))/p", "[Tr((XW)^{'T}(XW))/p]"),
        ("Std[L]/√N", "[Std[L]/√{N}]"),
        ("(1/N²)Σ E[Lₙ]", "[1/N^{2}]∑'E[L_{n}]"),
        ("C ∏(1 + η‖B_lA_l‖/‖W_l‖) ≤ C(1 + ηm̄)^L", "C∏(1+[η‖B_{l}A_{l}‖/‖W_{l}‖])≤C(1+ηm¯)^{L}"),
        ("‖M_L ⋯ M_1‖ ‖x‖", "‖M_{L}⋯M_{1}‖‖x‖"),
        ("Var[L] = ((1 − p)/p) Σ Z²(Z/p − 2Y)²", "Var[L]=[1−p/p]∑Z^{2}([Z/p]−2Y)^{2}"),
        ("1/√(|(f(x))_i| + 1/η²)·g_i", "[1/√{|(f(x))_{i}|+[1/η^{2}]}]⋅g_{i}"),
        ("g̃_i = g_i/√(‖(BA)_i‖ + 1/η²)", "g~_{i}=[g_{i}/√{‖(BA)_{i}‖+[1/η^{2}]}]"),
        ("(r(n2 + r + 1))^(−1/4)", "(r(n_{2}+r+1))^{−1/4}"),
        ("(k/r)‖XW‖²_*", "[k/r]‖XW‖_{*}^{2}"),
        ("U diag((σ_i − τ)₊)Vᵀ", "U diag((σ_{i}−τ)_{+})V^{'T}"),
        ("XX⁺Y = UΣVᵀ", "XX^{+}Y=U'ΣV^{'T}"),
        ("H_vec(V) L(V) = I_n ⊗ XᵀX", "H_{vec(V)}L(V)=I_{n}⊗X^{'T}X"),
        ("2 I_C ⊗ XᵀX", "2I_{C}⊗X^{'T}X"),
        ("l ≤ p/(2 s_max²)", "l≤[p/2s_{max}^{2}]"),
        ("½η²r(s_As_B/s_W)²", "[1/2]η^{2}r([s_{A}s_{B}/s_{W}])^{2}"),
        ("∂L/∂(BA)", "['∂L/'∂(BA)]"),
        ("dL/dl = 41/15", "['dL/'dl]=[41/15]"),
        ("log(1/ε)/σ₁(G)", "log([1/ε])/σ_{1}(G)"),
        ("r·rank G", "r⋅rank G"),
        ("a·init_A", "a⋅init_{A}"),
        ("Σ_i d_i‖(BA − T)_i‖²", "∑_{i}d_{i}‖(BA−T)_{i}‖^{2}"),
        ("−½η³‖β_iA‖(GAᵀ)_i", "−[1/2]η^{3}‖β_{i}A‖(GA^{'T})_{i}"),
        ("W*", "W^{*}"),
        ("e^2.1", "e^{2.1}"),
        ("V ∈ {0, 1/p}", "V∈{0,[1/p]}"),
        ("n = 1e-6", "n=10^{−6}"),
        ("(E L)²", "('E L)^{2}"),
        ("Std³", "Std^{3}"),
    ],
)
def test_a_formula_is_found_whole_and_set(text, wanted):
    assert marked(text) == f"⟦{wanted}⟧"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A mask in the latent space, as A's input", "A mask in the latent space, as ⟦A⟧'s input"),
        ("B = 0, A random", "⟦B=0⟧, ⟦A⟧ random"),
        ("of the bound's ηm̄ a layer", "of the bound's ⟦ηm¯⟧ a layer"),
        ("(assuming c = 1) on entry (d, c)", "(assuming ⟦c=1⟧) on entry (⟦d⟧, ⟦c⟧)"),
        ("only if XᵀX loses rank with the samples", "only if ⟦X^{'T}X⟧ loses rank with the samples"),
        ("(E[d]·across + E[dz²]·along (BA)_i)", "(⟦'E[d]⟧·across + ⟦'E[dz^{2}]⟧·along ⟦(BA)_{i}⟧)"),
        ("LoRA×η, t-tests of t", "LoRA×⟦η⟧, t-tests of ⟦t⟧"),
        ("entry has Std 2√p", "entry has Std ⟦2√{p}⟧"),
    ],
)
def test_formulas_in_a_sentence(text, wanted):
    assert marked(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "A stochastic regularization that will not converge, i.e., considering infinite steps",
        "20.2% (condition number 3), 24.0% of 41/15, in 6 of 9 (model, setting) means",
        "ALLoRA.rsq_scale for rsq_scale, p_value of bias_in_bios",
        "Liu et al. (2024a) on LLaMA3-8B and all-MiniLM-L6-v2 in float64, T3's",
        "exact / bound […] w.r.t. the number of layers",
        "",
    ],
)
def test_prose_stays_prose(text):
    assert marked(text) == text


def written() -> list[str]:
    """Every statement, and every correction as the committed ledger has it."""
    rows = [line.split(" | ") for line in LEDGER.read_text(encoding="utf-8").splitlines() if line.startswith("| **")]
    texts = [unescape(re.sub(r"\\([_|*])", r"\1", row[2])) for row in rows]
    return [
        *(claim.statement for claim in ledger.all_claims()),
        *(text for row in texts for text in row.split("<br>→ ")),
    ]


def test_no_text_of_the_ledger_is_lost_and_no_formula_missed():
    texts = dict.fromkeys(written())
    assert len(texts) > 200
    for text in texts:
        found = list(pieces(text))
        assert "".join(piece.text if isinstance(piece, Formula) else piece for piece in found) == text
        for piece in found:
            assert isinstance(piece, Formula) or not MATHEMATICS.search(PROGRAM.sub("", piece)), piece
        page = ElementTree.fromstring(f"<p>{html(text).replace('<wbr>', '')}</p>")
        prose = [piece for piece in found if isinstance(piece, str)]
        shown = "".join(page.itertext())
        assert all(word in shown for piece in prose if not re.search(r"\de|-\d", piece) for word in piece.split()), text


def test_special_characters_are_escaped():
    assert html('so <of> & "it" n < r') == (
        'so &lt;of&gt; &amp; &#34;it&#34; <span class="line"><math displaystyle="true"><mrow><mi>n</mi>'
        '<mo form="infix">&lt;</mo><mi>r</mi></mrow></math></span>'
    )


@pytest.mark.parametrize("text", ["‖x‖2y is not finite", "X²5y", "|x|2y", "1{X}6e"])
def test_formulas_side_by_side_are_no_error(text):
    """Planted: an error's words, which are anyone's, took the whole page down."""
    assert len(html(text)) > len(text)


def test_brackets_and_commas_stay_on_the_line_of_their_formula():
    assert [line.count("(") + line.count("),") for line in html("at once (η), then").split("</span>")] == [2, 0]
    assert html("A's (B)").count("'") == 0  # &#39;s, behind A and on its line
    assert "&#39;s</span>" in html("A's (B)")


def test_a_long_formula_may_break_before_its_relations_and_sums():
    text = "‖Y − (XW) ⊙ V‖²_F = ‖Y‖²_F − 2Tr(Y(XW)ᵀ) + Tr((XW)ᵀ(XW))/p"
    assert html(text).count("<wbr>") == 3
    assert html("W = pX⁺Y").count("<wbr>") == 0
    assert 'class="long"' in html("E|(1/N)Σ‖Y − (XW) ⊙ Vₙ‖²_F − E‖Y − (XW) ⊙ V‖²_F|")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1.7e-16", "1.7 × 10<sup>−16</sup>"),
        ("1e-09", "10<sup>−9</sup>"),
        ("-0.5", "−0.5"),
        ("2e+03", "2 × 10<sup>3</sup>"),
    ],
)
def test_numbers(text, wanted):
    assert number(text) == wanted
    assert html(f"below {text}.") == f"below {wanted}." or "e" not in text
