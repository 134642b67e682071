"""What every page gets once it is HTML: links to claims, wide tables as cards, a description, its scripts."""

import html
import re
from collections.abc import Callable, Collection

from bs4 import BeautifulSoup

from docs.site import explorables, mathematics

WIDE = 3  # columns from which a table becomes cards on a narrow screen
LENGTH = 155  # of a description, in characters
TOKENS = re.compile(r"<a\b.*?</a>|<pre\b.*?</pre>|<code>([^<]+)</code>", re.DOTALL)
TABLE = re.compile(r"<table>.*?</table>", re.DOTALL)
EMPTY = re.compile(r"<th[^>]*></th>")  # the corner of a table is no heading
PARAGRAPH = re.compile(r"<p>(.*?)</p>", re.DOTALL)

ENDING = re.compile(r"(is|iz)(e[rsd]?|ing|ation|ations)$")
OTHER = {"is": "iz", "iz": "is"}


def finished(page: str, root: str, claims: Collection[str]) -> str:
    """A page's content, finished.

    Args:
        page: the content's HTML.
        root: the way from the page to the site's root, "" or "../".
        claims: the ids of the ledger's rows.
    """
    page = TABLE.sub(lambda match: _as_cards(EMPTY.sub("<td></td>", match[0])), mathematics.rendered(page))
    page = TOKENS.sub(_linking(root, claims), page)
    return page + explorables.scripts(root) if "data-explore=" in page else page


def _linking(root: str, claims: Collection[str]) -> Callable[[re.Match[str]], str]:
    """A claim's id in code, outside links and blocks of code, leads to its page."""

    def linked(match: re.Match[str]) -> str:
        return f'<a href="{root}claims/{match[1]}.html">{match[0]}</a>' if match[1] in claims else match[0]

    return linked


def _as_cards(table: str) -> str:
    # Each cell carries its column's heading: `style.css` shows it where the screen is too narrow for columns.
    tree = BeautifulSoup(table, "html.parser")
    titles = [cell.get_text(" ", strip=True) for cell in tree.select("thead th, thead td")]
    if len(titles) < WIDE:
        return table
    tree.table["data-cards"] = ""
    for line in tree.select("tbody tr"):
        for title, cell in zip(titles, line.find_all(["td", "th"], recursive=False), strict=False):
            cell["data-label"] = title
    return str(tree)


def description(page: str) -> str:
    """What a page opens with, as plain text.

    Args:
        page: the content's HTML.

    Returns:
        At most `LENGTH` characters; empty where the page has no paragraph.
    """
    texts = (" ".join(html.unescape(re.sub(r"<[^>]+>", "", match[1])).split()) for match in PARAGRAPH.finditer(page))
    text = next((text for text in texts if len(text) > 20), "")
    return text if len(text) <= LENGTH else f"{text[:LENGTH].rpartition(' ')[0]}…"


def spelt_both_ways(text: str) -> str:
    """A text's words of -ise or -ize in the other spelling, where the text lacks it, so that the search finds either.

    Args:
        text: the text.

    Returns:
        The words, once each.
    """
    words = {word.lower() for word in re.findall(r"[A-Za-z]+", text)}
    found = {ENDING.sub(lambda match: OTHER[match[1]] + match[2], word) for word in words if len(word) > 6}
    return " ".join(sorted(found - words))
