"""The ledger's page as a reader meets it, in a headless Chromium; off without `-m browser` (`make browser`).

The page is the real ledger's: every check is run once, by `make verify` or here, then the command's file is opened
from disk.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from allora_analysis.claims import ledger
from allora_analysis.claims.claim import VERDICTS

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
SIZES = ((1280, 900), (390, 844), (320, 640))


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The page: what `make browser` names, or one made here."""
    if "REPORT" in os.environ:
        return (ROOT / os.environ["REPORT"]).as_uri()
    path: Path = tmp_path_factory.mktemp("page") / "ledger.html"
    done = subprocess.run(
        [sys.executable, "-m", "allora_analysis", "--report", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return path.as_uri()


@pytest.fixture
def open_page(browser, address):
    """Opens the page; at the end of the test: no console message, no error, nothing requested but the file."""
    contexts, said, asked = [], [], []

    def opened(size=SIZES[0], **options):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + options.pop("fragment", ""))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert {url for url in asked if not url.startswith("data:")} <= {address}


def shown(page) -> list[str]:
    return page.eval_on_selector_all(
        ".claim", "claims => claims.filter(one => one.checkVisibility()).map(one => one.id)"
    )


def count(page) -> str:
    return page.inner_text("#shown")


def test_every_claim_is_shown_and_counted(open_page):
    page = open_page()
    assert sorted(shown(page)) == sorted(one.id for one in ledger.all_claims())
    total = len(ledger.all_claims())
    assert count(page) == f"{total} of {total} claims shown"
    boxes = page.locator("[name=verdict]")
    numbers = [int(page.locator(".choice").nth(i).inner_text().split()[-1]) for i in range(boxes.count())]
    assert sum(numbers) == total
    assert {boxes.nth(i).get_attribute("value") for i in range(boxes.count())} <= set(VERDICTS)


def test_filters_by_verdict_section_and_words(open_page):
    page = open_page()
    total = len(ledger.all_claims())
    page.check("[name=verdict][value=refuted]")
    refuted = shown(page)
    assert 0 < len(refuted) < total
    assert count(page) == f"{len(refuted)} of {total} claims shown"
    assert set(page.eval_on_selector_all(".claim:not([hidden]) .badge", "all => all.map(one => one.innerText)")) == {
        "refuted"
    }
    page.check("[name=verdict][value=holds]")
    assert len(shown(page)) > len(refuted)
    page.select_option("#paper", "no")
    named = {page.get_attribute(f"[id='{name}']", "data-paper").partition(",")[0] for name in shown(page)}
    assert named == {"no"}
    page.select_option("#paper", "")
    page.select_option("#part", label="§3.1, dropout")
    assert shown(page)
    assert all(name.startswith("3.1-") for name in shown(page))
    page.fill("#words", "3.1-expectation")
    assert shown(page) == ["3.1-expectation", "3.1-expectation-of-steps"]
    assert page.locator(".part:not([hidden])").count() == 1
    page.fill("#words", "zzz nothing")
    assert shown(page) == []
    assert page.is_visible("#none")
    page.click("#none button")
    page.wait_for_selector("#none", state="hidden")  # a form is reset after its event
    assert len(shown(page)) == total
    assert page.input_value("#words") == ""


def test_words_are_found_in_any_order_and_case_in_the_text_as_written(open_page):
    page = open_page()
    page.fill("#words", "(XᵀX)⁻¹ minimum")
    assert shown(page) == ["3.1-minimiser"]
    page.fill("#words", "MINIMUM (xᵀx)⁻¹")
    assert shown(page) == ["3.1-minimiser"]


def test_evidence_opens_alone_and_all_at_once(open_page):
    page = open_page()
    details = page.locator("#\\33 \\.1-bound details")
    assert not details.locator("blockquote").is_visible()
    details.locator("summary").click()
    assert details.locator("blockquote").is_visible()
    page.click("#unfold")
    assert page.locator("details:not([open])").count() == 0
    page.click("#unfold")
    assert page.locator("details[open]").count() == 0


def test_a_link_to_a_claim_shows_it_whatever_is_filtered(open_page):
    page = open_page()
    page.check("[name=verdict][value=refuted]")
    page.evaluate("location.hash = '3.1-bound'")
    page.wait_for_function("document.getElementById('3.1-bound').checkVisibility()")
    assert page.locator("#\\33 \\.1-bound details[open]").count() == 1


def focused(page) -> str:
    return page.evaluate("document.activeElement.id || document.activeElement.name || document.activeElement.tagName")


def test_the_keyboard_reaches_and_works_everything(open_page):
    page = open_page()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    page.keyboard.press("Enter")
    assert focused(page) == "claims"
    page.reload()
    order = []
    for _ in range(6):
        page.keyboard.press("Tab")
        order.append(focused(page))
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring == "solid", order
    assert order[1:5] == ["theme", "words", "part", "paper"]
    page.focus("[name=verdict][value=refuted]")
    page.keyboard.press("Space")
    assert 0 < len(shown(page)) < len(ledger.all_claims())
    page.locator(".claim:not([hidden]) summary").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("details[open]").count() == 1
    page.focus("#theme")
    page.keyboard.press("Space")
    assert page.get_attribute("#theme", "aria-pressed") == "true"


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_screen_closed_or_open(open_page, size, scheme):
    page = open_page(size, color_scheme=scheme)
    wide = "document.documentElement.scrollWidth > innerWidth"
    assert not page.evaluate(wide)
    page.click("#unfold")
    assert not page.evaluate(wide)
    cut = """all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.closest('.claim').id)"""
    assert page.eval_on_selector_all(".claim dd, .claim td, .claim th", cut) == []


def ground(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light_by_the_system_and_by_the_button(open_page):
    light, dark = (open_page(color_scheme=scheme) for scheme in ("light", "dark"))
    grounds = ground(light), ground(dark)
    assert grounds[0] != grounds[1]
    assert [page.get_attribute("#theme", "aria-pressed") for page in (light, dark)] == ["false", "true"]
    light.click("#theme")
    assert ground(light) == grounds[1]
    light.reload()  # kept
    assert ground(light) == grounds[1]
    light.click("#theme")
    assert ground(light) == grounds[0]
    dark.click("#theme")
    assert ground(dark) == grounds[0]


def test_paper_has_verdicts_and_answers_without_controls_and_is_light(open_page):
    page = open_page(color_scheme="dark")
    page.emulate_media(media="print", color_scheme="dark")
    for control in ("#filters", "#theme", ".skip"):
        assert not page.is_visible(control)
    assert page.locator(".claim .answer").first.is_visible()
    assert not page.locator(".claim details").first.is_visible()
    assert ground(page) == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 31, 36)"


def test_the_printed_report_has_at_most_40_pages(open_page):
    assert open_page().pdf().count(b"/Type /Page\n") + open_page().pdf().count(b"/Type /Page ") <= 40


def test_without_javascript_every_claim_is_there_and_no_dead_control(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator(".claim").count() == len(ledger.all_claims())
    assert page.locator(".claim").first.is_visible()
    assert not page.is_visible("#filters")
    assert not page.is_visible("#theme")


def test_subscripts_are_lower_and_superscripts_higher(open_page):
    page = open_page()
    page.click("#unfold")
    for tag, below in (("sub", True), ("sup", False)):
        small = page.locator(f".claim blockquote {tag}").first
        around, own = small.locator("xpath=..").bounding_box(), small.bounding_box()
        middle = around["y"] + around["height"] / 2
        assert (own["y"] + own["height"] / 2 > middle) == below or around["height"] > 40  # a quotation of several lines


ONE_OF_EACH = """claims => {
    const kinds = new Set();
    for (const one of claims) {
        if (kinds.has(one.dataset.verdict)) { one.remove(); continue; }
        kinds.add(one.dataset.verdict);
        one.querySelector("details").open = true;
    }
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES[:2], ids=str)
def test_axe_finds_no_barrier(open_page, scheme, size):
    from axe_playwright_python.sync_playwright import Axe

    # The page's own policy lets no stranger's script in: axe is a test's tool.
    page = open_page(size, color_scheme=scheme, bypass_csp=True)
    page.eval_on_selector_all(".claim", ONE_OF_EACH)
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.eval_on_selector_all("th", "all => all.filter(one => !one.textContent.trim()).length") == 0
