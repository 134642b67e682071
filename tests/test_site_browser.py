"""The site as a reader meets it, in a headless Chromium: pages at a telephone's width, every kind of page with axe.

`make docs`' own build, whole, into a folder of the test's own, read through a web server as the search wants it. Links,
sizes, titles are read from every page's file, and axe looks at each 60th page, or with EVERY=1 at all. For the rest
a browser opens every page but claims, sources and the reference, which are many and alike: of those every 20th.
"""

import functools
import http.server
import itertools
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote

import pytest

from allora_analysis.claims import ledger

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[1]
NARROW, WIDE = {"width": 390, "height": 844}, {"width": 1280, "height": 900}
LARGEST = 300_000  # bytes of a page, without its pictures
KINDS = (
    "index.html",
    "few_steps.html",
    "ledger.html",
    "graph.html",
    "records.html",
    "sections/3.1.html",
    "sections/tables.html",
    "claims/3.1-sgd-crossover.html",
    "claims/T1-averages.html",
    "explore/index.html",
    "explore/leaving.html",
    "notebooks/3_ripple.html",
    "studies/ripple.html",
    "source/tests/test_ripple.html",
    "api/allora_analysis/ripple/bounds.html",
    "api/allora_analysis/index.html",
    "training.html",
    "table_1.html",
    "changelog.html",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The site: what `make browser` has just built, or one built here."""
    if "SITE" in os.environ:
        return ROOT / os.environ["SITE"]
    made = tmp_path_factory.mktemp("site")
    environment = dict(os.environ, NO_MKDOCS_2_WARNING="1")
    command = [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(made)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def pages(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.html"))


@pytest.fixture(scope="module")
def opened_pages(pages) -> list[str]:
    alike = [path for path in pages if path.startswith(("api/", "source/", "claims/"))]
    return [*(path for path in pages if path not in alike), *alike[::20]]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def address(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def no_index(folder) -> dict:
    """The search's index without its pages."""
    return json.loads((folder / "search/search_index.json").read_text(encoding="utf-8")) | {"docs": []}


@pytest.fixture
def open_page(browser, address, no_index):
    """Opens a page; at the end of the test: no console message, no error, nothing asked of another server.

    Each page reads the whole site's index, which is half of its work: where nothing is searched, it gets an empty one.
    """
    contexts, said, asked = [], [], []

    def opened(path, size=WIDE, search=False, **options):
        context = browser.new_context(viewport=size, **options)
        contexts.append(context)
        page = context.new_page()
        if not search:
            context.route(f"{address}search/search_index.json", lambda route: route.fulfill(json=no_index))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + path)
        return page

    yield opened
    for context in contexts:
        context.unroute_all(behavior="ignoreErrors")  # the last page may still be reading
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


FAULTS = r"""() => {
    const found = [], root = document.documentElement;
    if (root.scrollWidth > innerWidth) found.push(`wider than the screen by ${root.scrollWidth - innerWidth}`);
    for (const image of document.querySelectorAll(".md-content img")) {
        if (!image.alt || image.alt === "png") found.push(`an image without words: ${image.src}`);
    }
    for (const cell of document.querySelectorAll("table[data-cards] [data-label]")) {
        if (getComputedStyle(cell).display === "table-cell") continue;  // wide enough for a table
        const range = document.createRange(), left = cell.getBoundingClientRect().left;
        range.selectNodeContents(cell);
        const astray = [...range.getClientRects()].filter((box) => box.width && box.left < left + 100);
        if (astray.length) found.push(`a cell's words under its heading: ${cell.textContent.trim().slice(0, 60)}`);
    }
    const skipped = "code, pre, script, style, .highlight, .doc-signature";
    const walker = document.createTreeWalker(document.querySelector(".md-content"), NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        if (node.parentElement.closest(skipped)) continue;
        const math = node.parentElement.closest("math");
        const raw = /\\\\|\\[a-z]{3,}|\$/.test(node.data) || (math && /[&\\]/.test(node.data));
        if (raw) found.push(`stray: ${node.data.trim().slice(0, 60)}`);
    }
    return found;
}"""


WIDER = "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.slice(0, 40))"


def test_pages_fit_a_telephone_and_show_no_raw_formula_and_none_wider_than_its_column(open_page, address, opened_pages):
    page, faults, wider = open_page("index.html", NARROW), {}, {}
    for path in opened_pages:
        page.set_viewport_size(NARROW)
        page.goto(address + path, wait_until="domcontentloaded")
        if found := page.evaluate(FAULTS):
            faults[path] = found[:3]
        page.set_viewport_size(WIDE)
        if found := page.eval_on_selector_all(".formula", WIDER):
            wider[path] = found[:3]
    assert faults == {}
    assert wider == {}


def test_every_page_is_small_has_a_title_and_a_description(folder, pages):
    descriptions, titles = {}, {}
    for path in set(pages) - {"404.html"}:
        text = (folder / path).read_text(encoding="utf-8")
        assert len(text.encode()) < LARGEST, path
        titles[path] = re.search(r"<title>(.*?)</title>", text)[1]
        descriptions[path] = re.search(r'<meta name="description" content="([^"]*)"', text)[1]
    assert not [path for path, title in titles.items() if title.startswith("Index")]
    assert all(descriptions.values())
    assert len(set(descriptions.values())) > 0.9 * len(descriptions)
    assert (folder / "sitemap.xml").read_text(encoding="utf-8").count("<loc>") >= len(pages) - 1


def test_what_a_page_loads_of_its_own_is_small(folder, pages):
    shared = sum(
        (folder / "explore" / name).stat().st_size for name in ("uPlot.js", "uPlot.css", "draw.js", "formulas.js")
    )
    assert shared + max((folder / path).stat().st_size for path in pages if path.startswith("explore/")) < LARGEST


def test_every_link_leads_somewhere(folder, pages):
    names = {path: set(re.findall(r'\bid="?([^"\s>]+)', (folder / path).read_text(encoding="utf-8"))) for path in pages}
    broken = []
    for path in set(pages) - {"404.html"}:
        for link in re.findall(r'<a\b[^>]*?\bhref="([^"]*)"', (folder / path).read_text(encoding="utf-8")):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.replace("&amp;", "&").partition("#")
            end = os.path.normpath(os.path.join(os.path.dirname(path), unquote(target))) if target else path
            end = f"{end}/index.html" if (folder / end).is_dir() else end
            if not (folder / end).exists() or (anchor and end in names and unquote(anchor) not in names[end]):
                broken.append(f"{path}: {link}")
    assert broken == []


LOOKS = [("light", NARROW), ("dark", WIDE), *([("dark", NARROW), ("light", WIDE)] if "EVERY" in os.environ else [])]


@pytest.mark.parametrize(("scheme", "size"), LOOKS, ids=[f"{scheme}-{size['width']}" for scheme, size in LOOKS])
def test_axe_finds_no_barrier_on_any_kind_of_page(open_page, address, scheme, size):
    from axe_playwright_python.sync_playwright import Axe

    page, axe = open_page(KINDS[0], size, color_scheme=scheme), Axe()
    for path in KINDS:
        page.goto(address + path)
        page.wait_for_load_state("networkidle")
        found = axe.run(page)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"


def test_axe_finds_no_barrier_on_any_page(open_page, address, pages):
    """Narrow and wide, light and dark in turn: every page with EVERY=1, otherwise each 60th; all kinds are above."""
    from axe_playwright_python.sync_playwright import Axe

    page, axe, found = open_page("index.html"), Axe(), {}
    looks = itertools.cycle(itertools.product(("light", "dark"), (NARROW, WIDE)))
    for path, (scheme, size) in zip(pages if "EVERY" in os.environ else pages[::60], looks, strict=False):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size(size)
        page.goto(address + path)
        page.wait_for_load_state("networkidle")
        if (seen := axe.run(page)).violations_count:
            found[path] = seen.generate_report()
    assert found == {}


def told(page) -> str:
    return page.inner_text(".explorable .told")


@pytest.mark.parametrize("name", ["ridge", "pays", "hessian", "leaving", "ripple", "weight", "step"])
def test_an_explorables_answer_follows_its_sliders(open_page, name):
    page = open_page(f"explore/{name}.html")
    page.wait_for_selector(".explorable canvas")
    seen = {told(page)}
    for slider in page.locator(".explorable input[type=range]").all():
        slider.focus()
        for _ in range(3):
            page.keyboard.press("ArrowLeft")
        page.keyboard.press("Home")
        seen.add(told(page))
        page.keyboard.press("End")
        seen.add(told(page))
    assert len(seen) > 2
    label = page.get_attribute(".explorable .chart", "aria-label")
    assert told(page) in label


def test_the_race_may_be_stopped_and_adam_undoes_the_factor(open_page):
    page = open_page("few_steps.html")
    page.wait_for_selector("[data-explore=pays] canvas")
    article = page.inner_text(".md-content")
    race = page.locator("[data-explore=pays]")
    before = race.locator(".told").inner_text()
    ends = re.search(r"risk after 300 steps is (\d[\d.]*\d), with it (\d[\d.]*\d)", article)
    assert f"risk is {ends[2]}, without dropout {ends[1]}" in before
    race.locator("input[type=checkbox]").check()
    stopped = race.locator(".told").inner_text()
    best = re.search(r"it is ([\d.]+) \(step (\d+)\) against ([\d.]+) \(step (\d+)\)", article)
    assert f"({best[4]} and {best[2]}) dropout's risk is {best[3]}, without dropout {best[1]}" in stopped
    page = open_page("explore/leaving.html")
    page.wait_for_selector(".explorable canvas")
    page.select_option("#explore-leaving-optimizer", "adamw")
    assert "Adam divides the factor out" in told(page)


def test_the_ledger_is_filtered_by_verdict_section_setting_and_words(open_page):
    page, total = open_page("ledger.html"), len(ledger.all_claims())
    shown = lambda: page.locator(".card:not([hidden])").count()  # noqa: E731
    assert shown() == total
    page.check("[name=verdict][value=refuted]")
    refuted = shown()
    assert 0 < refuted < total
    assert page.inner_text("#shown") == f"{refuted} of {total} claims shown"
    page.select_option("#paper", "no")
    assert 0 < shown() <= refuted
    page.select_option("#part", label="§3.2, initialization at zero")
    assert 0 < shown() < refuted
    page.fill("#words", "SADDLE start")
    assert page.locator(".card:not([hidden]) a").first.inner_text() == "3.2-saddle-lora"
    page.click("#filters button[type=reset]")
    page.wait_for_function(f"document.querySelectorAll('.card:not([hidden])').length === {total}")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("regularization", "notebooks/1_dropout.html"),
        ("3.2-saddle-lora", "claims/3.2-saddle-lora.html"),
        ("Cauchy Schwarz", "claims/3.1-bound.html"),
        ("dropout few steps", "few_steps.html"),
    ],
)
def test_search_finds(open_page, words, found):
    page = open_page("index.html", search=True)
    page.keyboard.press("/")
    page.wait_for_function("document.activeElement.tagName === 'INPUT'")
    page.keyboard.type(words)
    page.wait_for_selector(f"a[href*='{found}']:not(.md-content *)", state="attached", timeout=60_000)


def test_a_claim_of_the_graph_leads_to_its_page(open_page):
    page = open_page("graph.html")
    assert page.locator(".graph a").count() == len(ledger.all_claims())
    page.locator('.graph a[data-claim="3.1-bound"]').focus()
    assert page.locator(".graph path.near").count() == len(
        [one for one in ledger.all_claims() if "3.1-bound" in one.depends_on]
    )
    page.keyboard.press("Enter")
    page.wait_for_url("**/claims/3.1-bound.html")


def test_the_graph_can_be_read_on_a_telephone(open_page):
    page = open_page("graph.html", NARROW)
    assert page.locator('.graph a[data-claim="3.1-bound"] .id').bounding_box()["height"] > 10


def test_a_verdict_is_a_click_from_its_check_and_its_tests(open_page):
    page = open_page("claims/3.1-bound.html")
    page.click("text=s3_1_deviation.bound")
    page.wait_for_url("**/source/allora_analysis/claims/s3_1_deviation.html#*")
    assert page.evaluate("document.getElementById(location.hash.slice(1)) !== null")


def test_print_has_no_controls_and_dark_is_dark(open_page):
    page = open_page("few_steps.html", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    page.wait_for_selector(".explorable form")
    page.emulate_media(media="print")
    assert not page.is_visible(".explorable form")
    assert page.is_visible(".explorable .chart")
    page = open_page("ledger.html")
    page.emulate_media(media="print")
    assert not page.is_visible("#filters")


def test_without_scripts_everything_is_read(open_page):
    page = open_page("ledger.html", java_script_enabled=False)
    assert page.locator(".card").count() == len(ledger.all_claims())
    assert not page.is_visible("#filters")


def test_the_search_index_is_within_reason(folder):
    index = json.loads((folder / "search/search_index.json").read_text(encoding="utf-8"))
    assert not [one for one in index["docs"] if one["location"].startswith("source/")]
